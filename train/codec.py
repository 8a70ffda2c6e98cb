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
    """encode leaves out the end token; decode, all special ones."""

    encode: Encode
    decode: Callable[[list[int]], Any]


def codec(recipe: Recipe) -> Codec:
    """The character tokenizer, or that of the model `recipe.tokenizer`.

    Raises DataError if the decoder has no embedding for one of its tokens, TokenizerError if there is none.
    """
    tokenizer = tokenizer_of(recipe)
    check_vocabulary(recipe.config, tokenizer)
    encode: Encode = Characters(character_ids(ALPHABET)) if recipe.tokenizer is None else Tokens(tokenizer)
    return Codec(encode, partial(tokenizer.decode, skip_special_tokens=True))


def tokenizer_of(recipe: Recipe) -> PreTrainedTokenizerBase:
    """That of the model `recipe.tokenizer`, or the character tokenizer."""
    return character_tokenizer(ALPHABET) if recipe.tokenizer is None else load_tokenizer(resolve(recipe.tokenizer))


def vocabulary_sha256(recipe: Recipe) -> str:
    """Of the tokens of `tokenizer_of` and their numbers: files of one name may change."""
    vocabulary = sorted(tokenizer_of(recipe).get_vocab().items())
    return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()
