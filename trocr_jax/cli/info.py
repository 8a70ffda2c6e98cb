"""`trocr-jax info`: what a model is, as lines of `name: value` on stdout."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trocr_jax import checkpoint
from trocr_jax.checkpoint.parameters import parameters
from trocr_jax.cli import Info, printing
from trocr_jax.image import ImageProcessor
from trocr_jax.model import TrOCR
from trocr_jax.quantization import SCALE
from trocr_jax.say import printable
from trocr_jax.tokenizer import load_tokenizer


def info(command: Info) -> int:
    """Returns the exit status. Reads the whole folder, so that what it describes can be used; raises TrOCRError."""
    folder = checkpoint.resolve(command.model, revision=command.revision)
    model = checkpoint.load(folder)  # first, as it compares every file of a native folder with the manifest
    image_processor, tokenizer = ImageProcessor.from_folder(folder), load_tokenizer(folder)
    height, width = image_processor.size
    lines: list[tuple[str, Any]] = [
        ("model", command.model),
        ("folder", folder),
        *_parameters(model),
        ("image", f"{height} x {width} pixels (height x width)"),
        ("vocabulary", f"{model.config.decoder.vocab_size} tokens, {len(tokenizer)} in the tokenizer"),
        ("longest text", f"{model.config.decoder.max_position_embeddings} tokens"),
        *_fields("encoder", model.config.encoder),
        *_fields("decoder", model.config.decoder),
        *((n.name, getattr(model.config, n.name)) for n in dataclasses.fields(model.config) if n.name.endswith("_id")),
        *_fields("image processor", image_processor),
        *_files(folder),
    ]
    with printing():
        for name, value in lines:
            print(printable(f"{name}: {value}"))
    return 0


def _parameters(model: TrOCR) -> Iterator[tuple[str, str]]:
    arrays = parameters(model)
    parts, types = Counter[str](), Counter[str]()
    for name, array in arrays.items():
        parts[name.split(".")[0]] += 0 if name.endswith(SCALE) else array.size
        types[array.dtype.name] += array.nbytes
    yield "parameters", f"{parts.total():,} ({', '.join(f'{part} {count:,}' for part, count in parts.items())})"
    yield "dtype", ", ".join(types)
    bytes_of = f" ({', '.join(f'{name} {size:,}' for name, size in types.items())})" if len(types) > 1 else ""
    yield "memory", f"{types.total():,} bytes of parameters{bytes_of}"


def _fields(name: str, config: Any) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(config):
        yield f"{name}.{field.name}", getattr(config, field.name)


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield "file", f"{path.relative_to(folder)} ({path.stat().st_size:,} bytes)"
