"""A model whose weights lie as the machine that reads with it wants them.

A CPU with tiles (Intel's AMX) reads a decoder's wide matrices up to five times as fast if they lie turned round
(`attention_turned`). Other CPUs were not measured, and accelerators lay out their weights themselves.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
from flax import nnx

from trocr_jax.attention import HeadProjection, Linear, OutProjection
from trocr_jax.attention_quantized import multiplies_tiles
from trocr_jax.model import TrOCR

WIDE = 1024  # both sides of a matrix that is turned; those of 256 are read as fast as they are


class Layout:
    """`as_read_here`, made once for the arrays of a model; what was made of others before is let go."""

    def __init__(self) -> None:
        self._made: tuple[list[jax.Array], TrOCR] | None = None

    def of(self, model: TrOCR) -> TrOCR:
        if not reads_turned():
            return model
        arrays, made = jax.tree.leaves(model), self._made
        if made is None or list(map(id, made[0])) != list(map(id, arrays)):  # another model, or trained meanwhile
            self._made = None
            self._made = made = (arrays, turned(model))
        return made[1]


def as_read_here(model: TrOCR) -> TrOCR:
    """The model as jax's default device reads it fastest: itself, or a copy (`turned`)."""
    return turned(model) if reads_turned() else model


def reads_turned() -> bool:
    """Whether jax's default device is a CPU with tiles."""
    return jax.default_backend() == "cpu" and multiplies_tiles()


def turned(model: TrOCR) -> TrOCR:
    """A copy whose decoder's kernels, if they are wide, have their output axes in front; the other arrays are shared.
    Itself, if none are to be turned."""
    if min(model.config.decoder.hidden_size, model.config.decoder.intermediate_size) < WIDE:
        return model
    copy = nnx.merge(*nnx.split(model))
    for projection in _of_a_step(copy):
        kernel = projection.kernel[...]
        if kernel.dtype == "float8_e4m3fn" or projection.turned:
            continue
        axes, outputs = range(kernel.ndim), 2 if isinstance(projection, HeadProjection) else 1
        projection.kernel = nnx.Param(kernel.transpose(*axes[-outputs:], *axes[:-outputs]))
        projection.turned = True
    return copy


def _of_a_step(model: TrOCR) -> Iterator[Linear | HeadProjection | OutProjection]:
    """What a step of the decoder multiplies with: not keys and values of cross-attention, which are made once."""
    for layer in model.decoder.layers:
        own, cross = layer.self_attention, layer.cross_attention
        yield from (own.query, own.key, own.value, own.out, cross.query, cross.out, layer.fc1, layer.fc2)
