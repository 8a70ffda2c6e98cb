"""What runs in the actors of `--engine ray`: a worker that stays while units come and go."""

from __future__ import annotations

import dataclasses
import os
import queue
import threading
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NoReturn

import orjson
import ray

from trocr_jax.errors import JobError, TrOCRError
from trocr_jax.jobs.claims import PATIENCE
from trocr_jax.jobs.host import Prepared, writing
from trocr_jax.jobs.job import Task
from trocr_jax.jobs.owner import me
from trocr_jax.jobs.planning import Plan
from trocr_jax.jobs.rows import Counts
from trocr_jax.jobs.stop import Stop
from trocr_jax.jobs.worker import Resources, Worker, open_worker
from trocr_jax.say import tell

Prepare = Callable[[], Prepared]
FAILED = 4
"""Exit status of an actor whose device, or a library, fails."""
TOLD = 2000
"""Characters of a traceback that the driver is told."""


def work_in(folder: str) -> None:
    """Paths as they were given hold here too, if this host has the folder in which they were given."""
    os.chdir(folder if os.path.isdir(folder) else "/")


def not_shared(host: str, folder: str) -> JobError:
    return JobError(
        f"{folder}: on {host} holds a plan that is not there where the command runs; give a folder or URL that all "
        "hosts share"
    )


class UnitReader:
    """Given units, by CALLS at a time, answers for each when it is committed, by whomever.

    One thread reads them all, so that the device need not wait between two; the calls wait for it. What is no
    TrOCRError ends the process, and Ray starts another: there is no saying what a device that has failed does next.
    """

    def __init__(self, prepare: Prepare, plan: Plan, folder: str, resources: Resources, cpus: int, bell: Any) -> None:
        """plan: that of the driver. folder: in which it works."""
        if resources.decoders is None:
            resources = dataclasses.replace(resources, decoders=cpus)
        self._resources, self._bell, self._stop = resources, bell, Stop()
        self._asked: queue.Queue[int] = queue.Queue()
        self._settled = threading.Condition()
        self._done: set[int] = set()
        self._waiting = 0
        self._counts: defaultdict[int, Counts] = defaultdict(Counts)
        self._worker: Worker | None = None
        self._error: TrOCRError | None = None
        self._ended = threading.Event()
        threading.Thread(target=self._listen, name="trocr-ray-listen", daemon=True).start()
        try:
            work_in(folder)
            self._standby = resources.standby()  # which work there too
            self._prepared = prepare()
            if self._prepared.job.plan != plan:  # made here, of a folder that was empty
                raise not_shared(me().host, self._prepared.job.store.root)
        except TrOCRError as error:  # Ray would try it for ever; the first call tells of it
            self._error = error
            self._ended.set()
            self._standby.close()
            return
        except Exception as error:  # noqa: BLE001  Ray would not start the actor again, and end all
            self._fail(error)
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
                self._standby,
                writing(job.store.root),
                open_worker(job, recognizer, decode, self._resources, stop=self._stop, standby=self._standby) as worker,
            ):
                worker.on_commit, worker.on_done = self._committed, self._settle
                self._worker = worker
                worker.work(self._units())
        except TrOCRError as error:  # it is told where units are waited for
            self._error = error
        except BaseException as error:  # noqa: BLE001  whatever a device raises; leases have been given back
            self._fail(error)
        self._ended.set()
        with self._settled:
            self._settled.notify_all()

    def _fail(self, error: BaseException) -> NoReturn:
        """Ends the process, after it was told why, in its log and to the driver."""
        failure = "".join(traceback.format_exception(error))
        tell(failure)
        with suppress(Exception):
            ray.get(self._bell.failed.remote(str(me()), failure[-TOLD:]), timeout=10 * PATIENCE)
        os._exit(FAILED)

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
