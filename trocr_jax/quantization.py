"""A model with matrices in int8 or float8: rounded from one with floats, and back.

Rounded are the kernels of the projections and MLPs of encoder and decoder, in int8 with a scale for each output
channel, in float8 with one (`attention_quantized`). Narrow ones are kept, which are small and where a rounded number
counts for more; the table of tokens and the head, of which every error is an error of a logit, become bfloat16; norms,
biases, positions and the patch embedding stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from trocr_jax.attention import HeadProjection, Linear, OutProjection
from trocr_jax.attention_quantized import DTYPES, Kind, round_channels, widened
from trocr_jax.errors import ConfigError
from trocr_jax.model import TrOCR

SCALE = "_scale"  # behind the name of a kernel: that of its scale
NARROW = 384  # by default a matrix is narrow below it, or below the wider of the model's two widths if that is less
HEAD_DTYPE = "bfloat16"  # XLA's CPU backend multiplies it with f32 only after widening the whole table


def quantize(model: TrOCR, *, kind: Kind = "int8", min_width: int | None = None) -> TrOCR:
    """A copy of `model` with kernels of that kind where both sides of a matrix are at least `min_width`, by default
    `NARROW`.

    Raises ConfigError if the model has such kernels already or lies turned round, no matrix is that wide, or there is
    no such kind.
    """
    if kind not in DTYPES:
        raise ConfigError(f"kind is {kind!r}: give {' or '.join(map(repr, DTYPES))}")
    check_layout(model)
    if is_quantized(model):
        raise ConfigError("the model is quantised already: start from the one it was made from")
    widest = max(model.config.encoder.hidden_size, model.config.decoder.hidden_size)
    least = min(NARROW, widest) if min_width is None else min_width
    names = [name for name, layer in _layers(model) if min(_sides(layer)) >= least]
    if not names:
        raise ConfigError(f"no matrix of the model is {least} wide: give a --min-width of at most {widest}")

    def kernel(layer: _Layer) -> None:
        rounded, scale = round_channels(layer.kernel[...], channels=_channels(layer), kind=kind)
        layer.kernel, layer.kernel_scale = nnx.Param(rounded), nnx.Param(scale)

    def table(array: jax.Array) -> jax.Array:
        return array.astype(HEAD_DTYPE) if array.dtype.itemsize > 2 else array

    return _changed(model, names, kernel, table, HEAD_DTYPE)


def dequantize(model: TrOCR, *, dtype: DTypeLike = jnp.float32) -> TrOCR:
    """A copy of `model` with float parameters of `dtype`: what its kernels stand for. Raises ConfigError that names
    each parameter with values too large for it."""
    check_layout(model)
    names = [name for name, layer in _layers(model) if layer.kernel_scale is not None]

    def kernel(layer: _Layer) -> None:
        assert layer.kernel_scale is not None
        layer.kernel = nnx.Param(widened(layer.kernel[...], layer.kernel_scale[...], dtype=dtype))
        del layer.kernel_scale

    graph, state = nnx.split(_changed(model, names, kernel, lambda array: array, None))
    state = jax.tree.map(lambda array: array.astype(dtype), state)
    counts = {".".join(map(str, path)): int(jnp.isinf(value[...]).sum()) for path, value in nnx.to_flat_state(state)}
    if bad := [f"{name} holds {count}" for name, count in counts.items() if count]:
        raise ConfigError(f"values too large for {jnp.dtype(dtype)}: {', '.join(bad)}")
    return nnx.merge(graph, state)


def empty_kernels(model: TrOCR, names: Collection[str], dtype: DTypeLike) -> TrOCR:
    """`model` with the kernels of those paths zero and of `dtype`: the structure to load a quantised model into."""

    def kernel(layer: _Layer) -> None:
        shape = layer.kernel.shape
        layer.kernel = nnx.Param(jnp.zeros(shape, dtype))
        channels = shape[len(shape) - _channels(layer) :] if jnp.dtype(dtype) == jnp.int8 else ()
        layer.kernel_scale = nnx.Param(jnp.zeros(channels, jnp.float32))

    return _changed(model, names, kernel, lambda array: array, HEAD_DTYPE if names else None)


def is_quantized(model: TrOCR) -> bool:
    """Whether any matrix is in int8 or float8."""
    return kind_of(model) is not None


def kind_of(model: TrOCR) -> Kind | None:
    """Of a quantised model's kernels."""
    dtypes = (layer.kernel[...].dtype for _, layer in _layers(model) if layer.kernel_scale is not None)
    found = next(dtypes, None)
    return next((kind for kind, dtype in DTYPES.items() if found == jnp.dtype(dtype)), None)


_Layer = Linear | HeadProjection | OutProjection


def _layers(model: Any) -> Iterator[tuple[str, _Layer]]:
    for path, module in nnx.iter_modules(model):
        if isinstance(module, _Layer):
            yield ".".join(map(str, path)), module


def check_layout(model: TrOCR) -> None:
    """Raises ConfigError for a model that is only there to be read with."""
    if any(layer.turned for _, layer in _layers(model)):
        raise ConfigError("the weights lie turned round (model_layout): give the model that this one was made from")


def _channels(layer: _Layer) -> int:
    """Output axes of a kernel, its last ones."""
    return 2 if isinstance(layer, HeadProjection) else 1


def _sides(layer: _Layer) -> tuple[int, int]:
    """Of the kernel as a matrix."""
    shape, channels = layer.kernel.shape, _channels(layer)
    return math.prod(shape[: len(shape) - channels]), math.prod(shape[len(shape) - channels :])


def _changed(
    model: TrOCR,
    names: Collection[str],
    kernel: Callable[[_Layer], None],
    table: Callable[[jax.Array], jax.Array],
    head_dtype: str | None,
) -> TrOCR:
    """A copy whose layers of those paths and whose tables were changed; arrays that stay are shared."""
    copy = nnx.merge(*nnx.split(model))
    for name, layer in _layers(copy):
        if name in names:
            kernel(layer)
    decoder = copy.decoder
    decoder.embed_tokens = nnx.Param(table(decoder.embed_tokens[...]))
    if not decoder.config.tie_word_embeddings:
        decoder.output_projection = nnx.Param(table(decoder.output_projection[...]))
    decoder.head_dtype = head_dtype
    return copy
