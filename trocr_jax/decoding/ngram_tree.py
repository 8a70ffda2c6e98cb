"""The n-grams of a language model on the host, while the arrays of `ngram.NGram` are made of them."""

from __future__ import annotations

import math

import numpy as np

from trocr_jax.decoding.arpa import NGrams
from trocr_jax.decoding.dfa import find
from trocr_jax.errors import DecodeError

LOG_UNKNOWN = -100 * math.log(10)  # of <unk> where the file has none: kenlm's default


class Tree:
    """The n-grams of a file as a tree over symbols. levels: each order sorted by its prefix, then by its last symbol;
    kept: those of each level that are contexts, having continuations or a weight; firsts: number of the first of them.
    """

    def __init__(self, levels: list[NGrams], width: int, name: str) -> None:
        self.width, self.levels, self.keys = width, list[NGrams](), list[np.ndarray]()
        parents = []
        for level in levels:
            prefix = self.find(level.words[:, :-1])
            if (prefix < 0).any():
                raise _MissingError(np.unique(level.words[prefix < 0, :-1], axis=0))
            keys = prefix * width + level.words[:, -1]
            order = np.argsort(keys)
            if (np.diff(keys[order]) == 0).any():
                raise DecodeError(f"{name}: lists a {level.words.shape[1]}-gram twice; give it once")
            self.keys.append(keys[order])
            self.levels.append(NGrams(*(column[order] for column in level)))
            parents.append(prefix[order])
        for level in self.levels:  # implied n-grams have the probability that backing off to shorter ones gives them
            implied = np.isnan(level.log_probs)
            if implied.any():
                words = level.words[implied]
                level.log_probs[implied] = self.backoff(words[:, :-1]) + self.log_prob(words[:, 1:])
        self.kept = [np.zeros(len(level.words), bool) for level in self.levels]
        for kept, level, above in zip(self.kept[:-1], self.levels[:-1], parents[1:], strict=True):
            kept[:] = level.backoffs != 0
            kept[above] = True
        counts = [int(kept.sum()) for kept in self.kept]
        self.firsts = [1 + sum(counts[:i]) for i in range(len(counts))]

    @classmethod
    def grow(cls, levels: list[NGrams], v: int, name: str) -> Tree:
        """With <unk> if it lacks, and with the prefixes of all n-grams."""
        last = max(i for i, level in enumerate(levels, 1) if i == 1 or len(level.words))
        levels = levels[: last + 1 if levels[last - 1].backoffs.any() else last]  # the highest level is no context
        if v not in levels[0].words:
            levels[0] = _extended(levels[0], np.array([[v]]), LOG_UNKNOWN)
        while True:
            try:
                return cls(levels, v + 3, name)
            except _MissingError as missing:
                order = missing.words.shape[1] - 1
                levels[order] = _extended(levels[order], missing.words, math.nan)

    def find(self, words: np.ndarray) -> np.ndarray:
        """words [M, n] -> the place of each in its level, -1 for one that is not there; 0 for the empty one."""
        found = np.zeros(len(words), np.int64)
        for keys, last in zip(self.keys, words.T, strict=False):
            found = find(keys, np.where(found < 0, -1, found * self.width + last))
        return found

    def context(self, words: np.ndarray) -> np.ndarray:
        """words [M, n] -> the number of the longest context that they end with."""
        numbers = np.zeros(len(words), np.int64)
        for skip in range(max(words.shape[1] - len(self.levels) + 1, 0), words.shape[1]):
            order = words.shape[1] - skip - 1  # counted from 0
            open_ = numbers == 0
            place = self.find(words[open_, skip:])
            kept = self.kept[order]
            is_context = (place >= 0) & kept[place]
            numbers[open_] = np.where(is_context, self.firsts[order] + np.cumsum(kept)[place] - 1, 0)
        return numbers

    def backoff(self, words: np.ndarray) -> np.ndarray:
        """words [M, n] -> their back-off weight, 0 where there is none."""
        if not words.shape[1]:
            return np.zeros(len(words))
        place = self.find(words)
        return np.where(place < 0, 0.0, self.levels[words.shape[1] - 1].backoffs[place])

    def log_prob(self, words: np.ndarray) -> np.ndarray:
        """words [M, n] -> log-probability of the last behind the others, n at most the order of the model."""
        total, going_on = np.zeros(len(words)), np.ones(len(words), bool)
        for skip in range(words.shape[1]):
            rest = words[going_on, skip:]
            place = self.find(rest)
            log_probs = self.levels[rest.shape[1] - 1].log_probs
            listed = log_probs[place] if len(log_probs) else 0.0
            total[going_on] += np.where(place < 0, self.backoff(rest[:, :-1]), listed)
            going_on[going_on] = place < 0
        return total


class _MissingError(Exception):
    """words [M, n]: prefixes that are not listed."""

    def __init__(self, words: np.ndarray) -> None:
        self.words = words


def _extended(level: NGrams, words: np.ndarray, log_prob: float) -> NGrams:
    count = len(words)
    return NGrams(
        np.concatenate([level.words, words]),
        np.concatenate([level.log_probs, np.full(count, log_prob)]),
        np.concatenate([level.backoffs, np.zeros(count)]),
    )
