"""Weights in and out: folders of transformers, our own, built-in models and the Hugging Face hub."""

from __future__ import annotations

import os

from jax.typing import DTypeLike

from trocr_jax.checkpoint.assets import ASSETS, copy_assets
from trocr_jax.checkpoint.hub import BUILT_IN, resolve
from trocr_jax.checkpoint.huggingface import load_huggingface, save_huggingface
from trocr_jax.checkpoint.native import is_native, load_native, put_file, save_native
from trocr_jax.model import TrOCR

__all__ = [
    "ASSETS",
    "BUILT_IN",
    "copy_assets",
    "is_native",
    "load",
    "load_huggingface",
    "load_native",
    "put_file",
    "resolve",
    "save",
    "save_huggingface",
    "save_native",
]


def load(path: str | os.PathLike[str], dtype: DTypeLike | None = None, *, revision: str | None = None) -> TrOCR:
    """The model of a native or Hugging Face folder, a built-in name, or a repository "owner/name" of the hub.

    Parameters keep their stored type (float64 becomes float32), or get `dtype`, which is float32, bfloat16 or float16;
    the compute type is an argument of the model's methods. Raises CheckpointError and ConfigError, each listing
    everything that is wrong.
    """
    folder = resolve(path, revision=revision)
    return load_native(folder, dtype=dtype) if is_native(folder) else load_huggingface(folder, dtype=dtype)


def save(model: TrOCR, path: str | os.PathLike[str], *, assets: str | os.PathLike[str] | None = None) -> None:
    """Writes the native folder: `save_native`. `assets` is a folder whose tokenizer and preprocessor go along, without
    which the folder is a model, but no `Recognizer`. So does its calibration: remove calibration.json where that folder
    has other weights."""
    save_native(model, path, assets=assets)
