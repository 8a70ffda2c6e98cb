"""`generate` in two stages, so that lines may be put together anew between them: images are encoded as they come, and
searched beside others whose texts are about as long."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp

from trocr_jax.attention_rows import Int8Rows, Kept, widened
from trocr_jax.decoding.types import Decoded
from trocr_jax.generation import decode as decode_memory
from trocr_jax.generation import read
from trocr_jax.generation_plan import Numbers, Shape
from trocr_jax.generation_slots import Flat
from trocr_jax.generation_split import Split, alone
from trocr_jax.image import ImageProcessor


class Encoded(NamedTuple):
    """What a search needs of B images. memory [B, S, D] in the compute type or int8; keys [B]: random keys; means
    [B, D] f32: of the memory over its positions."""

    memory: Kept
    keys: jax.Array
    means: jax.Array


@partial(jax.jit, static_argnames=("shape", "dtype", "image_processor", "split"))
def encode(
    flat: Flat,
    pixels: jax.Array,
    numbers: Numbers,
    *,
    shape: Shape,
    dtype: jnp.dtype,
    image_processor: ImageProcessor | None,
    split: Split | None = None,
) -> Encoded:
    """pixels [B, H, W, 3] as `generate` takes them. split: how they are shared out; what is made of them stays so."""

    def one(flat: Flat, pixels: jax.Array, numbers: Numbers) -> Encoded:
        memory, keys = read(flat.model(), pixels, numbers.seed, dtype, image_processor, shape=shape)
        means = widened(memory, dtype=jnp.float32).mean(axis=1)
        return Encoded(memory if isinstance(memory, Int8Rows) else memory.astype(dtype), keys, means)

    return alone(split, one, False, True, False)(flat, pixels, numbers)


@partial(jax.jit, static_argnames=("split",))
def together(each: tuple[Encoded, ...], *, split: Split | None = None) -> Encoded:
    """All images of some batches, of each share those of its own."""

    def one(each: tuple[Encoded, ...]) -> Encoded:
        return cast(Encoded, jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *each))

    return alone(split, one, True)(each)


@partial(jax.jit, static_argnames=("shape", "dtype", "split"))
def decode(
    flat: Flat,
    encoded: Encoded,
    rows: jax.Array,
    numbers: Numbers,
    *,
    shape: Shape,
    dtype: jnp.dtype,
    split: Split | None = None,
) -> Decoded:
    """What is found in the images `rows` [B] of `encoded`; each share has its own rows of its own images."""

    def one(flat: Flat, encoded: Encoded, rows: jax.Array, numbers: Numbers) -> Decoded:
        memory = jax.tree.map(lambda leaf: leaf[rows], encoded.memory)
        return decode_memory(flat.model(), memory, numbers, shape, dtype, encoded.keys[rows])

    return alone(split, one, False, True, True, False)(flat, encoded, rows, numbers)
