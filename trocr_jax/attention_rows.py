"""What a search keeps of images and texts in int8: memory, keys and values, with a number for each row.

A row x of H numbers (a key or a value of one head, or what the memory says of one patch) is stored as the integers
nearest to x / scale with scale = max |x| / 127, as `attention_quantized` stores the output channels of weights. A
product needs no row brought back to its scale: scores are multiplied by the scales of the keys, and weights by those of
the values. Integers become `dtype`, which holds every one of them, on their way to the multiplication.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

LARGEST = 127  # -128 is left out: it has no counterpart


class Int8Rows(NamedTuple):
    """Rows in int8. scale: of each, f32, in the shape of `integers` without the axis along which a row lies."""

    integers: jax.Array
    scale: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.integers.shape


Kept = jax.Array | Int8Rows  # as floats or rounded


def round_rows(x: jax.Array, *, axis: int = -1) -> Int8Rows:
    """x whose rows lie along `axis`. A row of zeros has scale 0."""
    x = x.astype(jnp.float32)
    largest = jnp.max(jnp.abs(x), axis=axis, keepdims=True)
    integers = jnp.round(x * jnp.where(largest > 0, np.float32(LARGEST) / largest, np.float32(0))).astype(jnp.int8)
    return Int8Rows(integers, (largest / np.float32(LARGEST)).squeeze(axis))


def empty_rows(shape: tuple[int, ...], dtype: DTypeLike) -> Kept:
    """Zeros in `dtype`, rounded rows if that is int8. Rows lie along the last axis."""
    if jnp.dtype(dtype) == jnp.int8:
        return Int8Rows(jnp.zeros(shape, jnp.int8), jnp.zeros(shape[:-1], jnp.float32))
    return jnp.zeros(shape, dtype)


def numbers(rows: Kept) -> jax.Array:
    """What is multiplied: rows of floats as they are, integers without their scale."""
    return rows.integers if isinstance(rows, Int8Rows) else rows


def scaled(x: jax.Array, rows: Kept) -> jax.Array:
    """Scores or weights x [..., T, S] f32 of S rows times the scales [..., S] of these."""
    return x * jnp.expand_dims(rows.scale, -2) if isinstance(rows, Int8Rows) else x


def widened(rows: Kept, *, dtype: DTypeLike) -> jax.Array:
    """What rows along the last axis stand for."""
    if isinstance(rows, Int8Rows):
        return (rows.integers.astype(jnp.float32) * rows.scale[..., None]).astype(dtype)
    return rows.astype(dtype)


def held(rows: Kept, query: jax.Array) -> tuple[Kept, jax.Array]:
    """Both unchanged. XLA would widen rows that do not change in a loop once for all of its turns, and those that
    several layers read once for all of them, and keep them so: here they come when a query does."""
    return jax.lax.optimization_barrier((rows, query)) if isinstance(rows, Int8Rows) else (rows, query)
