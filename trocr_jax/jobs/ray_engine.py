"""`--engine ray`: the units of a job over a Ray Data pool of actors, each of them a worker as on one machine.

Ray decides where actors run, how many there are, and brings them back for ever. What was read, and how often something
has killed its reader, stands in the job folder alone: whatever is lost of Ray, the driver included, the same command
goes on from there.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import orjson

from trocr_jax import errors
from trocr_jax.errors import JobError, TrOCRError
from trocr_jax.jobs.finish import finish, sweep
from trocr_jax.jobs.host import writing
from trocr_jax.jobs.job import Job
from trocr_jax.jobs.rows import Counts
from trocr_jax.jobs.worker import Resources, Stop

try:
    import ray
    import ray.data
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from trocr_jax.jobs.ray_actor import Bell, Prepare, UnitReader, prepared
except ModuleNotFoundError:
    raise JobError("--engine ray needs Ray: pip install trocr-jax[ray]") from None

CALLS = 2
"""Units that an actor has at a time: images of the second are decoded while the device reads the first."""
GIVE_UP = 10.0
"""Seconds beyond the grace after which actors that do not answer a request to stop are left to Ray."""


@dataclass(frozen=True, kw_only=True)
class Actors:
    """The pool. least, most: how many actors; Ray adds them while there is work and the cluster has room. cpus, gpus,
    resources: what one of them takes, such as {"TPU": 4}. address: of the cluster; that of RAY_ADDRESS, or else a
    cluster on this machine that ends with this process, if None."""

    least: int = 1
    most: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict)
    address: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise JobError(f"{self.least} to {self.most} actors: give at least one, and at most as many as most")
        if min(self.cpus, self.gpus, *self.resources.values()) < 0:
            raise JobError("an actor cannot take less than nothing: give CPUs, GPUs and resources of 0 or more")

    def options(self) -> dict[str, Any]:
        return {"num_cpus": self.cpus, "num_gpus": self.gpus or None, "resources": dict(self.resources) or None}


class Report(NamedTuple):
    """A unit is committed. counts: the lines of it that `owner` has read, none if that was somebody else. gauge: what
    that actor has done so far (`Gauge.counters`)."""

    unit: int
    counts: Counts
    owner: str
    gauge: Mapping[str, float]


@contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """A connection to a Ray cluster: the one that this process has, or else one for the time of the block."""
    if ray.is_initialized():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        own: dict[str, Any] = {} if address or os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}
        ray.init(address, log_to_driver=False, logging_level=logging.WARNING, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise JobError(f"no Ray cluster at {address or 'this machine'}: {error}") from error
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray has put its own there
        yield
    finally:
        ray.shutdown()


def _quiet() -> None:
    """Ray Data tells of every data set; what matters here is told by the job."""
    for name in ("ray.data._internal.execution.streaming_executor", "ray.data._internal.progress"):
        logging.getLogger(name).setLevel(logging.ERROR)


def plan(prepare: Prepare, actors: Actors, *, stop: Stop | None = None) -> Job | None:
    """Plans the job, or compares it with its plan, where an actor could run: what kind of device there is has a say.
    None if a stop is requested before it is there. Raises what `prepare` raises of TrOCRError."""
    task = ray.remote(**actors.options(), max_calls=1, max_retries=-1)(prepared).remote(prepare, os.getcwd())
    while not ray.wait([task], timeout=0.5)[0]:
        if stop is not None and stop.requested.is_set():
            return None
    try:
        folder, error = ray.get(task)
    except ray.exceptions.RayError as failure:
        raise JobError(f"the job could not be planned in a Ray task: {failure}") from failure
    if error is not None:
        raise _error(*error)
    return Job.open(folder)


def run(
    job: Job,
    prepare: Prepare,
    *,
    actors: Actors | None = None,
    resources: Resources | None = None,
    stop: Stop | None = None,
    report: Callable[[Report], object] = lambda report: None,
) -> Counts | None:
    """Reads what is left of a job with actors, together with whoever else works on it. Result and errors as those of
    `host.run`.

    prepare: called in every actor for (job, recognizer, decode); picklable, as its parts need not be.
    resources: those of each actor; as many decoders as it has CPUs if they do not say.
    """
    actors = Actors() if actors is None else actors
    resources = Resources() if resources is None else resources
    stop = Stop() if stop is None else stop
    with writing(job.store.root):
        sweep(job)
        done = job.done()
        if left := [unit for unit in range(len(job.units)) if unit not in done]:
            with connected(actors.address):
                _read(left, prepare, actors, resources, stop, report)
        return finish(job)


def _read(
    left: list[int],
    prepare: Prepare,
    actors: Actors,
    resources: Resources,
    stop: Stop,
    report: Callable[[Report], object],
) -> None:
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    beside: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": -1, "max_task_retries": -1}
    bell: Any = ray.remote(**beside)(Bell).remote()
    found: queue.Queue[dict[str, Any] | BaseException | None] = queue.Queue()
    _quiet()
    units = _pool(left, prepare, actors, resources, bell)
    threading.Thread(target=_consume, args=(units, found), name="trocr-ray", daemon=True).start()
    while True:
        if stop.requested.is_set():
            at_work = ray.get(bell.ring.remote())
            if stop.seconds() > resources.grace + GIVE_UP or (found.empty() and not at_work):
                return
        with suppress(queue.Empty):
            row = found.get(timeout=0.5)
            if row is None and not stop.requested.is_set():
                return
            if isinstance(row, BaseException):
                raise row
            if row is not None and row["error"]:
                raise _error(row["error"], row["message"])
            if row is not None and not row["stopped"]:
                counts = Counts(row["ok"], row["failed"], row["quarantined"])
                report(Report(row["unit"], counts, row["owner"], orjson.loads(row["gauge"])))


def _pool(units: list[int], prepare: Prepare, actors: Actors, resources: Resources, bell: Any) -> Any:
    """The data set of what becomes of each unit."""
    asked = ray.data.from_items([{"unit": unit} for unit in units], override_num_blocks=len(units))
    context = asked.context
    context.enable_progress_bars = False
    # Actors never have more than CALLS units: all of them busy is what the pool is to grow at.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    return asked.map_batches(
        UnitReader,
        fn_constructor_args=(prepare, os.getcwd(), resources, max(1, int(actors.cpus)), bell),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            min_size=actors.least,
            max_size=actors.most,
            max_tasks_in_flight_per_actor=CALLS,
            max_concurrent_calls_per_actor=CALLS,
            enable_true_multi_threading=True,
        ),
        **actors.options(),  # Ray Data restarts actors, and tries their units again, for ever
    )


def _consume(units: Any, found: queue.Queue[dict[str, Any] | BaseException | None]) -> None:
    try:
        with closing(iter(units.iter_rows())) as rows:
            for row in rows:
                found.put(row)
                if row["stopped"] or row["error"]:
                    break
        found.put(None)
    except BaseException as error:  # noqa: BLE001  it is raised where the rows are asked for
        found.put(error)


def _error(kind: str, message: str) -> TrOCRError:
    return cast(TrOCRError, getattr(errors, kind)(message))
