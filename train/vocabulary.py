"""A table of token rows carried from one tokenizer to another: a token keeps its row, whatever its number becomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

PARTS = ("eos_token", "bos_token", "pad_token", "unk_token")  # what special tokens are for, whatever they are called

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


def vocabulary_for(old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase) -> dict[str, int]:
    """The numbers of the tokens of `old`, the special ones under the names that `new` has for them too."""
    numbers = old.get_vocab()
    parts = {getattr(new, part): getattr(old, part) for part in PARTS}
    same = {theirs: numbers[ours] for theirs, ours in parts.items() if theirs not in numbers and ours in numbers}
    return numbers | same


def extend(tokenizer: PreTrainedTokenizerBase, characters: Iterable[str]) -> list[str]:
    """Gives a tokenizer a token for each character that it cannot spell, behind those that it has, in the order of code
    points, and returns them."""
    wanted = sorted({c for c in characters if not c.isspace()})
    missing = [c for c in wanted if tokenizer.unk_token_id in tokenizer(c).input_ids]
    tokenizer.add_tokens(missing)
    return missing
