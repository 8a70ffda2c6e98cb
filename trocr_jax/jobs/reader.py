"""From units to rows: images are decoded a few batches ahead of the device, which always has its next batch.

A row is a function of the plan and of the line's image alone: batches have one shape and are filled with copies, so the
bytes of a part do not depend on who reads it, when, beside what, or after how many failures, where devices compute
alike: processes on GPUs choose their products by timing them.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from typing import NamedTuple

import jax

from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.errors import ImageError
from trocr_jax.jobs.attempts import Attempts
from trocr_jax.jobs.decode_pool import DecodePool, Images
from trocr_jax.jobs.decode_worker import Decoded
from trocr_jax.jobs.gauge import Gauge
from trocr_jax.jobs.job import Job, Task
from trocr_jax.jobs.rows import Failure, Outcome, Row, row
from trocr_jax.jobs.sources import Input
from trocr_jax.recognizer import Recognition, Recognizer
from trocr_jax.recognizer_batches import Batch

WINDOW = 8
"""Batches that are sorted together: lines that are as long end in as many steps. An accelerator begins with smaller
windows, so that it does not wait for all the images of a large one."""
AHEAD = 2
"""Windows whose images may be decoded before the device wants them."""
PAUSE = 0.1
"""Seconds without pixels after which what is on the device is waited for instead."""


class Read(NamedTuple):
    """A task and its rows."""

    task: Task
    rows: list[Row]


class _Window(NamedTuple):
    task: Task
    places: range  # of the lines of the task
    ids: list[str]
    images: Images


class _Sent(NamedTuple):
    """A line that a batch was made of, in the order in which texts come out."""

    task: Task
    place: int
    id: str


class _Ended(NamedTuple):
    error: BaseException | None


class Reader:
    """Reads tasks of one job with one recognizer, on all its devices.

    Attributes: gauge, what has been done so far. look: called before every batch and row and while there is nothing to
    read; what it raises ends the reading.
    """

    def __init__(self, job: Job, recognizer: Recognizer, decode: DecodeConfig | None, pool: DecodePool) -> None:
        plan = job.plan
        self.job, self.recognizer, self.decode, self.pool = job, recognizer, decode, pool
        self._per_device: int = plan.configuration["batch_size"]
        self._size = recognizer.devices * self._per_device
        self._columns: list[str] = plan.configuration["columns"]
        self._names = {"model": plan.configuration["model"]["sha256"][:16], "configuration": plan.fingerprint}
        self.gauge = Gauge(self._size)
        self.look: Callable[[], None] = lambda: None
        self.on_begin: Callable[[Task], None] = lambda task: None

    def read(self, tasks: Iterable[Task]) -> Generator[Read, None, None]:
        """The rows of each task, in the order of `tasks`, which is iterated in a thread of its own, a little ahead.

        Raises what `tasks` and `look` raise; SourceError if the source has gone.
        """
        windows: queue.Queue[_Window | _Ended] = queue.Queue(AHEAD)
        ended = threading.Event()
        thread = threading.Thread(target=self._send, args=(tasks, windows, ended), name="trocr-tasks", daemon=True)
        thread.start()
        try:
            yield from self._rows(windows)
        finally:
            ended.set()
            thread.join(1.0)  # it may be waiting for a file system; then it ends with the process

    def _send(self, tasks: Iterable[Task], windows: queue.Queue[_Window | _Ended], ended: threading.Event) -> None:
        def put(item: _Window | _Ended) -> None:
            while not ended.is_set():
                with suppress(queue.Full):
                    windows.put(item, timeout=0.2)
                    return

        # An accelerator begins with few lines; a CPU, which decodes images meanwhile, gains more by order.
        error, length = None, WINDOW * self._size if jax.default_backend() == "cpu" else self._size
        try:
            for task in tasks:
                inputs, attempts = self.job.inputs(task), Attempts(self.job, task.unit)
                start = 0
                while start < len(inputs):
                    places = range(start, min(start + length, len(inputs)))
                    start, length = places.stop, min(2 * length, WINDOW * self._size)
                    window = [inputs[i] for i in places]
                    images = self._submit(window, [task.lines[i] for i in places], attempts)
                    put(_Window(task, places, [input.id for input in window], images))
                if ended.is_set():
                    return
        except BaseException as raised:  # noqa: BLE001  it is raised where the rows are asked for
            error = raised
        put(_Ended(error))

    def _submit(self, inputs: list[Input], lines: list[int], attempts: Attempts) -> Images:
        """lines: their numbers in the unit."""
        quarantined = ((place, attempts.quarantined(line)) for place, line in enumerate(lines))
        known = {place: failure for place, failure in quarantined if failure is not None}
        return self.pool.submit(inputs, lambda place, reason: attempts.image_died(lines[place], reason), known)

    def _rows(self, windows: queue.Queue[_Window | _Ended]) -> Iterator[Read]:
        sent: deque[_Sent] = deque()
        failures: deque[Failure] = deque()
        rows: dict[int, Row] = {}
        series = self._batches(windows, sent, failures)
        work, before = self.recognizer.work, replace(self.recognizer.work)
        with closing(self.recognizer.read_batches(series, self.decode, self._per_device)) as found:
            for outcome in found:
                self.look()
                task, place, id = sent.popleft()
                if not rows:
                    self.on_begin(task)
                known: Outcome = failures.popleft() if isinstance(outcome, ImageError) else outcome
                rows[place] = row(id, known, columns=self._columns, **self._names)
                self.gauge.line(len(outcome.token_ids) if isinstance(outcome, Recognition) else None)
                self.gauge.batches, self.gauge.steps = work.batches - before.batches, work.steps - before.steps
                self.gauge.busy = work.busy - before.busy
                if len(rows) == len(task.lines):
                    yield Read(task, [rows[place] for place in range(len(rows))])
                    rows = {}

    def _batches(
        self, windows: queue.Queue[_Window | _Ended], sent: deque[_Sent], failures: deque[Failure]
    ) -> Iterator[Batch]:
        """Lines of a window that are about as long together; those without pixels behind them, as errors."""
        for window in self._decoded(windows):
            if window is None:
                yield Batch([], [])  # so that what is on the device is fetched meanwhile
                continue
            found = list(zip(window.places, window.ids, window.images.result(), strict=True))
            good = [(place, id, one) for place, id, one in found if isinstance(one, Decoded)]
            good.sort(key=lambda line: line[2].expected)
            for start in range(0, len(good), self._size):
                stretch = good[start : start + self._size]
                sent.extend(_Sent(window.task, place, id) for place, id, _ in stretch)
                pixels = [one.pixels for _, _, one in stretch]
                self.look()  # those before may have taken long: programs were compiled for them
                yield Batch.of_pixels(pixels)
                self.pool.give_back(pixels)  # they have been copied
            bad = [(place, id, one) for place, id, one in found if isinstance(one, Failure)]
            if bad:
                sent.extend(_Sent(window.task, place, id) for place, id, _ in bad)
                failures.extend(one for _, _, one in bad)
                yield Batch([ImageError(one.error) for _, _, one in bad], [])

    def _decoded(self, windows: queue.Queue[_Window | _Ended]) -> Iterator[_Window | None]:
        """Windows whose images are decoded; None now and then while there is none."""
        while True:
            asked = time.monotonic()
            try:
                window = windows.get(timeout=PAUSE)
            except queue.Empty:
                self._pause(asked)
                yield None
                continue
            if isinstance(window, _Ended):
                if window.error is not None:
                    raise window.error
                return
            while not window.images.wait(PAUSE):
                self._pause(asked)
                yield None
                asked = time.monotonic()
            self.gauge.wait(asked)
            yield window

    def _pause(self, since: float) -> None:
        self.gauge.wait(since)
        self.look()
