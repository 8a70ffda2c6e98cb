"""TrOCR (Li et al. 2023): an image Transformer reads a line, a text Transformer writes it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from trocr_jax.attention import Linear
from trocr_jax.attention_cross import Cross
from trocr_jax.attention_rows import Kept
from trocr_jax.config import TrOCRConfig
from trocr_jax.decoder import Cache, Decoder
from trocr_jax.encoder import Encoder


class TrOCR(nnx.Module):
    """Parameters of a whole model. Without `rngs` the initial weights come from seed 0.

    `dtype` of every call is the compute type; parameters keep the type they were loaded in.
    """

    def __init__(
        self, config: TrOCRConfig, *, rngs: nnx.Rngs | None = None, param_dtype: DTypeLike = jnp.float32
    ) -> None:
        rngs = nnx.Rngs(0) if rngs is None else rngs
        self.config = config
        self.encoder = Encoder(config.encoder, rngs=rngs, param_dtype=param_dtype)
        d_in, d_out = config.encoder.hidden_size, config.decoder.hidden_size
        # Between widths that differ, where cross-attention does not take that of the encoder: enc_to_dec_proj.
        self.bridge = Linear(d_in, d_out, rngs=rngs, param_dtype=param_dtype) if config.bridge else None
        self.decoder = Decoder(
            config.decoder,
            memory_width=config.memory_width,
            pad_token_id=config.pad_token_id,
            rngs=rngs,
            param_dtype=param_dtype,
        )

    def encode(self, pixels: jax.Array, *, dtype: DTypeLike = jnp.float32, remat: bool = False) -> jax.Array:
        """pixels [B, H, W, 3] f32 in [-1, 1] -> memory [B, S, D] in `dtype`, what cross-attention reads.

        remat: for training; the backward pass computes each layer again. Raises ImageError for pixels that are no
        floats, or of a size that the model cannot take.
        """
        memory = self.encoder(pixels, dtype=dtype, remat=remat)
        return memory if self.bridge is None else self.bridge(memory, dtype=dtype)

    def prime(self, memory: jax.Array, *, dtype: DTypeLike = jnp.float32) -> Cross:
        """memory [B, S, D] -> keys [B, N, H, S] and values [B, N, S, H] of every cross-attention."""
        return self.decoder.prime(memory, dtype=dtype)

    def absorb(self, memory: Kept, *, dtype: DTypeLike = jnp.float32) -> Cross:
        """memory [B, S, D], floats or int8 -> what every cross-attention reads instead of keys and values: the memory
        itself, beside its projections."""
        return self.decoder.absorb(memory, dtype=dtype)

    def init_cache(self, batch: int, beams: int, length: int, *, dtype: DTypeLike = jnp.float32) -> Cache:
        """An empty self-attention cache for `length` tokens of `beams` hypotheses an image. dtype: of its keys and
        values; int8 has a scale for each. Raises DecodeError for more tokens than the model has learned positions."""
        return self.decoder.init_cache(batch, beams, length, dtype=dtype)

    def step(
        self, tokens: jax.Array, cache: Cache, position: jax.Array, cross: Cross, *, dtype: DTypeLike = jnp.float32
    ) -> tuple[jax.Array, Cache]:
        """tokens [B, K] int32 at `position` -> logits [B, K, V] f32 of the next token, cache."""
        return self.decoder.step(tokens, cache, position, cross, dtype=dtype)

    def __call__(
        self, pixels: jax.Array, token_ids: jax.Array, *, key: jax.Array | None = None, dtype: DTypeLike = jnp.float32
    ) -> jax.Array:
        """Teacher forcing. pixels [B, H, W, 3], token_ids [B, T] beginning with the start token
        -> logits [B, T, V] f32. `key` seeds dropout; none switches it off. Raises ImageError as `encode` does, and
        DecodeError for more tokens than learned positions or, outside jit, ids that are not in the vocabulary."""
        return self.decoder(token_ids, self.encode(pixels, dtype=dtype), key=key, dtype=dtype)
