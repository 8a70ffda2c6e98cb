"""Configurations against transformers' own classes."""

import dataclasses
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import BeitConfig, DeiTConfig, VisionEncoderDecoderConfig, ViTConfig
from transformers import TrOCRConfig as TransformersTrOCRConfig

from scripts.fuzz_checkpoints import VALUES
from trocr_jax.config import DecoderConfig, EncoderConfig, TrOCRConfig
from trocr_jax.errors import ConfigError, TrOCRError
from trocr_jax.presets import PRESETS

MINIMAL = {"encoder": {"model_type": "vit"}, "decoder": {"model_type": "trocr"}}
LOADED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a machine with other work
BY_KIND = {"vit": ViTConfig, "deit": DeiTConfig, "beit": BeitConfig}


def changed(part: str, **values: object) -> dict:
    """MINIMAL with `values` in one part; at the top level for part ""."""
    config = json.loads(json.dumps(MINIMAL))
    (config[part] if part else config).update(values)
    return config


@pytest.mark.parametrize("kind", BY_KIND)
def test_absent_keys_have_transformers_defaults(kind):
    reference = BY_KIND[kind]()
    ours = TrOCRConfig.from_huggingface({"encoder": {"model_type": kind}, "decoder": {"model_type": "trocr"}})
    encoder = ours.encoder
    assert encoder.kind == kind
    assert encoder.image_size == (reference.image_size,) * 2
    assert encoder.patch_size == (reference.patch_size,) * 2
    assert encoder.num_channels == reference.num_channels
    assert encoder.hidden_size == reference.hidden_size
    assert encoder.num_layers == reference.num_hidden_layers
    assert encoder.num_heads == reference.num_attention_heads
    assert encoder.intermediate_size == reference.intermediate_size
    assert encoder.activation == reference.hidden_act
    assert encoder.layer_norm_eps == reference.layer_norm_eps
    if kind == "beit":
        assert encoder.absolute_positions == reference.use_absolute_position_embeddings
        assert encoder.relative_position_bias == reference.use_relative_position_bias
        assert encoder.shared_relative_position_bias == reference.use_shared_relative_position_bias
        assert encoder.layer_scale == (reference.layer_scale_init_value > 0)
        assert encoder.final_norm == (not reference.use_mean_pooling)
    else:
        assert encoder.qkv_bias == reference.qkv_bias
        assert encoder.final_norm


def test_absent_decoder_keys_have_transformers_defaults():
    reference = TransformersTrOCRConfig()
    ours = TrOCRConfig.from_huggingface(MINIMAL)
    decoder = ours.decoder
    assert decoder.vocab_size == reference.vocab_size
    assert decoder.hidden_size == reference.d_model
    assert decoder.num_layers == reference.decoder_layers
    assert decoder.num_heads == reference.decoder_attention_heads
    assert decoder.intermediate_size == reference.decoder_ffn_dim
    assert decoder.activation == reference.activation_function
    assert decoder.max_position_embeddings == reference.max_position_embeddings
    assert decoder.learned_positions == reference.use_learned_position_embeddings
    assert decoder.scale_embedding == reference.scale_embedding
    assert decoder.layernorm_embedding == reference.layernorm_embedding
    assert decoder.tie_word_embeddings == reference.tie_word_embeddings
    assert decoder.cross_attention_hidden_size == reference.cross_attention_hidden_size
    assert decoder.dropout == reference.dropout
    for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id", "eos_token_id"):
        assert getattr(ours, name) == getattr(reference, name)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_survives_transformers(name):
    """Ours -> transformers' objects -> the dictionary that transformers saves -> ours."""
    config = TrOCRConfig.preset(name)
    reference = VisionEncoderDecoderConfig(**config.to_huggingface(dtype="float32"))
    assert TrOCRConfig.from_huggingface(reference.to_dict()) == config
    assert TrOCRConfig.from_huggingface(json.loads(reference.to_json_string(use_diff=True))) == config
    assert TrOCRConfig.from_json(config.to_json()) == config
    assert TrOCRConfig.preset(f"microsoft/trocr-{name}") is config


def test_presets_are_the_published_ones():
    assert set(PRESETS) == {
        *("small-stage1", "small-handwritten", "small-printed"),
        *("base-stage1", "base-handwritten", "base-printed", "base-str"),
        *("large-stage1", "large-handwritten", "large-printed", "large-str"),
    }
    assert PRESETS["base-handwritten"].encoder.memory_length == 577
    assert PRESETS["small-printed"].encoder.memory_length == 578
    assert PRESETS["large-printed"].decoder.learned_positions is False
    assert PRESETS["large-handwritten"].decoder.learned_positions is True
    with pytest.raises(ConfigError, match="base-handwritten"):
        TrOCRConfig.preset("huge-handwritten")


def test_both_spellings_and_sizes():
    config = TrOCRConfig.from_huggingface(
        {
            "dtype": "bfloat16",
            "encoder": {"model_type": "vit", "image_size": [32, 128], "patch_size": [8, 16], "torch_dtype": "float32"},
            "decoder": {
                "model_type": "trocr",
                "hidden_size": 64,
                "num_attention_heads": 2,
                "num_hidden_layers": 3,
                "decoder_ffn_dim": 96,
            },
        }
    )
    assert config.encoder.grid == (4, 8)
    assert (config.decoder.hidden_size, config.decoder.num_heads, config.decoder.num_layers) == (64, 2, 3)
    assert config.bridge
    assert config.memory_width == 64


def test_token_ids_from_the_top_then_the_decoder():
    config = changed("", decoder_start_token_id=0, eos_token_id=None)
    config["decoder"] |= {"decoder_start_token_id": 5, "eos_token_id": [7], "pad_token_id": 4, "bos_token_id": 3}
    read = TrOCRConfig.from_huggingface(config)
    assert (read.decoder_start_token_id, read.eos_token_id, read.pad_token_id, read.bos_token_id) == (0, 7, 4, 3)


def test_null_pads_with_the_end_as_generate_does():
    config = changed("", pad_token_id=None, eos_token_id=7)
    assert TrOCRConfig.from_huggingface(config).pad_token_id == 1
    config["decoder"] |= {"pad_token_id": None}
    assert TrOCRConfig.from_huggingface(config).pad_token_id == 7


def test_tying_is_the_decoders_choice():
    """transformers writes false at the top level whatever the decoder does."""
    assert TrOCRConfig.from_huggingface(changed("", tie_word_embeddings=False)).decoder.tie_word_embeddings
    assert not TrOCRConfig.from_huggingface(changed("decoder", tie_word_embeddings=False)).decoder.tie_word_embeddings


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "encoder is missing.*decoder is missing"),
        ({"model_type": "donut-swin"}, "model_type is 'donut-swin'"),
        ({**MINIMAL, "encoder": {"model_type": "swin"}}, "encoder.model_type is 'swin'; supported: vit, deit, beit"),
        ({**MINIMAL, "decoder": {"model_type": "bert"}}, "decoder.model_type is 'bert'; supported: trocr"),
        (changed("encoder", hidden_act="swish"), "encoder.hidden_act is 'swish'"),
        (changed("decoder", activation_function="gelu_new"), "decoder.activation_function is 'gelu_new'"),
        (changed("encoder", image_size=225), r"encoder.image_size \(225, 225\) is not divisible"),
        (changed("encoder", image_size=[1, 2, 3]), "encoder.image_size"),
        (changed("encoder", num_attention_heads=7), "encoder.hidden_size 768 is not divisible by the 7 heads"),
        (changed("encoder", head_dim=32), "encoder.head_dim is 32"),
        (changed("decoder", add_cross_attention=False), "decoder.add_cross_attention is false"),
        (changed("decoder", cross_attention_hidden_size=512), "cross_attention_hidden_size is 512"),
        (
            changed("decoder", num_attention_heads=3, decoder_attention_heads=4),
            "decoder_attention_heads is .* and decoder.num_attention_heads is 3",
        ),
        (changed("decoder", decoder_layers=100_000), "decoder.decoder_layers is 100000; at most"),
        (changed("decoder", d_model=10**12), "decoder.d_model is 1000000000000"),
        (changed("encoder", layer_norm_eps="1e-5"), "encoder.layer_norm_eps is '1e-5'"),
        (changed("", pad_token_id=50265), "pad_token_id is 50265"),
        (changed("", eos_token_id=[1, 2]), "eos_token_id is \\[1, 2\\]"),
        (changed("encoder", qkv_bias="yes"), "encoder.qkv_bias is 'yes'; give true or false"),
    ],
)
def test_refused_by_name(config, message):
    with pytest.raises(ConfigError, match=message):
        TrOCRConfig.from_huggingface(config)


def test_sinusoidal_positions_need_one_pad_token():
    config = changed("decoder", use_learned_position_embeddings=False, pad_token_id=1)
    config["pad_token_id"] = 0
    with pytest.raises(ConfigError, match="pad_token_id is 0 at the top level and 1 in the decoder"):
        TrOCRConfig.from_huggingface(config)


def test_all_problems_at_once():
    config = {
        "encoder": {"model_type": "vit", "hidden_act": "x", "num_channels": 0, "image_size": 223},
        "decoder": {"model_type": "trocr", "d_model": "wide", "dropout": 2, "scale_embedding": 1},
        "bos_token_id": "a",
    }
    with pytest.raises(ConfigError) as error:
        TrOCRConfig.from_huggingface(config)
    for key in ("hidden_act", "num_channels", "image_size", "d_model", "dropout", "scale_embedding", "bos_token_id"):
        assert key in str(error.value)


def test_choices_that_other_encoders_do_not_have():
    with pytest.raises(ConfigError, match="layer_scale is True; only BEiT"):
        EncoderConfig(kind="vit", layer_scale=True)
    with pytest.raises(ConfigError, match="qkv_bias is false; BEiT"):
        EncoderConfig(kind="beit", qkv_bias=False)
    EncoderConfig(kind="beit", layer_scale=True, relative_position_bias=True, final_norm=False)


def test_json_from_text_and_path(tmp_path):
    config = TrOCRConfig.preset("small-printed")
    path = tmp_path / "config.json"
    path.write_text(config.to_json())
    assert TrOCRConfig.from_json(path) == TrOCRConfig.from_json(str(path)) == TrOCRConfig.from_json(path.read_text())
    for text in ("", "[1]", "\xff", "{"):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(ConfigError, match=str(path)):
            TrOCRConfig.from_json(path)
    with pytest.raises(ConfigError, match=r"nowhere.json"):
        TrOCRConfig.from_json(tmp_path / "nowhere.json")


encoders = st.builds(
    lambda kind, head, heads, patch, rows, columns, beit: EncoderConfig(
        kind=kind,
        hidden_size=head * heads,
        num_heads=heads,
        patch_size=patch,
        image_size=(rows * patch[0], columns * patch[1]),
        **(beit if kind == "beit" else {"qkv_bias": beit["layer_scale"]}),
    ),
    st.sampled_from(["vit", "deit", "beit"]),
    *(st.integers(1, 64) for _ in range(2)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    *(st.integers(1, 40) for _ in range(2)),
    st.fixed_dictionaries(
        {
            name: st.booleans()
            for name in (
                *("absolute_positions", "relative_position_bias", "shared_relative_position_bias"),
                *("layer_scale", "final_norm"),
            )
        }
    ),
)


@given(encoders, st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.floats(0, 0.9))
@LOADED
def test_every_configuration_survives_its_json(encoder, learned, scale, norm, tied, dropout):
    decoder = DecoderConfig(
        learned_positions=learned,
        scale_embedding=scale,
        layernorm_embedding=norm,
        tie_word_embeddings=tied,
        dropout=dropout,
        cross_attention_hidden_size=encoder.hidden_size if tied else None,
    )
    config = TrOCRConfig(encoder=encoder, decoder=decoder, decoder_start_token_id=3)
    assert TrOCRConfig.from_json(config.to_json()) == config


KEYS = sorted(
    {
        *(TrOCRConfig.preset("base-printed").to_huggingface()),
        *(TrOCRConfig.preset("base-printed").to_huggingface()["decoder"]),
        *(dataclasses.replace(PRESETS["small-printed"]).to_huggingface()["encoder"]),
        *("use_mean_pooling", "layer_scale_init_value", "use_relative_position_bias", "head_dim", "hidden_size"),
    }
)


@given(
    st.sampled_from(["", "encoder", "decoder"]),
    st.sampled_from(["vit", "beit"]),
    st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES) | st.integers(), max_size=3),
)
@LOADED
def test_any_value_gives_a_configuration_or_a_config_error(part, kind, replaced):
    config = changed("encoder", model_type=kind)
    (config[part] if part else config).update(replaced)
    try:
        read = TrOCRConfig.from_huggingface(config)
    except TrOCRError:
        return
    assert TrOCRConfig.from_json(read.to_json()) == read
