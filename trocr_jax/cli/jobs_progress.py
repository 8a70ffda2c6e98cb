"""How far a job is while this process works on it: on stderr, and to Prometheus if asked for."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import Any

from tqdm import tqdm

from trocr_jax.errors import JobError
from trocr_jax.jobs.gauge import Gauge
from trocr_jax.jobs.job import Job
from trocr_jax.jobs.rows import Counts
from trocr_jax.jobs.worker import Worker
from trocr_jax.say import on_terminal, say

INTERVAL = 10.0
"""Seconds between plain lines, and between two looks at what other processes have committed."""


class JobProgress:
    """A bar for the whole job on a terminal, elsewhere a plain line now and then. A context manager."""

    def __init__(self, job: Job, *, port: int | None = None) -> None:
        self._job, self._gauge = job, Gauge(1)
        self._here, self._start = Counts(), time.monotonic()
        self._done = self._looked = 0.0
        self._bar = tqdm(total=job.plan.lines, unit=" lines", file=sys.stderr, dynamic_ncols=True, leave=True) \
            if on_terminal() else None  # fmt: skip
        self._serving = None if port is None else _serve(self, port)

    def __enter__(self) -> JobProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._gauge.lines:
            self._show()
        if self._bar is not None:
            self._bar.close()
        if self._serving is not None:
            server, thread = self._serving
            server.shutdown()
            server.server_close()
            thread.join()

    @property
    def port(self) -> int | None:
        """Where the figures are served, if so."""
        return None if self._serving is None else int(self._serving[0].server_port)

    def watch(self, worker: Worker) -> None:
        """Shows what this worker does, also while it waits, or is long at a unit."""
        look = worker.reader.look

        def look_and_show() -> None:
            look()
            self._now_and_then()

        worker.on_commit, worker.reader.look = (lambda task, counts: self.committed(counts)), look_and_show
        self.begin(worker.reader.gauge)

    def begin(self, gauge: Gauge) -> None:
        """Shows what this gauge tells of; `committed` is called by whoever moves it."""
        self._gauge, self._start = gauge, time.monotonic()
        self._look()

    def stats(self) -> dict[str, Any]:
        """The figures of this process."""
        return {**self._gauge.stats(), **self._here._asdict()}

    def figures(self) -> dict[str, float]:
        """What Prometheus is told."""
        here = {f"lines_{name}": float(value) for name, value in self._here._asdict().items()}
        job = {"job_lines": float(self._job.plan.lines), "job_lines_committed": self._done}
        return {**here, **job, **{name: float(value) for name, value in self._gauge.stats().items() if name != "lines"}}

    def committed(self, counts: Counts) -> None:
        """These lines are committed."""
        self._here = self._here.plus(counts)
        self._done = min(self._done + counts.lines, self._job.plan.lines)  # a look may have counted them already
        if self._bar is not None:
            self._show()
        self._now_and_then()

    def _now_and_then(self) -> None:
        if time.monotonic() - self._looked >= INTERVAL:
            with suppress(OSError):  # a disk that fails is told of by the commit
                self._look()
            self._show()

    def _look(self) -> None:
        try:
            self._done = float(sum(self._job.units[unit].lines for unit in self._job.done()))
        finally:  # however long it took
            self._looked = time.monotonic()

    def _show(self) -> None:
        read = self._gauge.lines
        rate = read / max(time.monotonic() - self._start, 1e-9)
        here = f"here {read} lines, {rate:.1f} lines/s, {self._gauge.failed} without text"
        if self._bar is not None:
            self._bar.n = int(self._done)
            self._bar.set_postfix_str(here)
        else:
            share = f"{int(self._done)} of {self._job.plan.lines} lines"
            say(f"{share} committed; {here}")


def _serve(progress: JobProgress, port: int) -> tuple[Any, Any]:
    """The server and its thread. Port 0 is any that is free."""
    try:
        from prometheus_client import CollectorRegistry, start_http_server
        from prometheus_client.core import GaugeMetricFamily
    except ImportError:
        raise JobError("--metrics-port needs prometheus_client: pip install trocr-jax[metrics]") from None

    class Collector:
        def collect(self) -> Any:
            for name, value in progress.figures().items():
                what = name.removeprefix("job_").replace("_", " ")
                whose = "the whole job" if name.startswith("job_") else "this process"
                yield GaugeMetricFamily(f"trocr_jax_{name}", f"{what} of {whose}", value=value)

    registry = CollectorRegistry()
    registry.register(Collector())
    try:
        return start_http_server(port, registry=registry)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise JobError(f"--metrics-port {port}: cannot be served ({why}); choose another") from error
