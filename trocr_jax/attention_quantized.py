"""Matrix products with weights in a byte, int8 or float8, and a scale for what they say.

In int8 a weight w[d, f] is stored as the integer nearest to w[d, f] / scale[f], with scale[f] = max over d of
|w[d, f]| / 127: symmetric, so that no zero point has to be carried along. In float8 (e4m3fn: 4 bits of exponent, 3 of
mantissa; Micikevicius et al. 2022, "FP8 Formats for Deep Learning") it is the nearest number of that type to
w[d, f] / scale, with one scale for the matrix, which is all that the fp8 units of a GPU apply by themselves: the least
power of two, so that it rounds nothing, by which no weight is beyond 448, the largest number of the type. Three forms
of the product:

- int8 on a CPU: both factors are integers (`rows_and_weights`): each row of x is brought to -127 … 127 by its own
  largest value when it comes, as LLM.int8() does (Dettmers et al. 2022, section 2.1), and sums are exact in int32;
- float8 on a GPU with fp8 units, in bf16 or f16: both factors are float8 (`both_float8`);
- otherwise, and for images of many rows on a CPU that multiplies bf16 faster than int8, the weights alone are
  (`weights_alone`): widened on their way to the multiplication, in `dtype` or there in bf16, with scaled sums.

Which is faster where is in benchmarks/README.md.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from trocr_jax.attention_rows import LARGEST, round_rows
from trocr_jax.attention_turned import times_turned

Kind = Literal["int8", "float8"]
DTYPES: dict[Kind, str] = {"int8": "int8", "float8": "float8_e4m3fn"}
LARGEST_FLOAT8 = 448
# Activations are multiplied by it before they become float8: 3 bits of mantissa from 1/256 to 112, steps of 1/2048
# below, cut off above. Behind a norm, a gelu or an average of values most are between 0.01 and 10.
ACTIVATION_SCALE = 4
FP8_UNITS = 8.9  # of GPUs, the least compute capability with them
# XLA's CPU backend (jax 0.10.2) multiplies 8 rows of 4096 with [4096, 1024] in 0.80 ms, in four parts in 0.29; 32 rows
# in 1.13 and 0.68; 1,154 rows in 22.7 and 25.2.
FEW_ROWS, BLOCK = 128, 1024
MANY_ROWS = 64  # of one image, whatever stands beside it: those of an encoder, not the hypotheses of a decoder's step
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # of x86 and, the last, of ARM
TILES_FLAG = "amx_int8"  # of x86: units that multiply tiles of integers, twice as fast as those of bf16


def round_channels(weights: jax.Array, *, channels: int, kind: Kind = "int8") -> tuple[jax.Array, jax.Array]:
    """weights [..., output axes], of which the last `channels` are output axes -> the same in int8, and the scale
    [output axes] f32; or in float8, and the scale [] of them all. Where all is zero the scale is 1."""
    wide = weights.astype(jnp.float32)
    if kind == "float8":
        mantissa, exponent = jnp.frexp(jnp.max(jnp.abs(wide)) / np.float32(LARGEST_FLOAT8))
        exponent = jnp.where(mantissa == 0.5, exponent - 1, exponent)  # mantissa is 0, or from 0.5 to 1
        scale = jnp.ldexp(jnp.float32(1), exponent)
        return (wide / scale).astype(DTYPES[kind]), scale
    inputs = tuple(range(wide.ndim - channels))
    largest = jnp.max(jnp.abs(wide), axis=inputs, keepdims=True)
    scale = jnp.where(largest > 0, largest / np.float32(LARGEST), np.float32(1))
    return jnp.round(wide / scale).astype(DTYPES[kind]), scale.reshape(wide.shape[wide.ndim - channels :])


def widened(weights: jax.Array, scale: jax.Array, *, dtype: DTypeLike) -> jax.Array:
    """What weights in a byte [..., output axes] of scale [output axes] or [] stand for, in `dtype`."""
    leading = (1,) * (weights.ndim - scale.ndim)
    return (weights.astype(jnp.float32) * scale.reshape(leading + scale.shape)).astype(dtype)


def product(
    x: jax.Array, weights: jax.Array, scale: jax.Array, *, dtype: DTypeLike, out: DTypeLike, turned: bool = False
) -> jax.Array:
    """x [B, T, D], weights [D, F] in a byte, scale [F] or [] -> [B, T, F] in `out`, in f32 instead of f16, in the form
    that suits the platform and the compute type `dtype`. turned: weights are [F, D]."""
    if jnp.dtype(out) == jnp.float16:
        out = jnp.float32  # a sum may be a thousand times as large as it is with its scale
    if weights.dtype == jnp.float8_e4m3fn and jnp.dtype(dtype).itemsize == 2 and multiplies_float8():
        return both_float8(x, weights, scale, out=out)
    return jax.lax.platform_dependent(
        x,
        weights,
        scale,
        cpu=partial(_on_cpu, dtype=dtype, out=out, turned=turned),
        default=partial(weights_alone, dtype=dtype, out=out, turned=turned),
    )


def _on_cpu(
    x: jax.Array, weights: jax.Array, scale: jax.Array, *, dtype: DTypeLike, out: DTypeLike, turned: bool
) -> jax.Array:
    integers, in_bf16 = weights.dtype == jnp.int8, jnp.dtype(dtype) == jnp.bfloat16
    if x.shape[0] * x.shape[1] == 1 and (integers or in_bf16):
        return two_rows(partial(_on_cpu, weights=weights, scale=scale, dtype=dtype, out=out, turned=turned), x)
    in_tiles = integers and multiplies_tiles()
    if x.shape[1] >= MANY_ROWS and (in_bf16 or multiplies_bf16()) and not in_tiles:
        return weights_alone(x, weights, scale, dtype=jnp.bfloat16, out=out, turned=turned)
    if not integers:
        return weights_alone(x, weights, scale, dtype=dtype, out=out, turned=turned)
    return rows_and_weights(x, weights, scale, out=out, turned=turned)


def two_rows(product: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """The product with x [1, …], a single row, as one of two. With a single one of bf16 or int8 XLA's CPU backend (jax
    0.10.2) has no matrix product, but a loop that takes as long as one with two, or up to ten times as long."""
    return product(jnp.concatenate((x, x)))[:1]


def multiplies_bf16() -> bool:
    """Whether this machine's CPU has instructions for it. False where Linux does not say so."""
    return not BF16_FLAGS.isdisjoint(cpu_flags())


def multiplies_tiles() -> bool:
    """Whether this machine's CPU has units for matrices of integers. False where Linux does not say so."""
    return TILES_FLAG in cpu_flags()


@cache
def cpu_flags() -> frozenset[str]:
    """What this machine's CPU can do, in Linux's words; nothing where it does not say so."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith(("flags", "Features"))), "").split())


@cache
def compute_capability() -> float:
    """NVIDIA's number of what jax's default devices can do; 0 if they are no GPUs of theirs."""
    if jax.default_backend() != "gpu":
        return 0.0
    try:
        return float(jax.devices()[0].compute_capability)
    except ValueError:  # of AMD's, "gfx…"
        return 0.0


def multiplies_float8() -> bool:
    """Whether jax's default devices are GPUs with units for it: Ada and Hopper are the first."""
    return compute_capability() >= FP8_UNITS


def weights_alone(
    x: jax.Array, weights: jax.Array, scale: jax.Array, *, dtype: DTypeLike, out: DTypeLike, turned: bool = False
) -> jax.Array:
    """The product in `dtype`, which holds every weight exactly, accumulated in f32."""
    precision = jax.lax.Precision.HIGHEST if jnp.dtype(dtype) == jnp.float32 else jax.lax.Precision.DEFAULT
    spec = "BTD,FD->BTF" if turned else "BTD,DF->BTF"
    y = jnp.einsum(spec, x.astype(dtype), weights.astype(dtype), precision=precision, preferred_element_type=out)
    return (y.astype(jnp.float32) * (scale[None, None, :] if scale.ndim else scale)).astype(out)


def both_float8(x: jax.Array, weights: jax.Array, scale: jax.Array, *, out: DTypeLike) -> jax.Array:
    """The product of float8 factors, accumulated in f32, scale []. Each number is rounded by itself, so that a row
    depends on no other. XLA's GPU backend makes it, a bias and a residual one call of cuBLASLt."""
    x = jnp.clip(x.astype(jnp.float32) * ACTIVATION_SCALE, -LARGEST_FLOAT8, LARGEST_FLOAT8).astype(weights.dtype)
    y = jnp.einsum("BTD,DF->BTF", x, weights, preferred_element_type=out)
    return y * (scale / ACTIVATION_SCALE).astype(out)


def rows_and_weights(
    x: jax.Array, weights: jax.Array, scale: jax.Array, *, out: DTypeLike, turned: bool = False
) -> jax.Array:
    """The product of integers: a row depends on no other, and not on the order of summation."""
    b, t, d = x.shape
    integers, own = round_rows(x)
    integers = integers.reshape(b * t, d)
    y = times_turned(integers, weights, out=jnp.int32) if turned else _sums(integers, weights)
    y = y.reshape(b, t, -1)
    return (y.astype(jnp.float32) * own[:, :, None] * scale[None, None, :]).astype(out)


def _sums(x: jax.Array, weights: jax.Array) -> jax.Array:
    """x [A, D] int8, weights [D, F] int8 -> [A, F] int32."""
    (a, d), f = x.shape, weights.shape[1]
    if a > FEW_ROWS or d <= BLOCK or d % BLOCK:
        return jnp.einsum("AD,DF->AF", x, weights, preferred_element_type=jnp.int32)
    x, weights = x.reshape(a, d // BLOCK, BLOCK), weights.reshape(d // BLOCK, BLOCK, f)
    return jnp.einsum("APD,PDF->PAF", x, weights, preferred_element_type=jnp.int32).sum(axis=0)  # P parts of D
