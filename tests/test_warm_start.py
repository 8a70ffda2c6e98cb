"""First weights: the blocks that come out of small random transformers models compute what those models compute; every
tensor of a folder is read or named as left out; tokens keep their rows."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from tests.tiny import ALPHABET, save_tiny, tiny_config, tiny_model
from train import __main__ as command
from train import warm_tensors
from train.codec import codec
from train.data.alphabet import ALPHABET as OURS
from train.from_model import from_model, with_vocabulary
from train.recipe import Lora, Optimizer, Recipe, Stage, WarmStart, check
from train.step import TrainState, init_ema, with_params
from train.vocabulary import carry_rows, extend, vocabulary_for
from train.warm_start import first_weights, start_from
from trocr_jax import checkpoint
from trocr_jax.checkpoint.huggingface import read_weights
from trocr_jax.checkpoint.parameters import StoredTensor
from trocr_jax.config import DecoderConfig, EncoderConfig, TrOCRConfig
from trocr_jax.errors import CheckpointError, ConfigError, TokenizerError
from trocr_jax.model import TrOCR
from trocr_jax.sharding import path_name
from trocr_jax.tokenizer import character_tokenizer, decode, load_tokenizer, save_tokenizer

LETTERS = "abcdefghijklmnop"
CONFIG = TrOCRConfig(
    encoder=EncoderConfig(
        image_size=(32, 32), patch_size=(8, 8), hidden_size=24, num_layers=2, num_heads=3, intermediate_size=40
    ),
    decoder=DecoderConfig(
        vocab_size=4 + len(LETTERS),
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        intermediate_size=56,
        max_position_embeddings=20,
        cross_attention_hidden_size=24,
    ),
)
IMAGE = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "intermediate_size": 56,
    "vocab_size": 4 + len(LETTERS),
    "attn_implementation": "eager",
}


def recipe_of(config: TrOCRConfig, start: WarmStart | str | None, **changes: Any) -> Recipe:
    stage = Stage(steps=1, batch_size=1, width=config.encoder.image_size[1], max_chars=4)
    return Recipe(
        name="warm",
        config=config,
        stages=(stage,),
        optimizer=Optimizer(learning_rate=1e-3, ema_decay=0.9),
        start_from=start,
        **changes,
    )


def started(recipe: Recipe) -> TrOCR:
    """The model of a run's first state."""
    params = {"model": nnx.to_pure_dict(nnx.state(TrOCR(recipe.config)))}
    state = start_from(TrainState(jnp.int32(0), params, (), init_ema(recipe, params)), recipe)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(state.ema), strict=True):
        np.testing.assert_array_equal(a, b)
    return with_params(recipe.config, state.params["model"])


def shapes_of(config: TrOCRConfig) -> dict[str, tuple[int, ...]]:
    params = nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: TrOCR(config))))
    return {path_name(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(params)}


def saved(model: Any, folder: Path, *, alphabet: str | None = None) -> Any:
    """The model with random values in every parameter, in a folder."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    if alphabet is not None:
        save_tokenizer(character_tokenizer(alphabet), folder)
    return model.eval()


def image_models() -> dict[str, tuple[Any, EncoderConfig]]:
    vit = CONFIG.encoder
    square = {**IMAGE, "use_relative_position_bias": True, "layer_scale_init_value": 0.1}
    return {
        "vit": (transformers.ViTModel(transformers.ViTConfig(**IMAGE)), vit),
        "vit without biases": (
            transformers.ViTForMaskedImageModeling(transformers.ViTConfig(**IMAGE, qkv_bias=False)),
            replace(vit, qkv_bias=False),
        ),
        "deit": (
            transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**IMAGE)),
            replace(vit, kind="deit"),
        ),
        "beit": (
            transformers.BeitForImageClassification(transformers.BeitConfig(**square)),
            replace(
                vit,
                kind="beit",
                absolute_positions=False,
                relative_position_bias=True,
                layer_scale=True,
                final_norm=False,
            ),
        ),
        "beit as vit": (
            transformers.BeitModel(
                transformers.BeitConfig(
                    **IMAGE,
                    use_absolute_position_embeddings=True,
                    layer_scale_init_value=0.1,
                    use_mean_pooling=False,
                    use_mask_token=True,
                )
            ),
            vit,
        ),
    }


@pytest.mark.parametrize("kind", ["vit", "vit without biases", "deit", "beit", "beit as vit"])
def test_an_encoder_computes_what_its_source_computes(kind: str, tmp_path: Path) -> None:
    source, encoder = image_models()[kind]
    source = saved(source, tmp_path)
    base = getattr(source, source.base_model_prefix, source)
    model = started(recipe_of(replace(CONFIG, encoder=encoder), WarmStart(encoder=str(tmp_path))))
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        expected = base(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).last_hidden_state.numpy()
    np.testing.assert_allclose(model.encode(jnp.asarray(pixels)), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ["vit", "deit"])
def test_positions_for_another_image_size_are_interpolated(kind: str, tmp_path: Path) -> None:
    source, encoder = image_models()[kind]
    source = saved(source, tmp_path)
    base = getattr(source, source.base_model_prefix, source)
    encoder = replace(encoder, image_size=(24, 64))
    model = started(recipe_of(replace(CONFIG, encoder=encoder), WarmStart(encoder=str(tmp_path))))
    pixels = np.random.default_rng(0).uniform(-1, 1, (1, 24, 64, 3)).astype(np.float32)
    with torch.no_grad():
        images = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
        expected = base(images, interpolate_pos_encoding=True).last_hidden_state.numpy()
    np.testing.assert_allclose(model.encode(jnp.asarray(pixels)), expected, atol=1e-5 * np.abs(expected).max())


def test_a_vit_reads_a_deit_without_its_distillation_token(tmp_path: Path) -> None:
    source = saved(image_models()["deit"][0], tmp_path)
    found = first_weights(recipe_of(CONFIG, WarmStart(encoder=str(tmp_path))), shapes_of(CONFIG))
    table = source.deit.embeddings.position_embeddings.detach().numpy()
    np.testing.assert_array_equal(found.arrays["encoder/position_embeddings"][0, 0], table[0, 0])
    np.testing.assert_array_equal(found.arrays["encoder/position_embeddings"][0, 1:], table[0, 2:])
    assert "encoder.embeddings.distillation_token" in found.left_out


def text_models() -> dict[str, tuple[Any, DecoderConfig]]:
    ours = CONFIG.decoder
    return {
        # 24 positions behind the pad, the decoder has 20; tied, as in the published base and large models
        "roberta": (
            transformers.RobertaForMaskedLM(
                transformers.RobertaConfig(**TEXT, max_position_embeddings=26, type_vocab_size=1, layer_norm_eps=1e-5)
            ),
            ours,
        ),
        "xlm-roberta": (
            transformers.XLMRobertaModel(
                transformers.XLMRobertaConfig(**TEXT, max_position_embeddings=22, layer_norm_eps=1e-5)
            ),
            ours,
        ),
        # MiniLM: a BERT whose positions begin at 0; scaled embedding and own projection, as in the small model
        "bert": (
            transformers.BertModel(transformers.BertConfig(**TEXT, max_position_embeddings=16, layer_norm_eps=1e-5)),
            replace(ours, scale_embedding=True, tie_word_embeddings=False),
        ),
    }


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "bert"])
def test_a_decoder_computes_what_the_last_layers_of_its_source_compute(kind: str, tmp_path: Path) -> None:
    source, decoder = text_models()[kind]
    source = saved(source, tmp_path / "source", alphabet=LETTERS)
    save_tokenizer(character_tokenizer(LETTERS), tmp_path / "tokenizer")
    base = getattr(source, source.base_model_prefix, source)
    config = replace(CONFIG, decoder=decoder)
    start = WarmStart(decoder=str(tmp_path / "source"))
    ours = started(recipe_of(config, start, tokenizer=str(tmp_path / "tokenizer"))).decoder

    rng = np.random.default_rng(0)
    tokens = rng.integers(4, decoder.vocab_size, (2, 12)).astype(np.int32)
    with torch.no_grad():
        expected = base.embeddings(input_ids=torch.from_numpy(tokens).long()).numpy()
    rows = jnp.broadcast_to(jnp.arange(12, dtype=jnp.int32)[None, :] + 2, tokens.shape)
    embedded = ours._embed(jnp.asarray(tokens), rows, length=12, dtype=jnp.float32)
    np.testing.assert_allclose(embedded, expected, atol=1e-5)

    x = rng.normal(size=(2, 12, 32)).astype(np.float32)
    later = torch.full((12, 12), -1e30).triu(1)[None, None]
    for layer, theirs in zip(ours.layers, base.encoder.layer[3:], strict=True):
        with torch.no_grad():
            attended = theirs.attention(torch.from_numpy(x), later)[0].numpy()
            expected = theirs.feed_forward_chunk(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(_self_attended(layer, jnp.asarray(x)), attended, atol=1e-5)
        y = layer.norm(jnp.asarray(x) + layer._mlp(jnp.asarray(x), dtype=jnp.float32), dtype=jnp.float32)
        np.testing.assert_allclose(y, expected, atol=1e-5)
    words = base.embeddings.word_embeddings.weight.detach().numpy()
    head = ours.embed_tokens if decoder.tie_word_embeddings else ours.output_projection
    np.testing.assert_array_equal(head[...], words)
    fresh = TrOCR(config).decoder.layers[0].cross_attention  # cross-attention is left as it began
    np.testing.assert_array_equal(ours.layers[0].cross_attention.key.kernel[...], fresh.key.kernel[...])


def _self_attended(layer: Any, x: jax.Array) -> jax.Array:
    """norm(x + self_attention(x)), computed from the cached step, one token after the other."""
    from trocr_jax.attention import attend
    from trocr_jax.attention_cross import KeyValue
    from trocr_jax.decoder import Cache, _write

    a, out = layer.self_attention, []
    cache = KeyValue(*[jnp.zeros((2, 4, x.shape[1], 8))] * 2)
    rows = jnp.zeros((2, 1, x.shape[1]), jnp.int32)
    for position in range(x.shape[1]):
        y = x[:, position : position + 1]
        query, key, value = (p(y, dtype=jnp.float32) for p in (a.query, a.key, a.value))
        cache = KeyValue(*(_write(c, n, jnp.int32(position)) for c, n in zip(cache, (key, value), strict=True)))
        bias = Cache((cache,), rows).bias(jnp.arange(x.shape[1])[None] <= position)
        z = a.out(attend(query, *cache, bias=bias, dtype=jnp.float32), dtype=jnp.float32)
        out.append(layer.self_attention_norm(y + z, dtype=jnp.float32))
    return jnp.concatenate(out, axis=1)


@pytest.mark.parametrize("kind", ["deit", "beit", "roberta", "bert"])
def test_every_tensor_is_read_or_named_as_left_out(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    names: set[str] = set()

    def watched(folder: Path) -> dict[str, StoredTensor]:
        def read(name: str, tensor: StoredTensor) -> np.ndarray:
            seen.add(name.removeprefix(f"{kind}."))
            return tensor.read()

        tensors = read_weights(folder)
        names.update(name.removeprefix(f"{kind}.") for name in tensors)
        return {n: t._replace(read=partial(read, n, t)) for n, t in tensors.items()}

    monkeypatch.setattr(warm_tensors, "read_weights", watched)
    if kind in ("deit", "beit"):
        saved(image_models()[kind][0], tmp_path)
        # to a ViT without biases: tokens, biases and relative positions are left out
        config = replace(CONFIG, encoder=replace(CONFIG.encoder, qkv_bias=False))
        recipe = recipe_of(config, WarmStart(encoder=str(tmp_path)))
    else:
        saved(text_models()[kind][0], tmp_path, alphabet=LETTERS)
        recipe = recipe_of(CONFIG, WarmStart(decoder=str(tmp_path)), tokenizer=str(tmp_path))
    found = first_weights(recipe, shapes_of(recipe.config))
    left_out = set(found.left_out)  # by the names of the table, in which an encoder's begin with encoder.
    named = {name for name in names if name in left_out or f"encoder.{name}" in left_out}
    assert names == seen | named
    assert not seen & named
    assert named
    assert len(found.lines()) > 1


def test_tensors_and_settings_that_do_not_fit_are_all_named(tmp_path: Path) -> None:
    saved(image_models()["vit"][0], tmp_path / "vit")
    saved(text_models()["roberta"][0], tmp_path / "roberta", alphabet=LETTERS)
    shapes = shapes_of(CONFIG)
    encoder = replace(CONFIG.encoder, num_heads=4, num_layers=1, intermediate_size=44)
    wrong = replace(CONFIG, encoder=encoder)
    with pytest.raises(CheckpointError) as raised:
        first_weights(recipe_of(wrong, WarmStart(encoder=str(tmp_path / "vit"))), shapes_of(wrong))
    for words in ("num_attention_heads is 3", "intermediate.dense.weight is [40, 24]", "layer.1.layernorm_after"):
        assert words in str(raised.value)
    deep = replace(CONFIG, decoder=replace(CONFIG.decoder, num_layers=6))
    with pytest.raises(CheckpointError, match="has 5 layers; the decoder has 6"):
        first_weights(recipe_of(deep, WarmStart(decoder=str(tmp_path / "roberta"))), shapes_of(deep))
    with pytest.raises(CheckpointError, match="model_type is 'vit'"):
        first_weights(recipe_of(CONFIG, WarmStart(decoder=str(tmp_path / "vit"))), shapes)


def test_tokens_keep_their_rows_and_new_ones_are_near_the_mean() -> None:
    table = np.random.default_rng(0).normal(3, 2, (40, 16)).astype(np.float32)
    old = {f"t{i}": i for i in range(38)}  # two rows of padding
    new = {f"t{i}": 37 - i for i in range(30)} | {f"n{i}": i for i in range(8)} | {f"m{i}": 38 + i for i in range(10)}
    found = carry_rows(table, old, new, size=50, seed=1)
    assert (found.kept, found.new) == (30, 20)
    for token in range(30):
        np.testing.assert_array_equal(found.rows[37 - token], table[token])
    fresh = found.rows[[*range(8), *range(38, 50)]]
    np.testing.assert_allclose(fresh, np.broadcast_to(table.mean(axis=0), fresh.shape), atol=0.1 * 5 * 2.5)
    assert len(np.unique(fresh, axis=0)) == 20
    np.testing.assert_array_equal(carry_rows(table, old, new, size=50, seed=1).rows, found.rows)
    same = carry_rows(table, old, old, size=40, seed=1)
    np.testing.assert_array_equal(same.rows, table)


def test_a_model_goes_on_with_more_characters_on_wider_lines(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "model")
    alphabet = "ψ" + ALPHABET[::-1] + "ω"
    save_tokenizer(character_tokenizer(alphabet), tmp_path / "tokenizer")
    config = tiny_config(vocab_size=4 + len(alphabet))
    config = replace(config, encoder=replace(config.encoder, image_size=(16, 96)))
    ours = started(recipe_of(config, str(source), tokenizer=str(tmp_path / "tokenizer")))
    theirs = tiny_model()
    for number, character in enumerate(alphabet):
        if character in ALPHABET:
            old = theirs.decoder.embed_tokens[4 + ALPHABET.index(character)]
            np.testing.assert_array_equal(ours.decoder.embed_tokens[4 + number], old)
    np.testing.assert_array_equal(ours.decoder.embed_tokens[:4], theirs.decoder.embed_tokens[:4])
    np.testing.assert_allclose(ours.encoder.position_embeddings[...], theirs.encoder._positions((1, 12)), atol=1e-5)
    np.testing.assert_array_equal(ours.encoder.cls_token[...], theirs.encoder.cls_token[...])


def test_adapters_leave_nothing_new_untrained(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "model")
    save_tokenizer(character_tokenizer(ALPHABET + "ψω"), tmp_path / "tokenizer")
    config = tiny_config(vocab_size=4 + len(ALPHABET) + 2)

    def first(targets: str) -> None:
        lora = Lora(rank=1, alpha=1.0, targets=targets)
        recipe = recipe_of(config, str(source), tokenizer=str(tmp_path / "tokenizer"), lora=lora)
        first_weights(recipe, shapes_of(config))

    with pytest.raises(ConfigError, match=r"lora freezes decoder/embed_tokens, .* 2 tokens are new: 'ψ', 'ω'; add it"):
        first(".*/query/kernel")
    first("decoder/(embed_tokens|output_projection)")
    lora = Lora(rank=1, alpha=1.0)
    check(recipe_of(tiny_config(), str(source), lora=lora))
    for start in (WarmStart(encoder=str(source)), None):
        with pytest.raises(ConfigError, match="lora freezes the model, and start_from names no whole one"):
            check(recipe_of(tiny_config(), start, lora=lora))


def test_a_model_starts_as_it_is_or_not_at_all(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "model")
    config = tiny_config()
    quiet = replace(config, decoder=replace(config.decoder, dropout=0.0))  # dropout is the run's business
    ours = started(recipe_of(quiet, str(source), tokenizer=str(source)))
    for a, b in zip(jax.tree.leaves(nnx.state(ours)), jax.tree.leaves(nnx.state(tiny_model())), strict=True):
        np.testing.assert_array_equal(a, b)
    other = replace(config, encoder=replace(config.encoder, num_heads=4, num_layers=2, layer_norm_eps=1e-6))
    with pytest.raises(CheckpointError, match="another architecture") as raised:
        started(recipe_of(other, str(source), tokenizer=str(source)))
    assert "encoder/layers/1/fc1/kernel is missing" in str(raised.value)
    assert "encoder.num_heads is 2, the recipe wants 4" in str(raised.value)
    assert "encoder.layer_norm_eps is 1e-12, the recipe wants 1e-06" in str(raised.value)
    small = tiny_config(vocab_size=10)
    with pytest.raises(CheckpointError, match="vocab_size"):
        started(recipe_of(small, str(source), tokenizer=str(source)))


def tokenizer_with(names: dict[str, str], alphabet: str) -> Any:
    """A character tokenizer in another order whose special tokens have other names and numbers."""
    letters = list(alphabet)
    tokens = [*letters[:3], *names.values(), *letters[3:]]
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, names["unk_token"]))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    end = names["eos_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, tokens.index(end))]
    )
    backend.decoder = decoders.Fuse()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names)


OTHER = {"pad_token": "[PAD]", "eos_token": "[SEP]", "unk_token": "[UNK]", "bos_token": "[CLS]"}


def test_a_new_tokenizer_brings_its_special_tokens(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "model")
    alphabet = "жψ" + ALPHABET[::-1]
    new = tokenizer_with(OTHER, alphabet)
    new.save_pretrained(tmp_path / "tokenizer")
    start = from_model(str(source), tokenizer=str(tmp_path / "tokenizer"))
    assert start.config.decoder.vocab_size == 4 + len(alphabet)
    ids = {kind: new.convert_tokens_to_ids(token) for kind, token in OTHER.items()}
    assert ids["eos_token"] == 4
    assert (start.config.eos_token_id, start.config.pad_token_id) == (ids["eos_token"], ids["pad_token"])
    assert start.config.decoder_start_token_id == ids["eos_token"]  # as the model's is its end token
    recipe = recipe_of(start.config, start.start_from, tokenizer=start.tokenizer, processor=start.processor)
    assert codec(recipe).encode("ж1ψ a") == new("ж1ψ a").input_ids[:-1]
    ours, theirs = started(recipe).decoder.embed_tokens, tiny_model().decoder.embed_tokens
    for part, old in {"eos_token": 2, "bos_token": 0, "pad_token": 1, "unk_token": 3}.items():
        np.testing.assert_array_equal(ours[ids[part]], theirs[old])
    for character in ALPHABET:
        np.testing.assert_array_equal(ours[new.convert_tokens_to_ids(character)], theirs[4 + ALPHABET.index(character)])
    table = np.asarray(theirs[...])
    for character in "жψ":
        row = np.asarray(ours[new.convert_tokens_to_ids(character)])
        assert np.abs(row - table.mean(axis=0)).max() < 0.1 * 5 * table.std(axis=0).max()
    endless = tokenizer_with({**OTHER, "eos_token": "[SEP]"}, alphabet)
    endless.eos_token = None
    with pytest.raises(ConfigError, match=r"mine: the tokenizer has no eos_token; name one in its tokenizer_config"):
        with_vocabulary(start.config, character_tokenizer(ALPHABET), endless, name="mine")


def test_an_extended_vocabulary_keeps_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save_tiny(tmp_path / "model")
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines/1.png").write_bytes(b"not looked at")
    (tmp_path / "lines/train.tsv").write_text("1.png\tab жω ab\n", encoding="utf-8")
    command.vocabulary(str(source), output=tmp_path / "more", data=tmp_path / "lines", characters="aψe\u0301")
    assert capsys.readouterr().out.endswith(f"{4 + len(ALPHABET) + 4} tokens, 4 of them new: éψωж\n")
    before = {path.name: path.read_bytes() for path in source.iterdir() if path.is_file()}
    with pytest.raises(ConfigError, match="model: is the folder of a model"):
        command.vocabulary(str(source), output=source, characters="ψ")
    assert {path.name: path.read_bytes() for path in source.iterdir() if path.is_file()} == before
    start = from_model(str(source), tokenizer=str(tmp_path / "more"), image_size=(16, 96))
    recipe = recipe_of(start.config, start.start_from, tokenizer=start.tokenizer, processor=start.processor)
    model, old = started(recipe), tiny_model()
    count = 4 + len(ALPHABET)
    np.testing.assert_array_equal(model.decoder.embed_tokens[:count], old.decoder.embed_tokens[:count])
    assert len(np.unique(np.asarray(model.decoder.embed_tokens[count:]), axis=0)) == 4
    tokenizer = codec(recipe)
    ids = tokenizer.encode("ab жω éψ")
    assert tokenizer.decode(ids) == "ab жω éψ"
    assert max(ids) == count + 3
    # what the model said of the old tokens, it says still
    pixels = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 16, 64, 3)), jnp.float32)
    narrow = replace(start.config, encoder=old.config.encoder)
    model = started(recipe_of(narrow, start.start_from, tokenizer=start.tokenizer))
    tokens = jnp.asarray([[2, 5, 9, 12]], jnp.int32)
    np.testing.assert_allclose(model(pixels, tokens)[..., :count], old(pixels, tokens), atol=1e-5)


def sentencepiece_and_wordpiece() -> list[Any]:
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [(token, 0.0) for token in special] + [(token, -3.0) for token in ("▁Stra", "▁", *"Strae")]
    words = {token: i for i, token in enumerate([*special, "[MASK]", "Stra", *"Strae", *(f"##{c}" for c in "Strae")])}
    named = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token"), special, strict=True))
    return [
        transformers.XLMRobertaTokenizer(vocab=pieces),
        transformers.BertTokenizer(vocab=words, do_lower_case=False, bos_token="<s>", eos_token="</s>", **named),
    ]


def test_new_characters_are_spelt_within_words(tmp_path: Path) -> None:
    for tokenizer, expected in zip(sentencepiece_and_wordpiece(), (["ß"], ["ß", "##ß"]), strict=True):
        before = tokenizer.get_vocab()
        assert extend(tokenizer, ["Straße aß ßa"]) == expected
        folder = tmp_path / type(tokenizer).__name__
        save_tokenizer(tokenizer, folder)
        again = load_tokenizer(folder)
        assert again.get_vocab() == before | {token: len(before) + i for i, token in enumerate(expected)}
        assert decode(again, [again("Straße aß ßa").input_ids]) == ["Straße aß ßa"]
        assert extend(again, ["Straße"]) == []
    with pytest.raises(TokenizerError, match=r"^1 of 1 texts .*'1\.5' as '1\. 5'; leave these"):
        extend(tokenizer, ["1.5"])


def test_pictures_that_are_not_square_are_read_with_interpolated_positions(tmp_path: Path) -> None:
    """A model with a grid of patches, from square pictures to wide ones: as transformers interpolates them."""
    source, _ = image_models()["vit"]
    saved(source, tmp_path / "vit")
    square = started(recipe_of(CONFIG, WarmStart(encoder=str(tmp_path / "vit"))))
    checkpoint.save_huggingface(square, tmp_path / "square")
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}
    (tmp_path / "square/preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    save_tokenizer(character_tokenizer(LETTERS), tmp_path / "square")
    start = from_model(str(tmp_path / "square"), image_size=(16, 80))
    assert start.config.encoder.grid == (2, 10)
    assert start.processor.size == (16, 80)
    model = started(recipe_of(start.config, start.start_from, tokenizer=start.tokenizer, processor=start.processor))
    pixels = np.random.default_rng(0).uniform(-1, 1, (1, 16, 80, 3)).astype(np.float32)
    with torch.no_grad():
        images = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
        expected = source.eval()(images, interpolate_pos_encoding=True).last_hidden_state.numpy()
    np.testing.assert_allclose(model.encode(jnp.asarray(pixels)), expected, atol=1e-5 * np.abs(expected).max())
    with pytest.raises(ConfigError, match="patch"):
        from_model(str(tmp_path / "square"), image_size=(16, 81))


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("encoder", {"layer_norm_eps": 1e-3}),
        ("encoder", {"activation": "relu"}),
        ("decoder", {"num_heads": 4}),
        ("decoder", {"activation": "relu"}),
        ("decoder", {"scale_embedding": not tiny_config().decoder.scale_embedding}),
    ],
)
def test_a_model_does_not_go_on_with_other_arithmetic(part, changes, source):
    config = tiny_config()
    other = replace(config, **{part: replace(getattr(config, part), **changes)})
    (name,) = changes
    with pytest.raises(CheckpointError, match=f"{part}.{name} is .*, the recipe wants"):
        first_weights(recipe_of(other, str(source), tokenizer=str(source)), shapes_of(other))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("source") / "model")


def test_another_tokenizer_of_the_same_size_moves_the_rows(source, tmp_path):
    save_tokenizer(character_tokenizer(ALPHABET[::-1]), tmp_path)
    ours = started(recipe_of(tiny_config(), str(source), tokenizer=str(tmp_path))).decoder.embed_tokens[...]
    theirs = tiny_model().decoder.embed_tokens[...]
    np.testing.assert_array_equal(ours, np.concatenate([theirs[:4], theirs[:3:-1]]))


def test_a_recipe_that_forgets_the_tokenizer_of_its_model_has_its_own_on_the_right_rows(tmp_path):
    own = tiny_config(vocab_size=4 + len(OURS))
    model = tiny_model(config=own)
    checkpoint.save(model, tmp_path / "model")
    save_tokenizer(character_tokenizer(OURS[::-1]), tmp_path / "model")
    ours = started(recipe_of(own, str(tmp_path / "model"))).decoder.embed_tokens[...]
    theirs = model.decoder.embed_tokens[...]
    np.testing.assert_array_equal(ours, np.concatenate([theirs[:4], theirs[:3:-1]]))


def test_a_part_of_a_path_is_no_target_of_adapters(source, tmp_path):
    save_tokenizer(character_tokenizer(ALPHABET + "ψ"), tmp_path)
    config = tiny_config(vocab_size=5 + len(ALPHABET))
    lora = Lora(rank=1, alpha=1.0, targets="embed_tokens|output_projection")
    with pytest.raises(ConfigError, match="lora freezes decoder/embed_tokens"):
        first_weights(recipe_of(config, str(source), tokenizer=str(tmp_path), lora=lora), shapes_of(config))


def test_a_token_beyond_the_table_is_new_and_noise_is_of_each_axis():
    table = np.random.default_rng(0).normal(3, [0.1, 10, 0], (40, 3)).astype(np.float32)
    found = carry_rows(table, {"a": 0, "b": 40}, {"b": 1000, "a": 1001}, size=1002, seed=1)
    np.testing.assert_array_equal(found.rows[1001], table[0])
    assert (found.kept, found.new) == (40, 962)  # rows of no token keep their numbers
    np.testing.assert_allclose(found.rows[40:1001].std(axis=0), 0.1 * table.std(axis=0), rtol=0.1)


def named(**names):
    tokens = dict.fromkeys([*names.values(), "a"])
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, names["unk_token"]))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def test_a_special_token_that_both_have_keeps_its_row():
    old = character_tokenizer("ab")
    new = named(eos_token="<pad>", bos_token="<s>", pad_token="[PAD]", unk_token="<unk>")
    numbers = vocabulary_for(old, new)
    assert [numbers[token] for token in ("<pad>", "<s>", "[PAD]", "<unk>")] == [1, 0, 1, 3]


def test_a_token_for_several_parts_is_the_end_token():
    end = "<|endoftext|>"
    old = character_tokenizer("ab")
    assert vocabulary_for(old, named(eos_token=end, bos_token=end, unk_token=end))[end] == old.eos_token_id


def test_a_character_that_is_known_at_the_beginning_of_words_alone_is_added_within_them():
    _, wordpiece = sentencepiece_and_wordpiece()
    vocabulary = wordpiece.get_vocab()
    names = {
        part: getattr(wordpiece, part) for part in ("cls_token", "pad_token", "sep_token", "unk_token", "bos_token")
    }
    tokenizer = transformers.BertTokenizer(vocab=vocabulary | {"ψ": len(vocabulary)}, do_lower_case=False, **names)
    assert extend(tokenizer, ["ψaψ"]) == ["##ψ"]


def test_added_tokens_keep_their_numbers():
    tokenizer, _ = sentencepiece_and_wordpiece()
    tokenizer.add_tokens(["<z>", "<b>"])
    before = tokenizer.get_vocab()
    new = extend(tokenizer, ["ψ"])
    read_back = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()).get_vocab()
    assert read_back == tokenizer.get_vocab() == before | {token: len(before) + i for i, token in enumerate(new)}


def test_a_table_by_tokens_is_not_called_left_out():
    table = {"decoder/embed_tokens": "175 rows kept, 0 new"}
    found = warm_tensors.Found({"decoder/embed_tokens": np.zeros((175, 2))}, {}, {}, table).and_(
        warm_tensors.Found({}, {"pooler": "unused"}, {})
    )
    assert found.lines() == [
        "first weights: 1 parameters",
        "  left out (unused): pooler",
        "  by tokens (175 rows kept, 0 new): decoder/embed_tokens",
    ]
