"""What cross-attention reads, computed once for a whole search and never changed: `KeyColumns`, the keys and values of
the memory, or the memory itself, by XLA's products (`Absorbed`) or by a kernel (`OnePass`, `OnePassHopper`). All give
the same numbers but for rounding; generation_plan.py chooses.

B batch, K hypotheses of one image, S memory, M width of the memory, D width, N heads, H head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from trocr_jax import attention_quantized
from trocr_jax.attention import Attention, HeadProjection, attend, einsum, handed_on, softmax
from trocr_jax.attention_rows import Int8Rows, Kept, held, numbers, round_rows, scaled, widened
from trocr_jax.kernels import cross_attention_hopper
from trocr_jax.kernels.cross_attention import read_memory


class KeyValue(NamedTuple):
    """Keys and values of one layer: [B, N, S, H] of a memory, [B, N, L K, H] of a self-attention cache."""

    key: Kept
    value: Kept

    def read(self, query: jax.Array, *, dtype: DTypeLike) -> jax.Array:
        """query [B, N, K, H] -> [B, N, K, H]."""
        return attend(query, self.key, self.value, dtype=dtype)


class KeyColumns(NamedTuple):
    """The same of a memory with keys [B, N, H, S], for many reads: the order that XLA's CPU backend multiplies in. It
    would bring the others into it whenever a program begins, which for one that takes few steps is not seldom."""

    key: Kept
    value: Kept

    def read(self, query: jax.Array, *, dtype: DTypeLike) -> jax.Array:
        """query [B, N, K, H] -> [B, N, K, H]."""
        key, query = held(self.key, query)
        value, query = held(self.value, query)
        query = query.astype(jnp.float32) * np.float32(query.shape[-1] ** -0.5)
        scores = scaled(einsum("BNKH,BNHS->BNKS", query, numbers(key), dtype=dtype), key)
        weights = scaled(softmax(scores), value)
        return einsum("BNKS,BNSH->BNKH", weights, numbers(value), dtype=dtype).astype(dtype)


class Absorbed(NamedTuple):
    """The memory of the images and the two projections of one layer, heads first.

    With keys m Wₖ + bₖ the score of a query q is q (m Wₖ + bₖ)ᵀ = (q Wₖᵀ) mᵀ + q bₖᵀ, and the last term is the same
    for every m: softmax leaves it out. Likewise the weights, which sum to 1, may be applied to the memory before Wᵥ and
    bᵥ are. So queries are brought to the width of the memory and nothing is kept for the layer.

    Products are in the type of the memory, or in that of the projections if it is in int8: on a CPU that multiplies
    bf16 that is bf16 beside int8 weights.
    """

    memory: Kept  # [B, S, M], one for all layers
    key: jax.Array  # [N, H, M]
    value: jax.Array  # [N, M, H]
    value_bias: jax.Array  # [N, H]

    def read(self, query: jax.Array, *, dtype: DTypeLike) -> jax.Array:
        """query [B, N, K, H] -> [B, N, K, H]."""
        memory, query = held(self.memory, query)
        b, n, k, _ = query.shape
        m, inner = memory.shape[2], self.key.dtype if isinstance(memory, Int8Rows) else memory.dtype
        query = _absorbed_query(query, self.key, dtype=inner)
        # Heads next to the width: a TPU would spread few hypotheses over a tile, and copy it to take it apart.
        query = query.transpose(1, 0, 2).reshape(b, k * n, m)  # R = K * N rows an image
        scores = scaled(_scores(query, numbers(memory), dtype=inner), memory)
        weights = scaled(softmax(scores), memory)
        x = einsum("BRS,BSM->BRM", weights, numbers(memory), dtype=inner, out=handed_on(inner)).astype(inner)
        x = x.reshape(b * k, n, m).transpose(1, 0, 2)
        return _values(x, self.value, self.value_bias, batch=b, dtype=inner).astype(dtype)


class OnePass(NamedTuple):
    """The same, scores, softmax and weighted sum of the memory in one kernel (`kernels.cross_attention`)."""

    memory: Kept  # [B, S, M], one for all layers
    key: jax.Array  # [N, H, M]
    value: jax.Array  # [N, M, H]
    value_bias: jax.Array  # [N, H]

    def read(self, query: jax.Array, *, dtype: DTypeLike) -> jax.Array:
        """query [B, N, K, H] -> [B, N, K, H]."""
        x = read_memory(_absorbed_query(query, self.key, dtype=dtype), widened(self.memory, dtype=dtype))
        return _values(x, self.value, self.value_bias, batch=len(query), dtype=dtype)


@partial(
    jax.tree_util.register_dataclass, data_fields=("memory", "key", "value", "value_bias"), meta_fields=("length",)
)
@dataclass(frozen=True)
class OnePassHopper:
    """The same on a Hopper GPU (`kernels.cross_attention_hopper`). memory: padded to S', of which `length` count."""

    memory: jax.Array  # [B, S', M], one for all layers
    key: jax.Array  # [N, H, M]
    value: jax.Array  # [N, M, H]
    value_bias: jax.Array  # [N, H]
    length: int

    def read(self, query: jax.Array, *, dtype: DTypeLike) -> jax.Array:
        """query [B, N, K, H] -> [B, N, K, H]."""
        b, n, k, _ = query.shape
        query = _absorbed_query(query, self.key, dtype=dtype)
        query = query.transpose(1, 0, 2).reshape(b, k * n, -1)  # R = K * N rows an image
        x = cross_attention_hopper.read_memory(query, self.memory, self.length)
        x = x.reshape(b * k, n, -1).transpose(1, 0, 2)
        return _values(x, self.value, self.value_bias, batch=b, dtype=dtype).astype(dtype)


def on_hopper(cross: Sequence[Absorbed]) -> tuple[OnePassHopper, ...]:
    """The layers of a search for that kernel, one padded memory for all."""
    memory = widened(cross[0].memory, dtype=cross[0].key.dtype)
    length = memory.shape[1]
    padded = jnp.pad(memory, ((0, 0), (0, -length % cross_attention_hopper.ALIGNMENT), (0, 0)))
    return tuple(OnePassHopper(padded, layer.key, layer.value, layer.value_bias, length) for layer in cross)


def _scores(query: jax.Array, memory: jax.Array, *, dtype: DTypeLike) -> jax.Array:
    """query [B, R, M], memory [B, S, M] -> [B, R, S]."""

    def columns(query: jax.Array, memory: jax.Array) -> jax.Array:
        scores = einsum("BSM,BRM->BSR", memory, query, dtype=dtype)
        return jax.lax.optimization_barrier(scores).transpose(0, 2, 1)

    rows = partial(_turned, "BRM,BSM->BRS", dtype=dtype)
    if jnp.dtype(dtype) == jnp.bfloat16:
        return rows(query, memory)
    return jax.lax.platform_dependent(query, memory, cpu=columns, default=rows)


def _absorbed_query(query: jax.Array, key: jax.Array, *, dtype: DTypeLike) -> jax.Array:
    """query [B, N, K, H], key [N, H, M] -> [N, A, M] with A = B * K, scaled."""
    b, n, k, h = query.shape
    query = (query.astype(jnp.float32) * np.float32(h**-0.5)).transpose(1, 0, 2, 3).reshape(n, b * k, h)
    return _turned("NAH,NHM->NAM", query, key, dtype=dtype, out=handed_on(dtype)).astype(dtype)


def _values(x: jax.Array, value: jax.Array, bias: jax.Array, *, batch: int, dtype: DTypeLike) -> jax.Array:
    """x [N, A, M], value [N, M, H], bias [N, H] -> [B, N, K, H]."""
    x = _turned("NAM,NMH->NAH", x, value, dtype=dtype) + bias.astype(jnp.float32)[:, None, :]
    n, _, h = x.shape
    return x.astype(dtype).reshape(n, batch, -1, h).transpose(1, 0, 2, 3)


def _turned(spec: str, x: jax.Array, y: jax.Array, *, dtype: DTypeLike, out: DTypeLike = jnp.float32) -> jax.Array:
    """The einsum of x [G, R, D], which was turned round to come, and y [G, …] -> [G, R, F]."""
    plain = partial(einsum, spec, dtype=dtype, out=out)
    if jnp.dtype(dtype) != jnp.bfloat16:
        return plain(x, y)

    def row_more(x: jax.Array, y: jax.Array) -> jax.Array:
        # Else XLA's CPU backend (jax 0.10.2) has the product do the turning, and makes one in f32 of such a product.
        return plain(jnp.pad(x, ((0, 0), (0, 1), (0, 0))), y)[:, :-1]

    return jax.lax.platform_dependent(x, y, cpu=row_more, default=plain)


Cross = tuple[KeyColumns | Absorbed | OnePass | OnePassHopper, ...]  # one entry a layer, read-only


def prime(attention: Attention, memory: jax.Array, *, dtype: DTypeLike) -> KeyValue:
    """memory [B, S, M] -> keys and values [B, N, S, H] of one layer."""
    return KeyValue(attention.key(memory, dtype=dtype), attention.value(memory, dtype=dtype))


def prime_columns(attention: Attention, memory: jax.Array, *, dtype: DTypeLike) -> KeyColumns:
    """memory [B, S, M] -> keys [B, N, H, S] and values [B, N, S, H] of one layer."""
    key, value = (project(memory, dtype=dtype) for project in (attention.key, attention.value))
    return KeyColumns(key.transpose(0, 1, 3, 2), value)


def prime_rounded(attention: Attention, memory: jax.Array, *, dtype: DTypeLike) -> KeyColumns:
    """The same in int8, a scale for each key and value of a head."""
    key, value = (project(memory, dtype=dtype) for project in (attention.key, attention.value))
    return KeyColumns(round_rows(key.transpose(0, 1, 3, 2), axis=2), round_rows(value))


def absorb(attention: Attention, memory: Kept, *, dtype: DTypeLike) -> Absorbed:
    """memory [B, S, M] -> itself, beside the projections of one layer."""
    value, bias = attention.value, attention.value.bias
    beside_rounded = value.kernel_scale is not None
    if beside_rounded and jax.default_backend() == "cpu" and attention_quantized.multiplies_bf16():
        dtype = jnp.bfloat16
    return Absorbed(
        memory=memory if isinstance(memory, Int8Rows) else memory.astype(dtype),
        key=_kernel(attention.key, dtype=dtype).transpose(1, 2, 0),
        value=_kernel(value, dtype=dtype).transpose(1, 0, 2),
        value_bias=jnp.zeros(value.kernel.shape[1:], dtype) if bias is None else bias[...],
    )


def _kernel(projection: HeadProjection, *, dtype: DTypeLike) -> jax.Array:
    """[M, N, H] in `dtype`: once for a whole search, so that weights in a byte are not widened at every token."""
    kernel, scale = projection.kernel[...], projection.kernel_scale
    return kernel.astype(dtype) if scale is None else attention_quantized.widened(kernel, scale[...], dtype=dtype)
