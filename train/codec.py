"""Text to token ids and back, as a recipe wants it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from train.data.alphabet import ALPHABET
from train.data.encode import Tokens, check_vocabulary
from train.input import Characters, Encode, character_ids
from train.recipe import Recipe
from trocr_jax.tokenizer import character_tokenizer, load_tokenizer


class Codec(NamedTuple):
    """Both leave out start and end token."""

    encode: Encode
    decode: Callable[[list[int]], Any]


def codec(recipe: Recipe) -> Codec:
    """The character tokenizer, or that of the folder `recipe.tokenizer`.

    Raises DataError if the decoder has no embedding for one of its tokens, TokenizerError if there is none.
    """
    if recipe.tokenizer is None:
        check_vocabulary(recipe.config, character_tokenizer(ALPHABET))
        return Codec(Characters(character_ids(ALPHABET)), _characters)
    tokenizer = load_tokenizer(recipe.tokenizer)
    check_vocabulary(recipe.config, tokenizer)
    return Codec(Tokens(tokenizer), partial(tokenizer.decode, skip_special_tokens=True))


def _characters(ids: list[int]) -> str:
    letters = {number: character for character, number in character_ids(ALPHABET).items()}
    return "".join(letters.get(number, "") for number in ids)
