"""A process that decodes images for this one (`decode_worker`), as seen from here: started, asked, killed.

Images are asked for a few at a time, since every question costs the scheduler two turns. Their pixels come back through
memory that both map, where the process also writes which image it has in hand: whatever kills it is known.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np

from trocr_jax.errors import SourceError
from trocr_jax.jobs.decode_worker import Decode, Decoded, Limits, Shared
from trocr_jax.jobs.rows import Failure
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.wire import Wire

START_SECONDS = 60.0
TOLD = 4000
"""Characters of what a process that did not start has written to stderr."""
GRACE = 5.0
"""Seconds after which a process that its own alarm should have ended is killed."""
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
"""Nothing here is for a BLAS, whose threads, one for each core, would double the processor's time of a start. Arenas,
which glibc makes for threads that read, take 64 MiB each of the addresses that are limited."""
SLOTS = 16
"""Images that it is asked for at a time, at most."""
SLOTS_BYTES = 4 << 20
"""Bytes of the pixels of those, at most."""


class ProcessDied(Exception):
    """A process ended before it answered; the message says how. by_itself: it ended with a status other than 0. image:
    number of the one that it had in hand, of those that it was asked for."""

    def __init__(self, how: str, *, by_itself: bool = False, image: int = 0) -> None:
        super().__init__(how)
        self.by_itself, self.image = by_itself, image


class SourceSilent(ProcessDied):
    """A process was ended while it waited for the source of an image, of which that says nothing."""


class DecodeProcess:
    """Loads what every decoder needs as soon as it is made; `begin` tells it what to decode, and how."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._memory: mmap.mmap | None = None
        self._shared: Shared  # from `begin` on, as the memory
        ours, theirs = socket.socketpair()
        with theirs, _stderr() as stderr, ExitStack() as opened:
            self._wire = Wire(opened.enter_context(ours))
            self._stderr = opened.enter_context(_unnamed())  # until it has started; then stderr is that of this one
            self._file = opened.enter_context(_unnamed())
            numbers = (theirs.fileno(), self._file.fileno(), stderr.fileno())
            self._process = subprocess.Popen(
                # -P: a file queue.py where one works is no module, unless it is one of this process
                [sys.executable, "-P", "-m", "trocr_jax.jobs.decode_worker", *map(str, numbers)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                pass_fds=numbers,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)} | ONE_THREAD,
            )
            opened.pop_all()  # `close` does it

    def begin(self, decode: Decode, size: tuple[int, int], limits: Limits) -> None:
        """size: (H, W) of the pixels that come. Raises ProcessDied if it does not start."""
        shape = (*size, 3)
        self.slots = max(1, min(SLOTS, SLOTS_BYTES // (size[0] * size[1] * 3)))
        self._limits = limits
        self._file.truncate(Shared.bytes(self.slots, shape))
        self._memory = mmap.mmap(self._file.fileno(), 0)
        self._file.close()
        self._shared = Shared.of(self._memory, shape)
        self._ask((decode, limits, shape), START_SECONDS, START_SECONDS)

    def told(self) -> str:
        """What it has written to stderr while it started, on lines of their own."""
        self._stderr.seek(0)
        told = self._stderr.read().decode(errors="replace").strip()[-TOLD:]
        return f"\n{told}" if told else ""

    def decode(self, inputs: Sequence[Input], spare: deque[np.ndarray]) -> list[Decoded | Failure]:
        """What becomes of at most `slots` images. spare: arrays that their pixels may be put into.

        Raises ProcessDied, and of that SourceSilent; SourceError."""
        asked = [(input.id, input.place) for input in inputs]
        answers = self._ask(asked, self._limits.seconds + GRACE, self._limits.seconds)
        found: list[Decoded | Failure] = []
        for (kind, value), shared in zip(answers, self._shared.pixels, strict=False):
            if kind == "source":
                raise SourceError(value)
            if kind != "pixels":
                found.append(Failure(kind, value))
                continue
            try:
                pixels = spare.pop()
            except IndexError:
                pixels = np.empty(shared.shape, np.uint8)
            pixels[:] = shared
            found.append(Decoded(pixels, value))
        return found

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self.kill()
        self._process.wait()
        self._wire.close()
        self._stderr.close()
        self._file.close()
        if self._memory is not None:
            del self._shared
            with suppress(BufferError):
                self._memory.close()

    def _ask(self, message: Any, seconds: float, limit: float) -> Any:
        """The answer. seconds: that one image may take; limit: the seconds that are told of if one takes more."""
        self._shared.in_hand[0] = before = 0
        try:
            self._wire.send(message)
            while True:
                with suppress(TimeoutError):
                    return self._wire.receive(seconds)
                if (now := int(self._shared.in_hand[0])) == before:
                    break
                before = now
        except (EOFError, OSError):
            raise self._death() from None
        self.kill()
        self._process.wait()
        raise self._late(limit, before)

    def _late(self, limit: float, image: int) -> ProcessDied:
        """What is told of an image that took longer than `limit`."""
        if self._shared.reading[0]:
            return SourceSilent(f"its source did not answer within {limit:g} s", image=image)
        return ProcessDied(f"decoding did not end within {limit:g} s", image=image)

    def _death(self) -> ProcessDied:
        image = int(self._shared.in_hand[0])
        try:
            status = self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            return ProcessDied("decoding closed the connection", image=image)
        if status == -signal.SIGALRM:
            return self._late(self._limits.seconds, image)
        if status < 0:
            name = signal.Signals(-status).name
            return ProcessDied(f"decoding ended the process by signal {-status} ({name})", image=image)
        return ProcessDied(f"decoding ended the process with status {status}", by_itself=True, image=image)


def _stderr() -> Any:
    """That of this process, or nothing if it has none."""
    try:
        return open(os.dup(2), "wb")
    except OSError:
        return open(os.devnull, "wb")


def _unnamed() -> Any:
    """An unnamed file in memory, or on the disk where there is no such thing: nobody has to remove it."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("trocr-decoder"), "w+b")
    return tempfile.TemporaryFile()
