"""Automata over tokens on the device: processors that leave only tokens from which an accepted end can be reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from trocr_jax.decoding.dfa import group_equal_rows, row_offsets
from trocr_jax.decoding.pytree import pytree
from trocr_jax.decoding.token_arcs import DEAD, NEVER, START, TokenArcs
from trocr_jax.decoding.types import Context
from trocr_jax.errors import DecodeError

TABLE_LIMIT = 1 << 22  # entries of the dense form: 16 MiB
DENSE_BYTES = 1 << 25  # of rows kept dense for the states with most arcs
DENSE_DEGREE = 8  # arcs from which a row may be dense
SMALLEST = 32  # states, classes or arcs: small constraints then have equal shapes
SHIFTED = 128  # classes that are looked up by shifts; of more by a gather, which takes several times as long
CHUNK = 32  # arcs of a state looked at at once


class Automaton:
    """A processor whose state is that of each hypothesis, [B, K] int32.

    The scores of forbidden tokens become -inf. A token is allowed if, of the tokens that remain, enough are left to
    reach an accepted end behind it; the end token in accepting states alone. A hypothesis that has ended may only be
    padded. Where other processors have left none of the allowed tokens all scores become -inf; the hypothesis may then
    only end, and its score stays -inf.
    """

    ends_in_time: ClassVar[bool] = True

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays on the device."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))

    def init(self, batch: int, beams: int) -> jax.Array:
        return jnp.full((batch, beams), START, jnp.int32)

    def advance(self, state: jax.Array, tokens: jax.Array) -> jax.Array:
        raise NotImplementedError

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        raise NotImplementedError


@pytree
@dataclass(frozen=True)
class TableAutomaton(Automaton):
    """For few states. classes [V] int32: tokens that no state tells apart are one class; table [Q, C] int32: the next
    state; distance [Q] int32: see TokenArcs. Q and C are padded to powers of two, at least SMALLEST."""

    classes: jax.Array
    table: jax.Array
    distance: jax.Array

    def advance(self, state: jax.Array, tokens: jax.Array) -> jax.Array:
        return self.table[state, self.classes[tokens]]

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        _check(scores, self.classes.shape[0])
        allowed = self.distance[self.table[context.state]] < _remaining(context)  # [B, K, C]
        return jnp.where(_of_classes(allowed, self.classes), scores, -jnp.inf)


@pytree
@dataclass(frozen=True)
class SparseAutomaton(Automaton):
    """For many states: the arcs of TokenArcs, padded to powers of two, and rows [R, V] int16 of the distances behind
    each token for the states with most arcs and for those that lend theirs.

    row [Q] int32: the row in `dense` that holds all of a state's arcs, or those of its base; row 0 is empty.
    ends [Q] int32: where the arcs end that are in no dense row.
    """

    offsets: jax.Array
    ends: jax.Array
    tokens: jax.Array
    targets: jax.Array
    base: jax.Array
    distance: jax.Array
    row: jax.Array
    dense: jax.Array

    def advance(self, state: jax.Array, tokens: jax.Array) -> jax.Array:
        own = self._follow(state, tokens)
        return jnp.where(own == DEAD, self._follow(self.base[state], tokens), own)

    def _follow(self, state: jax.Array, tokens: jax.Array) -> jax.Array:
        """The state behind tokens [B, K] by the own arcs of states [B, K], found by bisection; DEAD if none."""
        end = self.offsets[state + 1]

        def halve(_: jax.Array, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = bounds
            middle = (low + high) // 2
            before = (low < high) & (self.tokens[middle] < tokens)
            return jnp.where(before, middle + 1, low), jnp.where(before, high, middle)

        # A state has at most V arcs. A loop, for XLA makes exponentially much of this chain written out.
        low, _ = jax.lax.fori_loop(0, self.dense.shape[1].bit_length(), halve, (self.offsets[state], end))
        return jnp.where((low < end) & (self.tokens[low] == tokens), self.targets[low], DEAD)

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        _check(scores, self.dense.shape[1])
        remaining = _remaining(context)
        near = self.dense[self.row[context.state]] < jnp.minimum(remaining, NEVER).astype(jnp.int16)  # [B, K, V]
        kept = jnp.where(near, scores, -jnp.inf)
        begin, end = self.offsets[context.state], self.ends[context.state]  # [B, K]
        image, beam = (jax.lax.broadcasted_iota(jnp.int32, (*begin.shape, CHUNK), axis) for axis in (0, 1))

        def add(i: jax.Array, kept: jax.Array) -> jax.Array:
            index = begin[..., None] + i * CHUNK + jnp.arange(CHUNK, dtype=jnp.int32)[None, None, :]
            inside = index < end[..., None]
            index = jnp.where(inside, index, 0)
            tokens = self.tokens[index]
            ok = inside & (self.distance[self.targets[index]] < remaining)
            values = scores[image, beam, tokens]
            return kept.at[image, beam, jnp.where(ok, tokens, scores.shape[-1])].set(values, mode="drop")

        return jax.lax.fori_loop(0, ((end - begin).max() + CHUNK - 1) // CHUNK, add, kept)


def build(arcs: TokenArcs, vocabulary: int) -> Automaton:
    """The form that fits: a table while that is small, else the arcs themselves."""
    sources = np.repeat(np.arange(len(arcs.base)), np.diff(arcs.offsets))
    if (arcs.base == DEAD).all():
        order = np.argsort(arcs.tokens, kind="stable")
        by_token = row_offsets(arcs.tokens, vocabulary)
        classes = group_equal_rows(by_token, [sources[order], arcs.targets[order]], np.zeros(vocabulary, np.int64))
        states, columns = _power_of_two(len(arcs.base)), _power_of_two(int(classes.max()) + 1)
        if states * columns <= TABLE_LIMIT:
            table = np.full((states, columns), DEAD, np.int32)
            table[sources, classes[arcs.tokens]] = arcs.targets
            return TableAutomaton(
                classes=jnp.asarray(classes, jnp.int32),
                table=jnp.asarray(table),
                distance=jnp.asarray(_padded(arcs.distance, NEVER), jnp.int32),
            )
    return _sparse(arcs, vocabulary)


def _sparse(arcs: TokenArcs, vocabulary: int) -> SparseAutomaton:
    degree = np.diff(arcs.offsets)
    lenders = np.unique(arcs.base[arcs.base != DEAD])
    most = np.argsort(-degree, kind="stable")[: DENSE_BYTES // (2 * vocabulary)]
    most = np.setdiff1d(most[degree[most] >= DENSE_DEGREE], lenders)
    chosen = np.concatenate([lenders, most])
    own = np.zeros(len(degree), np.int32)
    own[chosen] = np.arange(1, len(chosen) + 1)
    dense = np.full((_power_of_two(len(chosen) + 1), vocabulary), NEVER, np.int16)
    for states in (arcs.base[chosen], chosen):
        for number, state in enumerate(states.tolist(), start=1):
            if state != DEAD:
                row = slice(arcs.offsets[state], arcs.offsets[state + 1])
                dense[number, arcs.tokens[row]] = arcs.distance[arcs.targets[row]]
    return SparseAutomaton(
        offsets=jnp.asarray(_padded(arcs.offsets, arcs.offsets[-1]), jnp.int32),
        ends=jnp.asarray(_padded(np.where(own > 0, arcs.offsets[:-1], arcs.offsets[1:]), 0), jnp.int32),
        tokens=jnp.asarray(_padded(arcs.tokens, 0), jnp.int32),
        targets=jnp.asarray(_padded(arcs.targets, DEAD), jnp.int32),
        base=jnp.asarray(_padded(arcs.base, DEAD), jnp.int32),
        distance=jnp.asarray(_padded(arcs.distance, NEVER), jnp.int32),
        row=jnp.asarray(_padded(np.where(own > 0, own, own[arcs.base]), 0), jnp.int32),
        dense=jnp.asarray(dense),
    )


def _of_classes(allowed: jax.Array, classes: jax.Array) -> jax.Array:
    """allowed [B, K, C] of each token's class [V]: bool [B, K, V]."""
    if allowed.shape[-1] > SHIFTED:
        return jnp.take(allowed, classes, axis=-1)
    # 32 classes are the bits of a word, and a token's bit is shifted to its lowest place: no look-up for each token.
    bits = allowed.reshape(*allowed.shape[:2], -1, 32).astype(jnp.uint32)
    places = jnp.arange(32, dtype=jnp.uint32)[None, None, None, :]
    words = (bits << places).sum(axis=-1, dtype=jnp.uint32)  # [B, K, C / 32]
    word, place = (classes >> 5)[None, None, :], (classes & 31).astype(jnp.uint32)[None, None, :]
    found = words[..., :1] >> place
    for i in range(1, words.shape[-1]):
        found = jnp.where(word == i, words[..., i : i + 1] >> place, found)
    return (found & 1) == 1


def _remaining(context: Context) -> jax.Array:
    """Tokens that may still be written, the next one counted."""
    return context.token_ids.shape[-1] - 1 - context.position


def _check(scores: jax.Array, vocabulary: int) -> None:
    if scores.shape[-1] != vocabulary:
        raise DecodeError(
            f"the constraint was compiled for {vocabulary} tokens and the model has {scores.shape[-1]}: compile it "
            "with as many spellings"
        )


def _power_of_two(count: int) -> int:
    return max(1 << (count - 1).bit_length(), SMALLEST)


def _padded(values: np.ndarray, value: int) -> np.ndarray:
    return np.concatenate([values, np.full(_power_of_two(len(values)) - len(values), value, values.dtype)])
