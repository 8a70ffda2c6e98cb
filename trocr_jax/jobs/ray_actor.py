"""What runs in the actors of `--engine ray`: a worker that stays while units come and go."""

from __future__ import annotations

import dataclasses
import os
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import orjson
import ray

from trocr_jax.errors import TrOCRError
from trocr_jax.jobs.claims import PATIENCE
from trocr_jax.jobs.host import Prepared, writing
from trocr_jax.jobs.job import Task
from trocr_jax.jobs.owner import me
from trocr_jax.jobs.rows import Counts
from trocr_jax.jobs.stop import Stop
from trocr_jax.jobs.worker import Resources, Worker, open_worker

Prepare = Callable[[], Prepared]
SILENT = 20.0
"""Seconds without a sign of life, which comes every PATIENCE seconds, after which an actor counts as lost."""


def working_in(folder: str, prepare: Prepare) -> Prepared:
    """Paths as they were given hold here too, if this host has the folder in which they were given."""
    os.chdir(folder if os.path.isdir(folder) else "/")
    return prepare()


class Sign(NamedTuple):
    """What an actor was last heard of: seconds ago; busy, loading the model or with units to read; has_read, whether it
    has ever had units."""

    ago: float
    busy: bool
    has_read: bool


class Bell:
    """An actor beside the driver, by which it asks the others to stop, and knows who lives."""

    def __init__(self) -> None:
        self._rung = False
        self._heard: dict[str, tuple[float, bool, bool]] = {}

    def ring(self) -> list[str]:
        """Says who has not stopped yet. To be called again and again: what it knows is lost when it is restarted."""
        self._rung = True
        return sorted(owner for owner, sign in self.heard().items() if sign.ago < SILENT)

    def rung(self, owner: str, *, loading: bool, units: int) -> bool:
        """Whether `owner`, who is at work, is to stop. units: how many it has."""
        _, _, has_read = self._heard.get(owner, (0.0, False, False))
        self._heard[owner] = time.monotonic(), loading or units > 0, has_read or units > 0
        return self._rung

    def end(self, owner: str) -> None:
        self._heard.pop(owner, None)

    def heard(self) -> dict[str, Sign]:
        """Every actor that has not ended of itself."""
        now = time.monotonic()
        return {owner: Sign(now - when, busy, has_read) for owner, (when, busy, has_read) in self._heard.items()}


class UnitReader:
    """Given units, by CALLS at a time, answers for each when it is committed, by whomever.

    One thread reads them all, so that the device need not wait between two; the calls wait for it.
    """

    def __init__(self, prepare: Prepare, folder: str, resources: Resources, cpus: int, bell: Any) -> None:
        if resources.decoders is None:
            resources = dataclasses.replace(resources, decoders=cpus)
        self._resources, self._bell, self._stop = resources, bell, Stop()
        self._asked: queue.Queue[int] = queue.Queue()
        self._settled = threading.Condition()
        self._done: set[int] = set()
        self._waiting = 0
        self._counts: defaultdict[int, Counts] = defaultdict(Counts)
        self._worker: Worker | None = None
        self._error: BaseException | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._listen, name="trocr-ray-listen", daemon=True).start()
        try:
            self._prepared = working_in(folder, prepare)
        except TrOCRError as error:  # Ray would try it for ever; the first call tells of it
            self._error = error
            self._ended.set()
            return
        threading.Thread(target=self._work, name="trocr-ray-work", daemon=True).start()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        found = [self._read(int(unit)) for unit in batch["unit"]]
        return {name: [row[name] for row in found] for name in found[0]}

    def _read(self, unit: int) -> dict[str, Any]:
        with self._settled:
            self._waiting += 1
            self._asked.put(unit)
            while unit not in self._done and not self._ended.is_set():
                self._settled.wait()
            self._waiting -= 1
            done, counts = unit in self._done, self._counts.pop(unit, Counts())
        error = None if done else self._error
        if error is not None and not isinstance(error, TrOCRError):
            raise error
        gauge = {} if self._worker is None else self._worker.reader.gauge.counters()
        return {
            "unit": unit,
            **counts._asdict(),
            "owner": str(me()),
            "gauge": orjson.dumps(gauge).decode(),
            "stopped": not done,
            "error": "" if error is None else type(error).__name__,
            "message": str(error or ""),
        }

    def _work(self) -> None:
        job, recognizer, decode = self._prepared
        try:
            with (
                writing(job.store.root),
                open_worker(job, recognizer, decode, self._resources, stop=self._stop) as worker,
            ):
                worker.on_commit, worker.on_done = self._committed, self._settle
                worker.events.write("start", decoders=self._resources.decoders, batch_size=worker.reader.gauge.size)
                self._worker = worker
                worker.work(self._units())
                worker.events.write("stop", **worker.reader.gauge.stats())
        except BaseException as error:  # noqa: BLE001  it is raised, or told, where units are waited for
            self._error = error
        finally:
            self._ended.set()
            with self._settled:
                self._settled.notify_all()

    def _units(self) -> Iterator[int | None]:
        while not self._stop.requested.is_set():
            try:
                yield self._asked.get(timeout=PATIENCE)
            except queue.Empty:
                yield None

    def _committed(self, task: Task, counts: Counts) -> None:
        with self._settled:
            self._counts[task.unit] = self._counts[task.unit].plus(counts)
            read = self._counts[task.unit].lines
        if read >= self._prepared.job.units[task.unit].lines or self._prepared.job.is_done(task.unit):
            self._settle(task.unit)

    def _settle(self, unit: int) -> None:
        with self._settled:
            self._done.add(unit)
            self._settled.notify_all()

    def _listen(self) -> None:
        """Says that it lives. Stops when the driver asks for it, or is no more."""
        while True:
            try:
                sign = self._bell.rung.remote(str(me()), loading=self._worker is None, units=self._waiting)
                if ray.get(sign, timeout=10 * PATIENCE):
                    self._stop.request()
            except ray.exceptions.GetTimeoutError:
                pass
            except ray.exceptions.RayError:
                self._stop.request()
            if self._ended.wait(PATIENCE):
                break
        self._bell.end.remote(str(me()))
