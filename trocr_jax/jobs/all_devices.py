"""A recognizer that uses every device of this process."""

from __future__ import annotations

import os

import jax
from jax.typing import DTypeLike

from trocr_jax.generation import CrossAttention
from trocr_jax.recognizer import Recognizer


def load(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    dtype: DTypeLike | None = None,
    cross_attention: CrossAttention = "products",
) -> Recognizer:
    """As `Recognizer.from_pretrained`, batches shared out over all local devices if there are several."""
    devices = jax.local_devices()
    mesh = jax.make_mesh((len(devices),), ("data",), devices=devices) if len(devices) > 1 else None
    return Recognizer.from_pretrained(model, revision=revision, dtype=dtype, mesh=mesh, cross_attention=cross_attention)
