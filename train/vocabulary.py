"""A table of token rows carried from one tokenizer to another: a token keeps its row, whatever its number becomes; and
tokens for the characters that a tokenizer cannot spell."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from train.data.checks import normal_text
from trocr_jax.errors import TokenizerError

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
    # One token may be several parts: then it is the first of them, the end.
    parts = {getattr(new, part): getattr(old, part) for part in reversed(PARTS)}
    same = {theirs: numbers[ours] for theirs, ours in parts.items() if theirs not in numbers and ours in numbers}
    return numbers | same


def extend(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[str]:
    """Gives a tokenizer what it needs to spell each character of `texts`, behind the tokens that it has, in the order
    of code points, and returns the new tokens.

    They are part of its own model, and no "added tokens": those stand apart from the text around them, which then
    begins a new word. Raises TokenizerError naming a text that does not come back, but for what the tokenizer
    normalises, and how many there are, and where there is no model that can be extended.
    """
    texts = [text for text in map(normal_text, texts) if text]
    characters = sorted({c for text in texts for c in _normalized(tokenizer, text) if not c.isspace()})
    new = _add(tokenizer, [c for c in characters if _is_lost(tokenizer, c)])
    back = {text: _there_and_back(tokenizer, text) for text in texts}
    changed = [t for t, found in back.items() if normal_text(found) != normal_text(_normalized(tokenizer, t))]
    if changed:
        added = [token for token in tokenizer.get_added_vocab() if len(token) == 1 and token in changed[0]]
        advice = (
            f"{added} stand apart from the text around them: extend the tokenizer as it was before they were added"
            if added
            else "leave these texts out, or take a model with another kind of tokenizer"
        )
        raise TokenizerError(
            f"{len(changed)} of {len(back)} texts come back from this tokenizer otherwise, and a model would learn to "
            f"read that: {changed[0]!r} as {back[changed[0]]!r}; {advice}"
        )
    return new


def _add(tokenizer: PreTrainedTokenizerBase, characters: list[str]) -> list[str]:
    from tokenizers import Tokenizer

    if not characters:
        return []
    known = tokenizer.get_vocab()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise TokenizerError(
            f"{type(tokenizer).__name__} has no token for {characters} and cannot be extended: only tokenizers with a "
            "tokenizer.json can; take a model that has one"
        )
    whole = json.loads(backend.to_str())
    model = whole["model"]
    new = [token for c in characters for token in _forms(model, c) if token not in known]
    own = {token for token, _ in model["vocab"]} if isinstance(model["vocab"], list) else model["vocab"].keys()
    behind, end = sorted(known.keys() - own, key=known.__getitem__), max(known.values()) + 1  # they keep their numbers
    if isinstance(model["vocab"], list):  # Unigram: places are numbers
        lowest = min(score for _, score in model["vocab"])
        model["vocab"] += [[token, lowest] for token in [*behind, *new]]
    else:
        model["vocab"] |= {token: known[token] for token in behind} | {token: end + i for i, token in enumerate(new)}
    backend.model = Tokenizer.from_str(json.dumps(whole)).model
    return new


def _forms(model: dict[str, Any], character: str) -> list[str]:
    """What a model calls a character, at the beginning of a word, further on, and at the end."""
    prefix, suffix = (model.get(key) or "" for key in ("continuing_subword_prefix", "end_of_word_suffix"))
    return list(dict.fromkeys(p + character + s for s in ("", suffix) for p in ("", prefix)))


def _is_lost(tokenizer: PreTrainedTokenizerBase, character: str) -> bool:
    """At the beginning of a word, or behind it."""
    ids = tokenizer(character).input_ids, tokenizer(2 * character).input_ids
    return any(tokenizer.unk_token_id in i for i in ids) or not _there_and_back(tokenizer, character)


def _there_and_back(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    ids = tokenizer(text).input_ids
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _normalized(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """As the tokenizer normalises it: to small letters, for one."""
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    return text if normalizer is None else str(normalizer.normalize_str(text))
