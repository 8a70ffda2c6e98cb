"""First weights of the decoder from a Hugging Face folder of a RoBERTa, XLM-R or BERT (MiniLM is stored as one)."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from train.warm_tensors import Found, Reasons, Shapes, different, read, refuse, settings_of, take, tensors_of
from trocr_jax.checkpoint.names import SAME, Layout, from_heads, linear, norm, to_heads
from trocr_jax.checkpoint.parameters import StoredTensor
from trocr_jax.config import TrOCRConfig
from trocr_jax.decoder import POSITION_OFFSET

_KINDS = {"roberta": True, "xlm-roberta": True, "camembert": True, "bert": False}  # positions begin behind the pad
_LEFT_OUT: Reasons = (
    (r"pooler\..*|classifier\..*", "of classification"),
    (r"lm_head\..*|cls\..*", "of masked language modelling"),
    (r"embeddings\.(position_ids|token_type_ids)", "computed"),
)
_NEW: Reasons = ((r".*/cross_attention(_norm)?/.*", "the source reads no image"),)
_L, _K = "decoder.layers.{n}", "encoder.layer.{n}"
_TABLE = (
    ("decoder.embed_tokens", "embeddings.word_embeddings.weight", SAME),
    *norm("decoder.embed_norm", "embeddings.LayerNorm"),
    *to_heads(f"{_L}.self_attention.query", f"{_K}.attention.self.query"),
    *to_heads(f"{_L}.self_attention.key", f"{_K}.attention.self.key"),
    *to_heads(f"{_L}.self_attention.value", f"{_K}.attention.self.value"),
    *from_heads(f"{_L}.self_attention.out", f"{_K}.attention.output.dense"),
    *norm(f"{_L}.self_attention_norm", f"{_K}.attention.output.LayerNorm"),
    *linear(f"{_L}.fc1", f"{_K}.intermediate.dense"),
    *linear(f"{_L}.fc2", f"{_K}.output.dense"),
    *norm(f"{_L}.norm", f"{_K}.output.LayerNorm"),
)


def decoder_tensors(folder: Path, config: TrOCRConfig, shapes: Shapes) -> Found:
    """The decoder from the last layers of a RoBERTa, XLM-R or BERT folder; `shapes` are the decoder's. The token type
    that all text has is added to the positions; an embedding that the decoder scales by √D is divided by it; the output
    projection begins as the embedding, as the source ties them; cross-attention begins anew. The tables of tokens are
    in the source's vocabulary. Raises CheckpointError listing what does not fit."""
    settings = settings_of(folder, tuple(_KINDS))
    problems = different(settings, num_attention_heads=config.decoder.num_heads)
    known, found = tensors_of(folder, r"^(roberta|bert)\.", _LEFT_OUT)
    below = int(settings.get("num_hidden_layers", 0)) - config.decoder.num_layers
    if below < 0:
        problems.append(f"has {settings.get('num_hidden_layers')} layers; the decoder has {config.decoder.num_layers}")
    _leave_out(found, known, config, below=below)
    if "decoder/embed_positions" in shapes:
        first = int(settings.get("pad_token_id", 1)) + 1 if _KINDS[settings["model_type"]] else 0
        _take_positions(found, known, first, shapes["decoder/embed_positions"], problems)
    wanted = {path: row for path in shapes if (row := _row(path, below)) is not None}
    rest = {path: shape for path, shape in shapes.items() if path != "decoder/output_projection"}
    # any number of tokens: the vocabulary is carried over later
    take(found, known, wanted, rest, _NEW, problems, any_length=("decoder/embed_tokens",))
    refuse(folder, known, problems)
    embedding = found.arrays["decoder/embed_tokens"]
    if "decoder/output_projection" in shapes:
        found.arrays["decoder/output_projection"] = embedding
    if config.decoder.scale_embedding:
        found.arrays["decoder/embed_tokens"] = embedding / np.float32(math.sqrt(config.decoder.hidden_size))
    return found


def _row(path: str, below: int) -> tuple[str, Layout] | None:
    """The source's name and the layout of one of our parameters."""
    number = re.search(r"(?<=/layers/)\d+", path)
    template = re.sub(r"(?<=/layers/)\d+", "{n}", path).replace("/", ".")
    row = next(((key, layout) for ours, key, layout in _TABLE if ours == template), None)
    return row if row is None or number is None else (row[0].format(n=below + int(number[0])), row[1])


def _leave_out(found: Found, known: dict[str, StoredTensor], config: TrOCRConfig, *, below: int) -> None:
    reasons: dict[str, str] = {}
    for name in known:
        number = re.match(r"encoder\.layer\.(\d+)\.", name)
        if number and int(number[1]) < below:
            reasons[name] = "of a lower layer"
        elif name.startswith("embeddings.LayerNorm.") and not config.decoder.layernorm_embedding:
            reasons[name] = "the configuration has no norm there"
        elif re.match(r"embeddings\.(token_type|position)_", name) and not config.decoder.learned_positions:
            reasons[name] = "the configuration has sinusoidal positions"
    for name in reasons:
        del known[name]
    found.left_out.update(reasons)


def _take_positions(
    found: Found, known: dict[str, StoredTensor], first: int, shape: tuple[int, ...], problems: list[str]
) -> None:
    """Our row POSITION_OFFSET + i is the source's row `first` + i; those that the source lacks are zero."""
    token_types, table = (
        known.pop(f"embeddings.{name}_embeddings.weight", None) for name in ("token_type", "position")
    )
    if table is None or len(table.shape) != 2 or table.shape[1] != shape[1]:
        found_shape = "missing" if table is None else f"{list(table.shape)}"
        problems.append(f"embeddings.position_embeddings.weight is {found_shape}; the recipe wants {list(shape)}")
        return
    rows = read(table)[first:]
    if token_types is not None:
        types = read(token_types)
        rows = rows + types[:1]
        if len(types) > 1:
            found.left_out["embeddings.token_type_embeddings.weight[1:]"] = "a line is one segment"
    count = min(len(rows), shape[0] - POSITION_OFFSET)
    positions = np.zeros(shape, np.float32)
    positions[POSITION_OFFSET : POSITION_OFFSET + count] = rows[:count]
    if POSITION_OFFSET + count < shape[0]:
        found.new[f"decoder/embed_positions[{POSITION_OFFSET + count}:]"] = "zero, the source has no more positions"
    if count < len(rows):
        found.left_out[f"embeddings.position_embeddings.weight[{first + count}:]"] = "the decoder has no more positions"
    found.arrays["decoder/embed_positions"] = positions
