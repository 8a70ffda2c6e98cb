"""The hypotheses that beam searches carry, before the first token and after the last."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trocr_jax.decoding.checks import check_room, check_whole
from trocr_jax.decoding.types import Cache, Decoded, cut_off, lengths
from trocr_jax.errors import DecodeError

EarlyStopping = bool | Literal["never"]
NEGATIVE = np.float32(-1e9)  # the score of a place that holds no hypothesis: transformers' constant


class Hypotheses(NamedTuple):
    """Texts side by side. token_ids, beam_indices int32 and log_probs, model_log_probs f32 [B, K, L]; scores [B, K]:
    sums of log_probs for running ones, with the length penalty for finished ones."""

    token_ids: jax.Array
    beam_indices: jax.Array
    log_probs: jax.Array
    model_log_probs: jax.Array
    scores: jax.Array


class Beams(NamedTuple):
    """Running and finished hypotheses of each image; is_finished [B, K] bool: which places of `finished` are taken;
    can_improve [B] bool: whether a running one may still be better than those."""

    running: Hypotheses
    finished: Hypotheses
    is_finished: jax.Array
    can_improve: jax.Array


class Ending(NamedTuple):
    """When a hypothesis ends, what it is worth then, and when the search of an image ends. `end` is the end token."""

    end: int
    max_new_tokens: int
    length_penalty: float | jax.Array
    early_stopping: EarlyStopping


def check_lengths(
    max_new_tokens: int, count: int, beams: int, *, batch: int, early_stopping: EarlyStopping, cache: Cache
) -> None:
    """Raises DecodeError unless there is at least one image and one token, the cache has room for so many tokens,
    `early_stopping` is one of those above, and `beams` hypotheses of an image give `count` texts."""
    check_room(cache, max_new_tokens)
    check_whole("batch", batch, 1)
    check_whole("num_beams", beams, 1)
    if not isinstance(early_stopping, bool) and early_stopping != "never":
        raise DecodeError(f'early_stopping is {early_stopping!r}: give True, False or "never"')
    if not 1 <= count <= beams:
        raise DecodeError(f"num_return_sequences is {count}: {beams} beams give at least 1 text and at most {beams}")


def best(finished: Hypotheses, count: int, *, position: jax.Array, end: int, in_time: bool) -> Decoded:
    """The first `count` of hypotheses [B, K] that stand best first. in_time: see `cut_off`."""
    found = jax.tree.map(lambda x: x[:, :count], finished)
    length, _ = lengths(found.token_ids, end)
    empty = found.beam_indices[:, :, :1] < 0  # without a first token
    return Decoded(
        token_ids=found.token_ids,
        token_log_probs=jnp.where(empty, -jnp.inf, found.log_probs),
        model_log_probs=jnp.where(empty, -jnp.inf, found.model_log_probs),
        beam_indices=found.beam_indices,
        scores=found.scores,
        lengths=jnp.minimum(length, position),
        truncated=cut_off(found.token_ids, found.model_log_probs, end, in_time=in_time),
    )


def first_beams(batch: int, num_beams: int, max_new_tokens: int, *, pad: int) -> Beams:
    """Before the first token: the same empty hypothesis K times, of which the first alone counts."""
    shape = (batch, num_beams, max_new_tokens)
    zeros = jnp.zeros(shape, jnp.float32)
    nothing = Hypotheses(
        token_ids=jnp.full(shape, pad, jnp.int32),
        beam_indices=jnp.full(shape, -1, jnp.int32),
        log_probs=zeros,
        model_log_probs=zeros,
        scores=jnp.full((batch, num_beams), NEGATIVE),
    )
    running = nothing._replace(scores=nothing.scores.at[:, 0].set(0))
    return Beams(running, nothing, jnp.zeros((batch, num_beams), bool), jnp.ones((batch,), bool))


def last_token(token_ids: jax.Array, written: jax.Array) -> jax.Array:
    """token_ids [B, K, L] of which `written` are -> the last of them [B, K]."""
    return jax.lax.dynamic_index_in_dim(token_ids, written - 1, axis=-1, keepdims=False)
