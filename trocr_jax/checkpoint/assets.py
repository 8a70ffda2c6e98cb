"""The files beside the weights that a recogniser needs: tokenizer, image processor, generation settings."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from trocr_jax.errors import CheckpointError

CALIBRATION = "calibration.json"
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
ASSETS = (*TOKENIZER, *PROCESSOR, "generation_config.json", CALIBRATION)


def copy_assets(source: Path, folder: Path) -> list[str]:
    """Copies those of `ASSETS` that `source` has. Returns their names. Raises CheckpointError, for no folder too."""
    if not source.is_dir():
        raise CheckpointError(f"{source}: no such folder to copy a tokenizer and image processor from; check the path")
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
