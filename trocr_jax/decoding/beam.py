"""Beam search, with the results of transformers' `generate` (5.x) and its names for the five functions it is made of.

K hypotheses of each image run; 2K continuations are looked at a step, so that K unfinished ones are always left when K
others end. A hypothesis that ends among the best K competes for the K places of finished ones with its log-probability
divided by length ** length_penalty. Every image ends on its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trocr_jax.decoding import processors
from trocr_jax.decoding.beam_state import (
    NEGATIVE,
    Beams,
    EarlyStopping,
    Ending,
    Hypotheses,
    best,
    check_lengths,
    first_beams,
    last_token,
)
from trocr_jax.decoding.checks import check_logits
from trocr_jax.decoding.loop import Loop, run
from trocr_jax.decoding.processors import ends_in_time
from trocr_jax.decoding.top_k import top_k_of_images
from trocr_jax.decoding.types import Cache, Context, Decoded, Processor, Search, Special, StepFn, put, take


class BeamState(NamedTuple):
    """position int32 scalar: tokens written; processor and cache: their states, leaves [B, K, …]."""

    position: jax.Array
    beams: Beams
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
    """The R = num_return_sequences best texts of each of `batch` images, [B, R, L] with L = max_new_tokens.

    cache: with axes [B, K], K = num_beams. processor acts on log-probabilities. early_stopping: True stops an image at
    K finished texts; False when the best running one, at its present length, is no better than the worst finished one;
    "never" when it could not be at any length. keys [B]: continuations are drawn at random without replacement (beam
    sampling) instead of the best taken. Raises DecodeError for no image, no token, more texts than beams, a cache
    without room for so many tokens, or an early_stopping that is none of the three.
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
    check_lengths(
        max_new_tokens, num_return_sequences, num_beams, batch=batch, early_stopping=early_stopping, cache=cache
    )
    processor = processors.chained(processor)
    ending, in_time = Ending(special.end, max_new_tokens, length_penalty, early_stopping), ends_in_time(processor)
    start = jnp.full((batch, num_beams, 1), special.start, jnp.int32)

    def unfinished(state: BeamState) -> jax.Array:
        going_on = beam_search_has_unfinished_sequences(state.beams, ending)
        return (state.position < max_new_tokens) & going_on.any()

    def advance(state: BeamState) -> BeamState:
        token_ids = jnp.concatenate([start, state.beams.running.token_ids], axis=-1)  # [B, K, 1 + L]
        logits, cache = step(last_token(token_ids, state.position + 1), state.cache, state.position)
        check_logits(logits, batch, num_beams)
        model_log_probs = log_softmax(logits)  # [B, K, V]
        log_probs = processor(model_log_probs, Context(token_ids, state.position, state.processor))
        beams, parents = continue_beams(
            state.beams, log_probs, model_log_probs, position=state.position, ending=ending, keys=keys
        )
        tokens = last_token(beams.running.token_ids, state.position + 1)
        return BeamState(
            position=state.position + 1,
            beams=beams,
            processor=processors.advance(processor, take(state.processor, parents), tokens),
            cache=take(cache, parents),
        )

    def finish(state: BeamState) -> Decoded:
        return best(
            state.beams.finished, num_return_sequences, position=state.position, end=special.end, in_time=in_time
        )

    beams = first_beams(batch, num_beams, max_new_tokens, pad=special.pad)
    state = BeamState(jnp.int32(0), beams, processors.init(processor, batch, num_beams), cache)
    return Search(state, unfinished, advance, finish)


def log_softmax(logits: jax.Array) -> jax.Array:
    """Log-probabilities f32 of logits [B, K, V]."""
    b, k, v = logits.shape  # as one axis of rows, which a TPU does not spread over tiles of few hypotheses
    return jax.nn.log_softmax(logits.astype(jnp.float32).reshape(b * k, v), axis=-1).reshape(b, k, v)


def continue_beams(
    beams: Beams,
    log_probs: jax.Array,
    model_log_probs: jax.Array,
    *,
    position: jax.Array,
    ending: Ending,
    keys: jax.Array | None = None,
) -> tuple[Beams, jax.Array]:
    """Beams one token longer, by the log-probabilities [B, K, V] of that token, and which of the running hypotheses
    the new ones continue, [B, K] int32. position: where the token stands among those behind the start token."""
    top = get_top_k_continuations(beams.running, log_probs, model_log_probs, position=position, keys=keys)
    ends = last_token(top.token_ids, position + 1) == ending.end  # [B, 2K]
    running, parents = get_running_beams_for_next_iteration(top, ends, position=position)
    hits = ends | (position + 1 == ending.max_new_tokens)  # what still runs at the last place is finished too
    finished, is_finished = update_finished_beams(beams, top, hits, position=position, ending=ending)
    beams = Beams(running, finished, is_finished, beams.can_improve)
    return beams._replace(can_improve=check_early_stop_heuristic(beams, position=position, ending=ending)), parents


def get_top_k_continuations(
    running: Hypotheses,
    log_probs: jax.Array,
    model_log_probs: jax.Array,
    *,
    position: jax.Array,
    keys: jax.Array | None = None,
) -> Hypotheses:
    """The best 2K of the K * V continuations of each image: hypotheses [B, 2K], scores without length penalty."""
    b, k, v = log_probs.shape
    scores = log_probs.reshape(b * k, v) + running.scores.reshape(b * k, 1)
    ranks = scores
    if keys is not None:  # the largest of log-probabilities plus Gumbel noise are a draw without replacement
        here = jax.vmap(jax.random.fold_in, (0, None))(keys, position)
        noise = jax.vmap(lambda key: jax.random.gumbel(key, (k * v,), jnp.float32))(here)
        ranks = scores + noise.reshape(b * k, v)
    indices = top_k_of_images(ranks, 2 * k, rows=k)  # [B, 2K]
    if keys is not None:  # the first K may end: the best of those drawn, as in transformers since 5.24
        _, order = jax.lax.top_k(jnp.take_along_axis(scores.reshape(b, k * v), indices, axis=1), 2 * k)
        indices = jnp.take_along_axis(indices, order, axis=1)
    parents, tokens = indices // v, (indices % v).astype(jnp.int32)

    def written(values: jax.Array) -> jax.Array:  # [B, K, V] or [B K, V] -> [B, 2K]
        return values.reshape(b * k, v)[jnp.arange(b)[:, None] * k + parents, tokens]

    past: Hypotheses = take(running, parents)
    return Hypotheses(
        token_ids=put(past.token_ids, tokens, position),
        beam_indices=put(past.beam_indices, parents, position),
        log_probs=put(past.log_probs, written(log_probs), position),
        model_log_probs=put(past.model_log_probs, written(model_log_probs), position),
        scores=written(scores),
    )


def get_running_beams_for_next_iteration(
    top: Hypotheses, ends: jax.Array, *, position: jax.Array
) -> tuple[Hypotheses, jax.Array]:
    """The best K of top [B, 2K] that do not end here (ends [B, 2K]), and the hypotheses [B, K] they continue."""
    scores = top.scores + ends.astype(jnp.float32) * NEGATIVE
    _, indices = jax.lax.top_k(scores, top.scores.shape[1] // 2)
    running: Hypotheses = take(top._replace(scores=scores), indices)
    return running, last_token(running.beam_indices, position + 1)


def update_finished_beams(
    beams: Beams, top: Hypotheses, hits: jax.Array, *, position: jax.Array, ending: Ending
) -> tuple[Hypotheses, jax.Array]:
    """The best K of what had finished and what does now (hits [B, 2K]), and which places [B, K] are taken.

    Only the first K of top [B, 2K] may finish, and only those that are hypotheses (`counts`): a search begins with
    K - 1 copies of its first one, and where few tokens are allowed, texts that have ended are among the best 2K again.
    """
    k = top.scores.shape[1] // 2
    length = (position + 1).astype(jnp.float32)
    just_finished = hits & (jnp.arange(2 * k) < k)[None, :] & counts(top.scores)
    closed = ~beam_search_has_unfinished_sequences(beams, ending)  # [B]
    barred = (~just_finished).astype(jnp.float32) + closed.astype(jnp.float32)[:, None]
    scores = top.scores / length**ending.length_penalty + barred * NEGATIVE
    merged = jax.tree.map(
        lambda old, new: jnp.concatenate([old, new], axis=1), beams.finished, top._replace(scores=scores)
    )  # [B, 3K]
    _, indices = jax.lax.top_k(merged.scores, k)
    return take(merged, indices), take(jnp.concatenate([beams.is_finished, just_finished], axis=1), indices)


def check_early_stop_heuristic(beams: Beams, *, position: jax.Array, ending: Ending) -> jax.Array:
    """Which images [B] might still find a better text than those finished; once no, always no."""
    length = (position + 1).astype(jnp.float32)
    if ending.early_stopping == "never":
        length = jnp.where(jnp.asarray(ending.length_penalty) > 0, np.float32(ending.max_new_tokens), length)
    best_score = beams.running.scores[:, 0]
    best_running = best_score / length**ending.length_penalty
    worst_finished = jnp.where(beams.is_finished.all(axis=-1), beams.finished.scores.min(axis=-1), NEGATIVE)
    return beams.can_improve & (best_running > worst_finished) & counts(best_score)


def counts(scores: jax.Array) -> jax.Array:
    """scores of any shape -> which of these sums of log-probabilities are of hypotheses, not of places without one."""
    return scores > NEGATIVE / 2


def beam_search_has_unfinished_sequences(beams: Beams, ending: Ending) -> jax.Array:
    """Which images [B] go on: those that can improve and, with early_stopping=True, have an open place."""
    if ending.early_stopping is True:
        return beams.can_improve & ~beams.is_finished.all(axis=-1)
    return beams.can_improve
