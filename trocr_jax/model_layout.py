"""A model whose weights lie as the machine that reads with it wants them.

A CPU with tiles (Intel's AMX) reads a decoder's wide matrices up to four times as fast if they lie turned round
(`attention_turned`). Other CPUs were not measured, and accelerators lay out their weights themselves.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from typing import Any

import jax
from flax import nnx

from trocr_jax.attention import HeadProjection, Linear, OutProjection
from trocr_jax.attention_quantized import multiplies_tiles
from trocr_jax.model import TrOCR

WIDE = 1024  # both sides of a matrix that is turned; those of 256 are read as fast as they are


class Layout:
    """`as_read_here`, made once for a model; what was made of another one is let go at the next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrays: list[weakref.ref[jax.Array]] = []
        self._structure: Any = None
        self._made: TrOCR | None = None

    def of(self, model: TrOCR) -> TrOCR:
        if not is_turned_here(model):
            return model
        arrays, structure = jax.tree.flatten(model)
        with self._lock:
            known = len(arrays) == len(self._arrays) and structure == self._structure
            if not known or any(ref() is not array for ref, array in zip(self._arrays, arrays, strict=True)):
                self._made = None  # of another model, or before it was trained
                self._made, self._structure = turned(model), structure
                self._arrays = [weakref.ref(array) for array in arrays]
            assert self._made is not None
            return self._made


def as_read_here(model: TrOCR) -> TrOCR:
    """The model as jax's default device reads it fastest: itself, or a copy (`turned`), to read with, and not to be
    saved or quantised."""
    return turned(model) if is_turned_here(model) else model


def is_turned_here(model: TrOCR) -> bool:
    """Whether jax's default device is a CPU with tiles, and the decoder wide."""
    sides = (model.config.decoder.hidden_size, model.config.decoder.intermediate_size)
    return jax.default_backend() == "cpu" and multiplies_tiles() and min(sides) >= WIDE


def turned(model: TrOCR) -> TrOCR:
    """A copy whose decoder's kernels have their output axes in front; the other arrays are shared."""
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
