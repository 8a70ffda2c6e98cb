"""Products with a matrix that lies turned round, [F, D] instead of [D, F], with the weights of an output side by side.

XLA's CPU backend (jax 0.10.2) reads a matrix [D, F] in columns of 64 numbers, so that for few rows each number D is at
another place of the memory, and the product waits for it. Which form takes how long is in benchmarks/README.md.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

WEIGHTS_FIRST = {"float32": 64, "bfloat16": 48, "int8": 48}
"""Up to how many rows the weights are the first factor."""


def weights_first(rows: int, dtype: DTypeLike) -> bool:
    """Whether so many rows are multiplied faster as the second factor."""
    return rows <= WEIGHTS_FIRST.get(jnp.dtype(dtype).name, 0)


def times_turned(x: jax.Array, weights: jax.Array, *, out: DTypeLike) -> jax.Array:
    """x [A, D] and weights [F, D] of one type, floats or int8 -> [A, F] in `out`."""
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    if not weights_first(len(x), x.dtype):
        return jnp.einsum("AD,FD->AF", x, weights, precision=precision, preferred_element_type=out)
    y = jnp.einsum("FD,AD->FA", weights, x, precision=precision, preferred_element_type=out)
    # Otherwise XLA turns the result by changing the places of the factors.
    return jax.lax.optimization_barrier(y).T
