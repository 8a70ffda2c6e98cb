"""What processes that read have done, put together."""

from __future__ import annotations

from trocr_jax.jobs.gauge import Gauge


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
