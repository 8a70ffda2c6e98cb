"""The training objective: cross-entropy of the text, and an optional CTC loss that teaches the encoder to look.

A batch may be worked through in parts: what a part contributes is divided by counts of the whole batch, so that the
contributions, and their gradients, are added up.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike

from train.input import IGNORED
from train.recipe import Recipe, Stage
from trocr_jax.attention import einsum
from trocr_jax.config import TrOCRConfig
from trocr_jax.image import ImageProcessor
from trocr_jax.model import TrOCR


class Losses(NamedTuple):
    """Scalars f32, `finite` bool."""

    total: jax.Array
    cross_entropy: jax.Array  # mean over the label tokens that count
    ctc: jax.Array  # mean over the lines that fit
    accuracy: jax.Array  # share of label tokens that teacher forcing predicts
    gradient_norm: jax.Array  # before clipping
    finite: jax.Array  # false if loss or gradients are NaN or infinite: the step has then changed nothing


class Terms(NamedTuple):
    """What part of a batch contributes to each loss, f32 scalars; the sum over the parts is the batch's."""

    total: jax.Array
    cross_entropy: jax.Array
    ctc: jax.Array
    accuracy: jax.Array


class Counts(NamedTuple):
    """Of a whole batch, f32 scalars, at least 1: label tokens that count, lines that CTC can read."""

    tokens: jax.Array
    lines: jax.Array


def counted(labels: jax.Array) -> jax.Array:
    """Which labels [B, T] count: not those that are IGNORED. A pad token does: some tokenizers end texts with it."""
    return labels != IGNORED


def count(labels: jax.Array, config: TrOCRConfig) -> Counts:
    """labels [B, T] of a whole batch; `config` has the width of the stage."""
    tokens = counted(labels).sum()
    lines = _characters(labels, columns=config.encoder.memory_length - config.encoder.num_special_tokens, config=config)
    return Counts(*(jnp.maximum(n, 1).astype(jnp.float32) for n in (tokens, lines.fits.sum())))


def decoder_input(labels: jax.Array, config: TrOCRConfig, *, token_noise: float, key: jax.Array) -> jax.Array:
    """labels [B, T] -> tokens [B, T]: shifted right, a share `token_noise` of them replaced by random ones."""
    tokens = shift_right(labels, start_token_id=config.decoder_start_token_id, pad_token_id=config.pad_token_id)
    if not token_noise:
        return tokens
    noise_key, which_key = jax.random.split(key)
    noise = jax.random.randint(noise_key, tokens.shape, 0, config.decoder.vocab_size, tokens.dtype)
    swap = jax.random.bernoulli(which_key, token_noise, tokens.shape)
    return jnp.where(swap & (jnp.arange(tokens.shape[1])[None, :] > 0), noise, tokens)


def shift_right(labels: jax.Array, *, start_token_id: int, pad_token_id: int) -> jax.Array:
    """Decoder input of labels [B, T]: the start token, then the labels without their last, IGNORED as pad."""
    start = jnp.full((labels.shape[0], 1), start_token_id, labels.dtype)
    tokens = jnp.concatenate([start, labels[:, :-1]], axis=1)
    return jnp.where(tokens == IGNORED, pad_token_id, tokens)


def cross_entropy(logits: jax.Array, labels: jax.Array, mask: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Sum of the negative log-likelihoods of labels [B, T] where mask [B, T], under logits [B, T, V], in f32. With
    smoothing the target is the label with weight 1 - ε and every token with ε / V (Szegedy et al. 2016)."""
    logits = logits.astype(jnp.float32)
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    # A comparison instead of an index: its gradient is no scatter, and the vocabulary may lie on several devices.
    tokens = jnp.arange(logits.shape[-1], dtype=labels.dtype)
    picked = jnp.where(tokens[None, None, :] == labels[..., None], logits, np.float32(0)).sum(axis=-1)
    if label_smoothing:
        picked = (1 - label_smoothing) * picked + label_smoothing * logits.mean(axis=-1)
    return jnp.where(mask, normalizer - picked, np.float32(0)).sum()


def ctc(logits: jax.Array, labels: jax.Array, config: TrOCRConfig) -> jax.Array:
    """Connectionist temporal classification (Graves et al. 2006) over the patch columns: the sum over lines of the loss
    per character.

    logits [B, columns, V], the pad token is the blank; lines with more characters than columns can hold are left out.
    """
    lines = _characters(labels, columns=logits.shape[1], config=config)
    paddings = jnp.zeros(logits.shape[:2], jnp.float32)
    label_paddings = 1 - lines.mask.astype(jnp.float32)
    losses = optax.ctc_loss(logits, paddings, lines.ids, label_paddings, blank_id=config.pad_token_id)
    return jnp.where(lines.fits, losses / jnp.maximum(lines.mask.sum(axis=1), 1).astype(jnp.float32), 0).sum()


def objective(
    model: TrOCR,
    ctc_head: dict[str, jax.Array] | None,
    pixels: jax.Array,
    tokens: jax.Array,
    labels: jax.Array,
    counts: Counts,
    *,
    recipe: Recipe,
    stage: Stage,
    key: jax.Array,
) -> Terms:
    """pixels [B, H, W] grey or [B, H, W, C] uint8, decoder input tokens [B, T], labels [B, T], counts of the batch of
    which these are a part -> what they contribute. `key` seeds dropout."""
    config, dtype = model.config, jnp.dtype(recipe.dtype)
    pixels = normalized(pixels, config.encoder.num_channels, processor=recipe.processor)
    memory = model.encode(pixels, dtype=dtype, remat=recipe.remat_encoder)
    ce = accuracy = ctc_loss = jnp.float32(0)
    if stage.cross_entropy_weight:
        logits = model.decoder(tokens, memory, key=key, dtype=dtype, remat=recipe.remat_decoder)
        mask = counted(labels)
        ce = cross_entropy(logits, labels, mask, label_smoothing=recipe.label_smoothing) / counts.tokens
        right = (logits.argmax(axis=-1).astype(labels.dtype) == labels) & mask
        accuracy = right.sum().astype(jnp.float32) / counts.tokens
    if stage.ctc_weight and ctc_head is not None:
        columns = memory[:, config.encoder.num_special_tokens :]
        ctc_loss = ctc(_ctc_logits(columns, ctc_head, dtype=dtype), labels, config) / counts.lines
    total = stage.cross_entropy_weight * ce + stage.ctc_weight * ctc_loss
    return Terms(total, ce, ctc_loss, accuracy)


def normalized(pixels: jax.Array, channels: int, *, processor: ImageProcessor | None) -> jax.Array:
    """uint8 [B, H, W] or [B, H, W, 3] -> f32 [B, H, W, C] as the image processor would rescale and normalise them, up
    to the last bits: as arithmetic, which accelerators do faster than its table. In [-1, 1] without one."""
    p = processor or ImageProcessor()
    scale, mean, std = np.float64(p.rescale_factor if p.do_rescale else 1), np.zeros(3), np.ones(3)
    if p.do_normalize:
        mean, std = np.asarray(p.image_mean), np.asarray(p.image_std)
    x = pixels.astype(jnp.float32)
    x = x if x.ndim == 4 else jnp.broadcast_to(x[..., None], (*x.shape, channels))
    divisor, shift = (v[:channels].astype(np.float32) for v in (std / scale, mean / std))
    return x / divisor[None, None, None] - shift[None, None, None]


class _Characters(NamedTuple):
    """ids [B, T], which of them are characters [B, T], which lines CTC can read [B]."""

    ids: jax.Array
    mask: jax.Array
    fits: jax.Array


def _characters(labels: jax.Array, *, columns: int, config: TrOCRConfig) -> _Characters:
    mask = counted(labels) & (labels != config.eos_token_id) & (labels != config.pad_token_id)  # pad is the blank
    ids = jnp.where(mask, labels, 0)
    repeats = ((ids[:, 1:] == ids[:, :-1]) & mask[:, 1:]).sum(axis=1)
    lengths = mask.sum(axis=1)
    return _Characters(ids, mask, (lengths > 0) & (lengths + repeats <= columns))


def _ctc_logits(columns: jax.Array, head: dict[str, jax.Array], *, dtype: DTypeLike) -> jax.Array:
    """columns [B, S, D] -> [B, S, V]."""
    return einsum("BSD,DV->BSV", columns, head["kernel"], dtype=dtype) + head["bias"][None, None]
