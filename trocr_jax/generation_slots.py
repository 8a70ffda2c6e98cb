"""Refilled slots: a batch whose lines come and go. A line that has ended leaves its slot to one that waits, so that
short lines do not wait for long ones (the "continuous batching" of servers of language models: Yu et al. 2022, "Orca").

All shapes are fixed: B slots, G lines that are encoded together. Whatever the lines are, four programs are compiled,
beside two that run once at the start (`projections`, `empty`): `encode` reads lines, `enter` moves some into slots,
`run` takes all slots some steps further, `leave` tells what was found in some. The searches are those of `generate`,
one in each slot, with a position, processor state and random key of its own; what `generate` finds is found here, but
for rounding. `generation_refill` is the host's part.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from trocr_jax.attention_cross import Absorbed, Cross, OnePass
from trocr_jax.attention_rows import Int8Rows
from trocr_jax.config import TrOCRConfig
from trocr_jax.decoder import Cache
from trocr_jax.decoding.types import Decoded, Search, StepFn, take
from trocr_jax.generation import cross_of, read, search
from trocr_jax.generation_plan import Numbers, Shape, special_tokens
from trocr_jax.image import ImageProcessor
from trocr_jax.model import TrOCR


class Lines(NamedTuple):
    """What of G lines, or of the lines in B slots, the search reads. memory: [B, …] leaves: keys and values of every
    layer, or the memory of the encoder alone. keys [B]: random keys."""

    memory: Any
    keys: jax.Array


class Slots(NamedTuple):
    """place: int32 scalar, where all slots write into their caches next. searches: the state of each slot's search, a
    batch of one, without the cache; leaves [B, …]. active [B] bool: slots whose line has not ended. cache: of the
    model, leaves [B, K, …]. lines: in the slots."""

    place: jax.Array
    searches: Any
    active: jax.Array
    cache: Cache
    lines: Lines


@jax.tree_util.register_pytree_node_class
class Flat:
    """A model taken apart once: a model of NNX is taken apart in Python at every call, which takes longer than a step
    of a small one."""

    def __init__(self, model: TrOCR) -> None:
        self._leaves, self._structure = jax.tree.flatten(model)

    def model(self) -> TrOCR:
        return cast(TrOCR, jax.tree.unflatten(self._structure, self._leaves))

    def tree_flatten(self) -> tuple[tuple[list[jax.Array]], Any]:
        return (self._leaves,), self._structure

    @classmethod
    def tree_unflatten(cls, structure: Any, children: tuple[list[jax.Array]]) -> Flat:
        flat = object.__new__(cls)
        (flat._leaves,), flat._structure = children, structure
        return flat


class Ran(NamedTuple):
    """slots: afterwards. active [B]: a copy that outlives them. steps int32 scalar: taken."""

    slots: Slots
    active: jax.Array
    steps: jax.Array


@partial(jax.jit, static_argnames=("shape", "dtype", "image_processor"))
def encode(
    flat: Flat,
    pixels: jax.Array,
    numbers: Numbers,
    *,
    shape: Shape,
    dtype: jnp.dtype,
    image_processor: ImageProcessor | None,
) -> Lines:
    """pixels [G, H, W, 3] as `generate` takes them -> G lines that may enter slots."""
    model = flat.model()
    memory, keys = read(model, pixels, numbers.seed, dtype, image_processor, shape=shape)
    if not shape.absorbed:
        return Lines(cross_of(model, memory, shape, dtype), keys)
    return Lines(memory if isinstance(memory, Int8Rows) else memory.astype(dtype), keys)


@partial(jax.jit, static_argnames=("shape", "dtype"))
def projections(flat: Flat, *, shape: Shape, dtype: jnp.dtype) -> Cross | None:
    """What cross-attention needs beside `Lines`: of absorbed layers their weights, the same for all lines."""
    if not shape.absorbed:
        return None
    model = flat.model()
    nothing = jnp.zeros((0, 0, model.config.memory_width), dtype)
    return cross_of(model, nothing, shape, dtype)


@partial(jax.jit, static_argnames=("slots", "shape", "dtype"))
def empty(flat: Flat, lines: Lines, numbers: Numbers, *, slots: int, shape: Shape, dtype: jnp.dtype) -> Slots:
    """That many slots without a line. lines: any, for their shapes."""
    model, key = flat.model(), lines.keys[0]
    first = _first(model.config, key, numbers, shape)
    return Slots(
        place=jnp.int32(0),
        searches=jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (slots, *leaf.shape)), first),
        active=jnp.zeros(slots, bool),
        cache=model.init_cache(slots, shape.hypotheses, shape.max_new_tokens, dtype=shape.cache_dtype or dtype),
        lines=Lines(
            jax.tree.map(lambda leaf: jnp.zeros((slots, *leaf.shape[1:]), leaf.dtype), lines.memory),
            jnp.broadcast_to(key, (slots,)),
        ),
    )


@partial(jax.jit, static_argnames=("config", "shape"), donate_argnames=("slots",))
def enter(
    slots: Slots,
    lines: Lines,
    numbers: Numbers,
    sources: jax.Array,
    targets: jax.Array,
    count: jax.Array,
    *,
    config: TrOCRConfig,
    shape: Shape,
) -> Slots:
    """Moves lines into slots: the first `count` of sources [G], places among the lines, to targets [G], slots."""
    first = _first(config, slots.lines.keys[0], numbers, shape)

    def one(i: jax.Array, slots: Slots) -> Slots:
        def put(into: jax.Array, value: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_index_in_dim(into, value, targets[i], axis=0)

        def move(into: jax.Array, lines: jax.Array) -> jax.Array:
            return put(into, jax.lax.dynamic_index_in_dim(lines, sources[i], axis=0, keepdims=False))

        return Slots(
            place=slots.place,
            searches=jax.tree.map(put, slots.searches, first),
            active=put(slots.active, jnp.bool_(True)),
            cache=slots.cache,  # what stands there is older than the line and never looked at
            lines=jax.tree.map(move, slots.lines, lines),
        )

    return jax.lax.fori_loop(0, count, one, slots)


@partial(jax.jit, static_argnames=("shape", "dtype"), donate_argnames=("slots",))
def run(
    flat: Flat,
    slots: Slots,
    projections: Cross | None,
    numbers: Numbers,
    enough: jax.Array,
    *,
    shape: Shape,
    dtype: jnp.dtype,
) -> Ran:
    """Steps of all slots until `enough` lines, of which as many are in slots, have ended."""
    model = flat.model()
    cross, keys, begun = _cross(slots.lines, projections), slots.lines.keys, slots.active.sum()

    def going_on(carry: tuple[Slots, jax.Array]) -> jax.Array:
        return begun - carry[0].active.sum() < enough

    def step(carry: tuple[Slots, jax.Array]) -> tuple[Slots, jax.Array]:
        slots, steps = carry
        tokens, positions = jax.vmap(partial(_asked, model.config, numbers, shape))(slots.searches, keys)
        ring = model.decoder.step_ring
        logits, cache = ring(tokens, slots.cache, positions, cross, place=slots.place, dtype=dtype)
        told = jax.vmap(partial(_told, model.config, numbers, shape))(slots.searches, keys, logits)
        slots = Slots(
            place=(slots.place + 1) % shape.max_new_tokens,
            searches=jax.tree.map(partial(_where, slots.active), told.state, slots.searches),
            active=slots.active & told.unfinished,
            cache=cache if told.parents is None else take(cache, told.parents),
            lines=slots.lines,
        )
        return slots, steps + 1

    carried = slots._replace(lines=Lines((), keys))  # not the memory, which does not change
    carried, steps = jax.lax.while_loop(going_on, step, (carried, jnp.int32(0)))
    return Ran(carried._replace(lines=slots.lines), carried.active, steps)


@partial(jax.jit, static_argnames=("config", "shape"))
def leave(slots: Slots, numbers: Numbers, sources: jax.Array, *, config: TrOCRConfig, shape: Shape) -> Decoded:
    """What was found in the slots `sources` [G]: a Decoded of G images."""

    def one(state: Any, key: jax.Array) -> Decoded:
        return _search(config, key, numbers, shape, _answers(config, shape)).finish(state)

    found = jax.vmap(one)(jax.tree.map(lambda leaf: leaf[sources], slots.searches), slots.lines.keys[sources])
    return Decoded._make(array[:, 0] for array in found)


class _Told(NamedTuple):
    """state: of one search, a step further. unfinished: whether it goes on. parents [K]: which hypothesis each of the
    new ones continues; None if each goes on as itself."""

    state: Any
    unfinished: jax.Array
    parents: jax.Array | None


def _search(config: TrOCRConfig, key: jax.Array, numbers: Numbers, shape: Shape, step: StepFn) -> Search:
    """The search of one line. Its cache is the numbers of its hypotheses: as the search reorders those, the cache of
    the model has to be reordered."""
    own = jnp.arange(shape.hypotheses, dtype=jnp.int32)[None]
    return search(step, own, key[None], numbers, shape, special_tokens(config))


def _first(config: TrOCRConfig, key: jax.Array, numbers: Numbers, shape: Shape) -> Any:
    """The state of the search of a line before its first step."""
    return _search(config, key, numbers, shape, _answers(config, shape)).state


def _answers(config: TrOCRConfig, shape: Shape) -> StepFn:
    logits = jnp.zeros((1, shape.hypotheses, config.decoder.vocab_size), jnp.float32)
    return lambda tokens, cache, position: (logits, cache)


def _asked(
    config: TrOCRConfig, numbers: Numbers, shape: Shape, state: Any, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What the search of one line wants to know next: tokens [K] and their position. What it would do with the answer
    is traced, and left out by the compiler as nothing depends on it."""
    asked, answers = [], _answers(config, shape)

    def step(tokens: jax.Array, cache: Any, position: jax.Array) -> tuple[jax.Array, Any]:
        asked.append((tokens[0], position))
        return answers(tokens, cache, position)

    _search(config, key, numbers, shape, step).advance(state)
    (question,) = asked
    return question


def _told(config: TrOCRConfig, numbers: Numbers, shape: Shape, state: Any, key: jax.Array, logits: jax.Array) -> _Told:
    """The search of one line behind its step, told the logits [K, V]."""
    own = state.cache
    line = _search(config, key, numbers, shape, lambda tokens, cache, position: (logits[None], cache))
    after = line.advance(state)
    parents = None if after.cache is own else after.cache[0]
    return _Told(after._replace(cache=own), line.unfinished(after), parents)


def _cross(lines: Lines, projections: Cross | None) -> Cross:
    if projections is None:
        return cast(Cross, lines.memory)
    return tuple(cast(Absorbed | OnePass, layer)._replace(memory=lines.memory) for layer in projections)


def _where(mask: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """mask [B] for leaves [B, …]."""
    return jnp.where(mask.reshape(mask.shape + (1,) * (new.ndim - 1)), new, old)
