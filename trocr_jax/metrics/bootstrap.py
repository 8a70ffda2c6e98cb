"""How far a score may be off for the choice of lines, and whether one model is better than another: both by drawing the
lines again (Efron and Tibshirani 1993, chapters 14 and 15; Bisani and Ney 2004 for error rates).

Lines are taken as drawn independently from all lines that might have been read. Where lines of one writer or page
resemble each other, the true uncertainty is larger than what stands here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from trocr_jax.metrics.tally import Tally

_BLOCK = 4_000_000  # drawn indices held at a time: 32 MB


class Interval(NamedTuple):
    """A score with the ends of its confidence interval."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """The score of a second system minus that of a first, on the same lines, with its interval, and the probability
    (two-sided) of a difference as large if it did not matter which of the two read a line."""

    value: float
    low: float
    high: float
    p: float


def interval(tally: Tally, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
    """The bias-corrected and accelerated bootstrap interval (BCa, Efron 1987) of a score.

    level: how often such intervals shall hold the true value. resamples: how often as many lines are drawn with
    replacement. All lines alike (or one line, or none): the interval has no width, and says nothing.
    Raises ValueError for a level outside 0 to 1.
    """
    return intervals([tally], level=level, resamples=resamples, seed=seed)[0]


def intervals(tallies: Sequence[Tally], *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> list[Interval]:
    """The `interval` of each of several scores of the same lines, from the same draws. Raises ValueError also if the
    lines are not equally many."""
    _check(level)
    draws = _resampled(tallies, resamples=resamples, seed=seed)
    found = []
    for tally, drawn in zip(tallies, draws, strict=True):
        value = tally.value
        if len(tally) < 2 or not math.isfinite(value):
            found.append(Interval(value, value, value))
        else:
            found.append(Interval(value, *_ends(drawn, value, _without_each(tally), level=level)))
    return found


def paired_difference(
    first: Tally, second: Tally, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Difference:
    """How much higher the score of `second` is than that of `first`: the same lines, in the same order.

    The interval is that of `interval`, lines drawn in pairs. p is of the approximate randomisation test (Noreen 1989):
    the two results of each line are exchanged with probability 1/2, and p = (1 + differences at least as large) /
    (1 + resamples). Raises ValueError if the lines are not equally many.
    """
    _check(level)
    if len(first) != len(second):
        raise ValueError(f"scores of {len(first)} and of {len(second)} lines: a paired test needs the same lines")
    value = second.value - first.value
    if len(first) < 2 or not math.isfinite(value):
        return Difference(value, value, value, 1.0)
    one, other = _resampled([first, second], resamples=resamples, seed=seed)
    draws = other - one
    low, high = _ends(draws, value, _without_each(second) - _without_each(first), level=level)
    return Difference(value, low, high, _exchanged(first, second, value, resamples=resamples, seed=seed))


def _check(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: give a probability between 0 and 1, such as 0.95")


def _resampled(tallies: Sequence[Tally], *, resamples: int, seed: int) -> np.ndarray:
    """The scores of as many lines drawn with replacement, the same for all: [tallies, resamples]."""
    rng, lengths = np.random.default_rng(seed), {len(tally) for tally in tallies}
    if len(lengths) != 1:
        raise ValueError(f"scores of {sorted(lengths)} lines: scores with common draws need the same lines")
    count = lengths.pop()
    sums = np.stack([side for tally in tallies for side in (tally.numerators, tally.denominators)], axis=1)
    found = []
    for start in range(0, resamples, max(1, _BLOCK // max(count, 1))):
        rows = min(max(1, _BLOCK // max(count, 1)), resamples - start)
        lines = rng.integers(0, max(count, 1), (rows, count)) + np.arange(rows)[:, None] * count
        times = np.bincount(lines.reshape(-1), minlength=rows * count).reshape(rows, count)
        drawn = times.astype(np.float64) @ sums
        found.append(_quotients(drawn[:, ::2], drawn[:, 1::2]))
    return np.concatenate(found).T


def _without_each(tally: Tally) -> np.ndarray:
    """The score without line i, for each i: [N]."""
    numerators = tally.numerators.sum() - tally.numerators
    denominators = tally.denominators.sum() - tally.denominators
    return _quotients(numerators, denominators)


def _quotients(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    return numerators / np.where(denominators == 0, 1, denominators)


def _ends(draws: np.ndarray, value: float, jackknife: np.ndarray, *, level: float) -> tuple[float, float]:
    """The BCa interval: percentiles of the draws, moved by their bias and by the skewness of the lines' influence."""
    normal = NormalDist()
    # Half of the ties count as below, or scores that move in steps would look biased.
    below = float((draws < value).mean() + 0.5 * (draws == value).mean())
    influence = jackknife.mean() - jackknife
    spread = float((influence**2).sum())
    if not 0 < below < 1 or spread == 0:
        return float(draws.min()), float(draws.max())
    bias, skew = normal.inv_cdf(below), float((influence**3).sum()) / (6 * spread**1.5)
    places = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = bias + normal.inv_cdf(tail)
        places.append(normal.cdf(bias + z / (1 - skew * z)) if skew * z < 1 else 1.0)
    low, high = np.quantile(draws, places)
    return float(low), float(high)


def _exchanged(first: Tally, second: Tally, value: float, *, resamples: int, seed: int) -> float:
    differ = (first.numerators != second.numerators) | (first.denominators != second.denominators)
    count = int(differ.sum())
    if not count:
        return 1.0
    rng = np.random.default_rng((seed, 1))
    a, b = first.select(differ), second.select(differ)
    sums = [float(side.sum()) for t in (first, second) for side in (t.numerators, t.denominators)]
    extreme = 0
    for start in range(0, resamples, max(1, _BLOCK // count)):
        rows = min(max(1, _BLOCK // count), resamples - start)
        flips = rng.integers(0, 2, (rows, count), dtype=np.int8).astype(np.float64)
        over, under = flips @ (b.numerators - a.numerators), flips @ (b.denominators - a.denominators)
        drawn = _quotients(sums[2] - over, sums[3] - under) - _quotients(sums[0] + over, sums[1] + under)
        extreme += int((np.abs(drawn) >= abs(value) - 1e-12).sum())
    return (1 + extreme) / (1 + resamples)
