"""Which units this process reads: those that nobody has committed and nobody else is reading."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterable, Iterator

from trocr_jax.jobs.attempts import Attempts
from trocr_jax.jobs.job import Job, Task
from trocr_jax.jobs.leases import Leases
from trocr_jax.jobs.owner import me

PATIENCE = 1.0
"""Seconds between two looks at units that others are reading."""


class Claims:
    """Hands out tasks until every unit is committed, by whomever, or `stop` is set.

    tasks() may be iterated in one thread and settle() called in another. Attributes: on_death, told of a task and of
    who died in it. on_done, told of a unit that somebody else has committed.
    """

    def __init__(
        self, job: Job, leases: Leases, stop: threading.Event, units: Iterable[int | None] | None = None
    ) -> None:
        """units: those to read, all if None. They are asked for one at a time, a little ahead; a None among them is a
        moment in which there is no new one yet."""
        self.job, self.leases = job, leases
        self._stop = stop
        self._asked: Iterable[int | None] = () if units is None else units
        left: list[int] = []
        if units is None:
            done = job.done()
            left = [unit for unit in range(len(job.units)) if unit not in done]
            # processes begin at different places, so that they seldom want the same unit
            start = zlib.crc32(str(me()).encode()) % (len(left) or 1)
            left = left[start:] + left[:start]
        self._left = dict.fromkeys(left)
        self._open = 0
        self._settled = threading.Condition()
        self.on_death: Callable[[Task, str], None] = lambda task, holder: None
        self.on_done: Callable[[int], None] = lambda unit: None

    def tasks(self) -> Iterator[Task]:
        for asked in self._asked:
            if self._stop.is_set():
                return
            if asked is not None:
                self._left[asked] = None
                yield from self._unit(asked)
            elif self._left:
                yield from self._round()
                self._refresh()
        while self._left and not self._stop.is_set():
            before = len(self._left)
            yield from self._round()
            if len(self._left) == before:  # all that is left is being read by others
                self._stop.wait(PATIENCE)
                self._refresh()

    def settle(self, task: Task) -> None:
        """The rows of a task are committed."""
        if self.job.is_done(task.unit):
            self.leases.give_back(task.unit)
        with self._settled:
            self._open -= 1
            self._settled.notify_all()

    def _round(self) -> Iterator[Task]:
        for unit in list(self._left):
            if self._stop.is_set():
                return
            yield from self._unit(unit)

    def _unit(self, unit: int) -> Iterator[Task]:
        if unit not in self._left:
            return
        taken = self.leases.take(unit)
        if taken is False:
            return
        if self.job.is_done(unit):
            self.leases.give_back(unit)
            self._refresh()
            return
        del self._left[unit]
        attempts = Attempts(self.job, unit)
        if not isinstance(taken, bool):
            for task in taken.tasks:
                reason = f"the process that read it ended ({taken.holder})"
                if not attempts.knows(task, reason):  # several may take its lease over at a time: it has died once
                    attempts.process_died(task, reason)
                    self.on_death(task, taken.holder)
        tasks = list(attempts.tasks())
        if len(tasks) == 1 and not attempts.suspected:
            yield self._begin(tasks[0])
            return
        read = {line for piece in self.job.partial(unit) for line in piece.lines}
        for task in tasks:
            if not read.issuperset(task.lines):  # each by itself, so that what kills the process is known
                if not self._alone():
                    return
                yield self._begin(task)
        if self._alone() and self.job.assemble(unit):  # a predecessor may have died between its last piece and this
            self.leases.give_back(unit)
            self.on_done(unit)

    def _begin(self, task: Task) -> Task:
        self.leases.reading(task)
        with self._settled:
            self._open += 1
        return task

    def _alone(self) -> bool:
        """Waits until nothing is being read; False if the process is to stop."""
        with self._settled:
            while self._open and not self._stop.is_set():
                self._settled.wait(PATIENCE)
        return not self._stop.is_set()

    def _refresh(self) -> None:
        done = self.job.done()
        for unit in done.intersection(self._left):
            del self._left[unit]
            self.on_done(unit)
