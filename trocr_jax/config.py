"""What a TrOCR model is: frozen, checked configurations. Hugging Face's format is in `config_huggingface`, the
published architectures in `presets`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trocr_jax.errors import ConfigError

EncoderKind = Literal["vit", "deit", "beit"]
ENCODER_KINDS = ("vit", "deit", "beit")
ACTIVATIONS = ("gelu", "relu")  # gelu is the exact form, x Φ(x)
MAX_SIZE = 1 << 24  # of any width, count or side: a larger one comes from a damaged file and would exhaust memory
MAX_LAYERS = 256


class FieldErrors(ConfigError):
    """Every bad field of one configuration: `problems` holds pairs of field name and what is wrong with it."""

    def __init__(self, where: str, problems: list[tuple[str, str]]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{where}{name} {text}" for name, text in problems))


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Image Transformer. Sizes are (height, width) in pixels. Raises ConfigError listing every bad field."""

    kind: EncoderKind = "vit"
    image_size: tuple[int, int] = (384, 384)
    patch_size: tuple[int, int] = (16, 16)
    num_channels: int = 3
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    activation: str = "gelu"
    qkv_bias: bool = True  # BEiT: query and value have a bias when true, key never has
    layer_norm_eps: float = 1e-12
    # BEiT only
    absolute_positions: bool = True
    relative_position_bias: bool = False  # a table in every layer
    shared_relative_position_bias: bool = False  # one table for all layers
    layer_scale: bool = False
    final_norm: bool = True  # BEiT with mean pooling has none

    def __post_init__(self) -> None:
        found = _bad_sizes(self, "num_channels hidden_size num_layers num_heads intermediate_size")
        found += _bad_flags(self, f"qkv_bias {' '.join(_BEIT_ONLY)}")
        if self.kind not in ENCODER_KINDS:
            found.append(("kind", f"is {shown(self.kind)}; supported: {', '.join(ENCODER_KINDS)}"))
        sides = [self.image_size, self.patch_size]
        for name, pair in zip(("image_size", "patch_size"), sides, strict=True):
            if not (isinstance(pair, tuple) and len(pair) == 2 and all(_is_size(side) for side in pair)):
                found.append((name, f"is {shown(pair)}; give height and width, two positive integers"))
                sides = []
        if sides and any(side % patch for side, patch in zip(*sides, strict=True)):
            found.append(("image_size", f"{self.image_size} is not divisible by the patch size {self.patch_size}"))
        if self.activation not in ACTIVATIONS:
            found.append(("activation", f"is {shown(self.activation)}; supported: {', '.join(ACTIVATIONS)}"))
        if not (_is_number(self.layer_norm_eps) and self.layer_norm_eps > 0):
            found.append(("layer_norm_eps", f"is {shown(self.layer_norm_eps)}; give a positive number"))
        if self.kind == "beit" and self.qkv_bias is False:
            found.append(("qkv_bias", "is false; BEiT always has biases on query and value"))
        for name, value in _BEIT_ONLY.items():
            if self.kind != "beit" and getattr(self, name) is (not value):
                found.append((name, f"is {getattr(self, name)}; only BEiT has that choice"))
        if found:
            raise FieldErrors("encoder.", found)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches as (rows, columns)."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]

    @property
    def num_special_tokens(self) -> int:
        """Tokens in front of the patches: CLS, and DeiT's distillation token."""
        return 2 if self.kind == "deit" else 1

    @property
    def memory_length(self) -> int:
        """S: special tokens and patches."""
        return self.num_special_tokens + self.grid[0] * self.grid[1]

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Text Transformer. Raises ConfigError listing every bad field."""

    vocab_size: int = 50265
    hidden_size: int = 1024
    num_layers: int = 12
    num_heads: int = 16
    intermediate_size: int = 4096
    activation: str = "gelu"
    max_position_embeddings: int = 512
    learned_positions: bool = True
    scale_embedding: bool = False
    layernorm_embedding: bool = True
    tie_word_embeddings: bool = True
    cross_attention_hidden_size: int | None = 768
    dropout: float = 0.1

    def __post_init__(self) -> None:
        sizes = "vocab_size hidden_size num_layers num_heads intermediate_size max_position_embeddings"
        if self.cross_attention_hidden_size is not None:
            sizes += " cross_attention_hidden_size"
        found = _bad_sizes(self, sizes)
        found += _bad_flags(self, "learned_positions scale_embedding layernorm_embedding tie_word_embeddings")
        if self.learned_positions is False and _is_size(self.hidden_size) and self.hidden_size < 4:
            found.append(("hidden_size", f"is {self.hidden_size}; sinusoidal positions need at least 4"))
        if self.activation not in ACTIVATIONS:
            found.append(("activation", f"is {shown(self.activation)}; supported: {', '.join(ACTIVATIONS)}"))
        if not (_is_number(self.dropout) and 0 <= self.dropout < 1):
            found.append(("dropout", f"is {shown(self.dropout)}; give a number in [0, 1)"))
        if found:
            raise FieldErrors("decoder.", found)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads


@dataclass(frozen=True, kw_only=True)
class TrOCRConfig:
    """A whole model and the special token ids that its search needs. Raises ConfigError listing every bad field."""

    encoder: EncoderConfig
    decoder: DecoderConfig
    decoder_start_token_id: int = 2
    bos_token_id: int = 0
    pad_token_id: int = 1
    eos_token_id: int = 2

    def __post_init__(self) -> None:
        found = []
        for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id", "eos_token_id"):
            value = getattr(self, name)
            if not (_is_size(value) or value == 0) or value >= self.decoder.vocab_size:
                found.append((name, f"is {shown(value)}; give an id below the vocabulary's {self.decoder.vocab_size}"))
        cross, width = self.decoder.cross_attention_hidden_size, self.encoder.hidden_size
        if cross is not None and cross != width:
            text = f"is {cross} and encoder.hidden_size is {width}; make them equal, or the former null"
            found.append(("decoder.cross_attention_hidden_size", text))
        if found:
            raise FieldErrors("", found)

    @classmethod
    def preset(cls, name: str) -> TrOCRConfig:
        """A published architecture by name: "base-handwritten", ..., also written "microsoft/trocr-base-handwritten".

        Raises ConfigError listing the names if there is none such.
        """
        from trocr_jax.presets import PRESETS

        short = name.removeprefix("microsoft/").removeprefix("trocr-")
        if short not in PRESETS:
            raise ConfigError(f"no preset {name!r}; the presets are {', '.join(PRESETS)}")
        return PRESETS[short]

    @classmethod
    def from_huggingface(cls, config: Mapping[str, Any]) -> TrOCRConfig:
        """From the contents of a `config.json` of transformers' VisionEncoderDecoderModel (versions 4 and 5).

        An absent key has the default of transformers' configuration class. Keys that do not change what inference
        computes (dropout inside attention, initialisation, pooler) are ignored.
        Raises ConfigError listing every problem, unsupported architectures by name.
        """
        from trocr_jax.config_huggingface import read_huggingface

        return read_huggingface(config)

    def to_huggingface(self, *, dtype: str | None = None) -> dict[str, Any]:
        """The contents of a `config.json` that transformers (4 and 5) reads as VisionEncoderDecoderModel.

        `dtype` names the stored parameters' type, for example "float32"; transformers loads the weights in it.
        """
        from trocr_jax.config_huggingface import write_huggingface

        return write_huggingface(self, dtype=dtype)

    @classmethod
    def from_json(cls, source: str | os.PathLike[str]) -> TrOCRConfig:
        """From JSON text (a string that starts with `{`) or the path of a JSON file, in Hugging Face's format.

        Raises ConfigError if it cannot be read, is no JSON object, or describes no supported model.
        """
        is_text = isinstance(source, str) and source.lstrip().startswith("{")
        name = "configuration" if is_text else os.fspath(source)
        try:
            text = os.fspath(source) if is_text else Path(source).read_text(encoding="utf-8")
            config = json.loads(text)
        except FileNotFoundError:
            raise ConfigError(f"{name}: cannot be read, there is no such file; the folder of a model has one") from None
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{name}: cannot be read as JSON ({error})") from None
        try:
            return cls.from_huggingface(config)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None

    def to_json(self) -> str:
        """JSON text in Hugging Face's format. `from_json` gives an equal configuration back."""
        return json.dumps(self.to_huggingface(), indent=2) + "\n"

    @property
    def bridge(self) -> bool:
        """Whether memory passes a linear layer (`enc_to_dec_proj`) before cross-attention."""
        return self.encoder.hidden_size != self.decoder.hidden_size and self.decoder.cross_attention_hidden_size is None

    @property
    def memory_width(self) -> int:
        """Width of what cross-attention reads."""
        return self.decoder.hidden_size if self.bridge else self.encoder.hidden_size


_BEIT_ONLY: dict[str, bool] = {  # and what the other encoders have
    "absolute_positions": True,
    "relative_position_bias": False,
    "shared_relative_position_bias": False,
    "layer_scale": False,
    "final_norm": True,
}


def _bad_sizes(config: EncoderConfig | DecoderConfig, names: str) -> list[tuple[str, str]]:
    found = []
    for name in names.split():
        if not _is_size(getattr(config, name)):
            text = f"is {shown(getattr(config, name))}; give a positive integer up to {MAX_SIZE}"
            found.append((name, text))
    bad = {name for name, _ in found}
    if "num_layers" not in bad and config.num_layers > MAX_LAYERS:
        found.append(("num_layers", f"is {config.num_layers}; at most {MAX_LAYERS}"))
    if not bad & {"hidden_size", "num_heads"} and config.hidden_size % config.num_heads:
        found.append(("hidden_size", f"{config.hidden_size} is not divisible by the {config.num_heads} heads"))
    return found


def _bad_flags(config: EncoderConfig | DecoderConfig, names: str) -> list[tuple[str, str]]:
    values = {name: getattr(config, name) for name in names.split()}
    return [(name, f"is {shown(v)}; give true or false") for name, v in values.items() if not isinstance(v, bool)]


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_SIZE


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30


def shown(value: object) -> str:
    """A value for an error message, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
