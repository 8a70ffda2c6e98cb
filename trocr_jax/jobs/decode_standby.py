"""Processes that decode images, started while a model is still loaded or a job planned: when the first image is there
to be decoded, they have imported what they need."""

from __future__ import annotations

import threading
from collections import deque

from trocr_jax.errors import JobError
from trocr_jax.jobs.decode_process import DecodeProcess


class Standby:
    """Starts `number` processes, in a thread of its own, for a pool to take (`jobs.run`). A context manager, which ends
    those that nobody has taken. Raises JobError if `number` is less than 1."""

    def __init__(self, number: int) -> None:
        if number < 1:
            raise JobError(f"decoders is {number}: give at least one process to decode images")
        self._lock = threading.Lock()
        self._ready: deque[DecodeProcess] = deque()
        self._left, self._closed = number, False
        self._thread = threading.Thread(target=self._start, name="trocr-standby", daemon=True)
        self._thread.start()

    def __enter__(self) -> Standby:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._thread.join()
        while self._ready:
            self._ready.popleft().close()

    def take(self) -> DecodeProcess | None:
        """One that has not begun; None if none is there: then whoever asks starts one, and here one less is started."""
        with self._lock:
            if self._ready:
                return self._ready.popleft()
            self._left -= 1
            return None

    def _start(self) -> None:
        while True:
            with self._lock:
                if self._left < 1 or self._closed:
                    return
                self._left -= 1
            try:
                process = DecodeProcess()
            except OSError:  # the pool, which starts one in its place, tells of it
                return
            with self._lock:
                self._ready.append(process)
