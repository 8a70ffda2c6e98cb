"""Worker processes that decode images, each driven by a thread, so that no image can do harm to the process that reads.

A worker has one image at a time: whatever kills it is known. Pixels come back through memory that both map.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np

from trocr_jax.errors import JobError, SourceError
from trocr_jax.jobs.attempts import ATTEMPTS, quarantine
from trocr_jax.jobs.decode_worker import Decoded, Limits
from trocr_jax.jobs.rows import Failure
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.wire import Wire

START_SECONDS = 60.0
STARTS = 5
"""Tries to start a worker that something else kills (a signal) or holds up; one that fails by itself is tried twice."""
TOLD = 4000
"""Characters of what a worker that did not start has written to stderr."""
GRACE = 5.0
"""Seconds after which a worker that its own alarm should have ended is killed."""

Decode = Callable[[str, Any], Decoded]


class WorkerDied(Exception):
    """A worker ended before it answered; the message says how. by_itself: it ended with a status other than 0."""

    def __init__(self, how: str, *, by_itself: bool = False) -> None:
        super().__init__(how)
        self.by_itself = by_itself


class DecodePool:
    """Decodes images in `workers` processes. A context manager.

    decode: picklable; raises ImageError, or SourceError. size: (H, W) of the pixels that it gives.
    """

    def __init__(self, decode: Decode, size: tuple[int, int], *, workers: int, limits: Limits) -> None:
        self._decode, self._size, self._limits = decode, size, limits
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="trocr-decode")
        self._local = threading.local()
        self._lock = threading.Lock()
        self._workers: set[_Worker] = set()
        self._spare: deque[np.ndarray] = deque()
        self._closed = False
        self._broken: JobError | None = None  # no worker starts

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._closed = True
            for worker in self._workers:
                worker.kill()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.close()

    def submit(self, input: Input, died: Callable[[str], int]) -> Future[Decoded | Failure]:
        """The pixels of an image to be, or why there are none. died: is told how a worker died of it, and returns how
        often that has happened. The future raises SourceError if the source has gone."""
        return self._threads.submit(self._run, input, died)

    def give_back(self, pixels: Iterable[np.ndarray]) -> None:
        """Takes pixels that nobody looks at any more, to put those of later images there: memory that is new for every
        image costs several times as much as the copy, since the kernel clears each page of it."""
        self._spare.extend(pixels)

    def _run(self, input: Input, died: Callable[[str], int]) -> Decoded | Failure:
        reasons: list[str] = []
        while True:
            worker = self._worker()
            try:
                return worker.decode(input, self._spare)
            except WorkerDied as death:
                with self._lock:
                    self._workers.discard(worker)
                worker.close()
                self._local.worker = None
                if self._closed:
                    raise
                reasons.append(f"{input.id}: {death}")
                if died(reasons[-1]) >= ATTEMPTS:
                    return quarantine([reasons[-1]] * ATTEMPTS)

    def _worker(self) -> _Worker:
        """This thread's worker, started if need be."""
        worker: _Worker | None = getattr(self._local, "worker", None)
        failures = tries = 0
        while worker is None:
            with self._lock:
                if self._broken is not None:
                    raise self._broken
                if self._closed:
                    raise WorkerDied("the pool is closed")
                worker = _Worker(self._size, self._limits)
                self._workers.add(worker)
            try:
                worker.begin(self._decode)
            except WorkerDied as death:
                told = worker.told()
                with self._lock:
                    self._workers.discard(worker)
                worker.close()
                worker, tries, failures = None, tries + 1, failures + death.by_itself
                if failures == 2 or tries == STARTS:
                    self._broken = JobError(f"a process to decode images does not start: {death}{told}")
                    raise self._broken from death
        self._local.worker = worker
        return worker


class _Worker:
    def __init__(self, size: tuple[int, int], limits: Limits) -> None:
        self._shape, self._limits = (*size, 3), limits
        ours, theirs = socket.socketpair()
        self._wire = Wire(ours)
        self._stderr = _unnamed()  # until it has started; then it writes to that of this process
        with _unnamed(size[0] * size[1] * 3) as file, _stderr() as stderr:
            self._memory = mmap.mmap(file.fileno(), 0)
            numbers = (theirs.fileno(), file.fileno(), stderr.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trocr_jax.jobs.decode_worker", *map(str, numbers)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                pass_fds=numbers,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        theirs.close()

    def begin(self, decode: Decode) -> None:
        self._ask((decode, self._limits), START_SECONDS, START_SECONDS)

    def told(self) -> str:
        """What it has written to stderr while it started, on lines of their own."""
        self._stderr.seek(0)
        told = self._stderr.read().decode(errors="replace").strip()[-TOLD:]
        return f"\n{told}" if told else ""

    def decode(self, input: Input, spare: deque[np.ndarray]) -> Decoded | Failure:
        kind, value = self._ask((input.id, input.place), self._limits.seconds + GRACE, self._limits.seconds)
        if kind == "source":
            raise SourceError(value)
        if kind != "pixels":
            return Failure(kind, value)
        try:
            pixels = spare.pop()
        except IndexError:
            pixels = np.empty(self._shape, np.uint8)
        pixels[:] = np.frombuffer(self._memory, np.uint8).reshape(self._shape)
        return Decoded(pixels, value)

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self.kill()
        self._process.wait()
        self._wire.close()
        self._stderr.close()
        with suppress(BufferError):
            self._memory.close()

    def _ask(self, message: Any, seconds: float, limit: float) -> Any:
        """limit: the seconds that are told of if it takes more than `seconds`."""
        try:
            self._wire.send(message)
            return self._wire.receive(seconds)
        except TimeoutError:
            self.kill()
            self._process.wait()
            raise WorkerDied(f"decoding did not end within {limit:g} s") from None
        except (EOFError, OSError):
            raise self._death() from None

    def _death(self) -> WorkerDied:
        try:
            status = self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            return WorkerDied("decoding closed the connection")
        if status == -signal.SIGALRM:
            return WorkerDied(f"decoding did not end within {self._limits.seconds:g} s")
        if status < 0:
            return WorkerDied(f"decoding ended the process by signal {-status} ({signal.Signals(-status).name})")
        return WorkerDied(f"decoding ended the process with status {status}", by_itself=True)


def _stderr() -> Any:
    """That of this process, or nothing if it has none."""
    try:
        return open(os.dup(2), "wb")
    except OSError:
        return open(os.devnull, "wb")


def _unnamed(size: int = 0) -> Any:
    """An unnamed file in memory, or on the disk where there is no such thing: nobody has to remove it."""
    if hasattr(os, "memfd_create"):
        file = open(os.memfd_create("trocr-decoder"), "w+b")  # noqa: SIM115
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115
    file.truncate(size)
    return file
