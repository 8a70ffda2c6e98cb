"""Where the largest of many scores stand."""

from __future__ import annotations

import jax
import jax.numpy as jnp

BLOCK = 128


def top_k_indices(x: jax.Array, k: int) -> jax.Array:
    """Where the k largest of each row of x [B, C] stand, largest first: [B, k] int32. Of equal ones the first comes
    first, on a GPU any."""
    if x.shape[1] < BLOCK * k:
        return in_rows(x, k)
    return jax.lax.platform_dependent(x, cuda=lambda x: in_blocks(x, k), default=lambda x: in_rows(x, k))


def top_k_of_images(x: jax.Array, k: int, *, rows: int) -> jax.Array:
    """Where the k largest of each image stand among its rows: x [B * rows, V] -> [B, k] int32, counted along rows * V,
    in the order of `top_k_indices`."""

    def at_once(x: jax.Array) -> jax.Array:
        return top_k_indices(x.reshape(-1, rows * x.shape[1]), k)

    return jax.lax.platform_dependent(x, tpu=lambda x: row_by_row(x, k, rows=rows), default=at_once)


def row_by_row(x: jax.Array, k: int, *, rows: int) -> jax.Array:
    """By looking through each row and then among the largest of an image's rows. A TPU copies all scores before it
    looks at the rows of an image as one."""
    v = x.shape[1]
    most = min(k, v)
    inside = in_rows(x, most)  # [B * rows, most]
    largest = jnp.take_along_axis(x, inside, axis=1).reshape(-1, rows * most)
    found = in_rows(largest, k)
    return found // most * v + jnp.take_along_axis(inside.reshape(-1, rows * most), found, axis=1)


def in_rows(x: jax.Array, k: int) -> jax.Array:
    """By looking through whole rows."""
    return jax.lax.top_k(x, k)[1]


def in_blocks(x: jax.Array, k: int) -> jax.Array:
    """By looking through the k blocks of each row with the largest maxima, among which the k largest are. A GPU is
    four times as fast so with 200,000 scores a row (benchmarks/README.md)."""
    b, c = x.shape
    count = -(-c // BLOCK)
    x = jnp.pad(x, ((0, 0), (0, count * BLOCK - c)), constant_values=-jnp.inf).reshape(b, count, BLOCK)
    _, blocks = jax.lax.top_k(x.max(axis=-1), k)  # [B, k]
    places = (blocks[:, :, None] * BLOCK + jnp.arange(BLOCK)[None, None, :]).reshape(b, k * BLOCK)
    largest = jnp.take_along_axis(x, blocks[:, :, None], axis=1).reshape(b, k * BLOCK)
    found = jnp.take_along_axis(places, in_rows(largest, k), axis=1)
    # Where fewer than k are above -inf padding may be found; then one of those that are not is there too.
    smallest = jnp.argmin(jnp.where(places < c, largest, jnp.inf), axis=1, keepdims=True)
    return jnp.where(found < c, found, jnp.take_along_axis(places, smallest, axis=1))
