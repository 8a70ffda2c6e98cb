"""How long a text will be, guessed from what the encoder has made of its image.

Lines are decoded together until the longest of them has ended, so that lines of one length should be together. The mean
of an image's memory over its positions tells the number of tokens almost exactly: on rendered lines a ridge regression
(Hoerl and Kennard 1970) on the 128 lines read before has a rank correlation of 0.98 with it, where the number of edges
in the image has 0.83 and the width of the ink 0.69 (benchmarks/README.md). Nothing is trained: it learns as it reads.
"""

from __future__ import annotations

import threading

import numpy as np

LEAST_LINES = 128
"""Lines from which a guess is worth something."""
MOST_LINES = 1024
"""Lines from which nothing more is learnt: threads of numpy's BLAS spin for a while after every product, which took a
CPU that reads a tenth of its time."""
RIDGE = 0.01
"""Of the mean variance of a feature."""


class LengthGuess:
    """Learns from lines that have been read, in any number of threads. known: whether it has learnt enough to guess."""

    def __init__(self) -> None:
        self.lines = 0
        self._lock = threading.Lock()
        self._squares = self._products = np.zeros(0)  # [D + 1, D + 1], [D + 1]: sums over lines
        self._weights: np.ndarray | None = None
        self._solved_at = 0

    @property
    def known(self) -> bool:
        return self.lines >= LEAST_LINES

    def learn(self, means: np.ndarray, tokens: np.ndarray) -> None:
        """means [n, D] of the memory of as many lines, tokens [n] of their texts."""
        if self.lines >= MOST_LINES:
            return
        x = np.concatenate([means, np.ones((len(means), 1))], axis=1, dtype=np.float64)
        with self._lock:
            if not self.lines:
                self._squares, self._products = np.zeros((x.shape[1], x.shape[1])), np.zeros(x.shape[1])
            self._squares += x.T @ x
            self._products += x.T @ np.asarray(tokens, np.float64)
            self.lines += len(x)

    def guess(self, means: np.ndarray) -> np.ndarray:
        """means [n, D] -> tokens [n], to be compared with each other. Only when `known`."""
        with self._lock:
            if self._weights is None or self.lines >= 2 * self._solved_at:
                self._weights, self._solved_at = self._solved(), self.lines
            *weights, constant = self._weights
            return (means * np.array(weights)).sum(axis=1) + constant

    def _solved(self) -> np.ndarray:
        sums = self._squares[-1]  # of each feature: the last one is 1
        variance = float(np.mean(np.diagonal(self._squares)[:-1] / self.lines - (sums[:-1] / self.lines) ** 2))
        square = (
            float(np.mean(np.diagonal(self._squares)[:-1])) / self.lines
        )  # of lines that are all the same, say blank
        ridge = np.full(len(sums), RIDGE * max(variance, 1e-9 * square, 1e-12) * self.lines)
        ridge[-1] = 0.0  # not of the constant
        return np.linalg.solve(self._squares + np.diag(ridge), self._products)
