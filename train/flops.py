"""Floating-point operations of a training step, counted from the shapes: those of the matrix products, two for each
multiplication and addition, and as much twice again for the gradients. What rematerialisation computes a second time,
softmax, norms and the optimiser are not counted, as is usual for MFU (Chowdhery et al. 2022, appendix B).

XLA's own count of a compiled step is not used: it counts the body of a loop once, however often it runs.
"""

from __future__ import annotations

from dataclasses import replace

import jax

from train.recipe import Recipe, Stage
from trocr_jax.config import TrOCRConfig

# dense bf16 FLOP/s of one device, by the beginning of jax's `device_kind`; from the makers' data sheets
PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,  # SXM
    "NVIDIA H200": 989e12,
}


def step_flops(recipe: Recipe, stage: Stage) -> float:
    """Operations of one step of a stage, over all devices."""
    encoder = replace(recipe.config.encoder, image_size=(recipe.config.encoder.image_size[0], stage.width))
    config = replace(recipe.config, encoder=encoder)
    line = encoder_flops(config)
    if stage.cross_entropy_weight:
        line += decoder_flops(config, tokens=stage.max_chars + 1)
    if stage.ctc_weight:
        line += 2.0 * config.encoder.memory_length * config.memory_width * config.decoder.vocab_size
    return 3 * stage.batch_size * line


def encoder_flops(config: TrOCRConfig) -> float:
    """Forward pass of one image to memory."""
    e = config.encoder
    s, d, f = e.memory_length, e.hidden_size, e.intermediate_size
    patches = s - e.num_special_tokens
    embedding = 2 * patches * e.patch_size[0] * e.patch_size[1] * e.num_channels * d
    layer = 2 * s * 4 * d * d + 2 * 2 * s * s * d + 2 * s * 2 * d * f
    bridge = 2 * s * d * config.decoder.hidden_size if config.bridge else 0
    return float(embedding + e.num_layers * layer + bridge)


def decoder_flops(config: TrOCRConfig, *, tokens: int) -> float:
    """Teacher forcing of `tokens` positions over one memory."""
    c = config.decoder
    t, s, d, m = tokens, config.encoder.memory_length, c.hidden_size, config.memory_width
    self_attention = 2 * t * 4 * d * d + 2 * 2 * t * t * d
    cross_attention = 2 * t * 2 * d * d + 2 * s * 2 * m * d + 2 * 2 * t * s * d
    mlp = 2 * t * 2 * d * c.intermediate_size
    return float(c.num_layers * (self_attention + cross_attention + mlp) + 2 * t * d * c.vocab_size)


def peak(device: jax.Device) -> float | None:
    """FLOP/s of a device, or none if the table does not have it."""
    found = [name for name in PEAKS if device.device_kind.startswith(name)]
    return PEAKS[max(found, key=len)] if found else None
