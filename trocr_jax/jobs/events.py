"""The event log: a JSONL file for each process that works on a job."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import orjson

from trocr_jax.jobs.job import EVENTS
from trocr_jax.jobs.owner import me
from trocr_jax.jobs.store import Store


class Events:
    """Writes the events of this process: start, begin (the first row of a task), commit, death, stop, end."""

    def __init__(self, store: Store) -> None:
        self._store, self._name = store, f"{EVENTS}/{me()}.jsonl"

    def write(self, event: str, **values: Any) -> None:
        """Raises OSError."""
        line = {"time": round(time.time(), 3), "event": event, "owner": str(me()), **values}
        self._store.append(self._name, orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


def read_events(store: Store) -> Iterator[dict[str, Any]]:
    """All events, those of a process together and in order. A line that a kill or a full disk cut off is left out."""
    for name in store.names(EVENTS):
        with suppress(FileNotFoundError):
            for line in store.read(f"{EVENTS}/{name}").splitlines():
                with suppress(ValueError):
                    yield orjson.loads(line)
