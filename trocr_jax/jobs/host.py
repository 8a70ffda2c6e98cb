"""Planning a job, or going on with it, on this host: one JAX process with all its devices."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from trocr_jax import checkpoint
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.errors import JobError, OutputError, TrOCRError
from trocr_jax.jobs import files
from trocr_jax.jobs.attempts import Attempts
from trocr_jax.jobs.decode_standby import Standby
from trocr_jax.jobs.decode_worker import Decode
from trocr_jax.jobs.fingerprint import describe, model_fingerprint, software
from trocr_jax.jobs.finish import check_empty, finish, open_again, reopen, sweep
from trocr_jax.jobs.job import Job, Task
from trocr_jax.jobs.planning import check_same, make_plan, read_plan
from trocr_jax.jobs.rows import COLUMNS, OPTIONAL_COLUMNS, Counts
from trocr_jax.jobs.sources import Source
from trocr_jax.jobs.sources import describe as describe_source
from trocr_jax.jobs.stop import Stop
from trocr_jax.jobs.store import open_store
from trocr_jax.jobs.worker import Resources, Worker, open_worker
from trocr_jax.recognizer import Recognizer

UNIT_SIZE = 512  # lines


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What is chosen when a job is planned. None: what the plan says, else 512 lines a unit and the batch size that
    `Recognizer` takes for the device. columns: those of the output."""

    unit_size: int | None = None
    batch_size: int | None = None
    columns: tuple[str, ...] = COLUMNS

    def __post_init__(self) -> None:
        for name in ("unit_size", "batch_size"):
            value = getattr(self, name)
            if value is not None and not 1 <= value < 1 << 31:
                raise JobError(f"{name} is {value}: give a whole number of at least 1, and less than 2 ** 31")
        if unknown := set(self.columns) - {*COLUMNS, *OPTIONAL_COLUMNS}:
            raise JobError(
                f"{sorted(unknown)[0]}: no such column; there are {', '.join((*COLUMNS, *OPTIONAL_COLUMNS))}"
            )
        if missing := {"id", "status"} - set(self.columns):
            raise JobError(f"{sorted(missing)[0]}: has to be a column: lines are known and counted by it")


class Prepared(NamedTuple):
    """A planned job and what it was planned with."""

    job: Job
    recognizer: Recognizer
    decode: DecodeConfig | None


def plan(
    source: Source,
    folder: str,
    recognizer: Recognizer,
    model: str | os.PathLike[str],
    decode: DecodeConfig | None = None,
    *,
    revision: str | None = None,
    choices: Choices | None = None,
    stop: Stop | None = None,
) -> Job:
    """The job in `folder`: planned now if there is none, else compared with what is asked for.

    model: the name or folder that the recognizer was loaded from. Raises DecodeError, before anything is listed, for a
    search that the model cannot do; JobError that shows every difference to the plan; SourceError if the source cannot
    be listed; OutputError if the folder cannot be written; Stopped as `stop.apart` does until the source is listed.
    """
    choices = Choices() if choices is None else choices
    stop = Stop() if stop is None else stop
    recognizer.check(decode)
    with writing(folder):
        store = stop.apart(lambda: open_store(folder))
        found = stop.apart(lambda: read_plan(store))
        sha256 = stop.apart(lambda: model_fingerprint(checkpoint.resolve(model, revision=revision)))
        planned: Mapping[str, Any] = {} if found is None else found.configuration
        unit_size = choices.unit_size or planned.get("unit_size") or UNIT_SIZE
        configuration = {
            "source": describe_source(source),
            "model": {"sha256": sha256},
            "decode": describe(decode),
            "dtype": str(recognizer.dtype),
            "batch_size": choices.batch_size or planned.get("batch_size") or recognizer.default_batch_size,
            "unit_size": unit_size,
            "columns": list(choices.columns),
            "software": software(),
        }
        if recognizer.cross_attention != "auto":  # plans from before there was a choice go on
            configuration["cross_attention"] = recognizer.cross_attention
        if recognizer.sharing > 1:  # they sum in another order
            configuration["devices_of_a_model"] = recognizer.sharing
        if found is None:
            stop.apart(lambda: check_empty(store))
            found = make_plan(store, configuration, source.inputs(), unit_size, stop)
        check_same(found, configuration, folder)
        return Job(store, found)


def run(
    job: Job,
    recognizer: Recognizer,
    decode: DecodeConfig | None = None,
    *,
    resources: Resources | None = None,
    stop: Stop | None = None,
    decoder: Decode | None = None,
    standby: Standby | None = None,
    prepare: Callable[[Worker], None] = lambda worker: None,
) -> Counts | None:
    """Reads what is left of a job, together with whoever else does so, until nothing is left or a stop is requested.

    Returns the lines of the whole job if it is complete, None if it is not.

    decoder: what decodes images, in place of the usual. standby: processes that decode images, started before
    (`Resources.standby`) so that the device need not wait for them; whoever made it ends it afterwards. prepare: is
    given the worker before it begins, to watch it.

    Raises OutputError if the folder cannot be written, SourceError if the source has gone, JobError if too many lines
    have no text; nothing that was committed is lost, and `run` goes on from there.
    """
    with writing(job.store.root):
        stop = Stop() if stop is None else stop
        if not reopen(job, stop.requested):
            return None
        sweep(job)
        resources = Resources() if resources is None else resources
        if len(job.done()) < len(job.units):
            with open_worker(job, recognizer, decode, resources, stop=stop, decoder=decoder, standby=standby) as worker:
                prepare(worker)
                worker.work()
        return finish(job, stop.requested, lease_timeout=resources.lease_timeout)


def retry_failed(
    job: Job,
    recognizer: Recognizer,
    decode: DecodeConfig | None = None,
    *,
    resources: Resources | None = None,
    stop: Stop | None = None,
    standby: Standby | None = None,
    prepare: Callable[[Worker], None] = lambda worker: None,
) -> Counts | None:
    """Reads the lines of committed units that have no text once more, quarantined ones too; those that have ended a
    whole process come last, each by itself. Arguments, result and errors as for `run`, except that no share of lines
    without a text stops it. No other process may work on the job meanwhile."""
    stop = Stop() if stop is None else stop
    resources = Resources() if resources is None else resources
    dangerous: list[Task] = []

    def tasks() -> Iterator[Task]:
        for unit in sorted(job.done()):
            if stop.requested.is_set():
                return
            lines = [number for number, row in enumerate(job.rows(unit)) if row["status"] != "ok"]
            ended = Attempts(job, unit).forgive() if lines else set()
            dangerous.extend(Task(unit, [line]) for line in lines if line in ended)
            if harmless := [line for line in lines if line not in ended]:
                yield Task(unit, harmless)

    with writing(job.store.root):
        if open_again(job, stop.requested):
            with open_worker(job, recognizer, decode, resources, stop=stop, standby=standby) as worker:
                prepare(worker)
                worker.again(tasks())
                for task in dangerous:
                    if not stop.requested.is_set():
                        worker.again([task])
        return finish(job, stop.requested, lease_timeout=resources.lease_timeout)


@contextmanager
def writing(folder: str) -> Iterator[None]:
    """Raises OutputError for failures of the disk or network. Those of the source are SourceError already."""
    try:
        yield
    except TrOCRError:
        raise
    except OSError as error:
        raise OutputError(
            f"{folder}: the job cannot be written or read ({files.with_name(error)}); what is committed is safe: "
            "correct the cause and run the same command again"
        ) from error
