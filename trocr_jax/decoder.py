"""The text Transformer of TrOCR: post-norm layers of self-attention, cross-attention over the memory and an MLP
(Li et al. 2023; the layers are BART's, Lewis et al. 2020).

B batch, K hypotheses of one image, T text, S memory, D width, N heads, H head width, V vocabulary, L cache length.
Nothing is remembered inside the modules: `prime` returns what cross-attention reads, `step` takes and returns a cache.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from trocr_jax import attention_quantized
from trocr_jax.attention import (
    ACTIVATIONS,
    MASKED,
    Attention,
    LayerNorm,
    Linear,
    attend,
    constrain_batch,
    einsum,
    normal,
)
from trocr_jax.attention_cross import (
    Absorbed,
    Cross,
    KeyColumns,
    KeyValue,
    OnePass,
    OnePassHopper,
    absorb,
    prime,
    prime_columns,
    prime_rounded,
)
from trocr_jax.attention_heads import read_by_heads
from trocr_jax.attention_rows import Int8Rows, Kept, empty_rows, round_rows
from trocr_jax.attention_turned import weights_first
from trocr_jax.config import DecoderConfig
from trocr_jax.errors import DecodeError

POSITION_OFFSET = 2  # rows that BART's position table keeps in front of the first position


class Cache(NamedTuple):
    """What the hypotheses have said so far. A search that reorders them (`decoding.types.take`) moves `rows`, not keys
    and values: these stay where they were written, and a hypothesis reads what its forebears wrote."""

    layers: tuple[KeyValue, ...]  # [B, N, L K, H] each: what row k holds of place l has the number l K + k
    rows: jax.Array  # [B, K, L] int32: for each hypothesis and place, which of the K rows holds its own past

    @property
    def max_new_tokens(self) -> int:
        """Tokens of a hypothesis that it has room for; searches look whether that is enough."""
        return self.rows.shape[2]

    def reordered(self, indices: jax.Array) -> Cache:
        """The hypotheses `indices` [B, J], J <= K. Raises ValueError for more than K."""
        if indices.shape[1] > self.rows.shape[1]:
            raise ValueError(f"a cache of {self.rows.shape[1]} hypotheses has no room for {indices.shape[1]}")
        return self._replace(rows=jnp.take_along_axis(self.rows, indices[:, :, None], axis=1))

    def written(self, place: jax.Array) -> Cache:
        """Every hypothesis writes its next keys and values at `place` of its own row."""
        own = jnp.arange(self.rows.shape[1], dtype=jnp.int32)[None, :, None]
        own = jnp.broadcast_to(own, (*self.rows.shape[:2], 1))
        return self._replace(rows=jax.lax.dynamic_update_slice_in_dim(self.rows, own, place, axis=2))

    def bias(self, past: jax.Array) -> jax.Array:
        """past [1 or B, L]: the places that count -> [B, 1, K, L K], which of the rows each hypothesis may read."""
        b, k, length = self.rows.shape
        rows = self.layers[0].key.shape[2] // length  # the K that the cache was made for
        own = self.rows[:, :, :, None] == jnp.arange(rows, dtype=jnp.int32)[None, None, None, :]
        own = own & past[:, None, :, None]
        return jnp.where(own, np.float32(0), np.float32(MASKED)).reshape(b, 1, k, length * rows)


class Decoder(nnx.Module):
    """Tokens so far and memory to logits of the next token."""

    def __init__(
        self,
        config: DecoderConfig,
        *,
        memory_width: int,
        pad_token_id: int,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
    ) -> None:
        d, vocabulary = config.hidden_size, config.vocab_size
        self.config = config
        self.pad_token_id = pad_token_id
        self.head_dtype: str | None = None  # of the product with the head on a CPU, where it is not the compute type
        self.embed_tokens = nnx.Param(normal(rngs, (vocabulary, d), param_dtype))
        if config.learned_positions:
            shape = (config.max_position_embeddings + POSITION_OFFSET, d)
            self.embed_positions = nnx.Param(normal(rngs, shape, param_dtype))
        self.embed_norm = LayerNorm(d, eps=1e-5, param_dtype=param_dtype) if config.layernorm_embedding else None
        self.layers = nnx.List(
            [
                DecoderLayer(config, memory_width=memory_width, rngs=rngs, param_dtype=param_dtype)
                for _ in range(config.num_layers)
            ]
        )
        if not config.tie_word_embeddings:
            self.output_projection = nnx.Param(normal(rngs, (vocabulary, d), param_dtype))

    def prime(self, memory: jax.Array, *, dtype: DTypeLike = jnp.float32) -> Cross:
        """memory [B, S, D] -> keys [B, N, H, S] and values [B, N, S, H] of every cross-attention, computed once for the
        whole search."""
        return tuple(prime_columns(layer.cross_attention, memory, dtype=dtype) for layer in self.layers)

    def prime_rounded(self, memory: jax.Array, *, dtype: DTypeLike = jnp.float32) -> Cross:
        """The same in int8, a scale for each key and value of a head."""
        return tuple(prime_rounded(layer.cross_attention, memory, dtype=dtype) for layer in self.layers)

    def absorb(self, memory: Kept, *, dtype: DTypeLike = jnp.float32) -> Cross:
        """memory [B, S, D] -> what every cross-attention reads instead of its keys and values: the memory itself."""
        return tuple(absorb(layer.cross_attention, memory, dtype=dtype) for layer in self.layers)

    def init_cache(self, batch: int, beams: int, length: int, *, dtype: DTypeLike = jnp.float32) -> Cache:
        """An empty cache for `length` tokens. dtype: of its keys and values; int8 has a scale for each. Raises
        DecodeError for more tokens than the model has learned positions."""
        self._check_length(length)
        shape = (batch, self.config.num_heads, length * beams, self.config.head_dim)
        layers = tuple(KeyValue(empty_rows(shape, dtype), empty_rows(shape, dtype)) for _ in self.layers)
        return Cache(layers, jnp.zeros((batch, beams, length), jnp.int32))

    def step(
        self, tokens: jax.Array, cache: Cache, position: jax.Array, cross: Cross, *, dtype: DTypeLike = jnp.float32
    ) -> tuple[jax.Array, Cache]:
        """One token further. tokens [B, K] int32 stand at `position` (int32 scalar, the start token at 0)
        -> logits [B, K, V] f32 of the next token, cache."""
        past = (jnp.arange(cache.rows.shape[2], dtype=jnp.int32) <= position)[None]
        return self._step(tokens, cache, position, cross, place=position, past=past, dtype=dtype)

    def step_ring(
        self,
        tokens: jax.Array,
        cache: Cache,
        positions: jax.Array,
        cross: Cross,
        *,
        place: jax.Array,
        dtype: DTypeLike = jnp.float32,
    ) -> tuple[jax.Array, Cache]:
        """As `step` for images that began at different times: tokens [B, K] stand at positions [B] of their texts.

        The cache is a ring. All images write at its `place` (int32 scalar), which moves on by one a call, modulo L, so
        that nothing is scattered; what an image wrote n calls ago is its own past if n <= its position.
        Returns logits [B, K, V] f32 of the next token, cache.
        """
        length = cache.rows.shape[2]
        age = (place - jnp.arange(length, dtype=jnp.int32)) % length
        past = age[None, :] <= positions[:, None]
        return self._step(tokens, cache, positions[:, None], cross, place=place, past=past, dtype=dtype)

    def _step(
        self,
        tokens: jax.Array,
        cache: Cache,
        position: jax.Array,
        cross: Cross,
        *,
        place: jax.Array,
        past: jax.Array,
        dtype: DTypeLike,
    ) -> tuple[jax.Array, Cache]:
        """position: scalar or [B, 1]; place: where keys and values are written; past [1 or B, L]: which count."""
        row = position + POSITION_OFFSET
        if not self.config.learned_positions:
            row = jnp.where(tokens == self.pad_token_id, self.pad_token_id, position + 1 + self.pad_token_id)
        x = self._embed(tokens, jnp.broadcast_to(row, tokens.shape), length=cache.rows.shape[2], dtype=dtype)
        cache = cache.written(place)
        bias, layers = cache.bias(past), []
        number = place * (cache.layers[0].key.shape[2] // cache.rows.shape[2])  # that of row 0 at this place
        for layer, kv, memory in zip(self.layers, cache.layers, cross, strict=True):
            x, kv = layer.step(x, kv, number, bias, memory, dtype=dtype)
            layers.append(kv)
        return self._logits(x, dtype=dtype), cache._replace(layers=tuple(layers))

    def __call__(
        self,
        tokens: jax.Array,
        memory: jax.Array,
        *,
        key: jax.Array | None = None,
        dtype: DTypeLike = jnp.float32,
        remat: bool = False,
    ) -> jax.Array:
        """All positions at once (teacher forcing). tokens [B, T] int32, memory [B, S, D] -> logits [B, T, V] f32.

        `key` seeds dropout; none, the default, switches it off. With `remat` the backward pass computes each layer
        again and keeps only what goes into it: the same numbers in less memory.
        """
        x = self.embed(tokens, dtype=dtype)
        if len(tokens) != len(memory) and 1 not in (len(tokens), len(memory)):  # one of them may be for all others
            raise DecodeError(f"token ids of {len(tokens)} texts and {len(memory)} images: give a text for each image")
        keys = [None] * (1 + len(self.layers)) if key is None else list(jax.random.split(key, 1 + len(self.layers)))
        x = dropout(x, self.config.dropout, keys[0])
        for layer, layer_key in zip(self.layers, keys[1:], strict=True):
            call = partial(layer, key=layer_key, dtype=dtype)
            x = jax.checkpoint(call)(x, memory) if remat else call(x, memory)
        return self._logits(x, dtype=dtype)

    def embed(self, tokens: jax.Array, *, dtype: DTypeLike = jnp.float32) -> jax.Array:
        """tokens [B, T] int32, the start token in front -> what the first layer reads: [B, T, D].
        Raises DecodeError for more tokens than the model has learned positions, and, outside jit, for token ids that it
        does not have."""
        _check_tokens(tokens, self.config.vocab_size)
        length = tokens.shape[1]
        rows = jnp.arange(length, dtype=jnp.int32)[None, :] + POSITION_OFFSET
        self._check_length(length)
        if not self.config.learned_positions:
            mask = (tokens != self.pad_token_id).astype(jnp.int32)
            rows = jnp.cumsum(mask, axis=1) * mask + self.pad_token_id
        return self._embed(tokens, jnp.broadcast_to(rows, tokens.shape), length=length, dtype=dtype)

    def _check_length(self, length: int) -> None:
        if self.config.learned_positions and length > self.config.max_position_embeddings:
            raise DecodeError(f"{length} tokens: the model has {self.config.max_position_embeddings} positions")

    def _embed(self, tokens: jax.Array, rows: jax.Array, *, length: int, dtype: DTypeLike) -> jax.Array:
        """tokens and rows of the position table [...] -> [..., D]. length: positions that a sinusoidal table needs."""
        x = _rows(self.embed_tokens[...], tokens).astype(jnp.float32)
        if self.config.scale_embedding:
            x = x * np.float32(np.sqrt(self.config.hidden_size))
        if self.config.learned_positions:
            table = self.embed_positions[...].astype(jnp.float32)
        else:
            # one row for pads and the pad id itself in front of the positions
            table = jnp.asarray(sinusoids(length + self.pad_token_id + 1, self.config.hidden_size, self.pad_token_id))
        x = x + table[rows]
        return x.astype(dtype) if self.embed_norm is None else self.embed_norm(x, dtype=dtype)

    def _logits(self, x: jax.Array, *, dtype: DTypeLike) -> jax.Array:
        """x [B, T, D] -> [B, T, V] f32; hypotheses, [B, K, D], are taken alike."""
        head = self.embed_tokens if self.config.tie_word_embeddings else self.output_projection
        b, t, d = x.shape

        def rows_of_table(x: jax.Array, head: jax.Array) -> jax.Array:  # on a CPU
            own = jnp.dtype(self.head_dtype or dtype)
            if len(x) == 1 and own == jnp.bfloat16:
                return attention_quantized.two_rows(partial(rows_of_table, head=head), x)
            # XLA reads the large table row by row then, about twice as fast.
            logits = einsum("VD,AD->VA", head, x, dtype=own)  # A = B * T
            if weights_first(len(x), own) and attention_quantized.multiplies_tiles():
                logits = jax.lax.optimization_barrier(logits)  # as in `times_turned`
            return logits.T

        def rows_of_text(x: jax.Array, head: jax.Array) -> jax.Array:
            return einsum("AD,VD->AV", x, head, dtype=dtype)

        logits = jax.lax.platform_dependent(x.reshape(b * t, d), head[...], cpu=rows_of_table, default=rows_of_text)
        return logits.reshape(b, t, -1)


class DecoderLayer(nnx.Module):
    """norm(x + self_attention(x)), norm(x + cross_attention(x)), norm(x + mlp(x))."""

    def __init__(self, config: DecoderConfig, *, memory_width: int, rngs: nnx.Rngs, param_dtype: DTypeLike) -> None:
        d, heads = config.hidden_size, config.num_heads
        self.config = config
        self.self_attention = Attention(d, heads, rngs=rngs, param_dtype=param_dtype)
        self.self_attention_norm = LayerNorm(d, eps=1e-5, param_dtype=param_dtype)
        self.cross_attention = Attention(d, heads, memory_width=memory_width, rngs=rngs, param_dtype=param_dtype)
        self.cross_attention_norm = LayerNorm(d, eps=1e-5, param_dtype=param_dtype)
        self.fc1 = Linear(d, config.intermediate_size, rngs=rngs, param_dtype=param_dtype)
        self.fc2 = Linear(config.intermediate_size, d, rngs=rngs, param_dtype=param_dtype)
        self.norm = LayerNorm(d, eps=1e-5, param_dtype=param_dtype)

    def __call__(self, x: jax.Array, memory: jax.Array, *, key: jax.Array | None, dtype: DTypeLike) -> jax.Array:
        """x [B, T, D], memory [B, S, D] -> [B, T, D]."""
        x, memory = constrain_batch(x), constrain_batch(memory)
        keys = (None, None, None) if key is None else jax.random.split(key, 3)
        rate, a, t = self.config.dropout, self.self_attention, x.shape[1]
        later = jnp.arange(t)[None, :] > jnp.arange(t)[:, None]
        bias = jnp.where(later, np.float32(MASKED), np.float32(0))[None, None]  # [1, 1, T, T]
        # Queries, and what attention gives, are [B, N, T, H].
        y = attend(a.query(x, dtype=dtype), a.key(x, dtype=dtype), a.value(x, dtype=dtype), bias=bias, dtype=dtype)
        x = self.self_attention_norm(x + dropout(a.out(y, dtype=dtype), rate, keys[0]), dtype=dtype)
        a = self.cross_attention
        y = prime(a, memory, dtype=dtype).read(a.query(x, dtype=dtype), dtype=dtype)
        x = self.cross_attention_norm(x + dropout(a.out(y, dtype=dtype), rate, keys[1]), dtype=dtype)
        return self.norm(x + dropout(self._mlp(x, dtype=dtype), rate, keys[2]), dtype=dtype)

    def step(
        self,
        x: jax.Array,
        cache: KeyValue,
        number: jax.Array,
        bias: jax.Array,
        cross: KeyColumns | Absorbed | OnePass | OnePassHopper,
        *,
        dtype: DTypeLike,
    ) -> tuple[jax.Array, KeyValue]:
        """x [B, K, D] -> [B, K, D], cache. The K hypotheses of an image are K queries over its one memory, and over the
        one cache of them all. number: where in the cache their keys and values go; bias [B, 1, K, L K]: what each
        hypothesis may read of it."""
        a = self.self_attention
        query, key, value = (p(x, dtype=dtype) for p in (a.query, a.key, a.value))  # [B, N, K, H]
        cache = KeyValue(*(_write(old, new, number) for old, new in zip(cache, (key, value), strict=True)))
        y = attend(query, *cache, bias=bias, dtype=dtype)
        x = self.self_attention_norm(x + a.out(y, dtype=dtype), dtype=dtype)
        a = self.cross_attention
        y = read_by_heads(cross, a.query(x, dtype=dtype), dtype=dtype)  # [B, N, K, H]
        x = self.cross_attention_norm(x + a.out(y, dtype=dtype), dtype=dtype)
        return self.norm(x + self._mlp(x, dtype=dtype), dtype=dtype), cache

    def _mlp(self, x: jax.Array, *, dtype: DTypeLike) -> jax.Array:
        return self.fc2(ACTIVATIONS[self.config.activation](self.fc1(x, dtype=dtype)), dtype=dtype)


def _check_tokens(tokens: jax.Array, vocabulary: int) -> None:
    """Raises DecodeError for what is no [B, T] of integers and, outside jit, for ids that are not in the vocabulary: an
    index outside a table would be another row of it."""
    if getattr(tokens, "ndim", None) != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        what = f"{tokens.dtype}{list(tokens.shape)}" if hasattr(tokens, "ndim") else type(tokens).__name__
        raise DecodeError(f"token ids are {what}: give an array of integers, [B, T]")
    if isinstance(tokens, jax.core.Tracer) or not getattr(tokens, "is_fully_addressable", True) or not tokens.size:
        return
    found = np.asarray(tokens)  # where jit closes over an array, its own reductions would be traced
    least, most = int(found.min()), int(found.max())
    if least < 0 or most >= vocabulary:
        raise DecodeError(
            f"token ids hold {least if least < 0 else most}: this model has tokens 0 to {vocabulary - 1}; give labels' "
            "places that do not count (-100) the id of the pad token"
        )


def _write(cache: Kept, new: jax.Array, number: jax.Array) -> Kept:
    """Puts new [B, N, K, H] at `number` of cache [B, N, L K, H]. No axis is taken apart or put together between it and
    the product: XLA's CPU backend would copy the cache at every step."""
    if isinstance(cache, Int8Rows):
        put = partial(jax.lax.dynamic_update_slice_in_dim, start_index=number, axis=2)
        return Int8Rows(*map(put, cache, _round_heads(new)))
    return jax.lax.dynamic_update_slice_in_dim(cache, new.astype(cache.dtype), number, axis=2)


def _round_heads(new: jax.Array) -> Int8Rows:
    """new [B, N, K, H] -> the same rounded. Hypotheses and images are one axis meanwhile, and heads stand next to their
    width: a TPU would have few hypotheses side by side in a register that holds 128."""
    b, n, k, h = new.shape
    integers, scale = round_rows(new.transpose(0, 2, 1, 3).reshape(b * k, n, h))
    integers = integers.reshape(b * k, n * h).reshape(b, k, n, h)
    return Int8Rows(integers.transpose(0, 2, 1, 3), scale.reshape(b, k, n).transpose(0, 2, 1))


def _rows(table: jax.Array, numbers: jax.Array) -> jax.Array:
    """Rows of a table. Of bfloat16 as bits: XLA's CPU backend would widen the whole table for a gather of floats. A TPU
    would copy it for one of bits."""
    if table.dtype != jnp.bfloat16:
        return table[numbers]

    def as_it_is(table: jax.Array, numbers: jax.Array) -> jax.Array:
        return table[numbers]

    def as_bits(table: jax.Array, numbers: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(table, jnp.uint16)
        return jax.lax.bitcast_convert_type(bits[numbers], jnp.bfloat16)

    def on_cpu(table: jax.Array, numbers: jax.Array) -> jax.Array:
        # Bits that did not have to wait for the numbers would be a copy of the table, made before every search.
        return as_bits(*jax.lax.optimization_barrier((table, numbers)))

    return jax.lax.platform_dependent(table, numbers, cpu=on_cpu, tpu=as_it_is, default=as_bits)


def sinusoids(rows: int, d: int, pad_token_id: int) -> np.ndarray:
    """Position table [rows, D] f32 of the stage-1 checkpoints: sines in the first half of the width, cosines in the
    second, the row of the pad token zero (fairseq's SinusoidalPositionalEmbedding)."""
    half = d // 2
    rate = np.exp(np.arange(half, dtype=np.float32) * np.float32(-np.log(10000) / (half - 1)))
    angle = np.arange(rows, dtype=np.float32)[:, None] * rate[None, :]
    table = np.zeros((rows, d), np.float32)
    table[:, :half] = np.sin(angle)
    table[:, half : 2 * half] = np.cos(angle)
    table[pad_token_id] = 0
    return table


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Zeroes each element with probability `rate` and scales the others; nothing happens without a key."""
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / np.asarray(1 - rate, x.dtype), np.zeros((), x.dtype))
