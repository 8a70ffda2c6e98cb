"""One process that works on a job: it claims tasks, reads them and commits their rows. Engines are made of these."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.errors import JobError
from trocr_jax.jobs.claims import Claims
from trocr_jax.jobs.decode_pool import DecodePool
from trocr_jax.jobs.decode_standby import Standby
from trocr_jax.jobs.decode_worker import OTHERS, Decode, Decoder, Limits, server
from trocr_jax.jobs.events import Events
from trocr_jax.jobs.job import Job, Task
from trocr_jax.jobs.leases import TIMEOUT, Leases
from trocr_jax.jobs.reader import Reader
from trocr_jax.jobs.rows import Counts, count
from trocr_jax.jobs.sources import from_description
from trocr_jax.jobs.stop import Stop
from trocr_jax.jobs.watchdog import watchdog
from trocr_jax.recognizer import Recognizer
from trocr_jax.recognizer_batches import threads

LEAST_LINES = 100
"""Lines, or as many as were left when a worker began, before an error rate means something."""

MOST_DECODERS = 512
"""Processes that decode images on one host: more than the cores of any, and each takes memory."""

LONGEST = 1e9
"""Seconds that anything may be waited for: thirty years, about as many as a lock can wait."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What does not change a byte of the output.

    decoders: processes that decode images; as many as there are cores, at most 8, if None. limits: what decoding one
    image may take. lease_timeout: seconds without a sign of life after which another host's unit is taken over. grace:
    seconds within which units that are being read have to end after a request to stop, if any line has been read
    before. hang: seconds without a line after which the process ends itself. max_error_rate: a process stops when a
    larger share of the lines that it has read has no text.

    Raises JobError for a value that cannot be.
    """

    decoders: int | None = None
    limits: Limits = field(default_factory=Limits)
    lease_timeout: float = TIMEOUT
    grace: float = 20.0
    hang: float = 1800.0
    max_error_rate: float = 1.0

    def __post_init__(self) -> None:
        if self.decoders is not None and self.decoders < 1:
            raise JobError(f"decoders is {self.decoders}: give at least one process to decode images")
        if self.decoders is not None and self.decoders > MOST_DECODERS:
            why = "each is a process with its memory, and one for each core is enough for local images"
            raise JobError(f"decoders is {self.decoders}: give at most {MOST_DECODERS}; {why}")
        seconds = {"decode_seconds": self.limits.seconds, "lease_timeout": self.lease_timeout, "hang": self.hang}
        for name, value in seconds.items():
            if not 0 < value < LONGEST:
                raise JobError(f"{name} is {value:g}: give more than 0 seconds, and less than {LONGEST:.0e}")
        if not self.grace >= 0:
            raise JobError(f"grace is {self.grace:g}: give 0 seconds or more")
        if not 0 <= self.max_error_rate <= 1:
            raise JobError(f"max_error_rate is {self.max_error_rate:g}: give a share from 0 to 1")

    def standby(self, stop: Stop | None = None) -> Standby:
        """The processes that decode images, to be started while a model is loaded or a job planned; see `jobs.run`. No
        more of them once a stop is requested."""
        return Standby(self.decoding_processes, stop)

    @property
    def decoding_processes(self) -> int:
        """`decoders`, or what is taken if that is None."""
        return threads() if self.decoders is None else self.decoders


class Abandoned(Exception):
    """The units that were being read did not end within the grace, or this process had read no line before the stop:
    they are given back."""


class Worker:
    """Reads units of a job. Made by `open_worker`.

    Attributes: total, the Counts of lines that this worker has committed. on_commit, called with a task that it has
    committed and the Counts of its lines. on_done, called with a unit that it was to read and somebody else has
    committed.
    """

    def __init__(self, job: Job, reader: Reader, leases: Leases, resources: Resources, stop: Stop) -> None:
        self.job, self.reader, self.leases = job, reader, leases
        self.events = Events(job.store)
        self.total = Counts()
        self.on_commit: Callable[[Task, Counts], object] = lambda task, counts: None
        self.on_done: Callable[[int], None] = lambda unit: None
        self._resources, self._stop = resources, stop
        done = job.done()
        self._left = sum(unit.lines for number, unit in enumerate(job.units) if number not in done)
        reader.look = self._look
        reader.on_begin = lambda task: self._write("begin", task)

    def work(self, units: Iterable[int | None] | None = None) -> Counts:
        """Reads the units that are not committed, of `units` or of the whole job, until there are none or a stop was
        requested. `units` may be endless, as `Claims` says. Returns the lines that were committed. Raises OSError if
        the job folder cannot be written, SourceError if the source has gone, JobError if too many lines have no text.
        """
        claims = Claims(self.job, self.leases, self._stop.requested, units)
        claims.on_death = lambda task, holder: self._write("death", task, holder=holder)
        claims.on_done = self.on_done
        before = self.total
        with closing(self.reader.read(claims.tasks())) as found, suppress(Abandoned):
            for task, rows in found:
                written = self.job.commit(task, rows)
                claims.settle(task)
                if written:
                    self._committed(task, count(rows))
                    self._check_rate()
                elif self.job.is_done(task.unit):  # by who took the unit over, while this process was suspended
                    self.on_done(task.unit)
        return self.total.minus(before)

    def again(self, tasks: Iterable[Task]) -> None:
        """Reads lines of committed units again and puts the new rows in the place of the old."""
        with closing(self.reader.read(tasks)) as found, suppress(Abandoned):
            for task, rows in found:
                self.job.amend(task, rows)
                self._committed(task, count(rows))

    def _committed(self, task: Task, counts: Counts) -> None:
        self.total = self.total.plus(counts)
        self._write("commit", task, **counts._asdict())
        self.on_commit(task, counts)

    def _check_rate(self) -> None:
        bad, limit = self.total.failed + self.total.quarantined, self._resources.max_error_rate
        if self.total.lines >= min(LEAST_LINES, self._left) and bad > limit * self.total.lines:
            raise JobError(
                f"{bad} of {self.total.lines} lines have no text, more than --max-error-rate {limit:g} allows; their "
                "rows say why. Correct the cause, then `jobs retry-failed`"
            )

    def _look(self) -> None:
        in_vain = self._stop.requested.is_set() and not self.reader.gauge.lines  # programs have been compiled so far
        if in_vain or self._stop.seconds() > self._resources.grace:
            raise Abandoned

    def _write(self, event: str, task: Task, **values: Any) -> None:
        self.events.write(event, unit=task.unit, first=task.lines[0], lines=len(task.lines), **values)


def _some_places(job: Job) -> list[Any]:
    """An image in the middle of some of the units, if they come by URL: see `Decoder.others`."""
    found = list[Any]()
    for unit in range(0, len(job.units), max(len(job.units) // OTHERS, 1))[:OTHERS]:
        with suppress(JobError, OSError):  # of units that cannot be read, which is told of when they are
            found += [one.place for one in job.inputs(Task(unit, [job.units[unit].lines // 2]))]
        if not found or server(found[0]) is None:
            return []
    return found


@contextmanager
def open_worker(
    job: Job,
    recognizer: Recognizer,
    decode: DecodeConfig | None,
    resources: Resources,
    *,
    stop: Stop,
    decoder: Decode | None = None,
    standby: Standby | None = None,
) -> Iterator[Worker]:
    """A worker with its decoders and leases. decoder: what decodes images, in place of the usual; picklable. standby:
    as of `jobs.run`."""
    if decoder is None:
        source, others = from_description(job.plan.configuration["source"]), deque(_some_places(job), maxlen=OTHERS)
        decoder = Decoder(source, recognizer.image_processor, others)
    size, number, limits = recognizer.image_processor.size, resources.decoding_processes, resources.limits
    with (
        Leases(job, timeout=resources.lease_timeout) as leases,
        DecodePool(decoder, size, workers=number, limits=limits, standby=standby) as pool,
    ):
        reader = Reader(job, recognizer, decode, pool)
        worker = Worker(job, reader, leases, resources, stop)
        with watchdog(lambda: reader.gauge.moved, resources.hang), worker.events:
            worker.events.write("start", decoders=resources.decoders, batch_size=reader.gauge.size)
            yield worker
            worker.events.write("stop" if stop.requested.is_set() else "end", **reader.gauge.stats())
