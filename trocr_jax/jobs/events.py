"""The event log: a JSONL file for each process that works on a job."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import orjson

from trocr_jax.jobs.job import EVENTS
from trocr_jax.jobs.owner import me
from trocr_jax.jobs.store import Store
from trocr_jax.say import say

KEPT = 1 << 20
"""Bytes of events that could not be written which are kept for another try."""


class Events:
    """Writes the events of this process: start, begin (the first row of a task), commit, death, stop, end.

    A context manager: while it is entered they are collected for `Store.log_seconds` and written in a thread of its
    own, the last of them in the end. A log that cannot be written ends no job; stderr says so once.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._name = store, f"{EVENTS}/{me()}.jsonl"
        self._new = queue.SimpleQueue[bytes]()
        self._left = b""
        self._lock = threading.Lock()  # of two that add to one object the second would not know of the first
        self._told = False
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Events:
        if self._store.log_seconds:
            self._thread = threading.Thread(target=self._write_now_and_then, name="trocr-events", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._flush()

    def write(self, event: str, **values: Any) -> None:
        line = {"time": round(time.time(), 3), "event": event, "owner": str(me()), **values}
        self._new.put(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        if self._thread is None:
            self._flush()

    def _write_now_and_then(self) -> None:
        while not self._ended.wait(self._store.log_seconds):
            self._flush()

    def _flush(self) -> None:
        with self._lock:
            while not self._new.empty():
                self._left += self._new.get()
            if not self._left:
                return
            try:
                self._store.append(self._name, self._left)
                self._left = b""
            except Exception as error:  # noqa: BLE001  whatever a file system raises: the job does not need its log
                if len(self._left) > KEPT:
                    self._left = b""
                if not self._told:
                    self._told = True
                    why = f"{self._store.root}/{self._name}: the event log cannot be written ({error})"
                    say(f"{why}; the job goes on without it")


def read_events(store: Store) -> Iterator[dict[str, Any]]:
    """All events, those of a process together and in order. A line that a kill or a full disk cut off is left out."""
    for name in store.names(EVENTS):
        with suppress(FileNotFoundError):
            for line in store.read(f"{EVENTS}/{name}").splitlines():
                with suppress(ValueError):
                    event = orjson.loads(line)
                    if isinstance(event, dict) and event.keys() >= {"time", "event", "owner"}:
                        yield event
