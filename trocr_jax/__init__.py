"""TrOCR in JAX and Flax: reads images of text lines.

Letters that name array axes everywhere in this library: B batch, K beams (hypotheses of one image), T text,
S memory (patches and special tokens), D width, N heads, H head width, V vocabulary, L cache length.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trocr_jax import checkpoint as checkpoint
    from trocr_jax import decoding as decoding
    from trocr_jax import errors as errors
    from trocr_jax import metrics as metrics
    from trocr_jax.config import TrOCRConfig as TrOCRConfig
    from trocr_jax.decoding.config import DecodeConfig as DecodeConfig
    from trocr_jax.generation import generate as generate
    from trocr_jax.model import TrOCR as TrOCR
    from trocr_jax.recognizer import Recognition as Recognition
    from trocr_jax.recognizer import Recognizer as Recognizer

# Loaded at first use: importing jax, flax and transformers takes seconds that `trocr-jax --help` need not spend.
_HOMES = {
    "DecodeConfig": "trocr_jax.decoding.config",
    "Recognition": "trocr_jax.recognizer",
    "Recognizer": "trocr_jax.recognizer",
    "TrOCR": "trocr_jax.model",
    "TrOCRConfig": "trocr_jax.config",
    "generate": "trocr_jax.generation",
}
_MODULES = ("checkpoint", "decoding", "errors", "metrics")
__all__ = [*_HOMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"trocr_jax.{name}")
    else:
        raise AttributeError(f"module 'trocr_jax' has no attribute {name!r}")
    globals()[name] = value
    return value
