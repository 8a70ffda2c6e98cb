"""From pixels to token ids: the one file that knows both the model and the searches."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from trocr_jax.config import TrOCRConfig
from trocr_jax.decoding.sample import sample
from trocr_jax.decoding.types import DecodeConfig, Decoded, Special
from trocr_jax.errors import DecodeError
from trocr_jax.image import ImageProcessor
from trocr_jax.model import TrOCR


def generate(
    model: TrOCR,
    pixels: jax.Array,
    config: DecodeConfig | None = None,
    *,
    dtype: DTypeLike | None = None,
    image_processor: ImageProcessor | None = None,
) -> Decoded:
    """Reads images: encodes them once, primes cross-attention once, and searches in one compiled loop.

    pixels [B, H, W, 3]: f32 in [-1, 1], or uint8 together with the `image_processor` that scales them on the device.
    dtype: compute type; f32 on a CPU and bf16 elsewhere if none.
    Returns token_ids [B, R, L] int32 with R = num_return_sequences and L = max_new_tokens, scores [B, R] and more.
    Compiles once for each shape of `pixels` and each `config`.
    Raises DecodeError if the model's position table is shorter than `max_new_tokens`.
    """
    config = DecodeConfig() if config is None else config
    check(config, model.config)
    dtype = compute_dtype() if dtype is None else jnp.dtype(dtype)
    return _generate(model, pixels, config, dtype, image_processor)


def check(config: DecodeConfig, model: TrOCRConfig) -> None:
    """Raises DecodeError if the model cannot do what `config` asks for."""
    if config.num_beams > 1:
        raise DecodeError("num_beams: only greedy search (num_beams=1) is there so far")
    limit = model.decoder.max_position_embeddings
    if config.max_new_tokens > limit:
        raise DecodeError(f"max_new_tokens is {config.max_new_tokens}: this model has positions for {limit} tokens")


def compute_dtype() -> jnp.dtype:
    """f32 where the default backend is a CPU, bf16 on accelerators."""
    return jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)


@partial(jax.jit, static_argnames=("config", "dtype", "image_processor"))
def _generate(
    model: TrOCR, pixels: jax.Array, config: DecodeConfig, dtype: jnp.dtype, image_processor: ImageProcessor | None
) -> Decoded:
    if image_processor is not None:
        pixels = image_processor.normalize(pixels)
    memory = model.encode(pixels, dtype=dtype)
    cross = model.prime(memory, dtype=dtype)  # closed over by the loop, never carried
    batch = pixels.shape[0]

    def step(tokens: jax.Array, cache: Any, position: jax.Array) -> tuple[jax.Array, Any]:
        return model.step(tokens, cache, position, cross, dtype=dtype)

    ids = model.config
    return sample(
        step,
        model.init_cache(batch, config.num_beams, config.max_new_tokens, dtype=dtype),
        batch=batch,
        max_new_tokens=config.max_new_tokens,
        special=Special(start=ids.decoder_start_token_id, end=ids.eos_token_id, pad=ids.pad_token_id),
    )
