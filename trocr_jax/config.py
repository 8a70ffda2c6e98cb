"""What a TrOCR model is: frozen configurations, Hugging Face `config.json` in and out, the published presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EncoderKind = Literal["vit", "deit", "beit"]


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Image Transformer. Sizes are (height, width) in pixels."""

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
    """Text Transformer."""

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

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads


@dataclass(frozen=True, kw_only=True)
class TrOCRConfig:
    """A whole model and the special token ids that its search needs."""

    encoder: EncoderConfig
    decoder: DecoderConfig
    decoder_start_token_id: int = 2
    bos_token_id: int = 0
    pad_token_id: int = 1
    eos_token_id: int = 2

    @property
    def bridge(self) -> bool:
        """Whether memory passes a linear layer (`enc_to_dec_proj`) before cross-attention."""
        return (
            self.encoder.hidden_size != self.decoder.hidden_size and self.decoder.cross_attention_hidden_size is None
        )

    @property
    def memory_width(self) -> int:
        """Width of what cross-attention reads."""
        return self.decoder.hidden_size if self.bridge else self.encoder.hidden_size
