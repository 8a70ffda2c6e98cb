"""The image Transformer: ViT (Dosovitskiy et al. 2021), DeiT with its distillation token (Touvron et al. 2021) and
BEiT (Bao et al. 2022). Pre-norm blocks.

B batch; H height, W width and C channels of the pixels; S memory (special tokens and patches), D width, N heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from trocr_jax.attention import (
    ACTIVATIONS,
    Attention,
    LayerNorm,
    Linear,
    attend,
    attend_beside_quantized,
    constrain_batch,
    einsum,
    handed_on,
    normal,
)
from trocr_jax.config import EncoderConfig
from trocr_jax.errors import ImageError

# Bytes that the scores of a layer may take, by platform or kind of device (benchmarks/README.md). On 2 cores with 32
# MiB of shared cache base is fastest with 2 images at a time, small with 4, large with 1. As their compiler estimates,
# TPUs with little bandwidth for what they compute (v5e, v6e) are fastest with 4 images of base or large, v5p with all.
SCORES_BYTES = {"cpu": 32 << 20, "TPU v5 lite": 96 << 20, "TPU v6 lite": 96 << 20}
SCORES_BYTES |= {"TPU v5e": 96 << 20, "TPU v6e": 96 << 20}  # as other versions of libtpu call the same

Found = TypeVar("Found")  # a pytree of arrays [B, …]


class Encoder(nnx.Module):
    """Pixels to memory."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs, param_dtype: DTypeLike = jnp.float32) -> None:
        d = config.hidden_size
        self.config = config
        self.patch_embedding = PatchEmbedding(config, rngs=rngs, param_dtype=param_dtype)
        self.cls_token = nnx.Param(normal(rngs, (1, 1, d), param_dtype))
        if config.kind == "deit":
            self.distillation_token = nnx.Param(normal(rngs, (1, 1, d), param_dtype))
        if config.absolute_positions:
            self.position_embeddings = nnx.Param(normal(rngs, (1, config.memory_length, d), param_dtype))
        if config.shared_relative_position_bias:
            self.relative_position_bias_table = nnx.Param(_bias_table(config, param_dtype))
        self.layers = nnx.List(
            [EncoderLayer(config, rngs=rngs, param_dtype=param_dtype) for _ in range(config.num_layers)]
        )
        self.norm = LayerNorm(d, eps=config.layer_norm_eps, param_dtype=param_dtype) if config.final_norm else None

    def __call__(self, pixels: jax.Array, *, dtype: DTypeLike = jnp.float32, remat: bool = False) -> jax.Array:
        """pixels [B, H, W, C] -> memory [B, S, D] in `dtype`. With `remat` the backward pass computes each layer again
        and keeps only what goes into it: the same numbers in less memory.

        An image size other than the configuration's gets bicubically interpolated position embeddings.
        Raises ImageError for pixels that are no floats [B, H, W, C], for a size that is no multiple of the patch size,
        and for one that differs where the positions are relative.
        """
        grid = self._grid(pixels)
        x = self.patch_embedding(pixels, dtype=dtype)
        tokens = [self.cls_token[...]]
        if self.config.kind == "deit":
            tokens.append(self.distillation_token[...])
        tokens = [jnp.broadcast_to(t.astype(dtype), (x.shape[0], 1, x.shape[2])) for t in tokens]
        x = jnp.concatenate([*tokens, x], axis=1)  # [B, S, D]
        if self.config.absolute_positions:
            x = (x.astype(jnp.float32) + self._positions(grid)).astype(dtype)
        shared_bias = None
        if self.config.shared_relative_position_bias:
            shared_bias = relative_position_bias(self.relative_position_bias_table[...], grid)
        for layer in self.layers:
            call = partial(layer, bias=shared_bias, dtype=dtype)
            x = jax.checkpoint(call)(x) if remat else call(x)
        return x if self.norm is None else self.norm(x, dtype=dtype)

    def _grid(self, pixels: jax.Array) -> tuple[int, int]:
        """Rows and columns of patches. Raises ImageError as `__call__` says."""
        if pixels.ndim != 4:
            raise ImageError(f"pixels are {list(pixels.shape)}: give [B, H, W, {self.config.num_channels}]")
        (_, height, width, channels), (ph, pw) = pixels.shape, self.config.patch_size
        if not jnp.issubdtype(pixels.dtype, jnp.floating):
            raise ImageError(
                f"pixels are {pixels.dtype}: the model reads floats in [-1, 1]; give uint8 together with the "
                "image_processor that scales it"
            )
        if channels != self.config.num_channels:
            first = ": channels come last here, [B, H, W, C]" * (pixels.shape[1] == self.config.num_channels)
            raise ImageError(f"pixels have {channels} channels; the model reads {self.config.num_channels}{first}")
        if height % ph or width % pw:
            raise ImageError(f"pixels are {height}x{width}: not a multiple of the patch size {ph}x{pw}")
        grid = (height // ph, width // pw)
        relative = self.config.relative_position_bias or self.config.shared_relative_position_bias
        if relative and grid != self.config.grid:
            raise ImageError(
                f"pixels are {height}x{width}: an encoder with relative positions reads {self.config.image_size} only"
            )
        return grid

    def _positions(self, grid: tuple[int, int]) -> jax.Array:
        """Position embeddings [1, S, D] f32 of a grid of patches, interpolated if it is not the configuration's."""
        table = self.position_embeddings[...].astype(jnp.float32)  # [1, S, D]
        if grid == self.config.grid:
            return table
        special, patches = jnp.split(table, [self.config.num_special_tokens], axis=1)
        patches = patches.reshape(*self.config.grid, -1)  # [rows, columns, D]
        rows = bicubic_weights(self.config.grid[0], grid[0])
        columns = bicubic_weights(self.config.grid[1], grid[1])
        patches = einsum("hr,rcD->hcD", jnp.asarray(rows), patches, dtype=jnp.float32)
        patches = einsum("wc,hcD->hwD", jnp.asarray(columns), patches, dtype=jnp.float32)
        return jnp.concatenate([special, patches.reshape(1, grid[0] * grid[1], -1)], axis=1)


def in_micro_batches(read: Callable[[jax.Array], Found], pixels: jax.Array, size: int) -> Found:
    """read(pixels), leaves [B, …], of pixels [B, …]. `size` images, a divisor of B, go through all layers before
    the next ones begin: the same numbers in the memory of a few images."""
    if size == len(pixels):
        return read(pixels)
    parts = pixels.reshape(-1, size, *pixels.shape[1:])
    found: Found = jax.lax.map(read, parts)
    return jax.tree.map(lambda leaf: leaf.reshape(len(pixels), *leaf.shape[2:]), found)


def cached_micro_batch(config: EncoderConfig, batch: int, scores_bytes: int) -> int:
    """How many of `batch` images go through the encoder at a time, so that the scores of a layer, [B, N, S, S] f32,
    take at most `scores_bytes` and stay on the chip: a divisor of `batch`, at least 1; all of them for 0 bytes."""
    if not scores_bytes:
        return batch
    scores = 4 * config.num_heads * config.memory_length**2
    most = max(scores_bytes // scores, 1)
    return math.gcd(batch, 2 ** (most.bit_length() - 1)) if most < batch else batch


class PatchEmbedding(nnx.Module):
    """A convolution whose stride is its size. kernel [ph, pw, C, D], bias [D]."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs, param_dtype: DTypeLike) -> None:
        shape = (*config.patch_size, config.num_channels, config.hidden_size)
        self.kernel = nnx.Param(normal(rngs, shape, param_dtype))
        self.bias = nnx.Param(jnp.zeros((config.hidden_size,), param_dtype))

    def __call__(self, pixels: jax.Array, *, dtype: DTypeLike) -> jax.Array:
        """[B, H, W, C] -> [B, rows * columns, D]."""
        kernel = self.kernel[...]
        ph, pw, c, d = kernel.shape
        b, height, width, _ = pixels.shape
        rows, columns = height // ph, width // pw
        x = pixels.reshape(b, rows, ph, columns, pw, c).transpose(0, 1, 3, 2, 4, 5)  # [B, rows, columns, ph, pw, C]
        x = x.reshape(b, rows * columns, ph * pw * c)  # [B, S, P]: P numbers a patch; here S are patches alone
        x = einsum("BSP,PD->BSD", x, kernel.reshape(ph * pw * c, d), dtype=dtype, out=handed_on(dtype))
        return (x.astype(jnp.float32) + self.bias[...].astype(jnp.float32)[None, None, :]).astype(dtype)


class EncoderLayer(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); BEiT scales both branches per channel."""

    def __init__(self, config: EncoderConfig, *, rngs: nnx.Rngs, param_dtype: DTypeLike) -> None:
        d, eps = config.hidden_size, config.layer_norm_eps
        self.config = config
        self.norm_before = LayerNorm(d, eps=eps, param_dtype=param_dtype)
        self.attention = Attention(
            d,
            config.num_heads,
            bias=config.qkv_bias,
            key_bias=config.qkv_bias and config.kind != "beit",
            rngs=rngs,
            param_dtype=param_dtype,
        )
        if config.relative_position_bias:
            self.attention.relative_position_bias_table = nnx.Param(_bias_table(config, param_dtype))
        self.norm_after = LayerNorm(d, eps=eps, param_dtype=param_dtype)
        self.fc1 = Linear(d, config.intermediate_size, rngs=rngs, param_dtype=param_dtype)
        self.fc2 = Linear(config.intermediate_size, d, rngs=rngs, param_dtype=param_dtype)
        if config.layer_scale:
            self.lambda_1 = nnx.Param(jnp.full((d,), 0.1, param_dtype))
            self.lambda_2 = nnx.Param(jnp.full((d,), 0.1, param_dtype))

    def __call__(self, x: jax.Array, *, bias: jax.Array | None, dtype: DTypeLike) -> jax.Array:
        """x [B, S, D], bias [1, N, S, S] or none -> [B, S, D]."""
        a = self.attention
        if self.config.relative_position_bias:
            own = relative_position_bias(a.relative_position_bias_table[...], self.config.grid)
            bias = own if bias is None else bias + own
        x = constrain_batch(x)
        y = self.norm_before(x, dtype=dtype)
        attention = attend if a.query.kernel_scale is None else attend_beside_quantized
        # Queries, keys and values are [B, N, S, H], H the width of a head; so is what attention gives.
        y = attention(a.query(y, dtype=dtype), a.key(y, dtype=dtype), a.value(y, dtype=dtype), bias=bias, dtype=dtype)
        y = a.out(y, dtype=dtype)  # [B, S, D]
        x = x + (y * self.lambda_1[...].astype(dtype)[None, None, :] if self.config.layer_scale else y)
        y = self.norm_after(x, dtype=dtype)
        y = ACTIVATIONS[self.config.activation](self.fc1(y, dtype=dtype))
        y = self.fc2(y, dtype=dtype)
        return x + (y * self.lambda_2[...].astype(dtype)[None, None, :] if self.config.layer_scale else y)


def bicubic_weights(size_in: int, size_out: int) -> np.ndarray:
    """Matrix [size_out, size_in] of one axis of a bicubic resize with half-pixel centres (align_corners=False),
    border pixels repeated and no antialiasing: torch.nn.functional.interpolate(mode="bicubic").
    Kernel of Keys (1981) with a = -0.75."""
    a = -0.75
    weights = np.zeros((size_out, size_in), np.float64)
    for row in range(size_out):
        centre = (row + 0.5) * size_in / size_out - 0.5
        first = int(np.floor(centre)) - 1
        for tap in range(first, first + 4):
            x = abs(centre - tap)
            if x <= 1:
                w = ((a + 2) * x - (a + 3)) * x * x + 1
            else:
                w = a * (((x - 5) * x + 8) * x - 4)
            weights[row, min(max(tap, 0), size_in - 1)] += w
    return weights.astype(np.float32)


def bilinear_weights(size_in: int, size_out: int) -> np.ndarray:
    """Matrix [size_out, size_in] of one axis of a bilinear resize with half-pixel centres, border pixels repeated and
    no antialiasing: torch.nn.functional.interpolate(mode="bilinear")."""
    centres = np.maximum((np.arange(size_out) + 0.5) * size_in / size_out - 0.5, 0)
    first = np.floor(centres).astype(int)
    weights = np.zeros((size_out, size_in))
    rows = np.arange(size_out)
    np.add.at(weights, (rows, first), 1 - (centres - first))
    np.add.at(weights, (rows, np.minimum(first + 1, size_in - 1)), centres - first)
    return weights.astype(np.float32)


def relative_position_bias(table: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """BEiT's attention bias. table [(2·rows-1)(2·columns-1)+3, N] -> [1, N, S, S]; the last three entries are
    CLS to patch, patch to CLS and CLS to CLS."""
    table = _as_in_transformers(table.astype(jnp.float32), grid)
    index = relative_position_index(grid)
    bias = table[index.reshape(-1)].reshape(*index.shape, -1)  # [S, S, N]
    return bias.transpose(2, 0, 1)[None]


def _as_in_transformers(table: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """The table [(2·rows-1)(2·columns-1)+3, N] as transformers uses it, in training too: it takes the rows of the grid
    for columns, which changes nothing in a square, and stretches the result to the shape that it should have."""
    rows, columns = (2 * n - 1 for n in grid)
    if rows == columns:
        return table
    between = table[:-3].reshape(columns, rows, -1)
    between = einsum("hr,rcN->hcN", jnp.asarray(bilinear_weights(columns, rows)), between, dtype=jnp.float32)
    between = einsum("wc,hcN->hwN", jnp.asarray(bilinear_weights(rows, columns)), between, dtype=jnp.float32)
    return jnp.concatenate([between.reshape(rows * columns, -1), table[-3:]])


def relative_position_index(grid: tuple[int, int]) -> np.ndarray:
    """[S, S] int32: the entry of the bias table for each pair (query, key)."""
    rows, columns = grid
    row, column = (axis.reshape(-1) for axis in np.indices(grid))
    entries = (2 * rows - 1) * (2 * columns - 1)
    between = (row[:, None] - row[None, :] + rows - 1) * (2 * columns - 1)
    between = between + column[:, None] - column[None, :] + columns - 1
    index = np.empty((rows * columns + 1, rows * columns + 1), np.int32)
    index[1:, 1:] = between
    index[0, :] = entries
    index[:, 0] = entries + 1
    index[0, 0] = entries + 2
    return index


def _bias_table(config: EncoderConfig, dtype: DTypeLike) -> jax.Array:
    """Zeros [(2·rows-1)(2·columns-1)+3, N]."""
    rows, columns = config.grid
    return jnp.zeros(((2 * rows - 1) * (2 * columns - 1) + 3, config.num_heads), dtype)
