"""What confidences are worth: whether they are as often right as they say, and whether the uncertain ones are the wrong
ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trocr_jax.errors import DataError
from trocr_jax.metrics.tally import Tally, quotient

BINS = 15  # Guo et al. 2017, section 2


class Bin(NamedTuple):
    """Confidences from `low` to `high`: how many, their mean, and the share of them that is right."""

    low: float
    high: float
    size: int
    confidence: float
    accuracy: float


class Coverage(NamedTuple):
    """Keeping the `kept` most confident lines, those of at least `confidence`, is `coverage` of all lines at the risk
    `risk`."""

    kept: int
    coverage: float
    confidence: float
    risk: float


def reliability(confidences: Sequence[float], right: Sequence[bool], *, bins: int = BINS) -> list[Bin]:
    """Bins of equal width over 0 to 1, without the empty ones (the reliability diagram). A confidence on the border of
    two bins is in the lower one. Raises DataError for a confidence outside 0 to 1, or sides of different length."""
    c, r = _checked(confidences, right)
    places = np.clip(np.ceil(c * bins).astype(int) - 1, 0, bins - 1)
    return [
        Bin(i / bins, (i + 1) / bins, int(inside.sum()), float(c[inside].mean()), float(r[inside].mean()))
        for i in range(bins)
        if (inside := places == i).any()
    ]


def expected_calibration_error(confidences: Sequence[float], right: Sequence[bool], *, bins: int = BINS) -> float:
    """The mean distance of confidence and accuracy over bins of equal width, each counted by its size (ECE, Guo et al.
    2017, eq. 3); 0 without data. Errors as for `reliability`."""
    found = reliability(confidences, right, bins=bins)
    total = sum(b.size for b in found)
    return sum(b.size * abs(b.confidence - b.accuracy) for b in found) / total if total else 0.0


def calibration_error_by_chance(confidences: Sequence[float], *, bins: int = BINS) -> float:
    """The calibration error to expect of so many lines with these confidences if each were exactly as often right as it
    says: what `expected_calibration_error` cannot go below. The mean of |x| of the normal distribution in each bin."""
    c, _ = _checked(confidences, [True] * len(confidences))
    places = np.clip(np.ceil(c * bins).astype(int) - 1, 0, bins - 1)
    variance = np.bincount(places, c * (1 - c), minlength=bins)
    return float(math.sqrt(2 / math.pi) * np.sqrt(variance).sum() / len(c)) if len(c) else 0.0


def debiased_calibration_error(confidences: Sequence[float], right: Sequence[bool], *, bins: int = BINS) -> float:
    """`expected_calibration_error` with less of what chance adds, not below 0 (after Kumar, Liang and Ma 2019): in each
    bin the distance d counts as d - (E|x| - d), x normal around d with the spread of the share that was right. Where
    nothing but chance is seen, about four tenths of it go; nearly all where distances are larger than their spread."""
    found = reliability(confidences, right, bins=bins)
    total, error = sum(b.size for b in found), 0.0
    for b in found:
        distance, spread = abs(b.confidence - b.accuracy), math.sqrt(b.accuracy * (1 - b.accuracy) / b.size)
        error += b.size * (2 * distance - _mean_of_folded(distance, spread))
    return max(error / total, 0.0) if total else 0.0


def _mean_of_folded(mean: float, spread: float) -> float:
    """E|x| of the normal distribution."""
    if spread == 0:
        return mean
    z = mean / spread
    return spread * math.sqrt(2 / math.pi) * math.exp(-z * z / 2) + mean * math.erf(z / math.sqrt(2))


def adaptive_calibration_error(confidences: Sequence[float], right: Sequence[bool], *, bins: int = BINS) -> float:
    """The same over bins of equally many confidences (Nguyen and O'Connor 2015), so that it also sees differences among
    confidences that crowd near 1. Equal confidences in several bins count with the share of them all that is right."""
    c, r = _checked(confidences, right)
    _, groups, sizes = np.unique(c, return_inverse=True, return_counts=True)
    r = (np.bincount(groups, r) / sizes)[groups]  # else the order of lines would count
    order = np.argsort(c, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, max(len(c), 1))) if len(part)]
    return sum(len(part) * abs(float(c[part].mean() - r[part].mean())) for part in parts) / len(c) if len(c) else 0.0


def risk_coverage(confidences: Sequence[float], errors: Tally) -> list[Coverage]:
    """What remains wrong if only the most confident lines are kept (El-Yaniv and Wiener 2010), for every confidence
    that occurs, the highest first. Lines of equal confidence are kept or left together.

    errors: what counts as risk: 1 of 1 for a wrong line, or wrong characters of characters; infinite where there are
    wrong ones of none.
    Raises DataError if there are not as many confidences as lines.
    """
    c = np.asarray(confidences, np.float64)
    if len(c) != len(errors):
        raise DataError(f"{len(c)} confidences and {len(errors)} lines: give as many of each")
    order = np.argsort(-c, kind="stable")
    wrong, total = np.cumsum(errors.numerators[order]), np.cumsum(errors.denominators[order])
    last = np.flatnonzero(np.diff(c[order], append=-np.inf))  # the last line of each confidence
    return [
        Coverage(i + 1, (i + 1) / len(c), float(c[order[i]]), quotient(float(wrong[i]), float(total[i])))
        for i in last.tolist()
    ]


def area_under_risk_coverage(curve: Sequence[Coverage]) -> float:
    """The mean over all lines of the risk at the coverage that just includes the line (AURC, Geifman et al. 2019); 0
    without lines."""
    before, area = 0, 0.0
    for point in curve:
        area += (point.kept - before) * point.risk
        before = point.kept
    return area / before if before else 0.0


def _checked(confidences: Sequence[float], right: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    c, r = np.asarray(confidences, np.float64), np.asarray(right, np.float64)
    if len(c) != len(r):
        raise DataError(f"{len(c)} confidences and {len(r)} results: give as many of each")
    if len(c) and not (c.min() >= 0 and c.max() <= 1):
        raise DataError("confidences must be probabilities, between 0 and 1")
    return c, r
