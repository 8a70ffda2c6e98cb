"""Beam search, with the results of transformers' `generate` (5.x) and its names for the five functions it is made of.

K hypotheses of each image run; 2K continuations are looked at a step, so that K unfinished ones are always left when K
others end. A hypothesis that ends among the best K competes for the K places of finished ones with its log-probability
divided by length ** length_penalty. Every image ends on its own.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trocr_jax.decoding import processors
from trocr_jax.decoding.loop import Loop, run
from trocr_jax.decoding.types import (
    Cache,
    Context,
    Decoded,
    Processor,
    Search,
    Special,
    StepFn,
    lengths,
    put,
    take,
)

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


class BeamState(NamedTuple):
    """position int32 scalar; running and finished hypotheses; is_finished [B, K] bool, which places of `finished` are
    taken; can_improve [B] bool; processor and cache: their states."""

    position: jax.Array
    running: Hypotheses
    finished: Hypotheses
    is_finished: jax.Array
    can_improve: jax.Array
    processor: Any
    cache: Cache


def beam_search(
    step: StepFn,
    cache: Cache,
    *,
    batch: int,
    num_beams: int,
    max_new_tokens: int,
    special: Special,
    num_return_sequences: int = 1,
    length_penalty: float | jax.Array = 1.0,
    early_stopping: EarlyStopping = False,
    processor: Processor = processors.identity,
    keys: jax.Array | None = None,
    loop: Loop = "jit",
) -> Decoded:
    """The `num_return_sequences` best texts of each of `batch` images.

    cache: with axes [B, K]. processor acts on log-probabilities. early_stopping: True stops an image at K finished
    texts; False when the best running one, at its present length, is no better than the worst finished one; "never"
    when it could not be at any length. keys [B]: continuations are drawn at random without replacement (beam sampling)
    instead of the best taken.
    """
    search = beam_search_loop(
        step,
        cache,
        batch=batch,
        num_beams=num_beams,
        max_new_tokens=max_new_tokens,
        special=special,
        num_return_sequences=num_return_sequences,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        processor=processor,
        keys=keys,
    )
    return run(search, loop=loop)


def beam_search_loop(
    step: StepFn,
    cache: Cache,
    *,
    batch: int,
    num_beams: int,
    max_new_tokens: int,
    special: Special,
    num_return_sequences: int,
    length_penalty: float | jax.Array,
    early_stopping: EarlyStopping,
    processor: Processor,
    keys: jax.Array | None,
) -> Search:
    """The loop of `beam_search`, not yet run."""
    start = jnp.full((batch, num_beams, 1), special.start, jnp.int32)

    def unfinished(state: BeamState) -> jax.Array:
        going_on = beam_search_has_unfinished_sequences(state, early_stopping=early_stopping)
        return (state.position < max_new_tokens) & going_on

    def advance(state: BeamState) -> BeamState:
        last = jnp.where(state.position > 0, last_token(state.running.token_ids, state.position), special.start)
        logits, cache = step(last, state.cache, state.position)
        model_log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)  # [B, K, V]
        token_ids = jnp.concatenate([start, state.running.token_ids], axis=-1)
        log_probs = processor(model_log_probs, Context(token_ids, state.position, state.processor))

        top = get_top_k_continuations(state.running, log_probs, model_log_probs, state.position, keys=keys)
        hits = (last_token(top.token_ids, state.position + 1) == special.end) | (state.position + 1 == max_new_tokens)
        running, parents = get_running_beams_for_next_iteration(top, hits, position=state.position)
        finished, is_finished = update_finished_beams(
            state, top, hits, length_penalty=length_penalty, early_stopping=early_stopping
        )
        state = BeamState(
            position=state.position + 1,
            running=running,
            finished=finished,
            is_finished=is_finished,
            can_improve=state.can_improve,
            processor=processors.advance(
                processor, take(state.processor, parents), last_token(running.token_ids, state.position + 1)
            ),
            cache=take(cache, parents),
        )
        can_improve = check_early_stop_heuristic(
            state, max_new_tokens=max_new_tokens, length_penalty=length_penalty, early_stopping=early_stopping
        )
        return state._replace(can_improve=can_improve)

    def finish(state: BeamState) -> Decoded:
        best = jax.tree.map(lambda x: x[:, :num_return_sequences], state.finished)
        length, ended = lengths(best.token_ids, special.end)
        return Decoded(
            token_ids=best.token_ids,
            token_log_probs=best.log_probs,
            model_log_probs=best.model_log_probs,
            beam_indices=best.beam_indices,
            scores=best.scores,
            lengths=jnp.minimum(length, state.position),
            truncated=~ended,
        )

    nothing = _empty(batch, num_beams, max_new_tokens, special.pad)
    scores = jnp.where(jnp.arange(num_beams) > 0, NEGATIVE, np.float32(0))  # one hypothesis, K times, counts once
    state = BeamState(
        position=jnp.int32(0),
        running=nothing._replace(scores=jnp.broadcast_to(scores, (batch, num_beams))),
        finished=nothing,
        is_finished=jnp.zeros((batch, num_beams), bool),
        can_improve=jnp.ones((batch,), bool),
        processor=processors.init(processor, batch, num_beams),
        cache=cache,
    )
    return Search(state, unfinished, advance, finish)


def get_top_k_continuations(
    running: Hypotheses,
    log_probs: jax.Array,
    model_log_probs: jax.Array,
    position: jax.Array,
    *,
    keys: jax.Array | None = None,
) -> Hypotheses:
    """The best 2K of the K * V continuations of each image: hypotheses [B, 2K], scores without length penalty."""
    b, k, v = log_probs.shape
    scores = (log_probs + running.scores[:, :, None]).reshape(b, k * v)  # [B, K V]
    ranks = scores
    if keys is not None:  # the largest of log-probabilities plus Gumbel noise are a draw without replacement
        here = jax.vmap(jax.random.fold_in, (0, None))(keys, position)
        ranks = scores + jax.vmap(lambda key: jax.random.gumbel(key, (k * v,), jnp.float32))(here)
    _, indices = jax.lax.top_k(ranks, 2 * k)  # [B, 2K]
    parents, tokens = indices // v, (indices % v).astype(jnp.int32)

    def written(values: jax.Array) -> jax.Array:  # [B, K, V] -> [B, 2K]
        return jnp.take_along_axis(values.reshape(b, k * v), indices, axis=-1)

    past: Hypotheses = take(running, parents)
    return Hypotheses(
        token_ids=put(past.token_ids, tokens, position),
        beam_indices=put(past.beam_indices, parents, position),
        log_probs=put(past.log_probs, written(log_probs), position),
        model_log_probs=put(past.model_log_probs, written(model_log_probs), position),
        scores=jnp.take_along_axis(scores, indices, axis=-1),
    )


def get_running_beams_for_next_iteration(
    top: Hypotheses, hits: jax.Array, *, position: jax.Array
) -> tuple[Hypotheses, jax.Array]:
    """The best K of top [B, 2K] that have not ended (hits [B, 2K]), and the hypotheses [B, K] they continue."""
    scores = top.scores + hits.astype(jnp.float32) * NEGATIVE
    _, indices = jax.lax.top_k(scores, top.scores.shape[1] // 2)
    running: Hypotheses = take(top._replace(scores=scores), indices)
    return running, last_token(running.beam_indices, position + 1)


def update_finished_beams(
    state: BeamState,
    top: Hypotheses,
    hits: jax.Array,
    *,
    length_penalty: float | jax.Array,
    early_stopping: EarlyStopping,
) -> tuple[Hypotheses, jax.Array]:
    """The best K of what had finished and what does now; only the first K of top [B, 2K] may."""
    k = top.scores.shape[1] // 2
    length = (state.position + 1).astype(jnp.float32)
    just_finished = hits & (jnp.arange(2 * k) < k)[None, :]
    closed = ~state.can_improve
    if early_stopping is True:
        closed = closed | state.is_finished.all(axis=-1)
    barred = (~just_finished).astype(jnp.float32) + closed.astype(jnp.float32)[:, None]
    scores = top.scores / length**length_penalty + barred * NEGATIVE
    merged = jax.tree.map(
        lambda old, new: jnp.concatenate([old, new], axis=1), state.finished, top._replace(scores=scores)
    )
    _, indices = jax.lax.top_k(merged.scores, k)
    is_finished = jnp.concatenate([state.is_finished, just_finished], axis=1)
    return take(merged, indices), take(is_finished, indices)


def check_early_stop_heuristic(
    state: BeamState, *, max_new_tokens: int, length_penalty: float | jax.Array, early_stopping: EarlyStopping
) -> jax.Array:
    """Which images [B] might still find a better text; once no, always no. `state` is that after the step."""
    length = state.position.astype(jnp.float32)
    if early_stopping == "never":
        length = jnp.where(jnp.asarray(length_penalty) > 0, np.float32(max_new_tokens), length)
    best_running = state.running.scores[:, 0] / length**length_penalty
    worst_finished = jnp.where(state.is_finished.all(axis=-1), state.finished.scores.min(axis=-1), NEGATIVE)
    return state.can_improve & (best_running > worst_finished)


def beam_search_has_unfinished_sequences(state: BeamState, *, early_stopping: EarlyStopping) -> jax.Array:
    """Whether any image goes on: it can improve and, with early_stopping=True, has an open place."""
    going_on = state.can_improve
    if early_stopping is True:
        going_on = going_on & ~state.is_finished.all(axis=-1)
    return going_on.any()


def last_token(token_ids: jax.Array, position: jax.Array) -> jax.Array:
    """token_ids [B, K, L] of which `position` are written -> the last of them [B, K]."""
    index = jnp.maximum(position - 1, 0)
    return jax.lax.dynamic_index_in_dim(token_ids, index, axis=-1, keepdims=False)


def _empty(batch: int, beams: int, length: int, pad: int) -> Hypotheses:
    shape = (batch, beams, length)
    zeros = jnp.zeros(shape, jnp.float32)
    return Hypotheses(
        token_ids=jnp.full(shape, pad, jnp.int32),
        beam_indices=jnp.full(shape, -1, jnp.int32),
        log_probs=zeros,
        model_log_probs=zeros,
        scores=jnp.full((batch, beams), NEGATIVE),
    )
