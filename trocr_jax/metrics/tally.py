"""A score line by line: what all scores here are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Tally:
    """A score as a quotient of sums over lines: wrong characters and characters, right lines and lines.

    numerators, denominators: f64 [N], not negative, a pair for each line, in the order of the lines.
    """

    numerators: np.ndarray
    denominators: np.ndarray

    @classmethod
    def of(cls, pairs: Iterable[tuple[float, float]]) -> Tally:
        """From (numerator, denominator) of each line."""
        array = np.asarray(list(pairs), np.float64).reshape(-1, 2)
        return cls(array[:, 0], array[:, 1])

    def __len__(self) -> int:
        return len(self.numerators)

    @property
    def value(self) -> float:
        """Sum of the numerators by sum of the denominators; where the latter is 0, 0 if the former is 0 too and
        infinite otherwise."""
        return quotient(float(self.numerators.sum()), float(self.denominators.sum()))

    def select(self, lines: np.ndarray) -> Tally:
        """The score of some of the lines: indices, or a mask bool [N]."""
        return Tally(self.numerators[lines], self.denominators[lines])


def quotient(numerator: float, denominator: float) -> float:
    if denominator == 0:
        return math.inf if numerator else 0.0
    return numerator / denominator
