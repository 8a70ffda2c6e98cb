"""What processes that read have done, put together."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.small_jobs import bare, commit
from trocr_jax.cli.jobs_progress import JobProgress
from trocr_jax.jobs.gauge import Gauge
from trocr_jax.jobs.rows import Counts


def test_the_figures_of_several_processes_are_added_up() -> None:
    one, other = Gauge(4), Gauge(4)
    for tokens in (3, 5, None):
        one.line(tokens)
    other.line(2)
    one.steps, other.steps = 5, 2
    one.waited, other.waited = 1.0, 3.0
    one.busy, other.busy = 3.0, 4.0
    both = Gauge(1)
    both.assume([one.counters(), other.counters()])
    assert (both.size, both.lines, both.failed, both.tokens, both.steps) == (4, 4, 1, 10, 7)
    assert (both.waited, both.busy) == (2.0, 3.5)


def test_counters_that_arrive_late_do_not_count() -> None:
    gauge = Gauge(4)
    gauge.line(3)
    before = gauge.counters()
    gauge.line(4)
    assert Gauge.later(before, gauge.counters()) == Gauge.later(gauge.counters(), before) == gauge.counters()


def test_what_was_read_for_nothing():
    gauge = Gauge(4)
    for tokens in (3, 5, 4, None):
        gauge.line(tokens)
    gauge.steps = 5  # of a batch of 4
    stats = gauge.stats()
    assert (stats["padding_waste"], stats["steps_per_line"], stats["error_rate"]) == (0.4, 6.67, 0.25)


def test_lines_without_a_text_and_times_without_work_are_counted():
    gauge = Gauge(2)
    gauge.line(3)
    gauge.line(None)
    assert (gauge.lines, gauge.failed, gauge.tokens) == (2, 1, 3)
    gauge.moved = 0.0
    gauge.wait(time.monotonic() - 5)
    assert gauge.waited == pytest.approx(5, abs=1)
    assert gauge.moved > 0


def test_how_far_a_job_is(tmp_path: Path, capsys):
    job = bare(tmp_path)
    commit(job, job.whole(0))
    with JobProgress(job) as progress:
        progress.begin(gauge := Gauge(2))
        for tokens in (3, 4, 5, 6, None, None):
            gauge.line(tokens)
        assert progress.figures()["job_lines_committed"] == 4
        progress.committed(Counts(1, 1, 1))
        assert progress.figures()["job_lines_committed"] == 7
        assert (progress.figures()["lines_failed"], progress.figures()["lines_quarantined"]) == (1, 1)
        progress.committed(Counts(3))  # a look has counted some of them already
        assert progress.figures()["job_lines_committed"] == progress.figures()["job_lines"] == 8
    assert "8 of 8 lines committed; here 6 lines" in (err := capsys.readouterr().err)
    assert "2 without text" in err


def test_a_unit_that_takes_long_is_told_of_before_it_ends(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr("trocr_jax.cli.jobs_progress.INTERVAL", 0.05)
    job, gauge, asked = bare(tmp_path), Gauge(2), list[int]()
    reader = SimpleNamespace(gauge=gauge, look=lambda: asked.append(1))
    with JobProgress(job) as progress:
        progress.watch(cast(Any, SimpleNamespace(reader=reader)))
        for _ in range(3):
            gauge.line(3)
            reader.look()
        assert capsys.readouterr().err == ""
        time.sleep(0.06)
        commit(job, job.whole(1))  # by another process
        reader.look()
        assert "4 of 8 lines committed; here 3 lines" in capsys.readouterr().err
    assert len(asked) == 4
