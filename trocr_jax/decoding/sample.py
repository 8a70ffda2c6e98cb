"""Search without a choice between hypotheses: every one takes its next token on its own. Greedy takes the likeliest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from trocr_jax.decoding import processors
from trocr_jax.decoding.checks import check_logits, check_room, check_whole
from trocr_jax.decoding.loop import Loop, run
from trocr_jax.decoding.types import (
    Cache,
    Context,
    Decoded,
    Processor,
    Search,
    Special,
    StepFn,
    cut_off,
    lengths,
    pick,
    put,
)

Choose = Callable[[jax.Array, jax.Array], jax.Array]


class SampleState(NamedTuple):
    """position int32 scalar, last [B, K] int32 the token standing there, finished [B, K] bool; token_ids, log_probs
    and model_log_probs [B, K, L] of the tokens behind the start token; processor, cache: their states."""

    position: jax.Array
    last: jax.Array
    finished: jax.Array
    token_ids: jax.Array
    log_probs: jax.Array
    model_log_probs: jax.Array
    processor: Any
    cache: Cache


def greedy(log_probs: jax.Array, position: jax.Array) -> jax.Array:
    """log_probs [B, K, V] -> the likeliest token [B, K] int32, the first of equals."""
    return log_probs.argmax(axis=-1).astype(jnp.int32)


def categorical(keys: jax.Array) -> Choose:
    """Draws by probability. keys [B]: one random key an image, so that what is drawn for it depends on nothing else;
    its hypotheses and positions have streams of their own."""

    def choose(log_probs: jax.Array, position: jax.Array) -> jax.Array:
        def draw(key: jax.Array, log_probs: jax.Array) -> jax.Array:  # [K, V] -> [K]
            keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(log_probs.shape[0]))
            return jax.vmap(jax.random.categorical)(keys, log_probs)

        here = jax.vmap(jax.random.fold_in, (0, None))(keys, position)
        return jax.vmap(draw)(here, log_probs).astype(jnp.int32)

    return choose


def sample(
    step: StepFn,
    cache: Cache,
    *,
    batch: int,
    samples: int = 1,
    max_new_tokens: int,
    special: Special,
    choose: Choose = greedy,
    processor: Processor = processors.identity,
    loop: Loop = "jit",
) -> Decoded:
    """Draws `samples` texts for each of `batch` images. Stops when all have ended.

    `choose` maps log-probabilities [B, K, V] and a position to tokens [B, K]: `greedy`, or `categorical(keys)`.
    `processor` acts on logits; a text for which it leaves no token scores -inf. Texts come in the order of the
    hypotheses. Raises DecodeError for less than one token or text.
    """
    search = sample_search(
        step,
        cache,
        batch=batch,
        samples=samples,
        max_new_tokens=max_new_tokens,
        special=special,
        choose=choose,
        processor=processor,
    )
    return run(search, loop=loop)


def sample_search(
    step: StepFn,
    cache: Cache,
    *,
    batch: int,
    samples: int,
    max_new_tokens: int,
    special: Special,
    choose: Choose,
    processor: Processor,
) -> Search:
    """The loop of `sample`, not yet run."""
    check_room(cache, max_new_tokens)
    check_whole("batch", batch, 1)
    check_whole("samples", samples, 1)
    processor = processors.chained(processor)
    shape, in_time = (batch, samples), processors.ends_in_time(processor)
    start = jnp.full((*shape, 1), special.start, jnp.int32)

    def unfinished(state: SampleState) -> jax.Array:
        return (state.position < max_new_tokens) & ~state.finished.all()

    def advance(state: SampleState) -> SampleState:
        logits, cache = step(state.last, state.cache, state.position)  # [B, K, V]
        check_logits(logits, batch, samples)
        logits = logits.astype(jnp.float32)
        context = Context(jnp.concatenate([start, state.token_ids], axis=-1), state.position, state.processor)
        scores = processor(logits, context)
        log_probs = jax.nn.log_softmax(scores, axis=-1)
        token = jnp.where(state.finished, special.pad, choose(log_probs, state.position))  # [B, K]
        nothing_left = ~state.finished & ~(pick(scores, token) > -jnp.inf)  # log_probs are NaN there

        def written(log_probs: jax.Array) -> jax.Array:
            return jnp.where(state.finished, jnp.float32(0), pick(log_probs, token))

        return SampleState(
            position=state.position + 1,
            last=token,
            finished=state.finished | (token == special.end),
            token_ids=put(state.token_ids, token, state.position),
            log_probs=put(state.log_probs, jnp.where(nothing_left, -jnp.inf, written(log_probs)), state.position),
            model_log_probs=put(state.model_log_probs, written(jax.nn.log_softmax(logits, axis=-1)), state.position),
            processor=processors.advance(processor, state.processor, token),
            cache=cache,
        )

    def finish(state: SampleState) -> Decoded:
        length, _ = lengths(state.token_ids, special.end)
        places = jnp.arange(max_new_tokens, dtype=jnp.int32)[None, None, :]
        behind = places >= jnp.minimum(length, state.position)[..., None]
        own = jnp.arange(samples, dtype=jnp.int32)[None, :, None]
        return Decoded(
            token_ids=state.token_ids,
            token_log_probs=state.log_probs,
            model_log_probs=state.model_log_probs,
            beam_indices=jnp.where(behind, -1, own),
            scores=state.log_probs.sum(axis=-1),
            lengths=jnp.minimum(length, state.position),
            truncated=cut_off(state.token_ids, state.model_log_probs, special.end, in_time=in_time),
        )

    state = SampleState(
        position=jnp.int32(0),
        last=start[..., 0],
        finished=jnp.zeros(shape, bool),
        token_ids=jnp.full((*shape, max_new_tokens), special.pad, jnp.int32),
        log_probs=jnp.zeros((*shape, max_new_tokens), jnp.float32),
        model_log_probs=jnp.zeros((*shape, max_new_tokens), jnp.float32),
        processor=processors.init(processor, batch, samples),
        cache=cache,
    )
    return Search(state, unfinished, advance, finish)
