"""A request to stop a job, as a signal makes it. Imports nothing that takes time: it is there before jax is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
LOOK_SECONDS = 0.05
"""How often one that waits for another thread looks whether a stop is requested."""


class Stopped(KeyboardInterrupt):
    """Raised by `Stop.apart`, and within `Stop.cut`. To libraries it is what they know to be no failure of theirs."""


class Stop:
    """A request to stop, from a signal handler or another thread."""

    def __init__(self) -> None:
        self.requested = threading.Event()
        self._since = 0.0
        self._cutting = False

    def request(self) -> None:
        if not self.requested.is_set():
            self._since = time.monotonic()
            self.requested.set()

    def interrupt(self) -> None:
        """The request of a signal handler, which runs in the main thread: it also ends what that does within `cut`."""
        self.request()
        if self._cutting:
            self._cutting = False
            raise Stopped

    def apart(self, do: Callable[[], T]) -> T:
        """What `do` returns or raises, in a thread of its own, or Stopped once a stop is requested, which leaves the
        thread behind: for what may take long, and waits where a stop does not reach it. The process ends without
        waiting for it."""
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(do())
            except BaseException as error:  # noqa: BLE001  it is raised where it is waited for
                done.set_exception(error)

        if not self.requested.is_set():
            threading.Thread(target=run, name="trocr-apart", daemon=True).start()
        while not self.requested.is_set():
            if wait([done], LOOK_SECONDS).done:
                return done.result()
        raise Stopped

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Around what has to be done by the main thread and may be left at any moment. Raises Stopped on `interrupt`,
        and at once if a stop was requested before. Locks may be left as they are: only for what the process can do
        without afterwards. Not around jax: where it traced or compiled when it was left, the process ends by SIGSEGV
        (jaxlib 0.10.2)."""
        self._cutting = True
        try:
            if self.requested.is_set():
                raise Stopped
            yield
        except Exception as error:
            if self._cutting or not self.requested.is_set():
                raise
            raise Stopped from error  # what a library made of it
        finally:
            self._cutting = False

    def seconds(self) -> float:
        """Since the request; 0 without one."""
        return time.monotonic() - self._since if self.requested.is_set() else 0.0
