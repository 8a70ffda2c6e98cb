"""Low-rank adapters (Hu et al. 2022): a matrix W acts as W + (alpha / rank) a b, and only a and b train."""

from __future__ import annotations

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from train.optimizer import MATRICES
from train.recipe import Lora
from trocr_jax.attention import einsum
from trocr_jax.errors import ConfigError
from trocr_jax.sharding import path_name

Adapters = dict[str, dict[str, jax.Array]]  # path within the model -> a [D_in, rank], b [rank, D_out], f32


def init_adapters(lora: Lora, model: dict[str, Any], key: jax.Array) -> Adapters:
    """Adapters of every matrix of the pure dict `model` that `lora.targets` matches: a normal with deviation
    1 / √D_in, b zero, so that the model is at first unchanged.

    Raises ConfigError if nothing matches, or something that is no matrix.
    """
    shapes = {path_name(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(model)}
    names = [name for name in shapes if re.fullmatch(lora.targets, name)]
    if not names:
        raise ConfigError(f"lora.targets: {lora.targets!r} matches no parameter of the model as a whole")
    adapters = {}
    if wrong := [name for name in names if _axes_in(name, len(shapes[name])) is None]:
        raise ConfigError(f"lora.targets: {', '.join(wrong)}: no matrices; adapters stand beside matrices alone")
    for number, name in enumerate(names):
        axes = _axes_in(name, len(shapes[name]))
        d_in, d_out = math.prod(shapes[name][:axes]), math.prod(shapes[name][axes:])
        a = jax.random.normal(jax.random.fold_in(key, number), (d_in, lora.rank)) * np.float32(d_in**-0.5)
        adapters[name] = {"a": a, "b": jnp.zeros((lora.rank, d_out), jnp.float32)}
    return adapters


def merged(lora: Lora | None, params: dict[str, Any]) -> dict[str, Any]:
    """The model of params {"model": …, "lora": …} with its adapters added in: a pure dict of the same shapes. Gradients
    flow through it to the adapters. Without `lora` it is params["model"]."""
    if lora is None:
        return params["model"]
    adapters: Adapters = params["lora"]

    def add(path: tuple[Any, ...], weight: jax.Array) -> jax.Array:
        pair = adapters.get(path_name(path))
        if pair is None:
            return weight
        change = einsum("DR,RE->DE", pair["a"], pair["b"], dtype=jnp.float32).reshape(weight.shape)
        return weight + change * np.float32(lora.alpha / lora.rank)

    return jax.tree_util.tree_map_with_path(add, params["model"])


def _axes_in(name: str, ndim: int) -> int | None:
    """How many leading axes of a parameter are its input as a matrix; none if it is no matrix."""
    for ending, numbers in MATRICES:
        if name.endswith(f"/{ending}"):
            return len(numbers.reduction_axis)
    if ndim == 4:  # the patches' convolution [ph, pw, C, D]
        return 3
    return 1 if ndim == 2 and not name.endswith("bias") else None
