"""Names and layouts of parameters: one table between our paths and transformers' keys, read both ways.

A row is (our path, transformers' key, layout); `{n}` is a layer number. Other spellings of the keys (newer raw state
dicts, wrappers, the original fairseq code) are rewritten to the table's by `canonical_key`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """How an array of ours is stored: the stored shape from our shape, and the array in either direction."""

    stored_shape: Callable[[Shape], Shape]
    load: Callable[[np.ndarray, Shape], np.ndarray]  # stored array, our shape
    store: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda s: s, lambda x, s: x, lambda x: x)
# torch.nn.Linear: [out, in]
LINEAR = Layout(lambda s: (s[1], s[0]), lambda x, s: x.T, lambda x: x.T)
# torch.nn.Conv2d: [D, C, ph, pw], ours [ph, pw, C, D]
CONV = Layout(
    lambda s: (s[3], s[2], s[0], s[1]), lambda x, s: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)
)
# width to heads: stored [N * H, D], ours [D, N, H]
TO_HEADS = Layout(
    lambda s: (s[1] * s[2], s[0]),
    lambda x, s: x.T.reshape(s),
    lambda x: x.reshape(x.shape[0], -1).T,
)
# bias of heads: stored [N * H], ours [N, H]
HEADS_BIAS = Layout(lambda s: (s[0] * s[1],), lambda x, s: x.reshape(s), lambda x: x.reshape(-1))
# heads to width: stored [D, N * H], ours [N, H, D]
FROM_HEADS = Layout(
    lambda s: (s[2], s[0] * s[1]),
    lambda x, s: x.T.reshape(s),
    lambda x: x.reshape(-1, x.shape[2]).T,
)

_Row = tuple[str, str, Layout]


def linear(path: str, key: str) -> list[_Row]:
    """The rows of kernel and bias; the others likewise, of a norm and of projections to and from heads."""
    return [(f"{path}.kernel", f"{key}.weight", LINEAR), (f"{path}.bias", f"{key}.bias", SAME)]


def norm(path: str, key: str) -> list[_Row]:
    return [(f"{path}.scale", f"{key}.weight", SAME), (f"{path}.bias", f"{key}.bias", SAME)]


def to_heads(path: str, key: str) -> list[_Row]:
    return [(f"{path}.kernel", f"{key}.weight", TO_HEADS), (f"{path}.bias", f"{key}.bias", HEADS_BIAS)]


def from_heads(path: str, key: str) -> list[_Row]:
    return [(f"{path}.kernel", f"{key}.weight", FROM_HEADS), (f"{path}.bias", f"{key}.bias", SAME)]


_ENCODER, _ENCODER_KEY = "encoder.layers.{n}", "encoder.encoder.layer.{n}"
_DECODER, _DECODER_KEY = "decoder.layers.{n}", "decoder.model.decoder.layers.{n}"
_EMBEDDINGS, _BIAS_TABLE = "encoder.embeddings", "relative_position_bias_table"

TABLE: tuple[_Row, ...] = (
    ("encoder.patch_embedding.kernel", f"{_EMBEDDINGS}.patch_embeddings.projection.weight", CONV),
    ("encoder.patch_embedding.bias", f"{_EMBEDDINGS}.patch_embeddings.projection.bias", SAME),
    ("encoder.cls_token", f"{_EMBEDDINGS}.cls_token", SAME),
    ("encoder.distillation_token", f"{_EMBEDDINGS}.distillation_token", SAME),
    ("encoder.position_embeddings", f"{_EMBEDDINGS}.position_embeddings", SAME),
    (f"encoder.{_BIAS_TABLE}", f"encoder.encoder.relative_position_bias.{_BIAS_TABLE}", SAME),
    *norm(f"{_ENCODER}.norm_before", f"{_ENCODER_KEY}.layernorm_before"),
    *to_heads(f"{_ENCODER}.attention.query", f"{_ENCODER_KEY}.attention.attention.query"),
    *to_heads(f"{_ENCODER}.attention.key", f"{_ENCODER_KEY}.attention.attention.key"),
    *to_heads(f"{_ENCODER}.attention.value", f"{_ENCODER_KEY}.attention.attention.value"),
    *from_heads(f"{_ENCODER}.attention.out", f"{_ENCODER_KEY}.attention.output.dense"),
    (
        f"{_ENCODER}.attention.{_BIAS_TABLE}",
        f"{_ENCODER_KEY}.attention.attention.relative_position_bias.{_BIAS_TABLE}",
        SAME,
    ),
    (f"{_ENCODER}.lambda_1", f"{_ENCODER_KEY}.lambda_1", SAME),
    *norm(f"{_ENCODER}.norm_after", f"{_ENCODER_KEY}.layernorm_after"),
    *linear(f"{_ENCODER}.fc1", f"{_ENCODER_KEY}.intermediate.dense"),
    *linear(f"{_ENCODER}.fc2", f"{_ENCODER_KEY}.output.dense"),
    (f"{_ENCODER}.lambda_2", f"{_ENCODER_KEY}.lambda_2", SAME),
    *norm("encoder.norm", "encoder.layernorm"),
    *linear("bridge", "enc_to_dec_proj"),
    ("decoder.embed_tokens", "decoder.model.decoder.embed_tokens.weight", SAME),
    ("decoder.embed_positions", "decoder.model.decoder.embed_positions.weight", SAME),
    *norm("decoder.embed_norm", "decoder.model.decoder.layernorm_embedding"),
    *to_heads(f"{_DECODER}.self_attention.query", f"{_DECODER_KEY}.self_attn.q_proj"),
    *to_heads(f"{_DECODER}.self_attention.key", f"{_DECODER_KEY}.self_attn.k_proj"),
    *to_heads(f"{_DECODER}.self_attention.value", f"{_DECODER_KEY}.self_attn.v_proj"),
    *from_heads(f"{_DECODER}.self_attention.out", f"{_DECODER_KEY}.self_attn.out_proj"),
    *norm(f"{_DECODER}.self_attention_norm", f"{_DECODER_KEY}.self_attn_layer_norm"),
    *to_heads(f"{_DECODER}.cross_attention.query", f"{_DECODER_KEY}.encoder_attn.q_proj"),
    *to_heads(f"{_DECODER}.cross_attention.key", f"{_DECODER_KEY}.encoder_attn.k_proj"),
    *to_heads(f"{_DECODER}.cross_attention.value", f"{_DECODER_KEY}.encoder_attn.v_proj"),
    *from_heads(f"{_DECODER}.cross_attention.out", f"{_DECODER_KEY}.encoder_attn.out_proj"),
    *norm(f"{_DECODER}.cross_attention_norm", f"{_DECODER_KEY}.encoder_attn_layer_norm"),
    *linear(f"{_DECODER}.fc1", f"{_DECODER_KEY}.fc1"),
    *linear(f"{_DECODER}.fc2", f"{_DECODER_KEY}.fc2"),
    *norm(f"{_DECODER}.norm", f"{_DECODER_KEY}.final_layer_norm"),
    ("decoder.output_projection", "decoder.output_projection.weight", SAME),
)
EMBED_TOKENS_KEY = "decoder.model.decoder.embed_tokens.weight"
OUTPUT_PROJECTION_KEY = "decoder.output_projection.weight"

# Applied in order, each to the result of the one before.
_REWRITES: tuple[tuple[str, str], ...] = (
    # torch.compile and DataParallel, around the model or a part of it; a training wrapper's attribute `model`
    (r"(?:^|(?<=\.))(?:module|_orig_mod)\.", ""),
    (r"^(?:model\.)+(?=encoder\.|decoder\.|enc_to_dec_proj\.)", ""),
    # raw state dicts of transformers >= 5.12
    (r"^encoder\.shared_position_bias\.", "encoder.encoder.relative_position_bias."),
    (r"^(encoder\.layers\.\d+)\.relative_position_bias\.", r"\1.attention.attention.relative_position_bias."),
    (r"^(encoder\.layers\.\d+\.attention)\.q_proj\.", r"\1.attention.query."),
    (r"^(encoder\.layers\.\d+\.attention)\.k_proj\.", r"\1.attention.key."),
    (r"^(encoder\.layers\.\d+\.attention)\.v_proj\.", r"\1.attention.value."),
    (r"^(encoder\.layers\.\d+\.attention)\.o_proj\.", r"\1.output.dense."),
    (r"^(encoder\.layers\.\d+)\.mlp\.fc1\.", r"\1.intermediate.dense."),
    (r"^(encoder\.layers\.\d+)\.mlp\.fc2\.", r"\1.output.dense."),
    (r"^encoder\.layers\.(?=\d+\.)", "encoder.encoder.layer."),
    # the original code: a timm encoder (its fused `attn.qkv` already split in three) and a fairseq decoder
    (r"^encoder\.deit\.cls_token$", f"{_EMBEDDINGS}.cls_token"),
    (r"^encoder\.deit\.dist_token$", f"{_EMBEDDINGS}.distillation_token"),
    (r"^encoder\.deit\.pos_embed$", f"{_EMBEDDINGS}.position_embeddings"),
    (r"^encoder\.deit\.patch_embed\.proj\.", f"{_EMBEDDINGS}.patch_embeddings.projection."),
    (r"^encoder\.deit\.norm\.", "encoder.layernorm."),
    (r"^(encoder\.deit\.blocks\.\d+)\.norm1\.", r"\1.layernorm_before."),
    (r"^(encoder\.deit\.blocks\.\d+)\.norm2\.", r"\1.layernorm_after."),
    (r"^(encoder\.deit\.blocks\.\d+)\.attn\.(?=query\.|key\.|value\.)", r"\1.attention.attention."),
    (r"^(encoder\.deit\.blocks\.\d+)\.attn\.proj\.", r"\1.attention.output.dense."),
    (r"^(encoder\.deit\.blocks\.\d+)\.mlp\.fc1\.", r"\1.intermediate.dense."),
    (r"^(encoder\.deit\.blocks\.\d+)\.mlp\.fc2\.", r"\1.output.dense."),
    (r"^encoder\.deit\.blocks\.(?=\d+\.)", "encoder.encoder.layer."),
    (r"^decoder\.(?!model\.|output_projection\.|version$)", "decoder.model.decoder."),
)
_REWRITERS = tuple((re.compile(pattern), replacement) for pattern, replacement in _REWRITES)

# Stored by some versions, of no use to the model.
_IGNORED = re.compile(
    r"encoder\.pooler\..+"  # of classification
    r"|encoder\.embeddings\.mask_token"  # of masked image modelling
    r"|encoder\.deit\.head(_dist)?\..+"
    r"|decoder\.version"
    r"|decoder\.model\.decoder\.version"
    r"|.*\.embed_positions\._float_tensor"
    r"|.*\.position_ids"
    r"|.*\.relative_position_index"
)


def canonical_key(key: str) -> str | None:
    """The spelling that the table uses; none if the tensor is to be ignored."""
    for pattern, replacement in _REWRITERS:
        key = pattern.sub(replacement, key)
    return None if _IGNORED.fullmatch(key) else key


def stored_name(path: str) -> tuple[str, Layout]:
    """transformers' key and the layout of our parameter `path`, for example "encoder.layers.3.fc1.kernel".

    Raises KeyError if the table has no such path: the model and the table disagree.
    """
    number = _NUMBER.search(path)
    template = path if number is None else f"{path[: number.start()]}{{n}}{path[number.end() :]}"
    key, layout = _BY_PATH[template]
    return (key if number is None else key.format(n=number.group())), layout


_NUMBER = re.compile(r"(?<=\.layers\.)\d+(?=\.)")
_BY_PATH = {path: (key, layout) for path, key, layout in TABLE}
