"""Greedy search in fewer calls of the model: a draft guesses the next tokens, the model looks at all of them in one
call, and those that it would have written itself are kept (Leviathan, Kalman, Matias 2023, at temperature 0).

The text is that of greedy search; a wrong guess costs time only. Made for one image at a time: images of a batch go
forward together, as far as the slowest of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from trocr_jax.decoding.loop import Loop, last
from trocr_jax.decoding.types import Cache, Decoded, Search, Special, StepFn, lengths

MULTIPLIER = np.uint32(0x9E3779B1)  # 2 ** 32 / golden ratio: Knuth's multiplicative hash

TOKEN_BITS = 17  # of the 31 of a table's entry


class ExtendFn(Protocol):
    """A language model as speculative search sees it: several tokens at once."""

    def __call__(self, tokens: jax.Array, cache: Cache, position: jax.Array) -> tuple[jax.Array, Cache]:
        """tokens [B, K, T] int32 stand at `position` (int32 scalar) and behind it -> logits [B, K, T, V] f32 behind
        each of them, cache. What the cache holds at `position` and behind it is overwritten."""
        ...


class Draft(Protocol):
    """Guesses. A frozen dataclass registered as a pytree, or any function."""

    def __call__(self, token_ids: jax.Array, position: jax.Array, state: Any, count: int) -> tuple[jax.Array, Any]:
        """token_ids [B, 1, 1 + L] int32, start token first, written up to `position` -> `count` guesses
        [B, 1, count] at what comes behind it, state."""
        ...


class Speculated(NamedTuple):
    """decoded: as `sample` returns it. calls int32 scalar: how often the model was called; lengths.max() / calls tokens
    were kept of a call."""

    decoded: Decoded
    calls: jax.Array


class SpeculativeState(NamedTuple):
    """position, calls int32 scalars; finished [B, 1] bool; token_ids [B, 1, 1 + L + T] with the start token in front,
    log_probs [B, 1, L + T]; draft, cache: their states."""

    position: jax.Array
    calls: jax.Array
    finished: jax.Array
    token_ids: jax.Array
    log_probs: jax.Array
    draft: Any
    cache: Cache


def speculative(
    extend: ExtendFn,
    cache: Cache,
    *,
    draft: Draft,
    draft_state: Any = (),
    block: int,
    batch: int = 1,
    max_new_tokens: int,
    special: Special,
    loop: Loop = "jit",
) -> Speculated:
    """Greedy search that looks at `block` tokens a call: the last one written and block - 1 guesses.

    cache, and that of a model that drafts: room for max_new_tokens + block tokens. Equal to `sample` with `greedy` and
    no processor, up to the rounding of sums: two tokens whose logits differ by less than that may change places.
    """
    search = speculative_search(
        extend,
        cache,
        draft=draft,
        draft_state=draft_state,
        block=block,
        batch=batch,
        max_new_tokens=max_new_tokens,
        special=special,
    )
    state = last(search, loop=loop)
    return Speculated(search.finish(state), state.calls)


def speculative_search(
    extend: ExtendFn,
    cache: Cache,
    *,
    draft: Draft,
    draft_state: Any,
    block: int,
    batch: int,
    max_new_tokens: int,
    special: Special,
) -> Search:
    """The loop of `speculative`, not yet run."""
    room = max_new_tokens + block  # a block may begin at the last place

    def unfinished(state: SpeculativeState) -> jax.Array:
        return (state.position < max_new_tokens) & ~state.finished.all()

    def advance(state: SpeculativeState) -> SpeculativeState:
        guesses, draft_state = draft(state.token_ids, state.position, state.draft, block - 1)
        last = jax.lax.dynamic_slice_in_dim(state.token_ids, state.position, 1, axis=-1)
        tokens = jnp.concatenate([last, guesses.astype(jnp.int32)], axis=-1)  # [B, 1, T]
        logits, cache = extend(tokens, state.cache, state.position)
        log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)  # [B, 1, T, V]
        best = log_probs.argmax(axis=-1).astype(jnp.int32)  # [B, 1, T]: right as long as every guess before it is
        kept = 1 + (guesses == best[..., :-1]).astype(jnp.int32).cumprod(axis=-1).sum(axis=-1)  # [B, 1]
        ends = best == special.end
        before = ends.astype(jnp.int32).cumsum(axis=-1) - ends.astype(jnp.int32)  # end tokens before each place
        behind = (before > 0) | state.finished[..., None]
        done = state.finished | (ends.argmax(axis=-1) < kept) & ends.any(axis=-1)
        # What has ended holds nobody back.
        count = jnp.minimum(jnp.where(done, block, kept).min(), max_new_tokens - state.position)
        written = (jnp.arange(block, dtype=jnp.int32) < count)[None, None, :]
        silent = behind | ~written
        values = jnp.where(silent, np.float32(0), log_probs.max(axis=-1))
        best = jnp.where(silent, special.pad, best)
        return SpeculativeState(
            position=state.position + count,
            calls=state.calls + 1,
            finished=state.finished | (ends & ~silent).any(axis=-1),
            token_ids=jax.lax.dynamic_update_slice_in_dim(state.token_ids, best, state.position + 1, axis=-1),
            log_probs=jax.lax.dynamic_update_slice_in_dim(state.log_probs, values, state.position, axis=-1),
            draft=draft_state,
            cache=cache,
        )

    def finish(state: SpeculativeState) -> Decoded:
        token_ids, log_probs = state.token_ids[..., 1 : 1 + max_new_tokens], state.log_probs[..., :max_new_tokens]
        length = jnp.minimum(lengths(token_ids, special.end)[0], state.position)
        places = jnp.arange(max_new_tokens, dtype=jnp.int32)[None, None, :]
        return Decoded(
            token_ids=token_ids,
            token_log_probs=log_probs,
            model_log_probs=log_probs,
            beam_indices=jnp.where(places < length[..., None], 0, -1),
            scores=log_probs.sum(axis=-1),
            lengths=length,
            truncated=~state.finished,
        )

    start = jnp.full((batch, 1, 1), special.start, jnp.int32)
    state = SpeculativeState(
        position=jnp.int32(0),
        calls=jnp.int32(0),
        finished=jnp.zeros((batch, 1), bool),
        token_ids=jnp.concatenate([start, jnp.full((batch, 1, room), special.pad, jnp.int32)], axis=-1),
        log_probs=jnp.zeros((batch, 1, room), jnp.float32),
        draft=draft_state,
        cache=cache,
    )
    return Search(state, unfinished, advance, finish)


def drafted_by(step: StepFn) -> Draft:
    """A smaller model of the same vocabulary as a draft; its cache is the `draft_state`."""

    def draft(token_ids: jax.Array, position: jax.Array, state: Cache, count: int) -> tuple[jax.Array, Cache]:
        def one(carry: tuple[jax.Array, Cache], ahead: jax.Array) -> tuple[tuple[jax.Array, Cache], jax.Array]:
            logits, cache = step(carry[0], carry[1], position + ahead)
            token = logits.argmax(axis=-1).astype(jnp.int32)
            return (token, cache), token

        last = jax.lax.dynamic_index_in_dim(token_ids, position, axis=-1, keepdims=False)
        # One step more than guesses: if all are right, the next call finds the last of them in the cache.
        (_, cache), tokens = jax.lax.scan(one, (last, state), jnp.arange(count + 1, dtype=jnp.int32))
        return jnp.moveaxis(tokens, 0, -1)[..., :count], cache

    return draft


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NGramDraft:
    """The likeliest next token behind the longest context that is known. tables [N, buckets] int32: row n - 1 is
    indexed by a hash of the last n tokens and holds 14 other bits of it and the token; -1 where nothing is known."""

    tables: jax.Array
    unknown: int = field(default=0, metadata={"static": True})  # guessed where nothing is known

    def __call__(self, token_ids: jax.Array, position: jax.Array, state: Any, count: int) -> tuple[jax.Array, Any]:
        order = len(self.tables)
        front = jnp.full((*token_ids.shape[:-1], order - 1), -1, jnp.int32)
        padded = jnp.concatenate([front, token_ids], axis=-1)
        window = jax.lax.dynamic_slice_in_dim(padded, position, order, axis=-1)  # [B, 1, N]
        for _ in range(count):
            window = jnp.concatenate([window, self._next(window[..., -order:])[..., None]], axis=-1)
        return window[..., order:], state

    def _next(self, window: jax.Array) -> jax.Array:
        order, buckets = self.tables.shape
        codes = [jnp.zeros(window.shape[:-1], jnp.uint32)]
        for n in range(1, order + 1):
            codes.append(_mix(codes[-1], window[..., -n].astype(jnp.uint32)))
        code = jnp.stack(codes[1:], axis=-1)  # [B, 1, N]
        rows = (code % np.uint32(buckets)).astype(jnp.int32)
        found = self.tables[jnp.arange(order, dtype=jnp.int32), rows]
        known = (found >= 0) & (found >> TOKEN_BITS == _tag(code).astype(jnp.int32))
        longest = jnp.where(known, jnp.arange(order, dtype=jnp.int32), -1).max(axis=-1)
        guess = jnp.take_along_axis(found, jnp.maximum(longest, 0)[..., None], axis=-1)[..., 0]
        return jnp.where(longest >= 0, guess & np.int32((1 << TOKEN_BITS) - 1), np.int32(self.unknown))


def ngram_draft(
    texts: Iterable[Sequence[int]], *, special: Special, order: int = 6, buckets: int = 1 << 20
) -> NGramDraft:
    """Counts what follows up to `order` tokens in `texts`: token ids as a search writes them, without start token and
    with end token, such as those of lines read before, or of a tokenised text file. Memory: 4 * order * buckets bytes.
    """
    front = [-1] * order
    stream = np.array([token for text in texts for token in (*front, special.start, *text)] or front, np.int64)
    ends = np.flatnonzero((stream[order:] >= 0) & (stream[order - 1 : -1] >= 0)) + order  # all but the start tokens
    tables = np.full((order, buckets), -1, np.int32)
    code = np.zeros(len(ends), np.uint32)
    for n in range(1, order + 1):
        code = _mix(code, stream[ends - n].astype(np.uint32))
        bucket, tag = (code % np.uint32(buckets)).astype(np.int64), _tag(code).astype(np.int64)
        pairs, counts = np.unique(bucket << 32 | tag << TOKEN_BITS | stream[ends], return_counts=True)
        pairs = pairs[np.argsort(counts, kind="stable")]  # of several for one bucket the last, the commonest, stays
        tables[n - 1, pairs >> 32] = pairs & 0xFFFFFFFF
    return NGramDraft(jnp.asarray(tables), special.end)


def _tag(code: Any) -> Any:
    """14 bits of a hash that do not follow from its bucket."""
    return (code * MULTIPLIER) >> np.uint32(TOKEN_BITS + 1)


def _mix(code: Any, token: Any) -> Any:
    """Hashes uint32, of numpy or jax, with one more token."""
    mixed = (code ^ (token + np.uint32(1))) * MULTIPLIER
    return mixed ^ (mixed >> np.uint32(15))
