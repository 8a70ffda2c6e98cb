"""Processes that decode images, started while a model is still loaded or a job planned: when the first image is there
to be decoded, they have imported what they need."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress

from trocr_jax.jobs.decode_process import DecodeProcess
from trocr_jax.jobs.stop import Stop


class Standby:
    """At most `number` processes for a pool to take (`jobs.run`), starting from now on. A context manager, which ends
    those that nobody has taken; they die with this process too."""

    def __init__(self, number: int, stop: Stop | None = None) -> None:
        self._lock = threading.Lock()
        self._ready: deque[DecodeProcess] = deque()
        with suppress(OSError):  # the pool, which then starts its own, tells of it
            for _ in range(number):
                if stop is not None and stop.requested.is_set():
                    break
                self._ready.append(DecodeProcess())

    def __enter__(self) -> Standby:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        while (process := self._next()) is not None:
            process.close()

    def take(self) -> DecodeProcess | None:
        """One that lives and has not begun, if there is one left."""
        while (process := self._next()) is not None and not process.lives:
            process.close()  # something has killed it meanwhile, which says nothing of the next
        return process

    def _next(self) -> DecodeProcess | None:
        with self._lock:
            return self._ready.popleft() if self._ready else None
