"""What each token looked at: the weights of cross-attention, from one teacher-forced pass over tokens that were found.

The search keeps no weights: a second pass over the text costs little beside the search, and the search stays as it is.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from trocr_jax.attention import MASKED, attend, einsum
from trocr_jax.decoder import Decoder, DecoderLayer


def cross_attention(
    decoder: Decoder, tokens: jax.Array, memory: jax.Array, *, dtype: DTypeLike = jnp.float32
) -> tuple[jax.Array, ...]:
    """tokens [B, T] int32, the start token in front, memory [B, S, D] -> of each layer the weights [B, N, T, S] f32.

    Row t holds where the decoder looked while it stood on tokens[:, t], which is when it chose the token behind it;
    each row adds up to 1. Equal to transformers' `cross_attentions` of the same `decoder_input_ids`.
    """
    length = tokens.shape[1]
    x = decoder.embed(tokens, dtype=dtype)
    later = jnp.arange(length)[None, :] > jnp.arange(length)[:, None]
    bias = jnp.where(later, np.float32(MASKED), np.float32(0))[None, None]  # [1, 1, T, T]
    found = []
    for layer in decoder.layers:
        found.append(_weights(layer, x, memory, bias=bias, dtype=dtype))
        x = layer(x, memory, key=None, dtype=dtype)
    return tuple(found)


def _weights(layer: DecoderLayer, x: jax.Array, memory: jax.Array, *, bias: jax.Array, dtype: DTypeLike) -> jax.Array:
    """softmax(query keyᵀ / √H) of a layer's cross-attention behind its self-attention: [B, N, T, S] f32."""
    a = layer.self_attention
    y = attend(a.query(x, dtype=dtype), a.key(x, dtype=dtype), a.value(x, dtype=dtype), bias=bias, dtype=dtype)
    x = layer.self_attention_norm(x + a.out(y, dtype=dtype), dtype=dtype)
    query, key = layer.cross_attention.query(x, dtype=dtype), layer.cross_attention.key(memory, dtype=dtype)
    scale = np.float32(query.shape[-1] ** -0.5)
    scores = einsum("BNTH,BNSH->BNTS", query.astype(jnp.float32) * scale, key, dtype=dtype)
    return jax.nn.softmax(scores, axis=-1)
