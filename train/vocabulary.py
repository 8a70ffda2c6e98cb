"""A table of token rows carried from one tokenizer to another: a token keeps its row, whatever its number becomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

# A new row is the mean of the old ones plus noise of a tenth of their deviation, axis by axis. With the mean a token
# that was never seen takes no more of the probability than an average one (Hewitt 2021, "Initializing New Word
# Embeddings for Pretrained Language Models"); the noise tells the new tokens apart.
NOISE = 0.1


class Carried(NamedTuple):
    """rows [V, D] f32 of the new vocabulary; how many were kept and how many are new."""

    rows: np.ndarray
    kept: int
    new: int


def carry_rows(table: np.ndarray, old: Mapping[str, int], new: Mapping[str, int], *, size: int, seed: int) -> Carried:
    """table [V_old, D] f32, the numbers of the tokens in both vocabularies, `size` rows of the new one.

    Rows that belong to no token (tables are padded to round sizes) keep their number if they do so in both.
    Pure: the same rows for the same seed.
    """
    table = np.asarray(table, np.float32)
    noise = np.random.default_rng(seed).standard_normal((size, table.shape[1]), np.float32)
    rows = table.mean(axis=0) + np.float32(NOISE) * table.std(axis=0) * noise
    pairs = [(old[token], number) for token, number in new.items() if token in old]
    padding = set(range(min(size, len(table)))) - set(old.values()) - set(new.values())
    pairs += [(number, number) for number in sorted(padding)]
    pairs = [(source, number) for source, number in pairs if source < len(table) and number < size]
    if pairs:
        sources, numbers = np.asarray(pairs).T
        rows[numbers] = table[sources]
    return Carried(rows, len(pairs), size - len(pairs))
