"""Ends a process that does nothing any more, so that whatever started it can start another."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trocr_jax.say import say

STATUS = 3
"""Exit status of a process that ended itself."""


@contextmanager
def watchdog(moved: Callable[[], float], seconds: float) -> Iterator[None]:
    """While the block runs: ends the process with STATUS if `moved()` does not change for `seconds` in which it
    ran: a process that is suspended does not hang.

    A device that hangs cannot be asked to stop. Leases of the process are taken over as those of a dead one.
    """
    ended = threading.Event()

    def watch() -> None:
        last, still, interval = moved(), 0.0, min(seconds / 4, 10.0)
        while not ended.wait(interval):
            before, last = last, moved()
            still = still + interval if last == before else 0.0
            if still > seconds:
                say(f"no line was read for {seconds:g} s; the process ends itself")
                os._exit(STATUS)

    thread = threading.Thread(target=watch, name="trocr-watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
