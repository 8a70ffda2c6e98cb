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
from collections.abc import Callable
from pathlib import Path

import numpy as np

import trocr_jax
from scripts.killed_job import Options, draw
from trocr_jax import jobs
from trocr_jax.image_file import open_rgb
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
    pictures = [open_rgb(content) for content in contents]
    pixels = [processor.pixels(picture) for picture in pictures]
    steps: dict[str, Callable[[int], object]] = {
        "read the file": lambda i: paths[i].read_bytes(),
        "decode it to RGB": lambda i: open_rgb(contents[i]),
        "resize it": lambda i: processor.pixels(pictures[i]),
        "all that a decoder does": lambda i: decoder(str(i), str(paths[i])),
        "copy the pixels": lambda i: pixels[i].copy(),
    }
    for name, step in steps.items():
        print(f"  {name}: {1e6 * statistics.median(_each(step, lines) for _ in range(rounds)):.0f}")
    print(f"  the way through a decoder process that does nothing: {_way(processor.size, lines)}")
    batches = [Batch.of_pixels(pixels[start : start + size]) for start in range(0, lines, size)]
    list(recognizer.read_batches(batches[:1], decode))  # compiles
    for number in range(rounds):
        here = _cpu(resource.RUSAGE_SELF)
        count = sum(1 for _ in recognizer.read_batches(batches, decode))
        engine = _cpu(resource.RUSAGE_SELF) - here
        assert count == lines
        job = jobs.plan(source, str(folder / f"stages-{number}"), recognizer, "tiny-printed", decode)
        here, there = _cpu(resource.RUSAGE_SELF), _cpu(resource.RUSAGE_CHILDREN)
        begun = time.monotonic()
        jobs.run(job, recognizer, decode)
        wall = time.monotonic() - begun
        reads, decodes = _cpu(resource.RUSAGE_SELF) - here, _cpu(resource.RUSAGE_CHILDREN) - there
        print(
            f"µs a line: engine {1e6 * engine / lines:.0f}; job: the process that reads {1e6 * reads / lines:.0f}, "
            f"those that decode {1e6 * decodes / lines:.0f}; engine / job {engine / (reads + decodes):.3f} "
            f"({lines / wall:.0f} lines/s)",
            flush=True,
        )


class Idle:
    """A decoder that does nothing."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def __call__(self, id: str, place: object) -> Decoded:
        return Decoded(np.zeros((*self.size, 3), np.uint8), 0.0)


def _way(size: tuple[int, int], lines: int) -> str:
    here, there = _cpu(resource.RUSAGE_SELF), _cpu(resource.RUSAGE_CHILDREN)
    with DecodePool(Idle(size), size, workers=os.cpu_count() or 1, limits=Limits()) as pool:
        warm = pool.submit(Input("warm", "warm"), lambda reason: 1)
        warm.result()
        here = _cpu(resource.RUSAGE_SELF)
        for future in [pool.submit(Input(str(i), str(i)), lambda reason: 1) for i in range(lines)]:
            future.result()
        reads = _cpu(resource.RUSAGE_SELF) - here
    decodes = _cpu(resource.RUSAGE_CHILDREN) - there
    return f"{1e6 * reads / lines:.0f} in the process that reads, {1e6 * decodes / lines:.0f} in it, its start included"


def _each(step: Callable[[int], object], lines: int) -> float:
    begun = time.process_time()
    for i in range(lines):
        step(i)
    return (time.process_time() - begun) / lines


def _cpu(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime
