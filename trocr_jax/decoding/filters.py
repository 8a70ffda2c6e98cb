"""Filters for sampling: which tokens may be drawn at all. The others get -inf.

Each gives the result of the class of transformers 5.23 (generation/logits_process.py) that its name recalls. Where a
threshold falls among equal scores all of them are kept; transformers keeps some of them, in the order of its sort. A
sort of V = 50,265 scores takes 26 ms a row on one CPU core: thresholds are found by bisection instead, in 0.7 ms.
`min_tokens_to_keep` likeliest tokens are kept in any case: 2 for beams, where one may be the end token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from trocr_jax.decoding.pytree import pytree
from trocr_jax.decoding.types import Context

STATIC = {"static": True}


@pytree
@dataclass(frozen=True)
class Temperature:
    """scores / temperature."""

    temperature: ArrayLike

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        return scores / self.temperature


@pytree
@dataclass(frozen=True)
class TopK:
    """Keeps the `top_k` largest scores. `at_most` is static, `top_k` any number up to it: `top_k` makes both."""

    top_k: ArrayLike
    at_most: int = field(metadata=STATIC)

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        most = min(self.at_most, scores.shape[-1])
        largest, _ = jax.lax.top_k(scores, most)
        threshold = jnp.take(largest, jnp.minimum(self.top_k, most) - 1, axis=-1)
        return jnp.where(scores >= threshold[..., None], scores, -jnp.inf)


def top_k(k: int, *, min_tokens_to_keep: int = 1) -> TopK:
    """Keeps the k largest scores. Compiles anew only past 64 and each power of two: the partial sort of 64 costs next
    to nothing more than one of fewer."""
    k = max(k, min_tokens_to_keep)
    return TopK(k, at_most=max(64, 1 << (k - 1).bit_length()))


@pytree
@dataclass(frozen=True)
class TopP:
    """Keeps the likeliest tokens that are needed for a probability of `top_p` together (nucleus sampling)."""

    top_p: ArrayLike
    min_tokens_to_keep: int = field(default=1, metadata=STATIC)

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        probs = jax.nn.softmax(scores, axis=-1)
        removed = _largest(lambda t: _mass_up_to(t, probs, probs) <= 1 - self.top_p, scores.shape[:-1])
        keep = (probs > removed[..., None]) | (scores >= _kth_largest(scores, self.min_tokens_to_keep))
        return jnp.where(keep, scores, -jnp.inf)


@pytree
@dataclass(frozen=True)
class MinP:
    """Keeps tokens at least `min_p` times as likely as the likeliest."""

    min_p: ArrayLike
    min_tokens_to_keep: int = field(default=1, metadata=STATIC)

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        probs = jax.nn.softmax(scores, axis=-1)
        likely = probs >= self.min_p * probs.max(axis=-1, keepdims=True)
        return jnp.where(likely | (scores >= _kth_largest(scores, self.min_tokens_to_keep)), scores, -jnp.inf)


@pytree
@dataclass(frozen=True)
class Typical:
    """Keeps the tokens whose surprise is nearest to the entropy, as many as have a probability of `mass` together
    (https://arxiv.org/abs/2202.00666)."""

    mass: ArrayLike
    min_tokens_to_keep: int = field(default=1, metadata=STATIC)

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        log_probs = jax.nn.log_softmax(scores, axis=-1)
        probs = jnp.exp(log_probs)
        distance = jnp.abs(-log_probs - _entropy(probs, log_probs)[..., None])  # >= 0, inf for forbidden tokens
        short = _largest(lambda t: _mass_up_to(t, distance, probs) < self.mass, scores.shape[:-1])
        threshold = jnp.where(distance > short[..., None], distance, jnp.inf).min(axis=-1, keepdims=True)
        keep = (distance <= threshold) | (distance <= -_kth_largest(-distance, self.min_tokens_to_keep))
        return jnp.where(keep, scores, -jnp.inf)


@pytree
@dataclass(frozen=True)
class EpsilonCutoff:
    """Keeps tokens with a probability of at least `epsilon` (https://arxiv.org/abs/2210.15191)."""

    epsilon: ArrayLike
    min_tokens_to_keep: int = field(default=1, metadata=STATIC)

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        likely = jax.nn.softmax(scores, axis=-1) >= self.epsilon
        return jnp.where(likely | (scores >= _kth_largest(scores, self.min_tokens_to_keep)), scores, -jnp.inf)


@pytree
@dataclass(frozen=True)
class EtaCutoff:
    """Keeps tokens with a probability of at least min(epsilon, sqrt(epsilon) * exp(-entropy))
    (https://arxiv.org/abs/2210.15191)."""

    epsilon: ArrayLike
    min_tokens_to_keep: int = field(default=1, metadata=STATIC)

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        log_probs = jax.nn.log_softmax(scores, axis=-1)
        probs = jnp.exp(log_probs)
        eta = jnp.minimum(self.epsilon, jnp.sqrt(self.epsilon) * jnp.exp(-_entropy(probs, log_probs)))
        likely = probs >= eta[..., None]
        return jnp.where(likely | (scores >= _kth_largest(scores, self.min_tokens_to_keep)), scores, -jnp.inf)


def _entropy(probs: jax.Array, log_probs: jax.Array) -> jax.Array:
    """[..., V] -> [...] nats; 0 * -inf counts as 0."""
    return -jnp.where(probs > 0, probs * log_probs, jnp.float32(0)).sum(axis=-1)


def _kth_largest(scores: jax.Array, k: int) -> jax.Array:
    """[..., V] -> [..., 1]; of fewer than k the smallest."""
    if k == 1:
        return scores.max(axis=-1, keepdims=True)
    return jax.lax.top_k(scores, min(k, scores.shape[-1]))[0][..., -1:]


def _mass_up_to(threshold: jax.Array, keys: jax.Array, probs: jax.Array) -> jax.Array:
    """The probability [...] of all tokens whose key [..., V] is at most threshold [...]."""
    return jnp.where(keys <= threshold[..., None], probs, jnp.float32(0)).sum(axis=-1)


def _largest(holds: Callable[[jax.Array], jax.Array], shape: tuple[int, ...]) -> jax.Array:
    """The largest number t >= 0 [*shape] f32 for which `holds(t)`, which has to hold at 0 and to be monotone."""

    def narrow(i: jax.Array, bits: jax.Array) -> jax.Array:  # the bits of floats >= 0 have the order of the floats
        candidate = bits | (jnp.int32(1) << (30 - i))
        return jnp.where(holds(jax.lax.bitcast_convert_type(candidate, jnp.float32)), candidate, bits)

    bits = jax.lax.fori_loop(0, 31, narrow, jnp.zeros(shape, jnp.int32))
    return jax.lax.bitcast_convert_type(bits, jnp.float32)
