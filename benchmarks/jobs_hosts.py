"""How well many hosts share one job folder: `python -m benchmarks.jobs --hosts 1 8 64` and `--commits`.

A host is a process with everything of a real one (claims, leases, reader, commits, events, all over real files) but a
stub in the place of model and decoders: a batch takes as long as one did that was measured before on this machine,
asleep, so that two cores can be many hosts.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import numpy as np

from scripts.killed_job import Options, draw
from trocr_jax import jobs
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.errors import ImageError
from trocr_jax.image import ImageProcessor
from trocr_jax.jobs.claims import Claims
from trocr_jax.jobs.decode_pool import DecodePool, Images
from trocr_jax.jobs.decode_worker import Decoded
from trocr_jax.jobs.finish import finish
from trocr_jax.jobs.job import Job, part_name
from trocr_jax.jobs.leases import Leases
from trocr_jax.jobs.planning import make_plan
from trocr_jax.jobs.reader import Reader
from trocr_jax.jobs.rows import COLUMNS, Failure, row
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.stop import Stop
from trocr_jax.jobs.store import open_store
from trocr_jax.jobs.worker import Resources, Worker
from trocr_jax.recognizer import Recognition, Recognizer
from trocr_jax.recognizer_batches import Batch
from trocr_jax.recognizer_lanes import Work

BATCH = 16
LINES = 128
"""Of a unit."""


def sharing(folder: Path, hosts: Sequence[int], units: int, rounds: int) -> None:
    """Prints lines/s of each number of hosts, with `units` units for each of them, beside as many times one host."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as elsewhere:  # what is forked has used no device
        seconds, found = elsewhere.submit(measured, folder).result()
    print(
        f"a batch of {BATCH} takes {statistics.median(seconds):.3f} s (median of {len(seconds)} measured, "
        f"{min(seconds):.3f} to {max(seconds):.3f})",
        flush=True,
    )
    rates: dict[int, list[float]] = {number: [] for number in hosts}
    for round in range(rounds):
        for number in hosts:
            job = planned(folder / f"job-{round}-{number}", number * units, LINES)
            begun = together([partial(partial, work, job, Stub(seconds, found, host)) for host in range(number)])
            took = last_commit(job) - begun
            assert finish(job) is not None
            rates[number].append(job.plan.lines / took)
            one = rates[hosts[0]][-1] / hosts[0]
            print(
                f"{number} hosts: {len(job.units)} units of {LINES} lines in {took:.1f} s, {rates[number][-1]:.1f} "
                f"lines/s, {len(job.units) / took:.2f} commits/s, efficiency {rates[number][-1] / number / one:.3f}",
                flush=True,
            )
    for number in hosts:
        each = [rate / number / (one / hosts[0]) for rate, one in zip(rates[number], rates[hosts[0]], strict=True)]
        print(f"median of {rounds}: {number} hosts, efficiency {statistics.median(each):.3f}")


def commits(folder: Path, processes: Sequence[int], lines: int = 512, units: int = 1500) -> None:
    """Prints how many units a folder takes in a second when nobody reads anything."""
    text = "A line of about as many letters as others"
    log_probs = [-0.0123] * len(text)
    result = Recognition(
        text=text,
        score=sum(log_probs),
        token_ids=[5] * len(text),
        token_log_probs=log_probs,
        truncated=False,
        model_log_probs=log_probs,
        spellings=None,
        alternatives=(),
    )
    for number in processes:
        job = planned(folder / f"commits-{number}", units, lines)
        names: dict[str, Any] = {"model": "0" * 16, "configuration": job.plan.fingerprint, "columns": COLUMNS}
        rows = [row(f"scans/0000/page-000000/line-{i:03}.png", result, **names) for i in range(lines)]

        begun = together([partial(partial, commit_all, job, rows)] * number)
        took = last_commit(job) - begun
        size = len(job.read_part(0))
        print(
            f"{number} processes: {units} units of {lines} lines ({size} bytes) in {took:.1f} s: "
            f"{units / took:.0f} commits/s, {units * lines / took:.0f} lines/s",
            flush=True,
        )


def commit_all(job: Job, rows: list[Any]) -> None:
    with Leases(job) as leases:
        claims = Claims(job, leases, Stop().requested)
        for task in claims.tasks():
            job.commit(task, rows)
            claims.settle(task)


def measured(folder: Path, batches: int = 24) -> tuple[list[float], list[Recognition]]:
    """Seconds of batches of the built-in model on rendered lines, one after the other, and what was read in them."""
    draw(folder, Options(lines=batches * BATCH, distinct=batches * BATCH, max_chars=64))
    recognizer = Recognizer.from_pretrained("tiny-printed")
    pixels = [recognizer.image_processor.pixels(path) for path in sorted((folder / "lines").iterdir())]
    decode = DecodeConfig(max_new_tokens=96)
    seconds, found = [], []
    for start in range(-BATCH, len(pixels) - BATCH + 1, BATCH):
        begun = time.monotonic()
        batch = Batch.of_pixels(pixels[max(start, 0) :][:BATCH])
        read = [one for one in recognizer.read_batches([batch], decode, BATCH) if isinstance(one, Recognition)]
        if start >= 0:  # the first compiles
            seconds.append(time.monotonic() - begun)
            found += read
    return seconds, found


class Stub:
    """A recognizer that sleeps."""

    devices = 1
    default_batch_size = BATCH
    image_processor = ImageProcessor(height=8, width=8)

    def __init__(self, seconds: Sequence[float], found: Sequence[Recognition], seed: int) -> None:
        self._seconds, self._found, self._random = seconds, found, random.Random(seed)
        self.work = Work()

    def read_batches(self, series: Iterable[Batch], *_: object) -> Iterator[Recognition | ImageError]:
        """As the real one: a batch is sent before the last one is waited for, and the device does one at a time."""
        running: deque[tuple[Batch, float]] = deque()
        free = 0.0
        for batch in series:
            if batch.pixels:
                free = max(free, time.monotonic()) + self._random.choice(self._seconds)
            running.append((batch, free))
            if len(running) > 1:
                yield from self._finish(*running.popleft())
        while running:
            yield from self._finish(*running.popleft())

    def _finish(self, batch: Batch, until: float) -> Iterator[Recognition | ImageError]:
        if batch.pixels:
            time.sleep(max(0.0, until - time.monotonic()))
            self.work.batches += 1
        for error in batch.errors:
            yield self._random.choice(self._found) if error is None else error


class Pixels:
    """A pool of decoders whose images are there at once."""

    def submit(self, inputs: Sequence[Input], died: Callable[[int, str], int], known: Mapping[int, Failure]) -> Images:
        images = Images(inputs, known, died)
        places = [place for place in range(len(inputs)) if place not in known]
        images.settle(places, [Decoded(np.zeros((8, 8, 3), np.uint8), 1.0)] * len(places))
        return images

    def give_back(self, pixels: Iterable[np.ndarray]) -> None:
        """Nothing is kept."""


def work(job: Job, stub: Stub) -> None:
    """One host: `open_worker` with the stubs."""
    resources = Resources()
    with Leases(job, timeout=resources.lease_timeout) as leases:
        reader = Reader(job, cast(Recognizer, stub), None, cast(DecodePool, Pixels()))
        Worker(job, reader, leases, resources, Stop()).work()


def planned(folder: Path, units: int, lines: int) -> Job:
    configuration = {
        "source": {},
        "model": {"sha256": "0" * 64},
        "batch_size": BATCH,
        "columns": list(jobs.Choices().columns),
    }
    inputs = (
        Input(f"scans/{i // 100_000:04}/page-{i // 40:06}/line-{i % 40:03}.png", None) for i in range(units * lines)
    )
    store = open_store(str(folder))
    return Job(store, make_plan(store, configuration, inputs, lines))


def together(hosts: Sequence[Callable[[], Callable[[], object]]]) -> float:
    """Runs each in a process of its own and, when all are there, what they return. The time at which that was."""
    sys.stdout.flush()
    (waiting, go), (ready, tell) = os.pipe(), os.pipe()
    pids = []
    for host in hosts:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(go)
                todo = host()
                os.write(tell, b".")
                os.read(waiting, 1)  # until the other end is closed
                todo()
                status = 0
            except BaseException:  # noqa: BLE001  shown here, as the process ends without it
                traceback.print_exc()
            finally:
                os._exit(status)
        pids.append(pid)
    os.close(waiting)
    os.close(tell)
    for _ in hosts:
        assert os.read(ready, 1) == b".", "a process has ended before it could begin"
    begun = time.time()
    os.close(go)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    os.close(ready)
    assert not any(statuses), statuses
    return begun


def last_commit(*jobs_of: Job) -> float:
    """The time of the last part, after which other processes may wait a second to see it."""
    return max(Path(job.store.root, part_name(unit)).stat().st_mtime for job in jobs_of for unit in job.done())
