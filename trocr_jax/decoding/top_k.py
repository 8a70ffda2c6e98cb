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
    inside = in_rows(jnp.take_along_axis(x, blocks[:, :, None], axis=1).reshape(b, k * BLOCK), k)
    return jnp.take_along_axis(blocks, inside // BLOCK, axis=1) * BLOCK + inside % BLOCK
