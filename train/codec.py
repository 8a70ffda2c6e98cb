"""Text to token ids and back, as a recipe wants it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from train.data.alphabet import ALPHABET
from train.data.encode import Tokens, check_vocabulary
from train.input import Characters, Encode, character_ids
from train.recipe import Recipe
from trocr_jax.checkpoint import resolve
from trocr_jax.tokenizer import character_tokenizer, load_tokenizer


class Codec(NamedTuple):
    """Both leave out start and end token."""

    encode: Encode
    decode: Callable[[list[int]], Any]


def codec(recipe: Recipe) -> Codec:
    """The character tokenizer, or that of the model `recipe.tokenizer`.

    Raises DataError if the decoder has no embedding for one of its tokens, TokenizerError if there is none.
    """
    tokenizer = tokenizer_of(recipe)
    check_vocabulary(recipe.config, tokenizer)
    if recipe.tokenizer is None:
        return Codec(Characters(character_ids(ALPHABET)), _characters)
    return Codec(Tokens(tokenizer), partial(tokenizer.decode, skip_special_tokens=True))


def tokenizer_of(recipe: Recipe) -> PreTrainedTokenizerBase:
    """That of the model `recipe.tokenizer`, or the character tokenizer."""
    return character_tokenizer(ALPHABET) if recipe.tokenizer is None else load_tokenizer(resolve(recipe.tokenizer))


def vocabulary_sha256(recipe: Recipe) -> str:
    """Of the tokens of `tokenizer_of` and their numbers: files of one name may change."""
    vocabulary = sorted(tokenizer_of(recipe).get_vocab().items())
    return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()


def _characters(ids: list[int]) -> str:
    letters = {number: character for character, number in character_ids(ALPHABET).items()}
    return "".join(letters.get(number, "") for number in ids)
