"""First weights of the encoder from a Hugging Face folder of a ViT, DeiT or BEiT."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from train.warm_tensors import Found, Reasons, Shapes, different, read, refuse, settings_of, take, tensors_of
from trocr_jax.checkpoint.names import TABLE, canonical_key, stored_name
from trocr_jax.checkpoint.parameters import StoredTensor
from trocr_jax.config import EncoderConfig, TrOCRConfig
from trocr_jax.encoder import bicubic_weights

_LEFT_OUT: Reasons = (
    (r"pooler\..*|(cls_|distillation_)?classifier\..*", "of classification"),
    (r"lm_head\..*|decoder\..*|embeddings\.mask_token", "of masked image modelling"),
    (r".*relative_position_index", "computed from the size"),
)
_NO_BIAS = (r".*/(query|key|value)/bias", "zero, as the source has none")
_NEW: dict[str, Reasons] = {  # by the source's model_type
    "vit": (_NO_BIAS, (r"encoder/distillation_token", "the source has none")),
    "deit": (_NO_BIAS,),
    "beit": (
        _NO_BIAS,
        (r"encoder/distillation_token", "the source has none"),
        (r"encoder/position_embeddings", "the source has relative positions"),
        (r"encoder/norm/(scale|bias)", "the source ends without a norm"),
    ),
}
_KNOWN = {key for _, key, _ in TABLE}
_POSITIONS = stored_name("encoder.position_embeddings")[0]


def encoder_tensors(folder: Path, config: TrOCRConfig, shapes: Shapes) -> Found:
    """The encoder from a folder of a ViT, DeiT or BEiT; `shapes` are the encoder's. Positions are interpolated to the
    configuration's image size; BEiT's layer scales are multiplied into the projections before them where the
    configuration has none. Raises CheckpointError listing what does not fit."""
    settings = settings_of(folder, tuple(_NEW))
    problems = different(settings, num_attention_heads=config.encoder.num_heads, hidden_act=config.encoder.activation)
    tensors, found = tensors_of(folder, r"^(vit|deit|beit)\.", _LEFT_OUT)
    known = {canonical_key(f"encoder.{name}") or name: tensor for name, tensor in tensors.items()}
    if _POSITIONS in known and "encoder/position_embeddings" in shapes:
        _take_positions(found, known.pop(_POSITIONS), settings, config.encoder, problems)
    scales = {}
    if not config.encoder.layer_scale:
        scales = {key: known.pop(key) for key in list(known) if re.search(r"\.lambda_[12]$", key)}
    wanted = {path: stored_name(path.replace("/", ".")) for path in shapes}
    take(found, known, wanted, shapes, _NEW[settings["model_type"]], problems)
    _leave_out(found, known, config.encoder)
    refuse(folder, known, problems)
    _fold(found.arrays, scales)
    return found


def resized_positions(table: np.ndarray, *, grid: tuple[int, int], special: int, config: EncoderConfig) -> np.ndarray:
    """Position table [1, special + rows * columns, D] for the grid and special tokens of `config`: bicubic as in the
    encoder itself; a special token that is new gets zeros, one too many (DeiT's distillation token) is dropped."""
    d = table.shape[-1]
    patches = table[0, special:].astype(np.float64).reshape(*grid, d)
    if grid != config.grid:
        rows, columns = (bicubic_weights(a, b) for a, b in zip(grid, config.grid, strict=True))
        patches = np.einsum("hr,wc,rcD->hwD", rows, columns, patches)
    front = np.zeros((config.num_special_tokens, d))
    both = min(special, config.num_special_tokens)
    front[:both] = table[0, :both]
    return np.concatenate([front, patches.reshape(-1, d)])[None].astype(np.float32)


def _take_positions(
    found: Found, table: StoredTensor, settings: Mapping[str, Any], config: EncoderConfig, problems: list[str]
) -> None:
    (height, width), (ph, pw) = (_pair(settings.get(name, 0)) for name in ("image_size", "patch_size"))
    grid, special = (height // max(ph, 1), width // max(pw, 1)), 2 if settings["model_type"] == "deit" else 1
    if table.shape[1] != special + grid[0] * grid[1]:
        problems.append(f"{_POSITIONS} has {table.shape[1]} rows; its config.json says {special} + {grid[0]}x{grid[1]}")
    else:
        rows = resized_positions(read(table), grid=grid, special=special, config=config)
        found.arrays["encoder/position_embeddings"] = rows


def _leave_out(found: Found, known: dict[str, StoredTensor], config: EncoderConfig) -> None:
    """What the table of names knows and the configuration lacks: biases, the distillation token, relative positions.
    Not whole layers, which stay in `known`."""
    for key in list(known):
        number = re.search(r"\.layer\.(\d+)\.", key)
        if re.sub(r"\.layer\.\d+\.", ".layer.{n}.", key) in _KNOWN and not (
            number and int(number[1]) >= config.num_layers
        ):
            found.left_out[key] = "the configuration has no such parameter"
            del known[key]


def _fold(arrays: dict[str, np.ndarray], scales: Mapping[str, StoredTensor]) -> None:
    """x + λ (y W + b) = x + y (W λ) + b λ."""
    for key, tensor in scales.items():
        match = re.search(r"\.layer\.(\d+)\.lambda_([12])$", key)
        assert match is not None
        part = "attention/out" if match[2] == "1" else "fc2"
        for name in ("kernel", "bias"):
            path = f"encoder/layers/{match[1]}/{part}/{name}"
            arrays[path] = arrays[path] * read(tensor)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
