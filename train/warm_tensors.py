"""Tensors of a pretrained folder on their way to parameters: each is used, left out by a table, or refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from trocr_jax.checkpoint.huggingface import read_weights
from trocr_jax.checkpoint.names import SAME, Layout
from trocr_jax.checkpoint.parameters import StoredTensor
from trocr_jax.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]  # path within the model, "encoder/layers/0/fc1/kernel" -> shape
Reasons = tuple[tuple[str, str], ...]  # (pattern of a whole name, reason); the first that matches counts


class Found(NamedTuple):
    """arrays by path within the model; tensors left out and parameters that begin anew, each with the reason; tables
    that were put into the order of another vocabulary, and how many rows were."""

    arrays: dict[str, np.ndarray]
    left_out: dict[str, str]
    new: dict[str, str]
    carried: Mapping[str, str] = MappingProxyType({})

    def and_(self, other: Found) -> Found:
        carried = {**self.carried, **other.carried}
        return Found(self.arrays | other.arrays, self.left_out | other.left_out, self.new | other.new, carried)

    def lines(self) -> list[str]:
        """For people: counts, then each reason with its names."""
        out = [f"first weights: {len(self.arrays)} parameters"]
        for title, names in (("left out", self.left_out), ("new", self.new), ("by tokens", self.carried)):
            for reason in sorted(set(names.values())):
                same = ", ".join(name for name, why in names.items() if why == reason)
                out.append(f"  {title} ({reason}): {same}")
        return out


def settings_of(folder: Path, kinds: tuple[str, ...]) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        kind = settings["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: no configuration of transformers ({type(error).__name__}: {error})") from None
    if kind not in kinds:
        raise CheckpointError(f"{path}: model_type is {kind!r}; supported here: {', '.join(kinds)}")
    return dict(settings)


def different(settings: Mapping[str, Any], **ours: Any) -> list[str]:
    return [
        f"config.json: {name} is {settings[name]!r}, the recipe wants {value!r}"
        for name, value in ours.items()
        if name in settings and settings[name] != value
    ]


def tensors_of(folder: Path, prefix: str, left_out: Reasons) -> tuple[dict[str, StoredTensor], Found]:
    """The tensors without the prefix of the task, those that a table leaves out apart."""
    tensors, found = {}, Found({}, {}, {})
    for stored, tensor in read_weights(folder).items():
        name = re.sub(prefix, "", stored)
        reason = next((why for pattern, why in left_out if re.fullmatch(pattern, name)), None)
        if reason is None:
            tensors[name] = tensor
        else:
            found.left_out[name] = reason
    return tensors, found


def take(
    found: Found,
    known: dict[str, StoredTensor],
    wanted: Mapping[str, tuple[str, Layout]],
    shapes: Shapes,
    may_be_new: Reasons,
    problems: list[str],
    *,
    any_length: tuple[str, ...] = (),
) -> None:
    """Moves the wanted tensors from `known` to `found`, in our layouts. Of the paths `any_length` the first axis may
    have another size."""
    for path, shape in shapes.items():
        if path in found.arrays:
            continue
        key, layout = wanted.get(path, ("", SAME))
        tensor = known.pop(key, None)
        if tensor is None:
            reason = next((why for pattern, why in may_be_new if re.fullmatch(pattern, path)), None)
            if reason is None:
                problems.append(f"missing: {key or path}")
            else:
                found.new[path] = reason
        elif tensor.shape[path in any_length :] != layout.stored_shape(shape)[path in any_length :]:
            problems.append(f"{key} is {list(tensor.shape)}; the recipe wants {list(layout.stored_shape(shape))}")
        else:
            found.arrays[path] = np.ascontiguousarray(layout.load(read(tensor), shape))


def refuse(folder: Path, unused: Mapping[str, StoredTensor], problems: list[str]) -> None:
    problems += [f"not known: {name}" for name in unused]
    if problems:
        raise CheckpointError(f"{folder}: cannot give first weights:\n  " + "\n  ".join(problems))


def read(tensor: StoredTensor) -> np.ndarray:
    return tensor.read().astype(np.float32)
