"""What a second process gains on a machine of two cores: `python -m benchmarks.jobs --processes`.

Each process, with the one that decodes for it, is held on a core of its own. In turn: one process alone with a job; two
with one job of twice the size; two with a job each, which is what the cores can do if nothing but the machine is shared.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.jobs_hosts import together
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
    manifests = [draw(folder / name, Options(lines=size, distinct=lines, max_chars=64)) for name, size in
                 (("single", lines), ("double", 2 * lines))]  # fmt: skip
    single, double = manifests
    shared, alone = [], []
    for number in range(rounds):
        jobs_of = [folder / f"{name}-{number}" for name in ("alone", "shared", "first", "second")]
        one = lines / together([partial(_begin, single, jobs_of[0], 0)])
        two = 2 * lines / together([partial(_begin, double, jobs_of[1], core) for core in (0, 1)])
        apart = 2 * lines / together([partial(_begin, single, jobs_of[2 + core], core) for core in (0, 1)])
        for job in jobs_of:
            assert not [*jobs.verify(Job.open(str(job)))]
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


def _begin(manifest: Path, folder: Path, core: int) -> Callable[[], object]:
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[core]})
    recognizer = Recognizer.from_pretrained("tiny-printed")
    source, choices = jobs.open_source([str(manifest)]), jobs.Choices(unit_size=UNIT)
    job = plan(source, str(folder), recognizer, "tiny-printed", DECODE, choices=choices)
    pixels = recognizer.image_processor.pixels(min((manifest.parent / "lines").iterdir()))
    list(recognizer.read_batches([Batch.of_pixels([pixels])], DECODE))  # compiles
    return partial(run, job, recognizer, DECODE, resources=jobs.Resources(decoders=1))
