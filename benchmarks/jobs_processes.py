"""What a second process gains on a machine of two cores: `python -m benchmarks.jobs --processes`.

Each process, with the one that decodes for it, is held on a core of its own. In turn: one process alone with a job; two
with one job of twice the size; two with a job each, which is what the cores can do if only the machine is shared.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.jobs_hosts import last_commit, together
from scripts.killed_job import Options, draw
from trocr_jax import jobs
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.jobs.host import plan, run
from trocr_jax.jobs.job import Job
from trocr_jax.recognizer import Recognizer
from trocr_jax.recognizer_batches import Batch

DECODE = DecodeConfig(max_new_tokens=96)
UNIT = 32


def processes(folder: Path, lines: int, rounds: int) -> None:
    """lines: for each process. Loading and compiling are over when the clock starts."""
    single = draw(folder / "single", Options(lines=lines, distinct=lines, max_chars=64))
    double = draw(folder / "double", Options(lines=2 * lines, distinct=lines, max_chars=64))
    loop = [_loop((0,)), _loop((0, 1))]
    print(f"a loop of Python beside another, on the other core, runs at {loop[1] / loop[0]:.3f} of its speed alone")
    shared, alone = [], []
    for number in range(rounds):
        places = [folder / f"{name}-{number}" for name in ("alone", "shared", "first", "second")]
        one = lines / _seconds([(single, places[0], 0)])
        two = 2 * lines / _seconds([(double, places[1], core) for core in (0, 1)])
        apart = 2 * lines / _seconds([(single, places[2 + core], core) for core in (0, 1)])
        shared.append(two / (2 * one))
        alone.append(apart / (2 * one))
        print(
            f"one process {one:.1f} lines/s; two with one job {two:.1f}, efficiency {shared[-1]:.3f}; two with a job "
            f"each {apart:.1f}, efficiency {alone[-1]:.3f}; one job beside two {two / apart:.3f}",
            flush=True,
        )
    print(
        f"medians of {rounds}: efficiency {statistics.median(shared):.3f} with one job, {statistics.median(alone):.3f} "
        f"with a job each; one job beside two "
        f"{statistics.median(a / b for a, b in zip(shared, alone, strict=True)):.3f}"
    )


def _seconds(each: Sequence[tuple[Path, Path, int]]) -> float:
    """Until the last commit of processes on (manifest, job, core)."""
    begun = together([partial(_begin, *one) for one in each])
    found = [Job.open(str(folder)) for _, folder, _ in each]
    for job in found:
        assert not [*jobs.verify(job)]
    return last_commit(*found) - begun


def _begin(manifest: Path, folder: Path, core: int) -> Callable[[], object]:
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[core]})
    recognizer = Recognizer.from_pretrained("tiny-printed")
    source, choices = jobs.open_source([str(manifest)]), jobs.Choices(unit_size=UNIT)
    job = plan(source, str(folder), recognizer, "tiny-printed", DECODE, choices=choices)
    pixels = recognizer.image_processor.pixels(min((manifest.parent / "lines").iterdir()))
    list(recognizer.read_batches([Batch.of_pixels([pixels])], DECODE))  # compiles
    return partial(run, job, recognizer, DECODE, resources=jobs.Resources(decoders=1))


def _loop(cores: Sequence[int], seconds: float = 3.0) -> float:
    """Rounds a second of a loop on each of these cores at a time, the mean."""
    pipes = [os.pipe() for _ in cores]

    def count(core: int, tell: int) -> None:
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[core]})
        until, rounds = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            sum(range(1000))
            rounds += 1
        os.write(tell, rounds.to_bytes(8, "big"))

    together([partial(partial, count, core, pipe[1]) for core, pipe in zip(cores, pipes, strict=True)])
    counts = [int.from_bytes(os.read(reading, 8), "big") for reading, _ in pipes]
    for number in (number for pipe in pipes for number in pipe):
        os.close(number)
    return statistics.mean(counts) / seconds
