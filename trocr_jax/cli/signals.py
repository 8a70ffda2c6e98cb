"""SIGINT, SIGTERM and SIGHUP end a command at once, and files that are half written go first. A job is stopped by
them, and by a second SIGINT ended at once.

No exception is raised where the signal comes: between two steps of a lock or a condition it would leave other threads
waiting for ever, or become another error. The one exception is `Stop.cut`, around what connects to a Ray cluster.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from trocr_jax.jobs.stop import Stop
from trocr_jax.say import on_terminal

_half_written: set[str] = set()


@contextmanager
def half_written(path: str) -> Iterator[None]:
    """Around what makes a file: it goes if a signal ends the program meanwhile."""
    _half_written.add(path)
    try:
        yield
    finally:
        _half_written.discard(path)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Ends the program, as one that does not handle the signal, where one comes that is not ignored or handled by
    others. Python calls handlers between two steps of the main thread: a program on a device is waited for."""
    before = {}
    if threading.current_thread() is threading.main_thread():  # the others may set none
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopped_by_signals(run: Callable[[Stop], int]) -> int:
    """What `run` returns, which is given a stop that SIGTERM requests, and SIGINT and SIGHUP (whose terminal has gone)
    unless they are ignored. It does not return after these: the process ends, after SIGINT by the signal, as a shell is
    to see it, and waits for no thread."""
    stop, told = Stop(), set[int]()

    def request(number: int, frame: object) -> None:
        told.add(number)
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            _say("\ntrocr-jax: stops; Ctrl-C again ends it at once\n")
        stop.interrupt()

    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        numbers.append(signal.SIGINT)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # nohup ignores it
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, request) for number in numbers}
    try:
        status = run(stop)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signal.SIGINT in told:
        end_by(signal.SIGINT)
    if stop.requested.is_set():  # by a signal, which libraries may have caught
        os._exit(status)
    return status


def end_by(number: int) -> NoReturn:
    """Ends as a program that does not handle the signal, so that a shell sees what happened."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise SystemExit(128 + number)


def _end(number: int, frame: object) -> None:
    for path in tuple(_half_written):
        with suppress(OSError):
            os.unlink(path)
    if on_terminal():
        _say("\n")  # below the bar
    end_by(number)


def _say(text: str) -> None:
    """On stderr, in which the main thread may be writing at this moment."""
    with suppress(OSError, AttributeError, ValueError):  # it may be closed
        os.write(sys.stderr.fileno(), text.encode())
