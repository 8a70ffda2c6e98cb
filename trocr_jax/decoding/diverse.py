"""Diverse beam search (Vijayakumar et al. 2018, "Diverse Beam Search for Improved Description of Complex Scenes",
arXiv 1610.02424): groups of hypotheses, each a beam search of its own that avoids the tokens of the groups before it.

Within a step the groups take turns. A token loses `diversity_penalty` each time that an earlier group has chosen it at
this step (Hamming diversity); the penalty stays in the score, as in the paper's algorithm 1 and in transformers'
group beam search (4.x, HammingDiversityLogitsProcessor), which also applied it before every other processor. Groups
whose search has ended repel nobody, nor do places without a hypothesis, where few tokens are allowed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from trocr_jax.decoding import processors
from trocr_jax.decoding.beam import beam_search_has_unfinished_sequences, continue_beams, counts, log_softmax
from trocr_jax.decoding.beam_state import (
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
from trocr_jax.decoding.types import Cache, Context, Decoded, Processor, Search, Special, StepFn, take
from trocr_jax.errors import DecodeError


class DiverseState(NamedTuple):
    """position int32 scalar: tokens written; groups: G searches of K / G hypotheses; processor and cache: their
    states for all K, leaves [B, K, …]."""

    position: jax.Array
    groups: tuple[Beams, ...]
    processor: Any
    cache: Cache


def diverse_beam_search(
    step: StepFn,
    cache: Cache,
    *,
    batch: int,
    num_beams: int,
    num_beam_groups: int,
    diversity_penalty: float | jax.Array,
    max_new_tokens: int,
    special: Special,
    num_return_sequences: int = 1,
    length_penalty: float | jax.Array = 1.0,
    early_stopping: EarlyStopping = False,
    processor: Processor = processors.identity,
    loop: Loop = "jit",
) -> Decoded:
    """The `num_return_sequences` best texts of each of `batch` images, from all groups.

    num_beams: hypotheses of all groups together, a multiple of num_beam_groups. The rest as for `beam_search`.
    Raises DecodeError for beams that cannot be shared out evenly, or more texts than beams.
    """
    search = diverse_beam_search_loop(
        step,
        cache,
        batch=batch,
        num_beams=num_beams,
        num_beam_groups=num_beam_groups,
        diversity_penalty=diversity_penalty,
        max_new_tokens=max_new_tokens,
        special=special,
        num_return_sequences=num_return_sequences,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        processor=processor,
    )
    return run(search, loop=loop)


def diverse_beam_search_loop(
    step: StepFn,
    cache: Cache,
    *,
    batch: int,
    num_beams: int,
    num_beam_groups: int,
    diversity_penalty: float | jax.Array,
    max_new_tokens: int,
    special: Special,
    num_return_sequences: int,
    length_penalty: float | jax.Array,
    early_stopping: EarlyStopping,
    processor: Processor,
) -> Search:
    """The loop of `diverse_beam_search`, not yet run."""
    check_lengths(
        max_new_tokens, num_return_sequences, num_beams, batch=batch, early_stopping=early_stopping, cache=cache
    )
    processor = processors.chained(processor)
    if num_beam_groups < 1 or num_beams % num_beam_groups:
        raise DecodeError(f"num_beam_groups is {num_beam_groups}: {num_beams} beams cannot be divided evenly")
    ending, in_time = Ending(special.end, max_new_tokens, length_penalty, early_stopping), ends_in_time(processor)
    size = num_beams // num_beam_groups
    rows = [slice(g * size, (g + 1) * size) for g in range(num_beam_groups)]  # of each group among the K
    start = jnp.full((batch, num_beams, 1), special.start, jnp.int32)

    def going_on(state: DiverseState) -> jax.Array:  # [B, G]
        return jnp.stack([beam_search_has_unfinished_sequences(beams, ending) for beams in state.groups], axis=1)

    def unfinished(state: DiverseState) -> jax.Array:
        return (state.position < max_new_tokens) & going_on(state).any()

    def advance(state: DiverseState) -> DiverseState:
        written = jnp.concatenate([beams.running.token_ids for beams in state.groups], axis=1)
        token_ids = jnp.concatenate([start, written], axis=-1)  # [B, K, 1 + L]
        logits, cache = step(last_token(token_ids, state.position + 1), state.cache, state.position)
        check_logits(logits, batch, num_beams)
        model_log_probs = log_softmax(logits)  # [B, K, V]
        chosen = jnp.zeros((batch, logits.shape[-1]), jnp.float32)  # how often earlier groups did, [B, V]
        repels = going_on(state)
        groups, parents, tokens = [], [], []
        for g, beams in enumerate(state.groups):
            own = jax.tree.map(lambda leaf, g=g: leaf[:, rows[g]], state.processor)
            log_probs = model_log_probs[:, rows[g]] - diversity_penalty * chosen[:, None, :]
            log_probs = processor(log_probs, Context(token_ids[:, rows[g]], state.position, own))
            beams, continued = continue_beams(
                beams, log_probs, model_log_probs[:, rows[g]], position=state.position, ending=ending
            )
            last = last_token(beams.running.token_ids, state.position + 1)  # [B, K / G]
            chose = repels[:, g, None] & counts(beams.running.scores)  # [B, K / G]
            chosen = chosen.at[jnp.arange(batch)[:, None], last].add(chose.astype(jnp.float32))
            groups.append(beams)
            parents.append(continued + g * size)
            tokens.append(last)
        parent = jnp.concatenate(parents, axis=1)  # [B, K]
        return DiverseState(
            position=state.position + 1,
            groups=tuple(groups),
            processor=processors.advance(processor, take(state.processor, parent), jnp.concatenate(tokens, axis=1)),
            cache=take(cache, parent),
        )

    def finish(state: DiverseState) -> Decoded:
        finished = []
        for g, beams in enumerate(state.groups):
            own = beams.finished.beam_indices
            finished.append(beams.finished._replace(beam_indices=jnp.where(own < 0, own, own + g * size)))
        every: Hypotheses = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *finished)
        _, order = jax.lax.top_k(every.scores, num_return_sequences)
        return best(take(every, order), num_return_sequences, position=state.position, end=special.end, in_time=in_time)

    groups = tuple(first_beams(batch, size, max_new_tokens, pad=special.pad) for _ in rows)
    state = DiverseState(jnp.int32(0), groups, processors.init(processor, batch, num_beams), cache)
    return Search(state, unfinished, advance, finish)
