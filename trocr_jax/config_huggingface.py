"""`config.json` of transformers' VisionEncoderDecoderModel, read and written through one table per part.

Key names and defaults: transformers 4.56 and 5.23, `configuration_{trocr,vit,deit,beit,vision_encoder_decoder}.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trocr_jax.config import ENCODER_KINDS, DecoderConfig, EncoderConfig, FieldErrors, TrOCRConfig, shown
from trocr_jax.errors import ConfigError

# Our field: (transformers' keys, the first is written; transformers' default).
_Table = dict[str, tuple[str, Any]]
_ENCODER: _Table = {
    "kind": ("model_type", None),
    "image_size": ("image_size", 224),
    "patch_size": ("patch_size", 16),
    "num_channels": ("num_channels", 3),
    "hidden_size": ("hidden_size", 768),
    "num_layers": ("num_hidden_layers", 12),
    "num_heads": ("num_attention_heads", 12),
    "intermediate_size": ("intermediate_size", 3072),
    "activation": ("hidden_act", "gelu"),
    "layer_norm_eps": ("layer_norm_eps", 1e-12),
}
_VIT: _Table = {"qkv_bias": ("qkv_bias", True)}
_BEIT: _Table = {
    "absolute_positions": ("use_absolute_position_embeddings", False),
    "relative_position_bias": ("use_relative_position_bias", False),
    "shared_relative_position_bias": ("use_shared_relative_position_bias", False),
    "layer_scale": ("layer_scale_init_value", 0.1),  # a number: positive means that the parameters exist
    "final_norm": ("use_mean_pooling", True),  # negated
}
_DECODER: _Table = {
    "vocab_size": ("vocab_size", 50265),
    "hidden_size": ("d_model hidden_size", 1024),
    "num_layers": ("decoder_layers num_hidden_layers", 12),
    "num_heads": ("decoder_attention_heads num_attention_heads", 16),
    "intermediate_size": ("decoder_ffn_dim", 4096),
    "activation": ("activation_function", "gelu"),
    "max_position_embeddings": ("max_position_embeddings", 512),
    "learned_positions": ("use_learned_position_embeddings", True),
    "scale_embedding": ("scale_embedding", False),
    "layernorm_embedding": ("layernorm_embedding", True),
    "tie_word_embeddings": ("tie_word_embeddings", True),
    "cross_attention_hidden_size": ("cross_attention_hidden_size", None),
    "dropout": ("dropout", 0.1),
}
_TOKEN_IDS = {"decoder_start_token_id": 2, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}


def read_huggingface(config: Mapping[str, Any]) -> TrOCRConfig:
    """See `TrOCRConfig.from_huggingface`."""
    if not isinstance(config, Mapping):
        raise ConfigError(f"a configuration is a JSON object, this is {type(config).__name__}")
    model_type = config.get("model_type", "vision-encoder-decoder")
    if model_type != "vision-encoder-decoder":
        raise ConfigError(f"model_type is {shown(model_type)}; only vision-encoder-decoder is supported")
    problems: list[str] = []
    encoder = _read_encoder(config.get("encoder"), problems)
    decoder = _read_decoder(config.get("decoder"), problems)
    token_ids = _read_token_ids(config, config.get("decoder"), problems)
    if encoder is None or decoder is None or problems:
        raise ConfigError("; ".join(problems))
    return TrOCRConfig(encoder=encoder, decoder=decoder, **token_ids)


def write_huggingface(config: TrOCRConfig, *, dtype: str | None = None) -> dict[str, Any]:
    """See `TrOCRConfig.to_huggingface`."""
    is_beit = config.encoder.kind == "beit"
    encoder = _write_fields(config.encoder, _ENCODER | (_BEIT if is_beit else _VIT))
    for name in ("image_size", "patch_size"):
        height, width = encoder[name]
        encoder[name] = height if height == width else [height, width]
    if is_beit:
        encoder["layer_scale_init_value"] = 0.1 if config.encoder.layer_scale else 0.0
        encoder["use_mean_pooling"] = not config.encoder.final_norm
    token_ids = {name: getattr(config, name) for name in _TOKEN_IDS}
    decoder = _write_fields(config.decoder, _DECODER) | {"model_type": "trocr", **token_ids}
    decoder |= {"is_decoder": True, "is_encoder_decoder": False, "add_cross_attention": True}
    written = {
        "architectures": ["VisionEncoderDecoderModel"],
        "model_type": "vision-encoder-decoder",
        "is_encoder_decoder": True,
        "tie_word_embeddings": False,  # transformers takes the decoder's, and sets this one to false itself
        **token_ids,
        "encoder": encoder,
        "decoder": decoder,
    }
    # Version 5 writes `dtype` and reads both; version 4 reads `torch_dtype`.
    return written if dtype is None else written | {"torch_dtype": dtype}


def _read_encoder(values: Any, problems: list[str]) -> EncoderConfig | None:
    if not _is_supported("encoder", values, ENCODER_KINDS, problems):
        return None
    is_beit = values["model_type"] == "beit"
    table = _ENCODER | (_BEIT if is_beit else _VIT)
    fields = _read_fields(values, table)
    for name in ("image_size", "patch_size"):
        sides = fields[name]
        fields[name] = tuple(sides) if isinstance(sides, (list, tuple)) else (sides, sides)
    if is_beit:
        scale = fields["layer_scale"]
        fields["layer_scale"] = scale > 0 if isinstance(scale, (int, float)) else scale
        fields["final_norm"] = not fields["final_norm"] if isinstance(fields["final_norm"], bool) else None
    try:
        encoder = EncoderConfig(**fields)
    except FieldErrors as error:
        problems += _translated("encoder", table, error)
        return None
    if values.get("head_dim") not in (None, encoder.head_dim):
        problems.append(f"encoder.head_dim is {shown(values['head_dim'])}; only hidden_size / heads works")
    return encoder


def _read_decoder(values: Any, problems: list[str]) -> DecoderConfig | None:
    if not _is_supported("decoder", values, ("trocr",), problems):
        return None
    if values.get("add_cross_attention") is False:
        problems.append("decoder.add_cross_attention is false; the decoder of a TrOCR model reads the image through it")
    for keys, _ in _DECODER.values():
        given = {key: values[key] for key in keys.split() if values.get(key) is not None}
        if len(given) > 1 and len({*map(shown, given.values())}) > 1:
            both = " and ".join(f"decoder.{key} is {shown(value)}" for key, value in given.items())
            problems.append(f"{both}, which mean the same; leave one out")
    try:
        return DecoderConfig(**_read_fields(values, _DECODER))
    except FieldErrors as error:
        problems += _translated("decoder", _DECODER, error)
        return None


def _read_token_ids(top: Mapping[str, Any], decoder: Any, problems: list[str]) -> dict[str, int]:
    """Ids stand at the top level, else in the decoder; null is absent, but for the one that pads."""
    decoder = decoder if isinstance(decoder, Mapping) else {}
    found = {}
    for name, default in _TOKEN_IDS.items():
        value = next((v for v in (top.get(name), decoder.get(name)) if v is not None), default)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not isinstance(value, int) or isinstance(value, bool):
            problems.append(f"{name} is {shown(value)}; give one integer")
        found[name] = value
    pads = (top.get("pad_token_id"), decoder.get("pad_token_id", _TOKEN_IDS["pad_token_id"]))
    if pads == (None, None) and decoder.get("use_learned_position_embeddings") is not False:
        found["pad_token_id"] = found["eos_token_id"]  # as `generate` of transformers
    own = 1 if decoder.get("pad_token_id") is None else decoder["pad_token_id"]
    if decoder.get("use_learned_position_embeddings") is False and own != found["pad_token_id"]:
        problems.append(
            f"pad_token_id is {shown(found['pad_token_id'])} at the top level and {shown(own)} in the decoder, whose "
            "sinusoidal positions depend on it; make them equal"
        )
    return found


def _is_supported(part: str, values: Any, kinds: tuple[str, ...], problems: list[str]) -> bool:
    if not isinstance(values, Mapping):
        problems.append(f"{part} is missing, or no JSON object")
        return False
    if values.get("model_type") not in kinds:
        problems.append(f"{part}.model_type is {shown(values.get('model_type'))}; supported: {', '.join(kinds)}")
        return False
    return True


def _read_fields(values: Mapping[str, Any], table: _Table) -> dict[str, Any]:
    return {
        field: next((values[key] for key in keys.split() if values.get(key) is not None), default)
        for field, (keys, default) in table.items()
    }


def _write_fields(part: EncoderConfig | DecoderConfig, table: _Table) -> dict[str, Any]:
    return {keys.split()[0]: getattr(part, field) for field, (keys, _) in table.items()}


def _translated(part: str, table: _Table, error: FieldErrors) -> list[str]:
    """The problems under the names that the file uses."""
    return [f"{part}.{table[name][0].split()[0] if name in table else name} {text}" for name, text in error.problems]
