"""Worker processes that decode images, each driven by a thread, so that no image can do harm to the process that reads.

A worker has one image at a time: whatever kills it is known. Pixels come back through memory that both map.
"""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import Pipe
from typing import Any

import numpy as np

from trocr_jax.errors import JobError, SourceError
from trocr_jax.jobs.attempts import ATTEMPTS, quarantine
from trocr_jax.jobs.decode_worker import Decoded, Limits
from trocr_jax.jobs.rows import Failure
from trocr_jax.jobs.sources import Input

START_SECONDS = 60.0
STARTS = 5
GRACE = 5.0
"""Seconds after which a worker that its own alarm should have ended is killed."""

Decode = Callable[[str, Any], Decoded]


class WorkerDied(Exception):
    """A worker ended before it answered; the message says how."""


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
        self._closed = False

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

    def _run(self, input: Input, died: Callable[[str], int]) -> Decoded | Failure:
        reasons: list[str] = []
        while True:
            worker = self._worker()
            try:
                return worker.decode(input)
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
        tries = 0
        while worker is None:
            with self._lock:
                if self._closed:
                    raise WorkerDied("the pool is closed")
                worker = _Worker(self._size, self._limits)
                self._workers.add(worker)
            try:
                worker.begin(self._decode)
            except WorkerDied as death:
                with self._lock:
                    self._workers.discard(worker)
                worker.close()
                worker, tries = None, tries + 1
                if tries == STARTS:
                    raise JobError(f"a process to decode images does not start: {death}") from death
        self._local.worker = worker
        return worker


class _Worker:
    def __init__(self, size: tuple[int, int], limits: Limits) -> None:
        self._shape, self._limits = (*size, 3), limits
        self._connection, theirs = Pipe()
        with _shared(size[0] * size[1] * 3) as file:
            self._memory = mmap.mmap(file.fileno(), 0)
            numbers = (theirs.fileno(), file.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trocr_jax.jobs.decode_worker", *map(str, numbers)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=numbers,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        theirs.close()

    def begin(self, decode: Decode) -> None:
        self._ask((decode, self._limits), START_SECONDS)

    def decode(self, input: Input) -> Decoded | Failure:
        kind, value = self._ask((input.id, input.place), self._limits.seconds + GRACE)
        if kind == "source":
            raise SourceError(value)
        if kind != "pixels":
            return Failure(kind, value)
        return Decoded(np.frombuffer(self._memory, np.uint8).reshape(self._shape).copy(), value)

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self.kill()
        self._process.wait()
        self._connection.close()
        with suppress(BufferError):
            self._memory.close()

    def _ask(self, message: Any, seconds: float) -> Any:
        try:
            self._connection.send(message)
            if self._connection.poll(seconds):
                return self._connection.recv()
        except (EOFError, OSError):
            pass
        else:
            self.kill()
            self._process.wait()
            raise WorkerDied(f"decoding did not end within {self._limits.seconds:g} s")
        raise WorkerDied(self._how())

    def _how(self) -> str:
        try:
            status = self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            return "decoding closed the connection"
        if status == -signal.SIGALRM:
            return f"decoding did not end within {self._limits.seconds:g} s"
        if status < 0:
            return f"decoding ended the process by signal {-status} ({signal.Signals(-status).name})"
        return f"decoding ended the process with status {status}"


def _shared(size: int) -> Any:
    """An unnamed file in memory, or on the disk where there is no such thing: nobody has to remove it."""
    if hasattr(os, "memfd_create"):
        file = open(os.memfd_create("trocr-pixels"), "w+b")  # noqa: SIM115
    else:
        file = tempfile.TemporaryFile()  # noqa: SIM115
    file.truncate(size)
    return file
