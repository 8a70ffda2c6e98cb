"""The files beside the weights that a recogniser needs: tokenizer, image processor, generation settings."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

from trocr_jax.config import TrOCRConfig
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.decoding.config_huggingface import options_before
from trocr_jax.errors import CheckpointError

CALIBRATION, GENERATION = "calibration.json", "generation_config.json"
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)
PROCESSOR = ("preprocessor_config.json", "processor_config.json")
ASSETS = (*TOKENIZER, *PROCESSOR, GENERATION, CALIBRATION)


def copy_assets(source: Path, folder: Path) -> list[str]:
    """Copies those of `ASSETS` that `source` has. Returns their names. Raises CheckpointError, for no folder too."""
    _check(source)
    copied = []
    for name in ASSETS:
        if (source / name).is_file():
            try:
                if not (folder / name).exists() or not os.path.samefile(source / name, folder / name):
                    shutil.copyfile(source / name, folder / name)
            except OSError as error:
                raise CheckpointError(f"{folder / name}: cannot be written ({error})") from None
            copied.append(name)
    return copied


def token_ids(config: TrOCRConfig) -> dict[str, int]:
    """The special tokens of a model, as generation_config.json has them."""
    names = ("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id")
    return {name: getattr(config, name) for name in names}


def older_options(source: Path) -> dict[str, Any]:
    """What a folder without a generation_config.json has of it in its config.json; nothing of one that has the file.
    Raises CheckpointError for no folder, DecodeError."""
    _check(source)
    if (source / GENERATION).is_file():
        return {}
    return options_before(source, {field.name for field in fields(DecodeConfig)})


def _check(source: Path) -> None:
    if not source.is_dir():
        raise CheckpointError(f"{source}: no such folder to copy a tokenizer and image processor from; check the path")


def remove(path: Path) -> None:
    """Raises CheckpointError if the file is there and cannot be removed."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be removed ({error})") from None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Raises CheckpointError if the file cannot be written."""
    try:
        path.write_text(json.dumps(content, indent=2, sort_keys=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error})") from None
