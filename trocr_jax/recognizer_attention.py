"""Where a model looked while it wrote texts that were found: a second pass over a batch, only when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from trocr_jax.cross_attention import cross_attention
from trocr_jax.image import ImageProcessor
from trocr_jax.model import TrOCR
from trocr_jax.word_boxes import CrossAttention, ink_columns

MOST_BYTES = 2**28  # of weights that are computed at a time: a large model has 0.6 MB of them a token


def attentions(
    model: TrOCR,
    pixels: Sequence[np.ndarray],
    token_ids: Sequence[Sequence[int]],
    sizes: Sequence[tuple[int, int]],
    *,
    dtype: jnp.dtype,
    image_processor: ImageProcessor | None,
) -> list[CrossAttention]:
    """The cross-attention of each text. pixels: [H, W, 3] each, uint8 with the processor that scales them, or f32 in
    [-1, 1]; token_ids: of each image, the end token included; sizes: (width, height) of the image that was given.

    Compiles for powers of two of tokens and of images.
    """
    config, found = model.config, list[CrossAttention]()
    longest = max((len(ids) for ids in token_ids), default=0)
    length = min(_power_above(max(longest, 8)), max(longest, config.decoder.max_position_embeddings))
    row = config.decoder.num_layers * config.decoder.num_heads * length * 4
    patch_height, patch_width = config.encoder.patch_size
    special = config.encoder.num_special_tokens
    each = 1 << max(0, (MOST_BYTES // (row * config.encoder.memory_length)).bit_length() - 1)  # images at a time
    for start in range(0, len(pixels), each):
        part = slice(start, start + each)
        ids = np.full((_power_above(len(pixels[part])), length), config.pad_token_id, np.int32)
        ids[:, 0] = config.decoder_start_token_id
        for i, own in enumerate(token_ids[part]):
            ids[i, 1 : len(own)] = own[:-1]
        filled = np.stack([*pixels[part], *[pixels[start]] * (len(ids) - len(pixels[part]))])
        weights = [np.asarray(w) for w in _weights(model, filled, ids, dtype, image_processor)]
        for i, (own, image, size) in enumerate(zip(token_ids[part], pixels[part], sizes[part], strict=True)):
            found.append(
                CrossAttention(
                    weights=np.stack([w[i, :, : len(own)] for w in weights]),
                    special=special,
                    grid=(image.shape[0] // patch_height, image.shape[1] // patch_width),
                    ink=ink_columns(_grey_levels(image)),
                    width=size[0],
                    height=size[1],
                    span=_span(size[0], size[1], image.shape[1], image_processor),
                )
            )
    return found


@partial(jax.jit, static_argnames=("dtype", "image_processor"))
def _weights(
    model: TrOCR, pixels: jax.Array, tokens: jax.Array, dtype: jnp.dtype, image_processor: ImageProcessor | None
) -> tuple[jax.Array, ...]:
    if image_processor is not None:
        pixels = image_processor.normalize(pixels)
    return cross_attention(model.decoder, tokens, model.encode(pixels, dtype=dtype), dtype=dtype)


def _span(width: int, height: int, columns: int, processor: ImageProcessor | None) -> tuple[float, float]:
    """Which part of an image, in its pixels from the left, the columns of the model's pixels show."""
    if processor is None:
        return 0.0, float(width)
    if processor.keep_aspect_ratio:
        filled = max(1, min(round(width * processor.height / height), processor.width))  # as ImageProcessor.pixels
        return 0.0, width * columns / filled
    whole = processor.width if processor.do_resize else width
    cut = (whole - columns) / 2  # out of the middle, or negative where black was added
    return cut * width / whole, (whole - cut) * width / whole


def _grey_levels(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    return np.clip((pixels + 1) * np.float32(127.5), 0, 255).astype(np.uint8)


def _power_above(count: int) -> int:
    return 1 << max(0, count - 1).bit_length()
