"""Where the processor's time goes in a job: `python -m benchmarks.jobs --stages [--lines 1536] [--rounds 3]`.

User and system time of all processes, which other work on the machine changes little, for each line: of the bare engine
on pixels that are in memory; of the process that reads and of those that decode in a job with the same lines; and of
what a line goes through in them, each step by itself.
"""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import trocr_jax
from benchmarks.jobs_idle import Idle
from scripts.killed_job import Options, draw
from trocr_jax import jobs
from trocr_jax.image_file import open_picture
from trocr_jax.jobs.decode_pool import DecodePool
from trocr_jax.jobs.decode_worker import Decoded, Decoder, Limits
from trocr_jax.jobs.sources import Input
from trocr_jax.recognizer_batches import Batch


def stages(folder: Path, lines: int, rounds: int, decode: trocr_jax.DecodeConfig) -> None:
    manifest = draw(folder, Options(lines=lines, distinct=lines, max_chars=64))
    recognizer = trocr_jax.Recognizer.from_pretrained("tiny-printed")
    processor, size = recognizer.image_processor, recognizer.default_batch_size
    paths = sorted((folder / "lines").iterdir())[:lines]
    source = jobs.open_source([str(manifest)])
    decoder = Decoder(source, processor)
    print("one step by itself, µs of a core a line:")
    contents = [path.read_bytes() for path in paths]
    pictures = [open_picture(content) for content in contents]
    pixels = [processor.fit(picture, "a picture") for picture in pictures]
    steps: dict[str, Callable[[int], object]] = {
        "read the file": lambda i: paths[i].read_bytes(),
        "decode it": lambda i: open_picture(contents[i]),
        "resize it": lambda i: processor.fit(pictures[i], "a picture"),
        "all that a decoder does": lambda i: decoder(str(i), str(paths[i])),
        "copy the pixels": lambda i: pixels[i].copy(),
    }
    for name, step in steps.items():
        print(f"  {name}: {1e6 * statistics.median(_each(step, lines) for _ in range(rounds)):.0f}")
    for size_of_pixels in (processor.size, (384, 384)):
        spent = 1e6 * _way(size_of_pixels, lines)
        print(f"  ask a process that does nothing for {size_of_pixels} pixels, in the process that reads: {spent:.0f}")
    batches = [Batch.of_pixels(pixels[start : start + size]) for start in range(0, lines, size)]
    list(recognizer.read_batches(batches[:1], decode))  # compiles
    shares = []
    for number in range(rounds):
        here = _cpu(resource.RUSAGE_SELF)
        count = sum(1 for _ in recognizer.read_batches(batches, decode))
        engine = _cpu(resource.RUSAGE_SELF) - here
        assert count == lines
        job = jobs.plan(source, str(folder / f"stages-{number}"), recognizer, "tiny-printed", decode)
        here, there = _cpu(resource.RUSAGE_SELF), _cpu(resource.RUSAGE_CHILDREN)
        jobs.run(job, recognizer, decode)
        reads, decodes = _cpu(resource.RUSAGE_SELF) - here, _cpu(resource.RUSAGE_CHILDREN) - there
        shares.append([1e6 * used / lines for used in (engine, reads, decodes)] + [engine / (reads + decodes)])
        print(_shown("µs a line", shares[-1]), flush=True)
    print(_shown("medians", [statistics.median(column) for column in zip(*shares, strict=True)]))


def _shown(what: str, found: Sequence[float]) -> str:
    engine, reads, decodes, share = found
    return (
        f"{what}: engine {engine:.0f}; job: the process that reads {reads:.0f}, those that decode, with their start, "
        f"{decodes:.0f}; engine / job {share:.3f}"
    )


def _way(size: tuple[int, int], lines: int) -> float:
    """As in a job, a few at a time, whose pixels are given back."""
    with DecodePool(Idle(size), size, workers=os.cpu_count() or 1, limits=Limits()) as pool:
        used = 0.0
        for start in range(-64, lines, 64):
            if start == 0:  # they have started
                used = _cpu(resource.RUSAGE_SELF)
            asked = pool.submit([Input(str(i), str(i)) for i in range(start, start + 64)])
            pool.give_back([found.pixels for found in asked.result() if isinstance(found, Decoded)])
        return (_cpu(resource.RUSAGE_SELF) - used) / lines


def _each(step: Callable[[int], object], lines: int) -> float:
    begun = time.process_time()
    for i in range(lines):
        step(i)
    return (time.process_time() - begun) / lines


def _cpu(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime
