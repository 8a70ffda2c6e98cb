"""Shallow fusion: a language model over the same tokens has its say in the search (Gulcehre et al. 2015)."""

from __future__ import annotations

import os
from dataclasses import dataclass

import jax
import numpy as np
from jax.typing import ArrayLike

from trocr_jax.decoding.checks import check_real
from trocr_jax.decoding.ngram import NGram as NGram
from trocr_jax.decoding.pytree import pytree
from trocr_jax.decoding.types import Context
from trocr_jax.errors import DecodeError


@pytree
@dataclass(frozen=True)
class ShallowFusion:
    """scores + weight * log-probability by `lm` + length_bonus for every token of text, the end token not counted.

    All logarithms are natural. A language model prefers short texts; the bonus makes up for it. In greedy search and
    in sampling the scores are logits, whose distance from log-probabilities is the same for all tokens of a hypothesis:
    it changes neither what is chosen nor the log-probabilities that are reported. Another weight compiles nothing.
    Raises DecodeError for a weight or bonus that is no finite number or array, and for a path in place of the model.
    """

    lm: NGram
    weight: ArrayLike = 0.5
    length_bonus: ArrayLike = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.lm, str | os.PathLike):
            raise DecodeError(f"lm is {self.lm!r}: give a language model, as NGram.from_arpa(path, tokens) reads it")
        for name in ("weight", "length_bonus"):
            value = getattr(self, name)
            if not (value is None or isinstance(value, jax.Array | np.ndarray)):  # None: an axis of jax.vmap
                check_real(name, value, lambda x: True, "a finite number")
                object.__setattr__(self, name, float(value))  # of a whole number too: another type compiles anew

    def init(self, batch: int, beams: int) -> jax.Array:
        return self.lm.init(batch, beams)

    def advance(self, state: jax.Array, tokens: jax.Array) -> jax.Array:
        return self.lm.advance(state, tokens)

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        return self.lm.add_to(scores, context.state, weight=self.weight, bonus=self.length_bonus)
