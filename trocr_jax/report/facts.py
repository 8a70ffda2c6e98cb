"""What a summary says of a run besides its scores: a title, and the run's value, empty if it has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _speed(run: dict[str, Any]) -> str:
    fast = run["throughput"]
    return "" if fast is None else f"{fast['lines_per_second']:.1f} <small>in {fast['seconds']:.1f} s</small>"


def _calibration(run: dict[str, Any]) -> str:
    values = run["confidence"]
    if values is None:
        return ""
    error, chance, rest = (
        f"{100 * values[name]:.2f}"
        for name in ("expected_calibration_error", "calibration_error_by_chance", "debiased_calibration_error")
    )
    return f"{error} % <small>by chance alone {chance}; debiased {rest}</small>"


def _percent(values: dict[str, Any] | None, name: str) -> str:
    return "" if values is None else f"{100 * values[name]:.2f} %"


def _review(run: dict[str, Any]) -> str:
    review = (run["confidence"] or {}).get("review")
    if review is None:
        return ""
    return (
        f"{review['lines_to_review']:,} <small>below {review['min_confidence']:g}; "
        f"{review['wrong_lines_kept']:,} wrong ones above</small>"
    )


FACTS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("expected calibration error", _calibration),
    ("area under risk–coverage", lambda r: _percent(r["confidence"], "area_under_risk_coverage")),
    ("lines to review", _review),
    ("lines a second", _speed),
    ("could not be read", lambda r: f"{r['unreadable']:,}" if r["unreadable"] else ""),
    ("texts cut off", lambda r: f"{r['truncated']:,}" if r["truncated"] else ""),
)  # fmt: skip
