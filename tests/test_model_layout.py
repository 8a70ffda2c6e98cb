"""Weights that lie turned round, for a CPU that reads them faster so: the same numbers, the same texts."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.compilations import count_compilations
from tests.small_models import FAMILIES
from tests.tiny import line_image, save_tiny, tiny_model
from trocr_jax import DecodeConfig, Recognizer, attention, attention_quantized, checkpoint, generate, model_layout
from trocr_jax.attention_turned import WEIGHTS_FIRST, times_turned
from trocr_jax.checkpoint.parameters import parameters
from trocr_jax.errors import ConfigError
from trocr_jax.model_layout import as_read_here, turned
from trocr_jax.quantization import dequantize, quantize
from trocr_jax.sharding import make_mesh


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.fixture
def tiles(monkeypatch):
    """A CPU that reads turned weights faster, and every decoder wide enough for it."""
    monkeypatch.setattr(attention_quantized, "multiplies_tiles", lambda: True)
    monkeypatch.setattr(model_layout, "multiplies_tiles", lambda: True)
    monkeypatch.setattr(model_layout, "WIDE", 1)


@pytest.mark.parametrize("rows", [1, 2, 48, 49, 64, 65])
@pytest.mark.parametrize("dtype", WEIGHTS_FIRST)
def test_a_product_with_turned_weights_beside_numpy(rows, dtype):
    x, weights = ((10 * random(i, *shape)).astype(dtype) for i, shape in ((1, (rows, 64)), (2, (40, 64))))
    found = jax.jit(partial(times_turned, out="int32" if dtype == "int8" else "float32"))(x, weights)
    exact = np.asarray(x, np.float64) @ np.asarray(weights, np.float64).T
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=2e-3)  # of sums of some 6,000


def products(function, *arguments):
    """Shapes of the results of the compiled program's matrix products."""
    text = jax.jit(function).lower(*arguments).compile().as_text() or ""
    return re.findall(r" = \w+(\[[\d,]+\])\S* dot\(", text)


def test_the_weights_of_few_rows_are_the_first_factor():
    """XLA would change their places, and multiply in the slower way."""
    for dtype, few in WEIGHTS_FIRST.items():
        for rows, shape in ((few, f"[256,{few}]"), (few + 1, f"[{few + 1},256]")):
            x, weights = (random(i, *each, 128).astype(dtype) for i, each in ((3, (rows,)), (4, (256,))))
            product = partial(times_turned, out="int32" if dtype == "int8" else "float32")
            assert products(product, x, weights) == [shape]


@pytest.mark.parametrize("is_turned", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_a_single_row_is_multiplied_as_one_of_two(dtype, is_turned):
    """Of one, XLA's CPU backend makes a loop in f32 or int32."""
    weights, scale = random(5, 128, 256), None
    if dtype == "int8":
        weights, scale = attention_quantized.round_channels(weights, channels=1)
    stored = (weights.T if is_turned else weights).astype(dtype)

    def one(x, stored):
        return attention.project(x, stored, scale, dtype=jnp.bfloat16, turned=is_turned)

    assert products(one, random(6, 1, 1, 128), stored) in ([["[256,2]"]] if is_turned else [["[2,256]"], ["[2,1,256]"]])
    both = one(random(6, 2, 1, 128), stored)
    np.testing.assert_array_equal(one(random(6, 2, 1, 128)[:1], stored), both[:1])


@pytest.mark.parametrize(("family", "int8"), [("base-stage1", False), ("small", False), ("base", True)])
def test_logits_and_texts_of_a_turned_model(family, int8, tiles):
    model = tiny_model(7, scale=8, config=FAMILIES[family])
    model = quantize(model, min_width=1) if int8 else model
    lying = turned(model)
    layer, own = lying.decoder.layers[0], model.decoder.layers[0]
    assert layer.fc1.kernel.shape == own.fc1.kernel.shape[::-1]
    assert not own.fc1.turned
    pixels = random(8, 2, *model.config.encoder.image_size, 3).clip(-1, 1)
    ids = jnp.asarray(np.random.default_rng(9).integers(3, 60, (2, 20)), jnp.int32)
    exact, found = (jax.jit(lambda m, *given: m(*given))(each, pixels, ids) for each in (model, lying))
    np.testing.assert_allclose(found, exact, atol=2e-5)
    for num_beams in (1, 3):
        config = DecodeConfig(num_beams=num_beams, max_new_tokens=8)
        exact, found = (generate(each, pixels, config) for each in (model, lying))
        np.testing.assert_array_equal(found.token_ids, exact.token_ids)
        np.testing.assert_allclose(found.scores, exact.scores, atol=1e-4)


def test_integers_are_turned_and_give_the_same_numbers(tiles):
    """Sums of integers are exact; what is beside them is not turned."""
    model = quantize(tiny_model(), min_width=1)
    lying = turned(model)
    layer = lying.decoder.layers[0]
    assert layer.self_attention.query.turned
    assert layer.self_attention.query.kernel[...].dtype == jnp.int8
    x = random(10, 2, 3, 16)
    for name in ("fc1", "fc2"):
        own, other = (getattr(each.decoder.layers[0], name) for each in (model, lying))
        wide = random(11, 2, 3, own.kernel.shape[0])
        np.testing.assert_array_equal(own(wide, dtype=jnp.float32), other(wide, dtype=jnp.float32))
    for name in ("query", "key", "value"):
        own, other = (getattr(each.decoder.layers[0].self_attention, name) for each in (model, lying))
        np.testing.assert_array_equal(own(x, dtype=jnp.float32), other(x, dtype=jnp.float32))


def test_what_is_not_turned(tiles, monkeypatch):
    model = tiny_model()
    eighths = quantize(model, kind="float8", min_width=1)
    assert not turned(eighths).decoder.layers[0].fc1.turned
    again = turned(model)
    assert turned(again).decoder.layers[0].fc1.kernel.shape == again.decoder.layers[0].fc1.kernel.shape
    cross = again.decoder.layers[0].cross_attention
    assert (cross.query.turned, cross.key.turned, cross.value.turned, cross.out.turned) == (True, False, False, True)
    assert not again.encoder.layers[0].fc1.turned
    assert as_read_here(model) is not model
    monkeypatch.setattr(model_layout, "WIDE", 1000)
    assert as_read_here(model) is model
    monkeypatch.setattr(model_layout, "WIDE", 1)
    monkeypatch.setattr(model_layout, "multiplies_tiles", lambda: False)
    assert as_read_here(model) is model


def test_the_table_is_the_first_factor_too(tiles):
    model = tiny_model()
    vocabulary = model.config.decoder.vocab_size
    rows = random(12, 2, 3, 16)
    assert products(lambda x: model.decoder._logits(x, dtype=jnp.float32), rows) == [f"[{vocabulary},6]"]
    exact = np.asarray(rows).reshape(6, 16) @ np.asarray(model.decoder.embed_tokens[...]).T
    np.testing.assert_allclose(
        model.decoder._logits(rows, dtype=jnp.float32).reshape(6, -1), exact, rtol=1e-4, atol=1e-4
    )


def test_a_turned_model_is_not_saved_or_quantised(tiles, tmp_path):
    lying, rounded = turned(tiny_model()), turned(quantize(tiny_model(), min_width=1))
    tries = (
        lambda: checkpoint.save(lying, tmp_path / "native"),
        lambda: checkpoint.save_huggingface(lying, tmp_path / "transformers"),
        lambda: quantize(lying, min_width=1),
        lambda: dequantize(rounded),
    )
    for attempt in tries:
        with pytest.raises(ConfigError, match="turned round"):
            attempt()
    assert not any(tmp_path.iterdir())


def test_a_recognizer_reads_turned_weights_and_keeps_the_model_as_it_was(tmp_path, tiles, monkeypatch):
    """Turned once, and again when the model has been given other weights."""
    made = []

    def counted(model):
        made.append(model)
        return turned(model)

    monkeypatch.setattr(model_layout, "turned", counted)
    recognizer = Recognizer.from_pretrained(save_tiny(tmp_path / "m"))
    shapes = {name: array.shape for name, array in parameters(recognizer.model).items()}
    images = [line_image(seed) for seed in range(3)]
    with count_compilations() as first:
        texts = [found.text for found in recognizer(images)]
    assert first
    with count_compilations() as later:
        assert [found.text for found in recognizer(images)] == texts
    assert (later, len(made)) == ([], 1)
    assert {name: array.shape for name, array in parameters(recognizer.model).items()} == shapes

    other = tiny_model(5)
    nnx.update(recognizer.model, nnx.state(other))
    with count_compilations() as later:
        changed = [found.text for found in recognizer(images)]
    assert (later, len(made)) == ([], 2)
    assert list(recognizer.stream(images[0]))[-1] == changed[0]
    assert len(made) == 2
    monkeypatch.setattr(model_layout, "multiplies_tiles", lambda: False)
    assert [found.text for found in recognizer(images)] == changed
    assert changed != texts


def test_on_a_mesh_weights_stay_as_they_lie(tmp_path, tiles, monkeypatch):
    monkeypatch.setattr(model_layout, "turned", lambda model: pytest.fail("turned"))
    mesh = make_mesh("data=1", jax.devices()[:1])
    recognizer = Recognizer.from_pretrained(save_tiny(tmp_path / "m"), mesh=mesh)
    assert isinstance(recognizer(line_image(0))[0].text, str)
