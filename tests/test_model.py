"""The model against transformers (torch) at small sizes: every family, f32, whole and cached, one long sequence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import AbstractMesh
from transformers import VisionEncoderDecoderConfig, VisionEncoderDecoderModel

import trocr_jax
from tests.tiny import tiny_config
from trocr_jax import decoder as decoder_module
from trocr_jax import generation_plan
from trocr_jax.attention_cross import Cross
from trocr_jax.config import DecoderConfig, EncoderConfig, TrOCRConfig
from trocr_jax.encoder import SCORES_BYTES, Encoder, bicubic_weights, cached_micro_batch, in_micro_batches
from trocr_jax.errors import DecodeError, ImageError
from trocr_jax.generation import prime, stream
from trocr_jax.generation_plan import Placed

VIT = EncoderConfig(
    image_size=(32, 48), patch_size=(8, 8), hidden_size=48, num_layers=2, num_heads=4, intermediate_size=96
)
LEARNED = DecoderConfig(
    vocab_size=99,
    hidden_size=64,
    num_layers=2,
    num_heads=4,
    intermediate_size=128,
    max_position_embeddings=64,
    cross_attention_hidden_size=48,
)
SINUSOIDAL = replace(
    LEARNED,
    learned_positions=False,
    scale_embedding=True,
    layernorm_embedding=False,
    tie_word_embeddings=False,
    activation="relu",
)
BEIT = replace(VIT, kind="beit", image_size=(32, 32), layer_scale=True)
FAMILIES = {
    "base, large": TrOCRConfig(encoder=replace(VIT, qkv_bias=False), decoder=LEARNED),
    "stage 1": TrOCRConfig(encoder=VIT, decoder=SINUSOIDAL),
    "small": TrOCRConfig(
        encoder=replace(VIT, kind="deit"),
        decoder=replace(LEARNED, scale_embedding=True, activation="relu", tie_word_embeddings=False),
    ),
    "bridge": TrOCRConfig(encoder=VIT, decoder=replace(LEARNED, cross_attention_hidden_size=None)),
    "same width": TrOCRConfig(
        encoder=replace(VIT, hidden_size=64), decoder=replace(LEARNED, cross_attention_hidden_size=None)
    ),
    "BEiT": TrOCRConfig(encoder=replace(BEIT, relative_position_bias=True), decoder=LEARNED),
    "BEiT, shared bias": TrOCRConfig(
        encoder=replace(BEIT, absolute_positions=False, shared_relative_position_bias=True, final_norm=False),
        decoder=LEARNED,
    ),
    "BEiT, wide": TrOCRConfig(
        encoder=replace(BEIT, image_size=(24, 40), absolute_positions=False, relative_position_bias=True),
        decoder=LEARNED,
    ),
    "BEiT, high, shared bias": TrOCRConfig(
        encoder=replace(BEIT, image_size=(48, 32), absolute_positions=False, shared_relative_position_bias=True),
        decoder=LEARNED,
    ),
    "rectangular patches": TrOCRConfig(
        encoder=replace(VIT, image_size=(40, 120), patch_size=(40, 10)), decoder=LEARNED
    ),
}


def oracle(config: TrOCRConfig) -> VisionEncoderDecoderModel:
    """transformers' model with random weights whose every bias and norm does something."""
    torch.manual_seed(0)
    model = VisionEncoderDecoderModel(VisionEncoderDecoderConfig.from_dict(config.to_huggingface())).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.1 if parameter.ndim < 2 or "embed" in name or "table" in name else parameter[0].numel() ** -0.5
            parameter.add_(torch.randn_like(parameter) * scale)
    return model


@pytest.fixture(scope="module", params=list(FAMILIES.values()), ids=list(FAMILIES))
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[VisionEncoderDecoderModel, trocr_jax.TrOCR]:
    model = oracle(request.param)
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return model, trocr_jax.checkpoint.load(folder)


def inputs(config: TrOCRConfig, *, length: int) -> tuple[np.ndarray, np.ndarray]:
    """pixels [2, H, W, 3] and token ids [2, length] with pads inside and at the end."""
    rng = np.random.default_rng(1)
    pixels = rng.uniform(-1, 1, (2, *config.encoder.image_size, 3)).astype(np.float32)
    tokens = rng.integers(3, config.decoder.vocab_size, (2, length)).astype(np.int32)
    tokens[:, 0] = config.decoder_start_token_id
    tokens[1, length // 2 :] = config.pad_token_id
    tokens[0, length // 3] = config.pad_token_id
    return pixels, tokens


def channels_first(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


def test_memory_and_logits_equal_transformers(pair: tuple[VisionEncoderDecoderModel, trocr_jax.TrOCR]) -> None:
    theirs, ours = pair
    pixels, tokens = inputs(ours.config, length=60)
    with torch.no_grad():
        out = theirs(pixel_values=channels_first(pixels), decoder_input_ids=torch.from_numpy(tokens).long())
        memory = out.encoder_last_hidden_state
        memory = memory if ours.bridge is None else theirs.enc_to_dec_proj(memory)
    np.testing.assert_allclose(ours.encode(jnp.asarray(pixels)), memory.numpy(), atol=1e-5)
    logits = jax.jit(lambda m, p, t: m(p, t))(ours, jnp.asarray(pixels), jnp.asarray(tokens))
    np.testing.assert_allclose(logits, out.logits.numpy(), atol=1e-5 * max(1.0, float(out.logits.abs().max())))


@pytest.mark.parametrize("prime", [trocr_jax.TrOCR.prime, trocr_jax.TrOCR.absorb])
def test_cached_steps_equal_teacher_forcing(
    pair: tuple[VisionEncoderDecoderModel, trocr_jax.TrOCR], prime: Callable[..., Cross]
) -> None:
    _, model = pair
    pixels, tokens = inputs(model.config, length=20)
    tokens[tokens == model.config.pad_token_id] = 5
    memory = model.encode(jnp.asarray(pixels))
    expected = model.decoder(jnp.asarray(tokens), memory)
    cross, cache = prime(model, memory), model.init_cache(2, 1, 20)
    step = jax.jit(lambda m, t, c, p, x: m.step(t, c, p, x))
    for position in range(20):
        logits, cache = step(model, jnp.asarray(tokens[:, position, None]), cache, jnp.int32(position), cross)
        np.testing.assert_allclose(logits[:, 0], expected[:, position], atol=1e-5)


@pytest.mark.parametrize("prime", [trocr_jax.TrOCR.prime, trocr_jax.TrOCR.absorb])
def test_hypotheses_of_an_image_are_independent_rows(
    pair: tuple[VisionEncoderDecoderModel, trocr_jax.TrOCR], prime: Callable[..., Cross]
) -> None:
    _, model = pair
    pixels, _ = inputs(model.config, length=4)
    cross = prime(model, model.encode(jnp.asarray(pixels)))
    tokens = jnp.asarray([[3, 4, 5], [6, 7, 8]], jnp.int32)
    together, _ = model.step(tokens, model.init_cache(2, 3, 4), jnp.int32(0), cross)
    for k in range(3):
        alone, _ = model.step(tokens[:, k : k + 1], model.init_cache(2, 1, 4), jnp.int32(0), cross)
        np.testing.assert_allclose(together[:, k], alone[:, 0], atol=1e-5)


def test_few_images_at_a_time_give_the_same_memory(pair: tuple[VisionEncoderDecoderModel, trocr_jax.TrOCR]) -> None:
    _, model = pair
    two, _ = inputs(model.config, length=4)
    pixels = jnp.asarray(np.concatenate([two, two[::-1]]))
    expected = model.encode(pixels)
    for micro_batch in (1, 2, 4):
        np.testing.assert_allclose(in_micro_batches(model.encode, pixels, micro_batch), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "preset", "batch", "expected"),
    [
        ("cpu", "base-handwritten", 16, 2),  # 12 heads of 577 x 577 scores are 15.2 MiB
        ("cpu", "base-handwritten", 7, 1),
        ("cpu", "small-printed", 8, 4),
        ("cpu", "large-printed", 16, 1),
        ("cpu", "small-printed", 1, 1),
        ("TPU v5 lite", "base-handwritten", 64, 4),
        ("TPU v6 lite", "large-printed", 64, 4),
        ("TPU v5 lite", "small-printed", 64, 8),
    ],
)
def test_scores_of_a_micro_batch_fit_a_cache(kind: str, preset: str, batch: int, expected: int) -> None:
    encoder = trocr_jax.TrOCRConfig.preset(preset).encoder
    assert cached_micro_batch(encoder, batch, SCORES_BYTES[kind]) == expected


@pytest.mark.parametrize(
    ("platform", "kind", "devices", "split"),
    [
        ("cpu", "cpu", 1, True),
        ("cpu", "cpu", 8, False),
        ("tpu", "TPU v6 lite", 1, True),
        ("tpu", "TPU v5", 1, False),
        ("gpu", "NVIDIA H200", 1, False),
    ],
)
def test_where_few_images_go_through_the_encoder_at_a_time(platform: str, kind: str, devices: int, split: bool) -> None:
    config = trocr_jax.TrOCRConfig.preset("base-handwritten")
    placed = generation_plan.Placed(platform, kind, devices)
    shape, _ = generation_plan.plan(trocr_jax.DecodeConfig(), config, placed=placed)
    assert bool(shape.scores_bytes) == split


def test_devices_are_those_on_which_images_lie() -> None:
    def placed(count: int, **options: Any) -> Placed:
        devices = [SimpleNamespace(platform="gpu", device_kind="NVIDIA H200") for _ in range(count)]
        images: Any = SimpleNamespace(sharding=SimpleNamespace(device_set=devices))
        return generation_plan.placed_as(images, **options)

    assert placed(1) == Placed("gpu", "NVIDIA H200")
    assert placed(4) == Placed("gpu", "NVIDIA H200", devices=4)
    shares: Any = SimpleNamespace(sharing=2)
    assert placed(4, split=shares) == Placed("gpu", "NVIDIA H200", sharing=2, split=True)
    here, traced = generation_plan.placed_on(None), list[Placed]()
    assert generation_plan.placed_as(np.zeros((1, 32, 48, 3))) == here
    with jax.sharding.use_abstract_mesh(AbstractMesh((4,), ("data",))):
        jax.eval_shape(lambda pixels: traced.append(generation_plan.placed_as(pixels)), jnp.zeros((4, 32, 48, 3)))
    assert traced == [here._replace(devices=4)]


def test_keys_and_values_are_left_out_where_they_cost_more() -> None:
    base = trocr_jax.TrOCRConfig.preset("base-handwritten")

    def absorbed(platform: str, **options: Any) -> bool:
        placed = generation_plan.Placed(platform, platform)
        return generation_plan.plan(trocr_jax.DecodeConfig(**options), base, placed=placed)[0].absorbed

    assert absorbed("cpu", max_new_tokens=64)
    assert not absorbed("cpu", max_new_tokens=128)
    assert absorbed("cpu", max_new_tokens=20, num_beams=4)
    assert not absorbed("cpu", max_new_tokens=20, num_return_sequences=5, do_sample=True)
    assert absorbed("tpu", max_new_tokens=500)


def test_greedy_tokens_and_scores_equal_transformers(pair: tuple[VisionEncoderDecoderModel, trocr_jax.TrOCR]) -> None:
    theirs, ours = pair
    ids, steps = ours.config, 40
    pixels, _ = inputs(ids, length=4)
    with torch.no_grad():
        out = theirs.generate(
            channels_first(pixels),
            max_new_tokens=steps,
            do_sample=False,
            num_beams=1,
            decoder_start_token_id=ids.decoder_start_token_id,
            pad_token_id=ids.pad_token_id,
            eos_token_id=ids.eos_token_id,
            return_dict_in_generate=True,
            output_scores=True,
        )
        log_probs = theirs.compute_transition_scores(out.sequences, out.scores, normalize_logits=True).numpy()
    expected = np.full((2, steps), ids.pad_token_id)
    expected[:, : out.sequences.shape[1] - 1] = out.sequences[:, 1:].numpy()
    found = trocr_jax.generate(ours, jnp.asarray(pixels), trocr_jax.DecodeConfig(max_new_tokens=steps))
    np.testing.assert_array_equal(found.token_ids[:, 0], expected)
    for i in range(2):
        n = int(found.lengths[i, 0])
        np.testing.assert_allclose(found.token_log_probs[i, 0, :n], log_probs[i, :n], atol=1e-4)
        assert bool(found.truncated[i, 0]) == (ids.eos_token_id not in expected[i])


@pytest.mark.parametrize("name", ["base, large", "small"])
@pytest.mark.parametrize("size", [(64, 40), (32, 48), (24, 96)])
def test_other_image_sizes_interpolate_positions_as_transformers(name: str, size: tuple[int, int]) -> None:
    config = FAMILIES[name]  # square: transformers takes every table for a square one
    config = replace(config, encoder=replace(config.encoder, image_size=(32, 32)))
    theirs, ours = oracle(config), trocr_jax.TrOCR(config)
    ours.encoder.position_embeddings[...] = jnp.asarray(theirs.encoder.embeddings.position_embeddings.detach().numpy())
    grid = (size[0] // 8, size[1] // 8)
    tokens = torch.zeros(1, grid[0] * grid[1] + config.encoder.num_special_tokens, 48)
    with torch.no_grad():
        expected = theirs.encoder.embeddings.interpolate_pos_encoding(tokens, *size)
    np.testing.assert_allclose(ours.encoder._positions(grid), expected.numpy(), atol=1e-6)


def test_oblong_position_tables_are_interpolated_on_their_own_grid() -> None:
    model = trocr_jax.TrOCR(FAMILIES["base, large"])
    table = np.array(model.encoder.position_embeddings[...])  # CLS and 4 x 6 patches
    patches = torch.from_numpy(table[:, 1:].reshape(1, 4, 6, 48).transpose(0, 3, 1, 2))
    expected = torch.nn.functional.interpolate(patches, size=(5, 9), mode="bicubic", align_corners=False)
    found = model.encoder._positions((5, 9))
    np.testing.assert_array_equal(found[:, :1], table[:, :1])
    np.testing.assert_allclose(found[0, 1:].reshape(5, 9, 48), expected[0].numpy().transpose(1, 2, 0), atol=1e-6)


@pytest.mark.parametrize(("size_in", "size_out"), [(24, 24), (14, 24), (24, 14), (3, 50), (96, 1)])
def test_bicubic_weights_equal_torch(size_in: int, size_out: int) -> None:
    row = torch.randn(1, 1, 1, size_in, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(row, size=(1, size_out), mode="bicubic", align_corners=False)
    np.testing.assert_allclose(
        bicubic_weights(size_in, size_out) @ row.numpy().ravel(), expected.numpy().ravel(), atol=1e-5
    )


def test_gradients_are_products_in_the_compute_type() -> None:
    model = trocr_jax.TrOCR(FAMILIES["base, large"])
    pixels, tokens = inputs(model.config, length=6)

    def loss(model: trocr_jax.TrOCR) -> jax.Array:
        return model(jnp.asarray(pixels), jnp.asarray(tokens), dtype=jnp.bfloat16).mean()

    text = jax.jit(jax.grad(loss)).lower(model).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) > 50
    for line in products:
        factors, result = line.rsplit(" : ", 1)[1].split(" -> ")
        assert factors.count("xbf16>") == 2
        assert "xf32>" in result


def test_generate_compiles_once_for_equal_shapes() -> None:
    model = trocr_jax.TrOCR(FAMILIES["base, large"])
    pixels, _ = inputs(model.config, length=4)
    from trocr_jax.generation import _generate

    trocr_jax.generate(model, jnp.asarray(pixels), trocr_jax.DecodeConfig(max_new_tokens=5))
    compiled = _generate._cache_size()  # type: ignore[attr-defined]
    for seed in range(3):
        other = np.random.default_rng(seed).uniform(-1, 1, pixels.shape).astype(np.float32)
        trocr_jax.generate(model, jnp.asarray(other), trocr_jax.DecodeConfig(max_new_tokens=5))
    assert _generate._cache_size() == compiled  # type: ignore[attr-defined]


def test_too_many_tokens_for_the_position_table_are_refused() -> None:
    model = trocr_jax.TrOCR(FAMILIES["base, large"])
    with pytest.raises(DecodeError, match=r"max_new_tokens is 65.*64"):
        trocr_jax.generate(model, jnp.zeros((1, 32, 48, 3)), trocr_jax.DecodeConfig(max_new_tokens=65))
    with pytest.raises(DecodeError, match=r"65 tokens: the model has 64 positions"):
        model(jnp.zeros((1, 32, 48, 3)), jnp.zeros((1, 65), jnp.int32))


@pytest.mark.parametrize(
    ("token_ids", "message"),
    [
        (np.array([[2, 99]]), r"token ids hold 99: this model has tokens 0 to 98"),
        (jnp.array([[2, -100]]), r"token ids hold -100: .* the id of the pad token"),
        ([[2, 5]], r"token ids are list: give an array of integers, \[B, T\]"),
        (np.array([2, 5]), r"token ids are int64\[2\]: give an array of integers"),
        (jnp.zeros((1, 2)), r"token ids are float32\[1, 2\]: give an array of integers"),
    ],
)
def test_token_ids_that_do_not_fit_are_refused(token_ids: Any, message: str) -> None:
    model = trocr_jax.TrOCR(FAMILIES["base, large"])
    assert model.config.decoder.vocab_size == 99
    with pytest.raises(DecodeError, match=message):
        model(jnp.zeros((1, 32, 48, 3)), token_ids)


def test_token_ids_that_jit_closes_over_are_looked_at() -> None:
    """They are no tracers, but what is computed of them would be one. One image may have several texts."""
    model, pixels = trocr_jax.TrOCR(FAMILIES["base, large"]), jnp.zeros((1, 32, 48, 3))
    good, bad = jnp.array([[2, 5], [2, 6]]), jnp.array([[2, 99]])
    found = jax.jit(lambda pixels: model(pixels, good))(pixels)
    np.testing.assert_allclose(found[1], model(pixels, good[1:])[0], atol=1e-5)
    with pytest.raises(DecodeError, match="token ids hold 99"):
        jax.jit(lambda pixels: model(pixels, bad))(pixels)
    with pytest.raises(DecodeError, match="token ids of 2 texts and 3 images: give a text for each"):
        model(jnp.zeros((3, 32, 48, 3)), good)


def test_arguments_of_another_type_are_refused() -> None:
    model = trocr_jax.TrOCR(FAMILIES["base, large"])
    with pytest.raises(DecodeError, match=r"config is \{'num_beams': 2\}: give a DecodeConfig"):
        trocr_jax.generate(model, jnp.zeros((1, 32, 48, 3)), {"num_beams": 2})  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"pixels are list: give an array \[B, H, W, 3\]"):
        trocr_jax.generate(model, [[0.0]])  # type: ignore[arg-type]
    tensor: Any = torch.zeros(1, 32, 48, 3)
    read: tuple[Callable[..., Any], ...] = (trocr_jax.generate, lambda *given: next(stream(*given)), prime)
    for function in read:
        with pytest.raises(ImageError, match=r"pixels are Tensor: give an array \[B, H, W, 3\] of numpy or jax"):
            function(model, tensor)


@pytest.mark.parametrize("shape", [(1, 30, 48, 3), (1, 32, 48, 1)])
def test_pixels_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=r"multiple of the patch size|channels"):
        trocr_jax.TrOCR(FAMILIES["base, large"]).encode(jnp.zeros(shape))
    with pytest.raises(ImageError, match=r"48 channels; the model reads 3: channels come last here, \[B, H, W, C\]"):
        trocr_jax.TrOCR(FAMILIES["base, large"]).encode(jnp.zeros((1, 3, 32, 48)))


@pytest.mark.parametrize("shape", [(32, 48, 3), (0, 32, 48, 3)])
@pytest.mark.parametrize("read", [trocr_jax.generate, lambda *arguments: next(stream(*arguments))])
def test_pixels_are_a_batch_of_images(read: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=r"pixels are \[.*\]: give at least one image"):
        read(trocr_jax.TrOCR(FAMILIES["base, large"]), np.zeros(shape, np.float32))


def test_integers_are_no_pixels_without_what_scales_them() -> None:
    model = trocr_jax.TrOCR(FAMILIES["base, large"])
    with pytest.raises(ImageError, match=r"pixels are uint8: .*give uint8 together with the image_processor"):
        trocr_jax.generate(model, jnp.zeros((1, 32, 48, 3), jnp.uint8), trocr_jax.DecodeConfig(max_new_tokens=5))


def test_relative_positions_refuse_another_size(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="relative positions"):
        trocr_jax.TrOCR(FAMILIES["BEiT"]).encode(jnp.zeros((1, 64, 32, 3)))


def test_dropout_keeps_what_is_expected() -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(100, 100)), jnp.float32)
    found = decoder_module.dropout(x, 0.25, jax.random.key(0))
    kept = found != 0
    assert abs(1 - float(kept.mean()) - 0.25) < 0.02
    np.testing.assert_allclose(found[kept], x[kept] / 0.75, rtol=1e-6)
    assert decoder_module.dropout(x, 0.25, None) is decoder_module.dropout(x, 0.0, jax.random.key(0)) is x


def test_every_place_of_dropout_draws_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the embedding and behind three parts of each layer."""
    config = FAMILIES["base, large"]
    config = replace(config, decoder=replace(config.decoder, dropout=0.25))
    model, drawn = trocr_jax.TrOCR(config), []

    def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
        assert rate == 0.25
        drawn.append(None if key is None else jax.random.key_data(key).tobytes())
        return x

    monkeypatch.setattr(decoder_module, "dropout", dropout)
    tokens, memory = jnp.array([[2, 5]]), jnp.zeros((1, 3, config.memory_width))
    model.decoder(tokens, memory, key=jax.random.key(0))
    assert len(set(drawn)) == len(drawn) == 1 + 3 * config.decoder.num_layers
    drawn.clear()
    model.decoder(tokens, memory)
    assert set(drawn) == {None}


def test_as_many_tokens_and_beams_as_the_model_has() -> None:
    config = FAMILIES["base, large"]
    limit, tokens = config.decoder.max_position_embeddings, config.decoder.vocab_size
    generation_plan.plan(trocr_jax.DecodeConfig(max_new_tokens=limit, num_beams=tokens), config)
    with pytest.raises(DecodeError, match=rf"num_beams is {tokens + 1}: this model has {tokens} tokens"):
        generation_plan.plan(trocr_jax.DecodeConfig(num_beams=tokens + 1, max_new_tokens=5), config)


def test_devices_that_share_a_model_have_room_for_the_scores_of_their_own_heads() -> None:
    config = trocr_jax.TrOCRConfig.preset("base-handwritten")
    one, two = (
        generation_plan.plan(trocr_jax.DecodeConfig(), config, placed=Placed("cpu", "cpu", sharing=n, split=True))[0]
        for n in (1, 2)
    )
    assert two.scores_bytes == 2 * one.scores_bytes > 0


def test_a_micro_batch_is_one_image_at_least_and_the_whole_batch_where_that_fits():
    config = tiny_config().encoder
    scores = 4 * config.num_heads * config.memory_length**2
    assert cached_micro_batch(config, 12, scores - 1) == 1
    assert cached_micro_batch(config, 12, 12 * scores) == 12


def test_shared_relative_positions_refuse_another_size():
    encoder: Any = SimpleNamespace(
        config=replace(tiny_config().encoder, kind="beit", shared_relative_position_bias=True)
    )
    height, width = encoder.config.image_size
    Encoder._grid(encoder, jnp.zeros((1, height, width, 3)))
    with pytest.raises(ImageError, match="relative positions"):
        Encoder._grid(encoder, jnp.zeros((1, height, 2 * width, 3)))
