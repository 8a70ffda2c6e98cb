"""What a recipe takes over from the model that it goes on from: configuration, tokenizer, image processor."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from train.vocabulary import PARTS
from trocr_jax.checkpoint import resolve
from trocr_jax.checkpoint.huggingface import read_config
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
    config, processor = read_config(folder), ImageProcessor.from_folder(folder)
    if processor.size != config.encoder.image_size:
        raise ConfigError(
            f"{folder}: its image processor makes pictures of {processor.size} (height, width) and its model takes "
            f"{config.encoder.image_size}; copy both files of the model again"
        )
    if image_size is not None:
        config = replace(config, encoder=replace(config.encoder, image_size=image_size))
        processor = replace(processor, height=image_size[0], width=image_size[1], crop_size=None)
    if tokenizer is not None:
        config = with_vocabulary(config, load_tokenizer(folder), load_tokenizer(resolve(tokenizer)), name=tokenizer)
    return FromModel(config, tokenizer or model, processor, model)


def with_vocabulary(
    config: TrOCRConfig, old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase, *, name: str
) -> TrOCRConfig:
    """`config` with the size and the special tokens of another tokenizer; a text starts with the token that does
    what the one did that it started with. Raises ConfigError for a tokenizer without end or padding token."""
    for kind in ("eos_token", "pad_token"):
        if getattr(new, kind) is None:
            raise ConfigError(f"{name}: the tokenizer has no {kind}; name one in its tokenizer_config.json")
    start = old.convert_ids_to_tokens(config.decoder_start_token_id)
    part = next((kind for kind in PARTS if getattr(old, kind) == start), "eos_token")
    return replace(
        config,
        decoder=replace(config.decoder, vocab_size=max(new.get_vocab().values()) + 1),
        decoder_start_token_id=new.convert_tokens_to_ids(getattr(new, part) or new.eos_token),
        bos_token_id=new.eos_token_id if new.bos_token_id is None else new.bos_token_id,
        eos_token_id=new.eos_token_id,
        pad_token_id=new.pad_token_id,
    )
