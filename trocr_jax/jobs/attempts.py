"""How often lines have killed what read them: counted in the job folder, so that it outlives the process that died.

An image that kills a worker which decodes it is tried ATTEMPTS times, then quarantined. A unit whose whole process
dies is tried ATTEMPTS times, then in halves, each by itself, and in halves of the half that kills again, until one line
is left; that line is tried ATTEMPTS times alone, then quarantined.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import orjson

from trocr_jax.jobs.job import ATTEMPTS as FOLDER
from trocr_jax.jobs.job import Job, Task, unit_name
from trocr_jax.jobs.rows import Failure

ATTEMPTS = 3


class Attempts:
    """The counters of one unit; only the process that holds its lease writes them."""

    def __init__(self, job: Job, unit: int) -> None:
        self._store, self._name = job.store, f"{FOLDER}/{unit_name(unit)}.json"
        self._whole = job.whole(unit)
        self._lock = threading.Lock()
        try:
            self._deaths: dict[str, list[str]] = orjson.loads(self._store.read(self._name))
        except (FileNotFoundError, ValueError):
            self._deaths = {}

    def image_died(self, index: int, reason: str) -> int:
        """Notes that decoding line `index` of the unit killed the worker; returns how often that has happened."""
        return self._add(str(index), reason)

    def process_died(self, task: Task, reason: str) -> int:
        """Notes that the process that read `task` has died; returns how often that has happened."""
        return self._add(_key(task), reason)

    def knows(self, task: Task, reason: str) -> bool:
        """Whether `process_died` was told so already."""
        return reason in self._deaths.get(_key(task), ())

    def quarantined(self, index: int) -> Failure | None:
        """Why line `index` of the unit must not be tried again, if so."""
        for key in (str(index), f"{index}+1"):
            if len(reasons := self._deaths.get(key, ())) >= ATTEMPTS:
                return quarantine(reasons)
        return None

    @property
    def suspected(self) -> bool:
        """Whether the unit has one line, and a process has died while it was read, perhaps of what was read beside."""
        return len(self._whole.lines) == 1 and bool(self._deaths.get(_key(self._whole)))

    def tasks(self) -> Iterator[Task]:
        """The unit, or the pieces of it that are to be read apart, in order."""
        yield from self._pieces(self._whole, ATTEMPTS)

    def _pieces(self, task: Task, allowed: int) -> Iterator[Task]:
        count = len(task.lines)
        if count == 1 or len(self._deaths.get(_key(task), ())) < allowed:
            yield task
            return
        first, half = task.lines[0], count // 2
        yield from self._pieces(Task.stretch(task.unit, first, half), 1)
        yield from self._pieces(Task.stretch(task.unit, first + half, count - half), 1)

    def forgive(self) -> set[int]:
        """Lets every line be tried again. Returns those that ended a whole process, of which one death stays noted."""
        deaths = {key: reasons[-1:] for key, reasons in self._deaths.items() if key.endswith("+1")}
        if deaths != self._deaths:
            self._deaths = deaths
            self._store.replace(self._name, orjson.dumps(deaths))
        return {int(key.partition("+")[0]) for key in deaths}

    def _add(self, key: str, reason: str) -> int:
        with self._lock:  # several images may kill their workers at a time
            self._deaths.setdefault(key, []).append(reason)
            self._store.replace(self._name, orjson.dumps(self._deaths))
            return len(self._deaths[key])


def quarantine(reasons: Sequence[str]) -> Failure:
    """The failure of an image that killed what read it, each time for one of these reasons."""
    return Failure("quarantined", f"{reasons[-1]}; tried {len(reasons)} times")


def _key(task: Task) -> str:
    return f"{task.lines[0]}+{len(task.lines)}"
