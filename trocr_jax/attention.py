"""The arithmetic that image and text Transformer share: projections, layer norm, attention, activations.

Modules hold parameters and nothing else; the compute type `dtype` is an argument of every call.
Matrix products accumulate in f32; softmax, layer norm and activations are computed in f32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from trocr_jax import attention_quantized
from trocr_jax.attention_rows import Int8Rows, Kept, numbers, scaled
from trocr_jax.attention_turned import times_turned

BATCH_AXES = ("data", "fsdp")  # the axes of a mesh that share out a batch: trocr_jax.sharding
MASKED = -1e30  # finite: a row whose every score is masked stays a number


@partial(jax.custom_vjp, nondiff_argnums=(0, 3, 4))
def _einsum(spec: str, x: jax.Array, y: jax.Array, dtype: DTypeLike, out: DTypeLike) -> jax.Array:
    # TPUs and recent GPUs round the factors of an f32 product unless told otherwise.
    precision = jax.lax.Precision.HIGHEST if jnp.dtype(dtype) == jnp.float32 else jax.lax.Precision.DEFAULT
    return jnp.einsum(spec, x.astype(dtype), y.astype(dtype), precision=precision, preferred_element_type=out)


def _einsum_forward(
    spec: str, x: jax.Array, y: jax.Array, dtype: DTypeLike, out: DTypeLike
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _einsum(spec, x, y, dtype, out), (x, y)


def _einsum_backward(
    spec: str, dtype: DTypeLike, out: DTypeLike, saved: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    # The rule jax would derive multiplies the f32 cotangent: products of f32 where the forward pass had `dtype`.
    (x, y), (factors, z_axes) = saved, spec.split("->")
    x_axes, y_axes = factors.split(",")
    dx = _einsum(f"{z_axes},{y_axes}->{x_axes}", g, y, dtype, handed_on(x.dtype))
    dy = _einsum(f"{x_axes},{z_axes}->{y_axes}", x, g, dtype, handed_on(y.dtype))
    return dx.astype(x.dtype), dy.astype(y.dtype)


_einsum.defvjp(_einsum_forward, _einsum_backward)


def einsum(spec: str, x: jax.Array, y: jax.Array, *, dtype: DTypeLike, out: DTypeLike = jnp.float32) -> jax.Array:
    """Einsum of two arrays cast to `dtype`, accumulated in f32 and returned in `out`; its gradients are products in
    `dtype` too.

    Every letter of a factor must stand in the other factor or in the result; no ellipsis.
    """
    return _einsum(spec, x, y, dtype, out)


def handed_on(dtype: DTypeLike) -> DTypeLike:
    """The type in which a product leaves its kernel when what follows wants `dtype`. XLA's GPU backend does not round
    inside a matrix product: results in f32 would be written and read at twice the traffic. Elsewhere it does."""
    return dtype if jax.default_backend() == "gpu" else jnp.float32


def by_rows(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """A function of the last axis of x [..., D] -> [..., D]. With several axes in front of it XLA's GPU backend takes
    rows that lie far apart for a block, and twice the time; there they are one axis, but where devices share out heads:
    of such an axis each would need all."""
    if jax.default_backend() != "gpu" or devices_of_heads() > 1:
        return function(x)
    return function(x.reshape(-1, x.shape[-1])).reshape(x.shape)


def softmax(x: jax.Array) -> jax.Array:
    """Of f32, over the last axis."""
    return by_rows(jax.nn.softmax, x)


def gelu(x: jax.Array) -> jax.Array:
    """x Φ(x) with the exact Gaussian distribution function (not the tanh form that is jax's default), in f32.

    By erf, as torch has it: `jax.nn.gelu` goes by erfc, which takes XLA's CPU backend nine times as long. Of many
    rows [B, T, F] in bf16, such as an encoder's, by `gelu_for_bf16` elsewhere, where erf takes longer than the memory
    or the products.
    """
    if x.dtype == jnp.bfloat16 and x.ndim > 1 and x.shape[-2] >= attention_quantized.MANY_ROWS:
        return jax.lax.platform_dependent(x, cpu=_gelu_by_erf, default=gelu_for_bf16)
    return _gelu_by_erf(x)


def _gelu_by_erf(x: jax.Array) -> jax.Array:
    y = x.astype(jnp.float32)
    return (0.5 * y * (1 + jax.lax.erf(y * np.float32(math.sqrt(0.5))))).astype(x.dtype)


LOGIT_OF_GAUSS = (1.594965, 7.379704e-2, -5.371138e-4, -2.685888e-5, 9.388264e-7)
"""Of powers of x²: their sum times x is log(Φ(x) / (1 - Φ(x))), fitted so that `gelu_for_bf16` is x Φ(x) within 2.1e-4
(|x Φ(x)| + 2⁻⁹); bf16 rounds up to 3.9e-3."""


def gelu_for_bf16(x: jax.Array) -> jax.Array:
    """x / (1 + exp(-x p(x²))): x Φ(x) by the logistic function: one exponential and one division."""
    y = x.astype(jnp.float32)
    square = y * y
    *others, highest = LOGIT_OF_GAUSS
    p = jnp.full_like(y, highest)
    for coefficient in reversed(others):
        p = p * square + np.float32(coefficient)
    return (y * jax.lax.logistic(y * p)).astype(x.dtype)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {"gelu": gelu, "relu": jax.nn.relu}


def project(
    x: jax.Array, kernel: jax.Array, scale: jax.Array | None, *, dtype: DTypeLike, turned: bool = False
) -> jax.Array:
    """x [B, T, D], kernel [D, F] -> [B, T, F]. scale: of the output channels of a rounded kernel, in any shape of F
    numbers, or [] of all of them; none of a kernel of floats. turned: the kernel is [F, D]."""
    if scale is not None:
        scale = scale.reshape(-1) if scale.ndim else scale
        return attention_quantized.product(x, kernel, scale, dtype=dtype, out=handed_on(dtype), turned=turned)

    def plain(x: jax.Array) -> jax.Array:
        if not turned:
            return einsum("BTD,DF->BTF", x, kernel, dtype=dtype, out=handed_on(dtype))
        rows = x.astype(dtype).reshape(-1, x.shape[-1])
        return times_turned(rows, kernel.astype(dtype), out=handed_on(dtype)).reshape(*x.shape[:2], -1)

    if x.shape[0] * x.shape[1] > 1 or jnp.dtype(dtype) != jnp.bfloat16:
        return plain(x)
    return jax.lax.platform_dependent(x, cpu=partial(attention_quantized.two_rows, plain), default=plain)


class Linear(nnx.Module):
    """x kernel + bias. kernel [D_in, D_out], bias [D_out]; an int8 kernel has a kernel_scale [D_out], in float8 [].
    turned: the kernel's output axes are its first ones, here and in the other projections (`model_layout`)."""

    kernel_scale: nnx.Param | None = None
    turned: bool = False

    def __init__(self, d_in: int, d_out: int, *, rngs: nnx.Rngs, param_dtype: DTypeLike) -> None:
        self.kernel = nnx.Param(normal(rngs, (d_in, d_out), param_dtype))
        self.bias = nnx.Param(jnp.zeros((d_out,), param_dtype))

    def __call__(self, x: jax.Array, *, dtype: DTypeLike) -> jax.Array:
        """x [B, T, D_in] -> [B, T, D_out]."""
        y = project(x, self.kernel[...], value_of(self.kernel_scale), dtype=dtype, turned=self.turned)
        return (y + self.bias[...].astype(y.dtype)[None, None, :]).astype(dtype)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis, mean and variance in two passes in f32. scale, bias [D]."""

    def __init__(self, d: int, *, eps: float, param_dtype: DTypeLike) -> None:
        self.eps = eps
        self.scale = nnx.Param(jnp.ones((d,), param_dtype))
        self.bias = nnx.Param(jnp.zeros((d,), param_dtype))

    def __call__(self, x: jax.Array, *, dtype: DTypeLike) -> jax.Array:
        def normalized(x: jax.Array) -> jax.Array:
            x = x.astype(jnp.float32)
            x = x - x.mean(axis=-1, keepdims=True)
            x = x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + self.eps)
            x = x * _broadcast(self.scale[...], x.ndim) + _broadcast(self.bias[...], x.ndim)
            return x.astype(dtype)

        return by_rows(normalized, x)


class HeadProjection(nnx.Module):
    """Width to heads: kernel [D, N, H], bias [N, H] or none; an int8 kernel has a kernel_scale [N, H], in float8 []."""

    kernel_scale: nnx.Param | None = None
    turned: bool = False

    def __init__(
        self, d: int, heads: int, head_dim: int, *, bias: bool, rngs: nnx.Rngs, param_dtype: DTypeLike
    ) -> None:
        self.kernel = nnx.Param(normal(rngs, (d, heads, head_dim), param_dtype))
        self.bias = nnx.Param(jnp.zeros((heads, head_dim), param_dtype)) if bias else None

    def __call__(self, x: jax.Array, *, dtype: DTypeLike) -> jax.Array:
        """x [B, T, D] -> [B, N, T, H]: heads in front of positions, the layout that attention reads."""
        heads, head_dim = self.kernel.shape[:2] if self.turned else self.kernel.shape[1:]
        # One matrix to multiply with: for a product with two axes of heads XLA's CPU backend has only a slow loop.
        kernel = self.kernel[...].reshape((-1, x.shape[-1]) if self.turned else (x.shape[-1], -1))
        y = project(x, kernel, value_of(self.kernel_scale), dtype=dtype, turned=self.turned)
        if self.bias is not None:
            y = y.astype(jnp.float32) + _broadcast(self.bias[...].reshape(-1), 3)
        return y.astype(dtype).reshape(*x.shape[:2], heads, head_dim).transpose(0, 2, 1, 3)


class OutProjection(nnx.Module):
    """Heads to width: kernel [N, H, D], bias [D]; an int8 kernel has a kernel_scale [D], a float8 one []."""

    kernel_scale: nnx.Param | None = None
    turned: bool = False

    def __init__(self, heads: int, head_dim: int, d: int, *, rngs: nnx.Rngs, param_dtype: DTypeLike) -> None:
        self.kernel = nnx.Param(normal(rngs, (heads, head_dim, d), param_dtype))
        self.bias = nnx.Param(jnp.zeros((d,), param_dtype))

    def __call__(self, x: jax.Array, *, dtype: DTypeLike) -> jax.Array:
        """x [B, N, T, H] -> [B, T, D]."""
        b, heads, t, head_dim = x.shape
        x = x.transpose(0, 2, 1, 3).reshape(b, t, heads * head_dim)
        kernel = self.kernel[...].reshape((-1, x.shape[-1]) if self.turned else (x.shape[-1], -1))
        y = project(x, kernel, value_of(self.kernel_scale), dtype=dtype, turned=self.turned)
        return (y + self.bias[...].astype(y.dtype)[None, None, :]).astype(dtype)


class Attention(nnx.Module):
    """The four projections of multi-head attention. `width` is the width of queries and output, `memory_width` of
    what keys and values are made from; bias: of queries and values."""

    relative_position_bias_table: nnx.Param  # of BEiT alone, whose encoder sets it

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        memory_width: int | None = None,
        bias: bool = True,
        key_bias: bool = True,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike,
    ) -> None:
        head_dim = width // heads
        memory_width = memory_width or width
        self.query = HeadProjection(width, heads, head_dim, bias=bias, rngs=rngs, param_dtype=param_dtype)
        self.key = HeadProjection(memory_width, heads, head_dim, bias=key_bias, rngs=rngs, param_dtype=param_dtype)
        self.value = HeadProjection(memory_width, heads, head_dim, bias=bias, rngs=rngs, param_dtype=param_dtype)
        self.out = OutProjection(heads, head_dim, width, rngs=rngs, param_dtype=param_dtype)


CUDNN_ATTENTION = 8.0
"""Compute capability from which cuDNN has it: Ampere."""


def attend(query: jax.Array, key: Kept, value: Kept, *, bias: jax.Array | None = None, dtype: DTypeLike) -> jax.Array:
    """softmax(query keyᵀ / √H + bias) value (Vaswani et al. 2017, eq. 1).

    query [B, N, T, H], key and value [B, N, S, H], bias broadcastable to [B, N, T, S] -> [B, N, T, H].
    On a GPU, in bf16 or f16, without a bias and with many queries by cuDNN, which keeps the scores on the
    chip (as Dao et al. 2022); otherwise scores [B, N, T, S] are written to memory.
    """
    plain = partial(_attend, bias=bias, dtype=dtype)
    if isinstance(key, Int8Rows) or isinstance(value, Int8Rows):  # of few queries
        return plain(query, key, value)
    if bias is None and on_chip(query, dtype=dtype):
        heads_last = (x.astype(dtype).transpose(0, 2, 1, 3) for x in (query, key, value))  # [B, T or S, N, H]
        return _by_heads(_fused)(*heads_last).transpose(0, 2, 1, 3)
    if jnp.dtype(dtype) != jnp.bfloat16 or query.shape[2] < attention_quantized.MANY_ROWS:
        return plain(query, key, value)
    return jax.lax.platform_dependent(query, key, value, cpu=partial(_in_one_axis, bias=bias), default=plain)


def attend_beside_quantized(
    query: jax.Array, key: jax.Array, value: jax.Array, *, bias: jax.Array | None = None, dtype: DTypeLike
) -> jax.Array:
    """`attend` between projections with weights in a byte: its products are in bf16 where theirs are
    (`attention_quantized`)."""
    plain = partial(attend, bias=bias, dtype=dtype)
    if query.shape[2] < attention_quantized.MANY_ROWS or not attention_quantized.multiplies_bf16():
        return plain(query, key, value)

    def in_bf16(*arrays: jax.Array) -> jax.Array:
        return _in_one_axis(*arrays, bias=bias).astype(dtype)

    return jax.lax.platform_dependent(query, key, value, cpu=in_bf16, default=plain)


def _attend(query: jax.Array, key: Kept, value: Kept, *, bias: jax.Array | None, dtype: DTypeLike) -> jax.Array:
    scale = np.float32(query.shape[-1] ** -0.5)
    scores = scaled(einsum("BNTH,BNSH->BNTS", query.astype(jnp.float32) * scale, numbers(key), dtype=dtype), key)
    if bias is not None:
        scores = scores + bias
    weights = scaled(softmax(scores), value)
    return einsum("BNTS,BNSH->BNTH", weights, numbers(value), dtype=dtype, out=handed_on(dtype)).astype(dtype)


def _in_one_axis(query: jax.Array, key: jax.Array, value: jax.Array, *, bias: jax.Array | None) -> jax.Array:
    """The same in bf16 with images and heads in one axis: of products with two, whose heads were brought there from
    behind the positions, XLA's CPU backend (jax 0.10.2) makes products in f32."""
    together = (x.reshape(1, -1, *x.shape[2:]) for x in (query, key, value))
    if bias is not None:
        bias = jnp.broadcast_to(bias, (*query.shape[:2], *bias.shape[2:])).reshape(1, -1, *bias.shape[2:])
    return _attend(*together, bias=bias, dtype=jnp.bfloat16).reshape(query.shape)


def on_chip(query: jax.Array, *, dtype: DTypeLike) -> bool:
    """Whether cuDNN's attention takes queries [B, N, T, H] and is the faster one (benchmarks/README.md)."""
    _, n, t, head_dim = query.shape
    half = jnp.dtype(dtype) in (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))
    has_kernel = attention_quantized.compute_capability() >= CUDNN_ATTENTION and n % devices_of_heads() == 0
    return has_kernel and half and t >= 128 and head_dim <= 128 and head_dim % 8 == 0


def devices_of_heads() -> int:
    """How many devices share out the heads of a layer by the axis `model` of the ambient mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty or "model" in mesh.manual_axes else int(mesh.shape.get("model", 1))


def _by_heads(attention: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Attention [B, T, N, H], [B, S, N, H] twice -> [B, T, N, H] with each device at its own heads. cuDNN's, which
    shares itself out, asks for a mesh that jax does not know within another `shard_map` (jax 0.10.2)."""
    if devices_of_heads() == 1 or not jax.sharding.get_abstract_mesh().manual_axes:
        return attention
    heads = PartitionSpec(None, None, "model")
    return jax.shard_map(attention, in_specs=heads, out_specs=heads, axis_names={"model"}, check_vma=False)


@jax.custom_vjp
def _fused(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """cuDNN's attention, heads behind positions: [B, T, N, H], [B, S, N, H] twice -> [B, T, N, H]."""
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")


def _fused_even(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """The same with one position more where their number is odd, which cuDNN's gradient does not take."""
    (b, t), s = query.shape[:2], key.shape[1]
    if t % 2 == 0 and s % 2 == 0:
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    even = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value))
    out = jax.nn.dot_product_attention(
        *even,
        query_seq_lengths=jnp.full((b,), t, jnp.int32),
        key_value_seq_lengths=jnp.full((b,), s, jnp.int32),
        implementation="cudnn",
    )
    return out[:, :t]


_fused.defvjp(lambda *arrays: jax.vjp(_fused_even, *arrays), lambda gradients_of, g: gradients_of(g))


def constrain_batch(x: jax.Array) -> jax.Array:
    """x [B, …] shared out over the batch axes of the ambient mesh and whole in its other axes, so that XLA moves the
    parameters of a block to its activations and not the other way round. Without such a mesh it is x itself."""
    mesh = jax.sharding.get_abstract_mesh()
    if not set(BATCH_AXES) <= set(mesh.axis_names) or set(mesh.manual_axes) == set(mesh.axis_names):
        return x
    axes = tuple(name for name in BATCH_AXES if name not in mesh.manual_axes)  # x is of a device's own share of these
    if x.shape[0] % math.prod(mesh.shape[name] for name in axes):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes))


def value_of(parameter: nnx.Param | None) -> jax.Array | None:
    return None if parameter is None else parameter[...]


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    """Initial weights: normal with deviation 0.02, as ViT, RoBERTa and TrOCR are initialised."""
    return (jax.random.normal(rngs.params(), shape, jnp.float32) * np.float32(0.02)).astype(dtype)


def _broadcast(parameter: jax.Array, ndim: int) -> jax.Array:
    return parameter.astype(jnp.float32).reshape((1,) * (ndim - 1) + (-1,))
