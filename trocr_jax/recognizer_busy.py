"""How long a device has had something to do, as its host sees it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from trocr_jax.recognizer_batches import submit


class Busy:
    """Counts the seconds in which there was a program whose results were not there yet."""

    def __init__(self, watcher: ThreadPoolExecutor | None, add: Callable[[float], None]) -> None:
        """watcher: of one thread, which waits for results where programs return before them, as on an accelerator.
        Where they return with them there is none. add: is told of seconds, by one thread at a time."""
        self._watcher, self._add = watcher, add
        self._lock = threading.Lock()
        self._running = 0
        self._since = 0.0

    def run(self, program: Callable[..., Any], *arguments: Any) -> Any:
        """program(*arguments)."""
        self._begin()
        try:
            found = program(*arguments)
        except BaseException:
            self._end()
            raise
        if self._watcher is None:
            self._end()
        else:
            submit(self._watcher, self._watch, found)
        return found

    def _watch(self, found: Any) -> None:
        try:
            jax.block_until_ready(found)
        finally:
            self._end()

    def _begin(self) -> None:
        with self._lock:
            if not self._running:
                self._since = time.monotonic()
            self._running += 1

    def _end(self) -> None:
        with self._lock:
            now = time.monotonic()
            self._add(now - self._since)
            self._since = now
            self._running -= 1
