"""The original checkpoints: `.pt` files of the TrOCR code in microsoft/unilm, a timm encoder and a fairseq decoder.

Names: https://github.com/microsoft/unilm/tree/master/trocr (`trocr_models.py`, `deit.py`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jax.typing import DTypeLike

from trocr_jax.checkpoint.huggingface import from_tensors
from trocr_jax.checkpoint.parameters import StoredTensor
from trocr_jax.checkpoint.unpickler import read_fairseq_model
from trocr_jax.config import TrOCRConfig
from trocr_jax.errors import CheckpointError
from trocr_jax.model import TrOCR
from trocr_jax.presets import PRESETS

_QKV = re.compile(r"(encoder\.deit\.blocks\.\d+\.attn\.)qkv(\.weight|\.bias)")


def load_fairseq(path: Path, *, config: TrOCRConfig | None = None, dtype: DTypeLike | None = None) -> TrOCR:
    """The model of a fairseq checkpoint. Such a file does not say its architecture in a form that can be read without
    fairseq: without `config`, it is the published one whose sizes fit.

    Raises CheckpointError if none fits, or listing everything that is wrong with the tensors.
    """
    tensors = split_qkv(read_fairseq_model(path))
    config = config or guess_config(tensors, where=str(path))
    return from_tensors(config, tensors, dtype=dtype, where=str(path))


def split_qkv(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """timm keeps query, key and value of a layer in one tensor, stacked in that order along the first axis."""
    split: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        match = _QKV.fullmatch(name)
        if match is None or not tensor.shape or tensor.shape[0] % 3:
            split[name] = tensor
            continue
        rows = tensor.shape[0] // 3
        for third, part in enumerate(("query", "key", "value")):
            read = functools.partial(_rows, tensor, third * rows, rows)
            split[f"{match[1]}{part}{match[2]}"] = StoredTensor((rows, *tensor.shape[1:]), tensor.dtype, read)
    return split


def guess_config(tensors: Mapping[str, StoredTensor], *, where: str) -> TrOCRConfig:
    """The published architecture with these tensors' sizes. Raises CheckpointError if there is none."""
    found = {
        "encoder positions": _shape(tensors, "encoder.deit.pos_embed"),
        "distillation token": "encoder.deit.dist_token" in tensors,
        "token embeddings": _shape(tensors, "decoder.embed_tokens.weight"),
        "position embeddings": _shape(tensors, "decoder.embed_positions.weight"),
    }
    for config in PRESETS.values():
        e, d = config.encoder, config.decoder
        positions = (d.max_position_embeddings + 2, d.hidden_size) if d.learned_positions else None
        wanted = {
            "encoder positions": (1, e.memory_length, e.hidden_size),
            "distillation token": e.kind == "deit",
            "token embeddings": (d.vocab_size, d.hidden_size),
            "position embeddings": positions,
        }
        if found == wanted:
            return config
    sizes = ", ".join(f"{name} {size}" for name, size in found.items())
    raise CheckpointError(f"{where}: no published architecture has these sizes ({sizes}); give --config a config.json")


def _rows(tensor: StoredTensor, first: int, count: int) -> np.ndarray:
    return tensor.read()[first : first + count].copy()  # a view would keep all three in memory


def _shape(tensors: Mapping[str, StoredTensor], name: str) -> tuple[int, ...] | None:
    return tensors[name].shape if name in tensors else None
