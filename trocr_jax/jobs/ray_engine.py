"""`--engine ray`: the units of a job over a Ray Data pool of actors, each of them a worker as on one machine.

Ray decides where actors run, how many there are, and brings them back for ever. What was read, and how often something
has killed its reader, stands in the job folder alone: whatever is lost of Ray, the driver included, the same command
goes on from there.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

import orjson

from trocr_jax.errors import JobError
from trocr_jax.jobs.finish import finish, reopen, sweep
from trocr_jax.jobs.host import writing
from trocr_jax.jobs.job import Job
from trocr_jax.jobs.rows import Counts
from trocr_jax.jobs.stop import Stop
from trocr_jax.jobs.worker import Resources

try:
    import ray

    from trocr_jax.jobs.ray_actor import Prepare
    from trocr_jax.jobs.ray_connect import connected as connected
    from trocr_jax.jobs.ray_plan import error
    from trocr_jax.jobs.ray_plan import plan as plan
    from trocr_jax.jobs.ray_pool import Bells, Pool
    from trocr_jax.jobs.ray_room import ROOM_SECONDS as ROOM_SECONDS
    from trocr_jax.jobs.ray_room import Actors as Actors
    from trocr_jax.jobs.ray_signs import Signs
except ModuleNotFoundError:
    raise JobError("--engine ray needs Ray: pip install trocr-jax[ray]") from None

POOLS = 3
"""Pools in a row that end without a unit having been read."""
GIVE_UP = 10.0
"""Seconds beyond the grace after which actors that do not answer a request to stop are left to Ray."""


class Report(NamedTuple):
    """A unit is committed. counts: the lines of it that `owner` has read, none if that was somebody else. gauge: what
    that actor has done so far (`Gauge.counters`)."""

    unit: int
    counts: Counts
    owner: str
    gauge: Mapping[str, float]


def run(
    job: Job,
    prepare: Prepare,
    *,
    actors: Actors | None = None,
    resources: Resources | None = None,
    stop: Stop | None = None,
    report: Callable[[Report], object] = lambda report: None,
    waiting: Callable[[str], object] = lambda text: None,
) -> Counts | None:
    """Reads what is left of a job with actors, together with whoever else works on it, until nothing is left or a stop
    is requested. Result and errors as those of `host.run`; JobError also if there is no sign of life of any actor for
    `actors.room_seconds`, or if pools of actors end in vain; RuntimeError if one actor after the other fails.

    waiting: is told, after a while without an actor, what is waited for, and of actors that fail.
    prepare: called in every actor for (job, recognizer, decode); picklable, as its parts need not be.
    resources: those of each actor; as many decoders as it has CPUs if they do not say.
    """
    actors = Actors() if actors is None else actors
    resources = Resources() if resources is None else resources
    stop = Stop() if stop is None else stop
    with writing(job.store.root):
        if not reopen(job, stop.requested):
            return None
        sweep(job)
        if left := _left(job):
            with connected(actors.address, stop):
                in_vain = 0
                while left and not stop.requested.is_set():
                    _read(job, left, prepare, actors, resources, stop, report, waiting)
                    before, left = left, _left(job)
                    in_vain = 0 if len(left) < len(before) else in_vain + 1
                    if in_vain == POOLS and not stop.requested.is_set():
                        raise JobError(
                            f"{job.store.root}: {POOLS} pools of actors in a row have ended without a unit read, "
                            f"{len(left)} are left: see the logs of Ray, and whether all hosts share the folder; the "
                            "same command goes on"
                        )
        return finish(job, stop.requested, lease_timeout=resources.lease_timeout)


def _left(job: Job) -> list[int]:
    done = job.done()
    return [unit for unit in range(len(job.units)) if unit not in done]


def _read(
    job: Job,
    left: list[int],
    prepare: Prepare,
    actors: Actors,
    resources: Resources,
    stop: Stop,
    report: Callable[[Report], object],
    waiting: Callable[[str], object],
) -> None:
    """Reads with one pool of actors, until it has ended or another is to read what is left: units that an actor has got
    wait for it, so that they would wait for ever for one that is lost and cannot be anywhere else."""
    with Bells() as bells, Pool(left, job.plan, prepare, actors, resources, bells.bell) as pool:
        signs = Signs(bells.bell, actors, resources.lease_timeout, waiting)
        while True:
            if stop.requested.is_set():
                at_work = bells.ring()
                if stop.seconds() > resources.grace + GIVE_UP or (pool.found.empty() and at_work == []):
                    return
            elif signs.stuck():
                return
            with suppress(queue.Empty):
                row = pool.found.get(timeout=0.5)
                if row is None and not stop.requested.is_set():
                    return
                if isinstance(row, ray.exceptions.RayError):
                    raise JobError(f"Ray has ended the job: {row}") from row
                if isinstance(row, BaseException):
                    raise row
                if row is not None and row["error"]:
                    raise error(row["error"], row["message"])
                if row is not None and not row["stopped"]:
                    signs.moved()
                    counts = Counts(row["ok"], row["failed"], row["quarantined"])
                    report(Report(row["unit"], counts, row["owner"], orjson.loads(row["gauge"])))
