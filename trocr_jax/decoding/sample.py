"""Search without a choice between hypotheses: every one takes its next token on its own. Greedy takes the likeliest."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from trocr_jax.decoding.loop import Loop, while_loop
from trocr_jax.decoding.types import Cache, Decoded, Special, StepFn


class SampleState(NamedTuple):
    """position int32 scalar, last [B, K] int32 the token standing there, finished [B, K] bool,
    token_ids and log_probs [B, K, L] of the tokens behind the start token, cache of the step function."""

    position: jax.Array
    last: jax.Array
    finished: jax.Array
    token_ids: jax.Array
    log_probs: jax.Array
    cache: Cache


def greedy(scores: jax.Array) -> jax.Array:
    """scores [B, K, V] -> the likeliest token [B, K] int32, the first of equals."""
    return scores.argmax(axis=-1).astype(jnp.int32)


def sample(
    step: StepFn,
    cache: Cache,
    *,
    batch: int,
    samples: int = 1,
    max_new_tokens: int,
    special: Special,
    choose: Callable[[jax.Array], jax.Array] = greedy,
    loop: Loop = "jit",
) -> Decoded:
    """Draws `samples` texts for each of `batch` images. Stops when all have ended.

    Scores are sums of log-probabilities, the end token's too. `choose` maps log-probabilities [B, K, V] to tokens
    [B, K].
    """
    shape = (batch, samples)
    state = SampleState(
        position=jnp.int32(0),
        last=jnp.full(shape, special.start, jnp.int32),
        finished=jnp.zeros(shape, bool),
        token_ids=jnp.full((*shape, max_new_tokens), special.pad, jnp.int32),
        log_probs=jnp.zeros((*shape, max_new_tokens), jnp.float32),
        cache=cache,
    )

    def unfinished(state: SampleState) -> jax.Array:
        return (state.position < max_new_tokens) & ~state.finished.all()

    def advance(state: SampleState) -> SampleState:
        logits, cache = step(state.last, state.cache, state.position)
        log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)  # [B, K, V]
        token = jnp.where(state.finished, special.pad, choose(log_probs))  # [B, K]
        log_prob = jnp.take_along_axis(log_probs, token[..., None], axis=-1)[..., 0]
        log_prob = jnp.where(state.finished, jnp.float32(0), log_prob)
        return SampleState(
            position=state.position + 1,
            last=token,
            finished=state.finished | (token == special.end),
            token_ids=put(state.token_ids, token, state.position),
            log_probs=put(state.log_probs, log_prob, state.position),
            cache=cache,
        )

    state = while_loop(unfinished, advance, state, loop=loop)
    ended = (state.token_ids == special.end).any(axis=-1)
    lengths = jnp.where(ended, (state.token_ids == special.end).argmax(axis=-1) + 1, max_new_tokens)
    return Decoded(
        token_ids=state.token_ids,
        token_log_probs=state.log_probs,
        scores=state.log_probs.sum(axis=-1),
        lengths=lengths.astype(jnp.int32),
        truncated=~state.finished,
    )


def put(array: jax.Array, values: jax.Array, position: jax.Array) -> jax.Array:
    """array [B, K, L] with values [B, K] at `position` of the last axis."""
    return jax.lax.dynamic_update_slice_in_dim(array, values[..., None].astype(array.dtype), position, axis=-1)
