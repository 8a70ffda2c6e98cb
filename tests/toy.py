"""A toy language model: a Markov chain for each image, over a few tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from trocr_jax.decoding import Special, StepFn

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
