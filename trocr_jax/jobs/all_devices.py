"""A recognizer that uses every device of this process."""

from __future__ import annotations

import os

import jax
from jax.sharding import Mesh
from jax.typing import DTypeLike

from trocr_jax.generation_plan import CrossAttention
from trocr_jax.recognizer import Recognizer
from trocr_jax.sharding import make_mesh


def load(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
    cross_attention: CrossAttention = "auto",
) -> Recognizer:
    """As `Recognizer.from_pretrained`; without a mesh batches are shared out over all local devices if there are
    several."""
    devices = jax.local_devices()
    if mesh is None and len(devices) > 1:
        mesh = make_mesh(devices=devices)
    return Recognizer.from_pretrained(model, revision=revision, dtype=dtype, mesh=mesh, cross_attention=cross_attention)
