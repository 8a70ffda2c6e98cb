"""What a search and a model say to each other. B images, K hypotheses each, V vocabulary, L new tokens at most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

Cache = Any  # any pytree whose every leaf starts with the axes [B, K], or that knows itself how it is reordered: take


class StepFn(Protocol):
    """A language model as a search sees it: one token further for every hypothesis."""

    def __call__(self, tokens: jax.Array, cache: Cache, position: jax.Array) -> tuple[jax.Array, Cache]:
        """tokens [B, K] int32 stand at `position` (int32 scalar; the start token at 0)
        -> logits [B, K, V] f32 of the token at position + 1, cache."""
        ...


class Context(NamedTuple):
    """What a processor may look at.

    token_ids [B, K, 1 + L] int32: the running hypotheses, start token first; what counts is [..., : position + 1].
    position int32 scalar: tokens written so far, the start token not counted.
    state: the processor's own, from its `init` and `advance`; () for most.
    """

    token_ids: jax.Array
    position: jax.Array
    state: Any


class Processor(Protocol):
    """Changes the scores of the next token: a penalty, a filter, a constraint, another model.

    A frozen dataclass registered as a pytree (numbers and arrays are leaves, so changing them compiles nothing; sizes
    are static), or any function of scores and context, which is compiled with the numbers that it holds at its first
    use. One that remembers something of each hypothesis also has
    `init(batch, beams) -> state`, every leaf [B, K, …], and `advance(state, tokens [B, K]) -> state`; searches carry
    the state along and reorder it with the hypotheses. One that makes every text end within the limit of tokens says so
    by an attribute `ends_in_time = True`.
    """

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        """scores [B, K, V] f32 -> the same. A sample's are logits, a beam search's log-probabilities, as in
        transformers. -inf forbids a token."""
        ...


class Special(NamedTuple):
    """Token ids that a search needs. Hashable, so that it can be static under jit."""

    start: int
    end: int
    pad: int


class Decoded(NamedTuple):
    """What a search found, best first. R texts an image, of which beams may find fewer: the places left have pads,
    log-probabilities of -inf and scores of -1e9.

    token_ids [B, R, L] int32: start token left out, end token kept, pad behind it.
    token_log_probs [B, R, L] f32: of each token after processors, as transformers' compute_transition_scores; 0 behind
        the end token.
    model_log_probs [B, R, L] f32: the same before processors: what the model itself thinks.
    beam_indices [B, R, L] int32: the hypothesis of its image that each token was appended to, -1 behind the end token;
        transformers counts on through the batch: image * K + this.
    scores [B, R] f32: of beams as transformers' sequences_scores, otherwise the sum of token_log_probs.
    lengths [B, R] int32: tokens, the end token counted.
    truncated [B, R] bool: no end token within L; or, where a processor puts one there (`ends_in_time`), it is the last
        of L tokens and the model itself finds it less likely than not.
    """

    token_ids: jax.Array
    token_log_probs: jax.Array
    model_log_probs: jax.Array
    beam_indices: jax.Array
    scores: jax.Array
    lengths: jax.Array
    truncated: jax.Array


class Search(NamedTuple):
    """A search as a loop: `state` goes through `advance` while `unfinished`, and `finish` turns any state, the last
    one or one on the way, into what has been found so far. `trocr_jax.decoding.loop` runs it."""

    state: Any
    unfinished: Callable[[Any], jax.Array]
    advance: Callable[[Any], Any]
    finish: Callable[[Any], Decoded]


def put(array: jax.Array, values: jax.Array, position: jax.Array) -> jax.Array:
    """array [B, K, L] with values [B, K] at `position` of the last axis."""
    return jax.lax.dynamic_update_slice_in_dim(array, values[..., None].astype(array.dtype), position, axis=-1)


def take(tree: Any, indices: jax.Array) -> Any:
    """Leaves [B, K, …] -> [B, J, …], hypotheses chosen by indices [B, J]. A part of the tree with a method
    `reordered(indices)` does it itself, as the model's cache, whose keys and values need not move."""

    def one(leaf: Any) -> Any:
        if hasattr(leaf, "reordered"):
            return leaf.reordered(indices)
        return jnp.take_along_axis(leaf, indices.reshape(indices.shape + (1,) * (leaf.ndim - 2)), axis=1)

    return jax.tree.map(one, tree, is_leaf=lambda part: hasattr(part, "reordered"))


def pick(scores: jax.Array, tokens: jax.Array) -> jax.Array:
    """scores [B, K, V] at tokens [B, K] -> [B, K]."""
    return jnp.take_along_axis(scores, tokens[..., None], axis=-1)[..., 0]


def lengths(token_ids: jax.Array, end: int) -> tuple[jax.Array, jax.Array]:
    """token_ids [B, K, L] -> lengths [B, K] int32 with the end token counted, and whether there is one [B, K]."""
    is_end = token_ids == end
    ended = is_end.any(axis=-1)
    return jnp.where(ended, is_end.argmax(axis=-1) + 1, token_ids.shape[-1]).astype(jnp.int32), ended


def cut_off(token_ids: jax.Array, model_log_probs: jax.Array, end: int, *, in_time: bool) -> jax.Array:
    """`Decoded.truncated` [B, K] of token_ids and model_log_probs [B, K, L]. in_time: whether a processor makes every
    text end."""
    length, ended = lengths(token_ids, end)
    if not in_time:
        return ~ended
    unlikely = model_log_probs[..., -1] < np.log(np.float32(0.5))
    return ~ended | ((length == token_ids.shape[-1]) & unlikely)
