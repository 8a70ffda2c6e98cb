"""The published TrOCR architectures, every value written out.

Source: the config.json files of https://huggingface.co/microsoft (trocr-*), and Li et al. 2021, "TrOCR:
Transformer-based Optical Character Recognition with Pre-trained Models", arXiv 2109.10282.
"""

from __future__ import annotations

from trocr_jax.config import DecoderConfig, EncoderConfig, TrOCRConfig

_VIT_BASE = EncoderConfig(
    kind="vit",
    image_size=(384, 384),
    patch_size=(16, 16),
    num_channels=3,
    hidden_size=768,
    num_layers=12,
    num_heads=12,
    intermediate_size=3072,
    activation="gelu",
    qkv_bias=False,
    layer_norm_eps=1e-12,
)
_VIT_LARGE = EncoderConfig(
    kind="vit",
    image_size=(384, 384),
    patch_size=(16, 16),
    num_channels=3,
    hidden_size=1024,
    num_layers=24,
    num_heads=16,
    intermediate_size=4096,
    activation="gelu",
    qkv_bias=False,
    layer_norm_eps=1e-12,
)
_DEIT_SMALL = EncoderConfig(
    kind="deit",
    image_size=(384, 384),
    patch_size=(16, 16),
    num_channels=3,
    hidden_size=384,
    num_layers=12,
    num_heads=6,
    intermediate_size=1536,
    activation="gelu",
    qkv_bias=True,
    layer_norm_eps=1e-12,
)


def _roberta_decoder(memory_width: int) -> DecoderConfig:
    """The released fine-tuned family: RoBERTa's learned positions, embedding norm, tied head."""
    return DecoderConfig(
        vocab_size=50265,
        hidden_size=1024,
        num_layers=12,
        num_heads=16,
        intermediate_size=4096,
        activation="gelu",
        max_position_embeddings=512,
        learned_positions=True,
        scale_embedding=False,
        layernorm_embedding=True,
        tie_word_embeddings=True,
        cross_attention_hidden_size=memory_width,
        dropout=0.1,
    )


def _fairseq_decoder(memory_width: int) -> DecoderConfig:
    """The other released family: fairseq's sinusoidal positions, scaled embedding, own output projection."""
    return DecoderConfig(
        vocab_size=50265,
        hidden_size=1024,
        num_layers=12,
        num_heads=16,
        intermediate_size=4096,
        activation="relu",
        max_position_embeddings=1024,
        learned_positions=False,
        scale_embedding=True,
        layernorm_embedding=False,
        tie_word_embeddings=False,
        cross_attention_hidden_size=memory_width,
        dropout=0.1,
    )


_MINILM_DECODER = DecoderConfig(
    vocab_size=64044,
    hidden_size=256,
    num_layers=6,
    num_heads=8,
    intermediate_size=1024,
    activation="relu",
    max_position_embeddings=512,
    learned_positions=True,
    scale_embedding=True,
    layernorm_embedding=True,
    tie_word_embeddings=False,
    cross_attention_hidden_size=384,
    dropout=0.1,
)


def _model(encoder: EncoderConfig, decoder: DecoderConfig) -> TrOCRConfig:
    return TrOCRConfig(
        encoder=encoder,
        decoder=decoder,
        decoder_start_token_id=2,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )


_SMALL = _model(_DEIT_SMALL, _MINILM_DECODER)
_BASE = _model(_VIT_BASE, _roberta_decoder(768))
_LARGE = _model(_VIT_LARGE, _roberta_decoder(1024))
_BASE_SINUSOIDAL = _model(_VIT_BASE, _fairseq_decoder(768))
_LARGE_SINUSOIDAL = _model(_VIT_LARGE, _fairseq_decoder(1024))

PRESETS: dict[str, TrOCRConfig] = {
    "small-stage1": _SMALL,
    "small-handwritten": _SMALL,
    "small-printed": _SMALL,
    "base-stage1": _BASE_SINUSOIDAL,
    "base-handwritten": _BASE,
    "base-printed": _BASE,
    "base-str": _BASE,
    "large-stage1": _LARGE_SINUSOIDAL,
    "large-handwritten": _LARGE,
    "large-printed": _LARGE_SINUSOIDAL,
    "large-str": _LARGE,
}
