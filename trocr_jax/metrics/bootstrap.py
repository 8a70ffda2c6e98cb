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

from trocr_jax.errors import DataError
from trocr_jax.metrics.tally import Tally

_BLOCK = 4_000_000  # drawn indices held at a time: 32 MB
_FARTHEST = 2.25
"""How far an end may be from the score, in units of what the normal distribution gives: a draw in which one line or
none is wrong knows no error of its own, and an interval of few mistakes would be boundless."""


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
    """The bootstrap-t interval of a score (Efron and Tibshirani 1993, section 12.5): the ends come from how far the
    scores of draws are from this one in units of their own standard error, by linearisation (Cochran 1977, section
    6.4). If every line counts 0 or 1 of 1, Wilson's interval (1927).

    level: how often such intervals shall hold the true value. resamples: how often as many lines are drawn with
    replacement. One line, or none, or all alike but for Wilson's: the interval has no width, and says nothing.
    Raises DataError for a level outside 0 to 1, and for less than one draw.
    """
    return intervals([tally], level=level, resamples=resamples, seed=seed)[0]


def intervals(tallies: Sequence[Tally], *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> list[Interval]:
    """The `interval` of each of several scores of the same lines, from the same draws. Raises DataError also if the
    lines are not equally many."""
    _check(level, resamples)
    if len(lengths := {len(tally) for tally in tallies}) != 1:
        raise DataError(f"scores of {sorted(lengths)} lines: scores with common draws need the same lines")
    rates = [tally for tally in tallies if not _counts_lines(tally)]
    drawn = iter(_drawn([_columns(tally) for tally in rates], resamples=resamples, seed=seed) if rates else ())
    found = []
    for tally in tallies:
        value, own = tally.value, None if _counts_lines(tally) else next(drawn)
        if len(tally) < 2 or not math.isfinite(value):
            found.append(Interval(value, value, value))
        elif own is None:
            found.append(_wilson(value, len(tally), level=level))
        else:
            low, high = _ends(_columns(tally), own, level=level)
            found.append(Interval(value, max(low, 0.0), min(high, _highest(tally))))
    return found


def paired_difference(
    first: Tally, second: Tally, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Difference:
    """How much higher the score of `second` is than that of `first`: the same lines, in the same order.

    The interval is the bootstrap-t of `interval`, lines drawn in pairs. p is of the approximate randomisation test
    (Noreen 1989): the two results of each line are exchanged with probability 1/2, and p = (1 + differences at least as
    large) / (1 + resamples). Raises DataError if the lines are not equally many.
    """
    _check(level, resamples)
    if len(first) != len(second):
        raise DataError(f"scores of {len(first)} and of {len(second)} lines: a paired test needs the same lines")
    value = second.value - first.value
    if len(first) < 2 or not math.isfinite(value):
        return Difference(value, value, value, 1.0)
    both = np.concatenate([_columns(first), _columns(second)], axis=1)
    low, high = _ends(both, _drawn([both], resamples=resamples, seed=seed)[0], level=level)
    low, high = max(low, -_highest(first)), min(high, _highest(second))
    return Difference(value, low, high, _exchanged(first, second, value, resamples=resamples, seed=seed))


class _Sums(NamedTuple):
    """Of the columns of drawn lines, and of the products of two columns: f64 [draws, C] and [draws, C, C]."""

    columns: np.ndarray
    products: np.ndarray


def _check(level: float, resamples: int) -> None:
    if not 0 < level < 1:
        raise DataError(f"level is {level}: give a probability between 0 and 1, such as 0.95")
    if resamples < 1:
        raise DataError(f"resamples is {resamples}: give how often lines are to be drawn, such as 2000")


def _columns(tally: Tally) -> np.ndarray:
    return np.stack([tally.numerators, tally.denominators], axis=1)


def _counts_lines(tally: Tally) -> bool:
    whole = (tally.numerators == 0) | (tally.numerators == 1)
    return bool(whole.all() and (tally.denominators == 1).all())


def _highest(tally: Tally) -> float:
    """1 for a score that is a share, no line's numerator being above its denominator."""
    return 1.0 if (tally.numerators <= tally.denominators).all() else math.inf


def _wilson(share: float, count: int, *, level: float) -> Interval:
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    middle, half = share + z2 / (2 * count), math.sqrt(z2 * (share * (1 - share) + z2 / (4 * count)) / count)
    low, high = (middle - half) / (1 + z2 / count), (middle + half) / (1 + z2 / count)
    return Interval(share, min(max(low, 0.0), share), max(min(high, 1.0), share))  # the ends of 0 and 1 are exact


def _drawn(lines: Sequence[np.ndarray], *, resamples: int, seed: int) -> list[_Sums]:
    """Sums over as many lines drawn with replacement, the same for all. lines: [N, C] each."""
    rng, count = np.random.default_rng(seed), len(lines[0])
    parts = [_with_products(own) for own in lines]
    table, found = np.concatenate(parts, axis=1), []
    for start in range(0, resamples, max(1, _BLOCK // max(count, 1))):
        rows = min(max(1, _BLOCK // max(count, 1)), resamples - start)
        chosen = rng.integers(0, max(count, 1), (rows, count)) + np.arange(rows)[:, None] * count
        times = np.bincount(chosen.reshape(-1), minlength=rows * count).reshape(rows, count)
        found.append(times.astype(np.float64) @ table)
    sums = np.split(np.concatenate(found), np.cumsum([part.shape[1] for part in parts])[:-1], axis=1)
    return [_split(total, own.shape[1]) for total, own in zip(sums, lines, strict=True)]


def _with_products(lines: np.ndarray) -> np.ndarray:
    """Columns, and the product of each two: [N, C + C (C + 1) / 2]."""
    one, other = np.triu_indices(lines.shape[1])
    return np.concatenate([lines, lines[:, one] * lines[:, other]], axis=1)


def _split(sums: np.ndarray, columns: int) -> _Sums:
    one, other = np.triu_indices(columns)
    products = np.empty((len(sums), columns, columns))
    products[:, one, other] = products[:, other, one] = sums[:, columns:]
    return _Sums(sums[:, :columns], products)


def _with_error(sums: _Sums) -> tuple[np.ndarray, np.ndarray]:
    """The score, or the difference of the second from the first, and its standard error: [draws] each.

    A quotient n / d changes by (n_i - d_i n / d) / d with line i; the error is the root of the sum of their squares."""
    over, under = sums.columns[:, ::2], np.where(sums.columns[:, 1::2] == 0, 1, sums.columns[:, 1::2])
    signs = np.array([1.0]) if over.shape[1] == 1 else np.array([-1.0, 1.0])
    scores = over / under
    slopes = np.stack([signs / under, -signs * scores / under], axis=2).reshape(len(scores), -1)
    squares = np.einsum("bi,bij,bj->b", slopes, sums.products, slopes)
    return (signs * scores).sum(axis=1), np.sqrt(np.maximum(squares, 0.0))


def _ends(lines: np.ndarray, drawn: _Sums, *, level: float) -> tuple[float, float]:
    (value,), (error,) = _with_error(_split(_with_products(lines).sum(axis=0)[None], lines.shape[1]))
    if error <= 1e-12 * (1 + abs(value)):  # all alike, but for rounding
        return float(value), float(value)
    scores, errors = _with_error(drawn)
    most = _FARTHEST * NormalDist().inv_cdf((1 + level) / 2)
    distances = np.clip((scores - value) / np.maximum(errors, 1e-12 * error), -most, most)
    below, above = np.quantile(distances, [(1 - level) / 2, (1 + level) / 2])
    return float(value - above * error), float(value - below * error)


def _quotients(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    return numerators / np.where(denominators == 0, 1, denominators)


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
