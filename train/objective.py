"""The training objective: cross-entropy of the text, and an optional CTC loss that teaches the encoder to look."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike

from train.input import IGNORED
from trocr_jax.attention import einsum
from trocr_jax.model import TrOCR


class Losses(NamedTuple):
    """Scalars f32."""

    total: jax.Array
    cross_entropy: jax.Array
    ctc: jax.Array
    accuracy: jax.Array  # share of label tokens that teacher forcing predicts


def shift_right(labels: jax.Array, *, start_token_id: int, pad_token_id: int) -> jax.Array:
    """Decoder input of labels [B, T]: the start token, then the labels without their last, IGNORED as pad."""
    start = jnp.full((labels.shape[0], 1), start_token_id, labels.dtype)
    tokens = jnp.concatenate([start, labels[:, :-1]], axis=1)
    return jnp.where(tokens == IGNORED, pad_token_id, tokens)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean negative log-likelihood of labels [B, T] that count, under logits [B, T, V] f32."""
    mask = labels != IGNORED
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    picked = jnp.take_along_axis(log_probs, jnp.where(mask, labels, 0)[..., None], axis=-1)[..., 0]
    return -jnp.sum(picked * mask.astype(jnp.float32)) / jnp.maximum(mask.sum(), 1).astype(jnp.float32)


def ctc(logits: jax.Array, labels: jax.Array, *, eos_token_id: int, blank_id: int) -> jax.Array:
    """Connectionist temporal classification (Graves et al. 2006) per character, over the patch columns.

    logits [B, columns, V]; lines with more characters than columns can hold are left out.
    """
    characters = (labels != IGNORED) & (labels != eos_token_id)
    ids = jnp.where(characters, labels, 0)
    repeats = ((ids[:, 1:] == ids[:, :-1]) & characters[:, 1:]).sum(axis=1)
    lengths = characters.sum(axis=1)
    fits = (lengths + repeats <= logits.shape[1]).astype(jnp.float32)
    paddings = jnp.zeros(logits.shape[:2], jnp.float32)
    label_paddings = 1 - characters.astype(jnp.float32)
    losses = optax.ctc_loss(logits, paddings, ids, label_paddings, blank_id=blank_id)
    losses = jnp.where(fits > 0, losses, 0) / jnp.maximum(lengths, 1).astype(jnp.float32)
    return losses.sum() / jnp.maximum(fits.sum(), 1)


def objective(
    model: TrOCR,
    ctc_head: dict[str, jax.Array],
    pixels: jax.Array,
    labels: jax.Array,
    *,
    key: jax.Array,
    cross_entropy_weight: float,
    ctc_weight: float,
    token_noise: float,
    dtype: DTypeLike,
) -> Losses:
    """pixels [B, H, W] uint8 grey, labels [B, T] -> weighted losses."""
    config = model.config
    noise_key, which_key, dropout_key = jax.random.split(key, 3)
    x = pixels.astype(jnp.float32) / np.float32(127.5) - np.float32(1)
    memory = model.encode(jnp.broadcast_to(x[..., None], (*x.shape, config.encoder.num_channels)), dtype=dtype)
    ce = accuracy = ctc_loss = jnp.float32(0)
    if cross_entropy_weight:
        tokens = shift_right(labels, start_token_id=config.decoder_start_token_id, pad_token_id=config.pad_token_id)
        if token_noise:
            noise = jax.random.randint(noise_key, tokens.shape, 0, config.decoder.vocab_size, tokens.dtype)
            swap = jax.random.bernoulli(which_key, token_noise, tokens.shape)
            swap = swap & (jnp.arange(tokens.shape[1])[None, :] > 0)
            tokens = jnp.where(swap, noise, tokens)
        logits = model.decoder(tokens, memory, key=dropout_key, dtype=dtype)
        ce = cross_entropy(logits, labels)
        mask = labels != IGNORED
        right = (logits.argmax(axis=-1).astype(labels.dtype) == labels) & mask
        accuracy = right.sum().astype(jnp.float32) / jnp.maximum(mask.sum(), 1).astype(jnp.float32)
    if ctc_weight:
        columns = memory[:, config.encoder.num_special_tokens :]
        ctc_logits = einsum("BSD,DV->BSV", columns, ctc_head["kernel"], dtype=dtype) + ctc_head["bias"][None, None]
        ctc_loss = ctc(ctc_logits, labels, eos_token_id=config.eos_token_id, blank_id=config.pad_token_id)
    total = cross_entropy_weight * ce + ctc_weight * ctc_loss
    return Losses(total, ce, ctc_loss, accuracy)
