"""One small model of every family, as transformers builds and saves it, with random values in every parameter."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import VisionEncoderDecoderConfig, VisionEncoderDecoderModel

from trocr_jax.config import DecoderConfig, EncoderConfig, TrOCRConfig


def _config(encoder: dict[str, Any], decoder: dict[str, Any]) -> TrOCRConfig:
    encoder = {"image_size": (32, 32), "hidden_size": 24, "intermediate_size": 40, **encoder}
    decoder = {"hidden_size": 32, "intermediate_size": 56, "cross_attention_hidden_size": 24, **decoder}
    return TrOCRConfig(
        encoder=EncoderConfig(patch_size=encoder.pop("patch_size", (16, 16)), num_layers=2, num_heads=3, **encoder),
        decoder=DecoderConfig(vocab_size=60, num_layers=2, num_heads=4, max_position_embeddings=64, **decoder),
    )


_SINUSOIDAL = {
    "activation": "relu",
    "learned_positions": False,
    "scale_embedding": True,
    "layernorm_embedding": False,
    "tie_word_embeddings": False,
}
FAMILIES: dict[str, TrOCRConfig] = {
    "base": _config({"qkv_bias": False}, {}),
    "base-stage1": _config({"qkv_bias": False}, _SINUSOIDAL),
    "large": _config({"qkv_bias": False}, {"hidden_size": 24}),
    "large-printed": _config({"qkv_bias": False}, {"hidden_size": 24, **_SINUSOIDAL}),
    "small": _config({"kind": "deit"}, {"activation": "relu", "scale_embedding": True, "tie_word_embeddings": False}),
    "beit": _config(
        {"kind": "beit", "absolute_positions": False, "relative_position_bias": True, "layer_scale": True,
         "final_norm": False},
        {},
    ),
    "beit-shared": _config({"kind": "beit", "shared_relative_position_bias": True}, _SINUSOIDAL),
    "bridge": _config({}, {"cross_attention_hidden_size": None}),
    "line": _config({"image_size": (16, 48), "patch_size": (16, 4)}, {}),
}  # fmt: skip


@cache
def transformers_model(family: str) -> Any:
    """transformers' model in f32. Do not change it: it is shared by all tests."""
    torch.manual_seed(sum(family.encode()))
    model = VisionEncoderDecoderModel(VisionEncoderDecoderConfig(**FAMILIES[family].to_huggingface())).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # the defaults of 0 and 1 would hide a mix-up
            parameter.normal_(0, 0.3)
    return model


def save_transformers(family: str, folder: Path, **options: Any) -> Path:
    """The folder as `save_pretrained` writes it."""
    transformers_model(family).save_pretrained(folder, **options)
    return folder
