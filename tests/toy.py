"""A toy language model: a Markov chain for each image, over a few tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from trocr_jax.decoding import Special, StepFn
from trocr_jax.decoding.speculative import ExtendFn

START, END, PAD, VOCABULARY = 0, 1, 2, 6
SPECIAL = Special(start=START, end=END, pad=PAD)


def toy(tables: np.ndarray, length: int) -> tuple[StepFn, jax.Array]:
    """A Markov model for each image: tables [B, V, V] are logits of the next token given the last. Its cache keeps
    the tokens it was given, so that a test can see that the search fed them in order."""
    logits_of = jnp.asarray(tables, jnp.float32)

    def step(tokens: jax.Array, cache: jax.Array, position: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = jnp.take_along_axis(logits_of, tokens[..., None], axis=1)  # [B, K, V]
        cache = jax.lax.dynamic_update_slice_in_dim(cache, tokens[..., None], position, axis=2)
        return logits, cache

    return step, jnp.zeros((len(tables), 1, length), jnp.int32)


def toy_of_two(tables: np.ndarray, length: int) -> tuple[StepFn, ExtendFn, jax.Array]:
    """The same with a memory: tables [B, V, V, V] are logits given the last token and the one before it, which is
    read from the cache. One step, several tokens at once, and an empty cache [B, 1, length]."""
    logits_of = jnp.asarray(tables, jnp.float32)

    def extend(tokens: jax.Array, cache: jax.Array, position: jax.Array) -> tuple[jax.Array, jax.Array]:
        cache = jax.lax.dynamic_update_slice_in_dim(cache, tokens, position, axis=2)
        places = position + jnp.arange(tokens.shape[-1], dtype=jnp.int32)
        before = jnp.where(places > 0, cache[:, :, jnp.maximum(places - 1, 0)], START)  # [B, K, T]
        images = jnp.arange(len(logits_of))[:, None, None]
        return logits_of[images, before, tokens], cache

    def step(tokens: jax.Array, cache: jax.Array, position: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, cache = extend(tokens[..., None], cache, position)
        return logits[:, :, 0], cache

    return step, extend, jnp.zeros((len(tables), 1, length), jnp.int32)
