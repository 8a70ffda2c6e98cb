"""What a recipe takes over from the model that it goes on from: configuration, tokenizer, image processor."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from trocr_jax.checkpoint import resolve
from trocr_jax.config import TrOCRConfig
from trocr_jax.errors import ConfigError
from trocr_jax.image import ImageProcessor
from trocr_jax.tokenizer import load_tokenizer


class FromModel(NamedTuple):
    """Fields of a Recipe, by their names."""

    config: TrOCRConfig
    tokenizer: str
    processor: ImageProcessor
    start_from: str


def from_model(model: str, *, tokenizer: str | None = None, image_size: tuple[int, int] | None = None) -> FromModel:
    """Of a built-in model, a folder, or a repository of the hub.

    tokenizer: model or folder whose vocabulary the decoder gets instead: tokens that both have keep their weights.
    image_size: (height, width) of the pictures instead; the positions of the patches are interpolated.
    Raises CheckpointError or ConfigError naming the file that is missing or does not fit.
    """
    folder = resolve(model)
    config, processor = TrOCRConfig.from_json(folder / "config.json"), ImageProcessor.from_folder(folder)
    if processor.size != config.encoder.image_size:
        raise ConfigError(
            f"{folder}: its image processor makes pictures of {processor.size} (height, width) and its model takes "
            f"{config.encoder.image_size}; copy both files of the model again"
        )
    if image_size is not None:
        config = replace(config, encoder=replace(config.encoder, image_size=image_size))
        processor = replace(processor, height=image_size[0], width=image_size[1], crop_size=None)
    if tokenizer is not None:
        size = len(load_tokenizer(resolve(tokenizer)))
        config = replace(config, decoder=replace(config.decoder, vocab_size=size))
    return FromModel(config, tokenizer or model, processor, model)
