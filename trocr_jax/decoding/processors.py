"""Penalties and bans on the scores of the next token, composed with `chain`; filters for sampling are in `filters`.

Each gives the result of the class of transformers 5.23 (generation/logits_process.py) that its name recalls. None makes
an array larger than the scores [B, K, V]; those that look back touch at most L of each V.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from trocr_jax.decoding.pytree import pytree
from trocr_jax.decoding.types import Context, Processor
from trocr_jax.errors import DecodeError


@pytree
@dataclass(frozen=True)
class Chain:
    """One processor after the other; its state is the tuple of theirs. A score that they leave NaN is -inf."""

    processors: tuple[Processor, ...] = ()

    def init(self, batch: int, beams: int) -> tuple[Any, ...]:
        states = tuple(init(p, batch, beams) for p in self.processors)
        for processor, state in zip(self.processors, states, strict=True):
            leaves = jax.tree.leaves(state, is_leaf=_reorders)
            shapes = [jnp.shape(leaf) for leaf in leaves if not _reorders(leaf)]
            if beams > 1 and (wrong := [shape for shape in shapes if shape[:2] != (batch, beams)]):
                raise DecodeError(
                    f"{_name(processor)}: a state of shape {wrong[0]}; give arrays of shape ({batch}, {beams}, …), a "
                    "state for each hypothesis"
                )
        return states

    def advance(self, state: tuple[Any, ...], tokens: jax.Array) -> tuple[Any, ...]:
        states = tuple(advance(p, s, tokens) for p, s in zip(self.processors, state, strict=True))
        for processor, *both in zip(self.processors, state, states, strict=True):
            old, new = (jax.tree.map(jax.typeof, one) for one in both)
            if not _same(old, new):
                raise DecodeError(f"{_name(processor)}: advance makes {new} of a state {old}; give the same types")
        return states

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        for processor, state in zip(self.processors, context.state, strict=True):
            changed = processor(scores, context._replace(state=state))
            if getattr(changed, "shape", None) != scores.shape or not jnp.issubdtype(changed.dtype, jnp.floating):
                found = f"{changed.dtype}{changed.shape}" if hasattr(changed, "shape") else type(changed).__name__
                raise DecodeError(f"{_name(processor)}: gives {found}, not scores [B, K, V], floats{scores.shape}")
            scores = changed
        return jnp.where(jnp.isnan(scores), -jnp.inf, scores) if self.processors else scores  # as of 0 times -inf


@pytree
@dataclass(frozen=True)
class Function:
    """A function of scores and context, or an object that is no pytree, as a processor without numbers: another one
    compiles anew."""

    function: Processor = field(metadata={"static": True})

    def init(self, batch: int, beams: int) -> Any:
        return init(self.function, batch, beams)

    def advance(self, state: Any, tokens: jax.Array) -> Any:
        return advance(self.function, state, tokens)

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        return self.function(scores, context)


def chain(*processors: Processor) -> Chain:
    """The processors in the order given. Raises DecodeError for one that is neither a pytree nor hashable, and for a
    pytree with leaves that are no numbers."""
    return Chain(tuple(_as_pytree(p) if jax.tree_util.all_leaves([p]) else _checked(p) for p in processors))


def chained(processor: Processor) -> Chain:
    """One that says what is wrong with what `processor` gives."""
    return processor if isinstance(processor, Chain) else Chain((processor,))


def _checked(processor: Processor) -> Processor:
    for path, leaf in jax.tree_util.tree_leaves_with_path(processor):
        dtype = getattr(leaf, "dtype", None)  # of ShapeDtypeStructs too
        if not isinstance(leaf, int | float | complex) and (dtype is None or getattr(dtype, "kind", "") in "OSU"):
            raise DecodeError(
                f"{_name(processor)}{jax.tree_util.keystr(path)} is {leaf!r}, no number or array; make it a static "
                'field: field(metadata={"static": True})'
            )
    return processor


def _reorders(part: Any) -> bool:
    """Whether it is a state that `take` leaves to itself."""
    return hasattr(part, "reordered")


def _same(old: Any, new: Any) -> bool:
    """Whether states of these types are alike; weak types, of Python's numbers, may become others."""
    pairs = zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=False)
    equal = all(a.shape == b.shape and (a.weak_type or a.dtype == b.dtype) for a, b in pairs)
    before: Any = jax.tree.structure(old)
    return equal and bool(before == jax.tree.structure(new))


def _name(processor: Processor) -> str:
    own = processor.function if isinstance(processor, Function) else processor
    return getattr(own, "__name__", type(own).__name__)


def _as_pytree(processor: Processor) -> Function:
    try:
        hash(processor)
    except TypeError:
        raise DecodeError(f"{type(processor).__name__}: cannot be compiled; put @pytree before its class") from None
    return Function(processor)


identity = chain()


def init(processor: Processor, batch: int, beams: int) -> Any:
    """The first state of a processor; () if it has none."""
    return processor.init(batch, beams) if hasattr(processor, "init") else ()


def ends_in_time(processor: Processor) -> bool:
    """Whether it makes every text end within the limit of tokens, as constraints do."""
    if isinstance(processor, Chain):
        return any(map(ends_in_time, processor.processors))
    if isinstance(processor, Function):
        return ends_in_time(processor.function)
    return getattr(processor, "ends_in_time", False)


def advance(processor: Processor, state: Any, tokens: jax.Array) -> Any:
    """The state of a processor behind tokens [B, K]."""
    return processor.advance(state, tokens) if hasattr(processor, "advance") else state


@pytree
@dataclass(frozen=True)
class RepetitionPenalty:
    """Scores of every token written so far, the start token too: divided by `penalty` above 0, times it below."""

    penalty: ArrayLike

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        vocabulary = scores.shape[-1]
        written = jnp.arange(context.token_ids.shape[-1])[None, None, :] <= context.position
        tokens = jnp.where(written, context.token_ids, vocabulary)  # an index past the vocabulary is dropped
        old = jnp.take_along_axis(scores, jnp.minimum(tokens, vocabulary - 1), axis=-1)  # [B, K, 1 + L]
        new = jnp.where(old < 0, old * self.penalty, old / self.penalty)
        return scores.at[*_rows(scores), tokens].set(new, mode="drop")


@pytree
@dataclass(frozen=True)
class NoRepeatNGram:
    """Forbids the token that would repeat `size` tokens in a row. The start token is one of them."""

    size: int = field(metadata={"static": True})

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        tokens, vocabulary = context.token_ids, scores.shape[-1]
        windows = tokens.shape[-1] - self.size + 1
        if windows < 1:
            return scores
        suffix = jax.lax.dynamic_slice_in_dim(tokens, context.position - self.size + 2, self.size - 1, axis=-1)
        repeats = (jnp.arange(windows) + self.size - 1 <= context.position)[None, None, :]
        for i in range(self.size - 1):  # [B, K, windows]: never one row for each token of the vocabulary
            repeats = repeats & (tokens[..., i : i + windows] == suffix[..., i, None])
        last = jnp.where(repeats, tokens[..., self.size - 1 :], vocabulary)
        return scores.at[*_rows(scores), last].set(-jnp.inf, mode="drop")


@pytree
@dataclass(frozen=True)
class SequenceBias:
    """Adds a bias to the token that completes a sequence. Made by `sequence_bias` or `bad_words`.

    token_ids [P, M] int32: P sequences of at most M tokens, aligned to the right, -1 in front. biases [P] f32. Other
    sequences compile anew only if P or M is another.
    """

    token_ids: np.ndarray | jax.Array
    biases: np.ndarray | jax.Array

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        before = self.token_ids.shape[1] - 1
        tokens = jnp.pad(context.token_ids, ((0, 0), (0, 0), (before, 0)), constant_values=-2)
        suffix = jax.lax.dynamic_slice_in_dim(tokens, context.position + 1, before, axis=-1)[:, :, None, :]
        prefix = jnp.asarray(self.token_ids)[None, None, :, :-1]
        completes = ((suffix == prefix) | (prefix < 0)).all(axis=-1)  # [B, K, N]
        bias = jnp.where(completes, jnp.asarray(self.biases)[None, None, :], jnp.float32(0))
        return scores.at[:, :, self.token_ids[:, -1]].add(bias)


def sequence_bias(biases: Mapping[tuple[int, ...], float]) -> SequenceBias:
    """The bias of each sequence of token ids. Sequences of one token always count, longer ones if all but their last
    token have just been written. Raises DecodeError if there is none or one is empty."""
    if not biases or not all(biases):
        raise DecodeError("sequence_bias: give at least one sequence, each of at least one token id")
    longest = max(map(len, biases))
    token_ids = [(-1,) * (longest - len(sequence)) + tuple(sequence) for sequence in biases]
    return SequenceBias(np.asarray(token_ids, np.int32), np.asarray(list(biases.values()), np.float32))


def bad_words(token_ids: Iterable[Sequence[int]]) -> SequenceBias:
    """Forbids sequences of token ids: a bias of -inf."""
    return sequence_bias({tuple(word): -np.inf for word in token_ids})


@pytree
@dataclass(frozen=True)
class MinLength:
    """Forbids the end token until `min_new_tokens` tokens stand behind the start token. transformers' min_length
    counts the start token too."""

    min_new_tokens: ArrayLike
    end: ArrayLike

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        return jnp.where((context.position < self.min_new_tokens) & _is(self.end, scores), -jnp.inf, scores)


@pytree
@dataclass(frozen=True)
class ForcedBos:
    """Makes `token_id` the first token behind the start token."""

    token_id: ArrayLike

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        forced = jnp.where(_is(self.token_id, scores), jnp.float32(0), -jnp.inf)
        return jnp.where(context.position == 0, forced, scores)


@pytree
@dataclass(frozen=True)
class ForcedEos:
    """Makes one of token_ids [N] the last token of a text that reaches `max_new_tokens`."""

    token_ids: ArrayLike
    max_new_tokens: ArrayLike
    ends_in_time: ClassVar[bool] = True

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        forced = jnp.where(_among(self.token_ids, scores), jnp.float32(0), -jnp.inf)
        return jnp.where(context.position == self.max_new_tokens - 1, forced, scores)


@pytree
@dataclass(frozen=True)
class RemoveInvalidValues:
    """nan becomes 0, infinities the largest and smallest finite numbers."""

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        return jnp.nan_to_num(scores)


@pytree
@dataclass(frozen=True)
class ExponentialDecayLength:
    """Raises the score s of the end token by |s| * (factor ** n - 1), n being the tokens written past `start`."""

    start: ArrayLike
    factor: ArrayLike
    end: ArrayLike

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        past = context.position - self.start
        written = jnp.arange(context.token_ids.shape[-1])
        growth = jnp.where(written < past, self.factor, jnp.float32(1)).prod()  # XLA's pow is off by 1e-6
        raised = scores + jnp.abs(scores) * (growth - 1)
        return jnp.where((past > 0) & _is(self.end, scores) & jnp.isfinite(scores), raised, scores)


@pytree
@dataclass(frozen=True)
class SuppressTokens:
    """Forbids token_ids [N]."""

    token_ids: ArrayLike

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        return jnp.where(_among(self.token_ids, scores), -jnp.inf, scores)


@pytree
@dataclass(frozen=True)
class BeginSuppress:
    """Forbids token_ids [N] where the first free token stands: behind the start token, `begin` = 0, or behind a forced
    one, `begin` = 1."""

    token_ids: ArrayLike
    begin: ArrayLike = 0

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        return jnp.where((context.position == self.begin) & _among(self.token_ids, scores), -jnp.inf, scores)


@pytree
@dataclass(frozen=True)
class Normalize:
    """Log-probabilities again, after others have changed them."""

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        possible = scores.max(axis=-1, keepdims=True) > -jnp.inf  # any token at all
        return jnp.where(possible, jax.nn.log_softmax(scores, axis=-1), scores)


def _rows(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Indices of the axes B and K beside an index [B, K, …] of the last one."""
    return jnp.arange(scores.shape[0])[:, None, None], jnp.arange(scores.shape[1])[None, :, None]


def _is(token: ArrayLike, scores: jax.Array) -> jax.Array:
    """[1, 1, V] bool. Compared, not scattered, so that it fuses with what comes next."""
    return (jnp.arange(scores.shape[-1]) == token)[None, None, :]


def _among(token_ids: ArrayLike, scores: jax.Array) -> jax.Array:
    """[1, 1, V] bool."""
    return jnp.zeros(scores.shape[-1], bool).at[token_ids].set(True)[None, None, :]
