"""`trocr-jax jobs run` and `jobs retry-failed`: the same job on this machine or on a Ray cluster."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from trocr_jax import checkpoint, jobs
from trocr_jax.cli import FAILED, printing
from trocr_jax.cli.decode import check_options, decode_config, devices, load
from trocr_jax.cli.jobs import counted
from trocr_jax.cli.jobs_options import RetryFailed, Run
from trocr_jax.cli.jobs_progress import JobProgress
from trocr_jax.cli.options import flag, given
from trocr_jax.errors import JobError
from trocr_jax.jobs.all_devices import load as on_all_devices
from trocr_jax.jobs.decode_worker import Limits
from trocr_jax.jobs.gauge import Gauge
from trocr_jax.jobs.host import Prepared, writing
from trocr_jax.jobs.job import Job
from trocr_jax.jobs.planning import read_plan
from trocr_jax.jobs.rows import COLUMNS, Counts
from trocr_jax.jobs.stop import Stop, Stopped
from trocr_jax.jobs.store import open_store
from trocr_jax.say import say

NOTHING_LEFT = {"local": "nothing left to do here", "ray": "the actors have ended"}
NOT_PLANNED = "stopped before the job was planned: the same command does it"


class Ran(NamedTuple):
    """What became of a job: counts of all of it, None if it is not complete; figures of those who read."""

    job: Job
    counts: Counts | None
    stats: dict[str, Any]


def run(command: Run, stop: Stop) -> int:
    """Returns the exit status. Raises TrOCRError for what cannot be used."""
    check_options(command)
    _check_engine(command)
    resources_of(command)  # before anything is loaded
    if not 0 <= command.resources.stopped_status <= 255:
        raise JobError(f"--stopped-status {command.resources.stopped_status}: give an exit status from 0 to 255")
    if isinstance(command, RetryFailed):
        if command.plan_only:
            raise JobError("--plan-only is for `jobs run`: lines are read once more of a job that is planned")
        with writing(command.output):
            Job.open(command.output)
    try:
        ran = (_run_on_ray if command.engine == "ray" else _run_here)(command, stop)
    except Stopped:
        _say_what_is_left(command)
        return command.resources.stopped_status
    if ran is None:
        return command.resources.stopped_status if stop.requested.is_set() else 0
    if command.resources.stats:
        with printing():
            print(orjson.dumps(ran.stats, option=orjson.OPT_INDENT_2).decode())
    again = isinstance(command, RetryFailed) and stop.requested.is_set()  # and not all of the lines, perhaps
    if ran.counts is None or (again and ran.counts.ok < ran.counts.lines):
        why = "stopped" if stop.requested.is_set() else NOTHING_LEFT[command.engine]
        with writing(command.output):
            say(f"{command.output}: {why}; {_left(command, ran.job)}")
            if stop.requested.is_set():
                return command.resources.stopped_status
            # Units that other hosts read may be left here; actors wait for those too.
            return FAILED if command.engine == "ray" and len(ran.job.done()) < len(ran.job.units) else 0
    say(f"{command.output}: complete. {counted(ran.counts)}")
    return 1 if ran.counts.ok < ran.counts.lines else 0


def prepare(command: Run, stop: Stop | None = None) -> Prepared:
    """The job that a command is about, planned or compared with its plan, and what reads it. Raises Stopped as
    `stop.apart` does until it is planned."""
    stop = Stop() if stop is None else stop
    devices(command)  # what they cannot do is said before anything is fetched
    source = stop.apart(lambda: jobs.open_source(command.inputs, command.where.source, **_where(command)))
    stop.apart(lambda: checkpoint.resolve(command.model, revision=command.revision))  # it may come from the hub
    recognizer = load(command, by=on_all_devices)
    decode = decode_config(command, recognizer)
    chosen = jobs.Choices(unit_size=command.unit_size, batch_size=command.batch_size, columns=tuple(_columns(command)))
    job = jobs.plan(
        source, command.output, recognizer, command.model, decode, revision=command.revision, choices=chosen, stop=stop
    )
    return Prepared(job, recognizer, decode)


def _run_here(command: Run, stop: Stop) -> Ran | None:
    """None if the job was to be planned only."""
    if command.plan_only:
        _say_planned(command, prepare(command, stop).job)
        return None
    resources = resources_of(command)
    with resources.standby(stop) as standby:
        job, recognizer, decode = prepare(command, stop)
        _say_planned(command, job)
        do = jobs.retry_failed if isinstance(command, RetryFailed) else jobs.run
        with JobProgress(job, port=command.resources.metrics_port) as progress:
            counts = do(
                job, recognizer, decode, resources=resources, stop=stop, standby=standby, prepare=progress.watch
            )
    return Ran(job, counts, progress.stats())


def _run_on_ray(command: Run, stop: Stop) -> Ran | None:
    """None if the job was to be planned only, or a stop came first. This process loads no model and uses no device."""
    from trocr_jax.jobs import ray_engine

    prepared, actors = functools.partial(prepare, command), _actors(command)

    def waiting(text: str) -> None:
        say(f"{command.output}: {text}")

    with ray_engine.connected(actors.address, stop):
        job = ray_engine.plan(prepared, actors, stop=stop, waiting=waiting)
        if job is None:
            say(f"{command.output}: {NOT_PLANNED}")
            return None
        _say_planned(command, job)
        if command.plan_only:
            return None
        gauge, each = Gauge(1), dict[str, Any]()
        with JobProgress(job, port=command.resources.metrics_port) as progress:
            progress.begin(gauge)

            def report(told: ray_engine.Report) -> None:
                each[told.owner] = Gauge.later(each.get(told.owner, told.gauge), told.gauge)
                gauge.assume(each.values())
                progress.committed(told.counts)

            counts = ray_engine.run(
                job,
                prepared,
                actors=actors,
                resources=resources_of(command),
                stop=stop,
                report=report,
                waiting=waiting,
            )
        return Ran(job, counts, progress.stats())


def _actors(command: Run) -> Any:
    from trocr_jax.jobs.ray_engine import ROOM_SECONDS, Actors

    asked = command.ray
    resources = {}
    for text in asked.actor_resources or ():
        name, _, amount = text.partition("=")
        try:
            resources[name] = float(amount)
        except ValueError:
            raise JobError(f"--actor-resources {text}: give NAME=NUMBER, such as TPU=4") from None
    least = 1 if asked.actors is None else asked.actors
    return Actors(
        least=least,
        most=least if asked.max_actors is None else asked.max_actors,
        cpus=1.0 if asked.actor_cpus is None else asked.actor_cpus,
        gpus=0.0 if asked.actor_gpus is None else asked.actor_gpus,
        resources=resources,
        address=asked.ray_address,
        room_seconds=ROOM_SECONDS if asked.room_seconds is None else asked.room_seconds,
    )


def _check_engine(command: Run) -> None:
    if command.engine == "ray":
        if isinstance(command, RetryFailed):
            raise JobError("--engine ray: lines are read once more by one process; use --engine local")
    elif asked := given(command.ray):
        raise JobError(f"{flag(next(iter(asked)))} needs --engine ray")


def resources_of(command: Run) -> jobs.Resources:
    asked = command.resources
    if not 0 < asked.decode_memory < 1 << 43:
        raise JobError(f"decode_memory is {asked.decode_memory} MiB: give more than 0, and less than 2 ** 43")
    return jobs.Resources(
        decoders=asked.decoders,
        limits=Limits(asked.decode_seconds, asked.decode_memory << 20),
        lease_timeout=asked.lease_timeout,
        grace=asked.grace,
        hang=asked.hang,
        max_error_rate=asked.max_error_rate,
    )


def _where(command: Run) -> dict[str, object]:
    options = dataclasses.asdict(command.where)
    del options["source"]
    return options


def _columns(command: Run) -> Iterator[str]:
    yield from COLUMNS
    if command.search.n_best is not None:
        yield "alternatives"
    if command.score.confidences:
        yield from ("words", "characters")
    if command.token_log_probs:
        yield from ("token_ids", "token_log_probs")


def _say_planned(command: Run, job: Job) -> None:
    with writing(command.output):
        say(f"{command.output}: {job.plan.lines} lines in {len(job.units)} units, {len(job.done())} of them committed")


def _say_what_is_left(command: Run) -> None:
    """By a command that was stopped before it read anything."""
    with writing(command.output):
        planned = read_plan(open_store(command.output)) is not None
        say(f"{command.output}: {f'stopped; {_left(command, Job.open(command.output))}' if planned else NOT_PLANNED}")


def _left(command: Run, job: Job) -> str:
    units = len(job.units)
    if isinstance(command, RetryFailed) and len(job.done()) == units:
        return "lines that have no text may be left: the same command reads them once more"
    goes_on = "`jobs run`" if isinstance(command, RetryFailed) else "the same command"
    return f"{units - len(job.done())} of {units} units are left: {goes_on} goes on with them"
