"""int8 weights: the two products beside numpy, whole models beside what their weights stand for, and the way of a
quantised model from the command to the text."""

import json
import re
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import trocr_jax
from convert.__main__ import main
from tests import programs
from tests.compilations import count_compilations
from tests.small_models import FAMILIES
from tests.tiny import line_image, save_tiny, tiny_config, tiny_model
from train.warm_start import first_weights
from trocr_jax import DecodeConfig, TrOCR, attention, attention_quantized, checkpoint
from trocr_jax.attention_cross import Absorbed
from trocr_jax.checkpoint.parameters import parameters
from trocr_jax.cli import main as trocr_jax_main
from trocr_jax.errors import CheckpointError, ConfigError
from trocr_jax.presets import PRESETS
from trocr_jax.quantization import dequantize, is_quantized, quantize


@pytest.fixture
def weights_alone(monkeypatch):
    """The form of other platforms than the CPU."""

    def product(x, weights, scale, *, dtype, out, turned):
        return attention_quantized.weights_alone(x, weights, scale, dtype=dtype, out=out, turned=turned)

    monkeypatch.setattr(attention_quantized, "product", product)
    monkeypatch.setattr(attention_quantized, "multiplies_bf16", lambda: False)


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_channels_are_rounded_by_their_own_largest_value():
    weights = np.array(random(0, 6, 2, 3))
    weights[:, 1, 2] = 0
    weights[:, 0, 0] *= 1000
    integers, scale = attention_quantized.round_channels(jnp.asarray(weights), channels=2)
    largest = np.abs(weights).max(axis=0)
    assert integers.dtype == jnp.int8
    np.testing.assert_allclose(scale, np.where(largest > 0, largest / 127, 1), rtol=1e-6)
    np.testing.assert_array_equal(integers, np.round(weights / np.asarray(scale)))
    assert np.abs(np.asarray(integers)).max(axis=0).ravel().tolist() == [127, 127, 127, 127, 127, 0]
    restored = attention_quantized.widened(integers, scale, dtype=jnp.float32)
    assert (np.abs(np.asarray(restored) - weights) <= np.asarray(scale) * 0.501).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_weights_alone_beside_numpy(dtype):
    x = random(1, 2, 5, 48).astype(dtype)
    integers, scale = attention_quantized.round_channels(random(2, 48, 32), channels=1)
    y = attention_quantized.weights_alone(x, integers, scale, dtype=dtype, out=jnp.float32)
    exact = np.asarray(x, np.float64) @ (np.asarray(integers, np.float64) * np.asarray(scale, np.float64))
    np.testing.assert_allclose(y, exact, atol=1e-5)


@pytest.mark.parametrize(("rows", "width"), [(3, 48), (3, 2048), (40, 2048), (3, 1536)])
def test_rows_and_weights_beside_numpy(rows, width):
    """2,048 and few rows: the contraction in two parts."""
    x = np.array(random(3, 4, rows, width))
    x[0, 0], x[1] = 0, x[1] * 1000
    integers, scale = attention_quantized.round_channels(random(4, width, 24), channels=1)
    y = attention_quantized.rows_and_weights(jnp.asarray(x), integers, scale, out=jnp.float32)
    largest = np.abs(x).max(axis=-1, keepdims=True)
    rounded = np.round(x * np.where(largest > 0, np.float32(127) / np.where(largest > 0, largest, 1), np.float32(0)))
    sums = rounded.astype(np.int64) @ np.asarray(integers, np.int64)
    np.testing.assert_allclose(y, sums * (largest / 127) * np.asarray(scale), rtol=1e-6)
    assert not np.asarray(y[0, 0]).any()
    exact = x.astype(np.float64) @ (np.asarray(integers, np.float64) * np.asarray(scale, np.float64))
    bound = largest / 254 * (np.abs(np.asarray(integers, np.float64)) * np.asarray(scale)).sum(axis=0)
    assert (np.abs(np.asarray(y) - exact) <= 1.001 * bound).all()


def test_a_cpu_multiplies_integers_and_others_widen_the_weights(monkeypatch):
    monkeypatch.setattr(attention_quantized, "multiplies_bf16", lambda: False)
    monkeypatch.setattr(attention_quantized, "multiplies_tiles", lambda: False)
    integers, scale = attention_quantized.round_channels(random(5, 16, 8), channels=1)

    def lowered(platform, *, rows=4, dtype=jnp.bfloat16):
        product = partial(attention_quantized.product, dtype=dtype, out=jnp.float32)
        x = jnp.zeros((1, rows, 16))
        return jax.jit(product).trace(x, integers, scale).lower(lowering_platforms=(platform,)).as_text()

    assert "tensor<4x16xi8>, tensor<16x8xi8>) -> tensor<4x8xi32>" in lowered("cpu")
    assert "tensor<200x16xi8>, tensor<16x8xi8>) -> tensor<200x8xi32>" in lowered("cpu", rows=200, dtype=jnp.float32)
    for platform, rows in (("tpu", 4), ("cuda", 4), ("cpu", 200)):
        assert f"tensor<1x{rows}x16xbf16>, tensor<16x8xbf16>" in lowered(platform, rows=rows)
        assert "xi32>" not in lowered(platform, rows=rows)


@jax.jit
def logits(model, pixels, ids):
    return model(pixels, ids)


@pytest.mark.parametrize("family", ["large-printed", "bridge"])
def test_a_model_equals_what_its_weights_stand_for(family, weights_alone):
    model = tiny_model(7, scale=8, config=FAMILIES[family])
    small = quantize(model, min_width=1)
    twin = dequantize(small)
    assert not is_quantized(model)
    assert not is_quantized(twin)
    small.decoder.head_dtype = None  # on a CPU the product with the head is one of bfloat16
    height, width = model.config.encoder.image_size
    pixels = random(8, 2, height, width, 3).clip(-1, 1)
    ids = jnp.asarray(np.random.default_rng(9).integers(3, 60, (2, 40)), jnp.int32)
    exact = logits(twin, pixels, ids)
    np.testing.assert_allclose(logits(small, pixels, ids), exact, atol=2e-5)
    assert float(jnp.abs(logits(model, pixels, ids) - exact).max()) > 1e-3


def test_searches_equal_those_of_what_the_weights_stand_for(weights_alone):
    small = quantize(tiny_model())
    twin = dequantize(small)
    small.decoder.head_dtype = None
    pixels = random(8, 3, 16, 64, 3).clip(-1, 1)
    for num_beams, tokens in ((1, 8), (3, 8)):  # keys and values; 24 tokens in all: those of 1.5 head widths
        config = DecodeConfig(num_beams=num_beams, max_new_tokens=tokens)
        found, wanted = (trocr_jax.generate(m, pixels, config) for m in (small, twin))
        np.testing.assert_array_equal(found.token_ids, wanted.token_ids)
        np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)


@pytest.mark.parametrize(
    ("rows", "dtype", "instructions", "alone"),
    [
        (63, jnp.float32, True, False),
        (64, jnp.float32, True, True),
        (64, jnp.float32, False, False),
        (64, jnp.bfloat16, False, True),
        (8, jnp.bfloat16, True, False),
        (1, jnp.float32, True, False),
        (64, jnp.float32, "tiles", False),
        (64, jnp.bfloat16, "tiles", False),
    ],
)
@pytest.mark.parametrize("images", [1, 20])
def test_what_a_cpu_multiplies(rows, dtype, instructions, alone, images, monkeypatch):
    monkeypatch.setattr(attention_quantized, "multiplies_bf16", lambda: bool(instructions))
    monkeypatch.setattr(attention_quantized, "multiplies_tiles", lambda: instructions == "tiles")
    x, (weights, scale) = (
        random(11, images, rows, 256),
        attention_quantized.round_channels(random(12, 256, 40), channels=1),
    )
    found = attention_quantized.product(x, weights, scale, dtype=dtype, out=jnp.float32)
    in_bf16 = attention_quantized.weights_alone(x, weights, scale, dtype=jnp.bfloat16, out=jnp.float32)
    integers = attention_quantized.rows_and_weights(x, weights, scale, out=jnp.float32)
    wanted, other = (in_bf16, integers) if alone else (integers, in_bf16)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert float(jnp.abs(found - other).max()) > 1e-3


def of_heads(rows):
    return [random(20 + i, 2, 3, rows, 16) for i in range(3)]


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("rows", "instructions", "in_bf16"), [(64, True, True), (63, True, False), (64, False, False)])
def test_attention_of_an_encoder_beside_int8_weights(rows, instructions, in_bf16, biased, monkeypatch):
    monkeypatch.setattr(attention_quantized, "multiplies_bf16", lambda: instructions)
    heads, bias = of_heads(rows), random(23, 1, 3, rows, rows) if biased else None
    found = attention.attend_beside_quantized(*heads, bias=bias, dtype=jnp.float32)
    exact = attention.attend(*heads, bias=bias, dtype=jnp.float32)
    rounded = attention._attend(*heads, bias=bias, dtype=jnp.bfloat16).astype(jnp.float32)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, rounded if in_bf16 else exact, atol=1e-6)
    assert float(jnp.abs(exact - rounded).max()) > 1e-3


@pytest.mark.skipif(not attention_quantized.multiplies_bf16(), reason="this CPU has no instructions for bf16")
def test_products_of_attention_beside_int8_weights_are_compiled_in_bf16():
    """Not widened to f32, as XLA's CPU backend does where a product turns one of its factors."""

    def encoder(x):
        rows = x.reshape(2, 192, 12, 64).transpose(0, 2, 1, 3)
        y = attention.attend_beside_quantized(rows, 2 * rows, 3 * rows, dtype=jnp.float32)
        return y.transpose(0, 2, 1, 3).reshape(x.shape)

    assert types_of_products(encoder, random(24, 2, 192, 768)) == {"24,192,192": "bf16", "24,192,64": "bf16"}

    def decoder(cross, query):
        heads = cross.read(query.reshape(4, 8, 1, 64), dtype=jnp.float32)
        return jnp.einsum("BNKH,NHD->BKD", heads, jnp.ones((8, 64, 16), jnp.float32))

    shapes = (4, 192, 256), (8, 64, 256), (8, 256, 64), (8, 64)
    cross = Absorbed(*(random(25, *shape).astype(jnp.bfloat16) for shape in shapes))
    found = types_of_products(decoder, cross, random(26, 4, 512))
    assert (found["4,9,192"], found["4,8,256"]) == ("bf16", "bf16")  # scores of a row more, weighted sums


def types_of_products(program, *arguments):
    """Shapes of the compiled program's products to the types of their first factors."""
    text = jax.jit(program).lower(*arguments).compile().as_text() or ""
    products = re.findall(r" = f32\[([\d,]+)\]\S* dot\((%[\w.\-]+)", text)
    types = dict(re.findall(r"(%[\w.\-]+) = (\w+)\[", text))
    return {shape: types[factor] for shape, factor in products}


@pytest.mark.parametrize("instructions", [True, False])
def test_absorbed_memory_is_in_bf16_beside_int8_weights(instructions, monkeypatch):
    monkeypatch.setattr(attention_quantized, "multiplies_bf16", lambda: instructions)
    model, memory = tiny_model(), random(27, 2, 5, tiny_config().memory_width)
    wanted = jnp.dtype(jnp.bfloat16 if instructions else jnp.float32)
    for one, expected in ((model, jnp.dtype(jnp.float32)), (quantize(model), wanted)):
        for cross in one.absorb(memory):
            assert isinstance(cross, Absorbed)
            assert isinstance(cross.memory, jax.Array)
            assert {cross.memory.dtype, cross.key.dtype, cross.value.dtype} == {expected}


@pytest.mark.parametrize("hypotheses", [1, 4])
def test_a_memory_in_bf16_is_read_as_one_in_f32(hypotheses):
    shapes = (3, 50, 48), (4, 16, 48), (4, 48, 16), (4, 16)
    rounded = [random(30 + i, *shape).astype(jnp.bfloat16) for i, shape in enumerate(shapes)]
    query = random(34, 3, 4, hypotheses, 16)
    found = Absorbed(*rounded).read(query, dtype=jnp.float32)
    exact = Absorbed(*(array.astype(jnp.float32) for array in rounded)).read(query, dtype=jnp.float32)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact, atol=0.02 * float(jnp.abs(exact).max()))


def test_instructions_of_a_cpu_are_told_by_linux(monkeypatch):
    monkeypatch.setattr(attention_quantized, "cpu_flags", attention_quantized.cpu_flags.__wrapped__)
    texts = {
        "processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 sse\n": (True, False),
        "processor\t: 0\nflags\t\t: fpu amx_bf16 avx512_bf16 amx_tile amx_int8\n": (True, True),
        "processor\t: 0\nflags\t\t: fpu avx2 avx512f\n": (False, False),
        "processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n": (True, False),
        "": (False, False),
    }
    for text, expected in texts.items():
        monkeypatch.setattr(Path, "read_text", lambda self, text=text: text)
        assert (attention_quantized.multiplies_bf16(), attention_quantized.multiplies_tiles()) == expected

    def absent(self):
        raise FileNotFoundError(str(self))

    monkeypatch.setattr(Path, "read_text", absent)
    assert (attention_quantized.multiplies_bf16(), attention_quantized.multiplies_tiles()) == (False, False)


def test_products_of_integers_stay_near_the_floats():
    model = tiny_model()
    pixels, ids = random(10, 3, 16, 64, 3).clip(-1, 1), jnp.asarray([[2, 5, 6, 7, 8]] * 3, jnp.int32)
    exact, found = (logits(m, pixels, ids) for m in (model, quantize(model)))
    error = float(jnp.sqrt(jnp.square(found - exact).mean()) / exact.std())
    assert 1e-4 < error < 0.05


def test_what_is_rounded_and_what_is_kept():
    config = PRESETS["small-printed"]
    kinds = {name: array.dtype.name for name, array in shapes(quantize, config).items()}
    assert kinds["encoder.layers.0.fc1.kernel"] == kinds["encoder.layers.11.attention.out.kernel"] == "int8"
    narrow = ("decoder.layers.0.fc1.kernel", "decoder.layers.5.cross_attention.key.kernel")
    assert {kinds[name] for name in narrow} == {"float32"}
    assert kinds["decoder.embed_tokens"] == kinds["decoder.output_projection"] == "bfloat16"
    for name in ("encoder.position_embeddings", "decoder.embed_positions", "encoder.patch_embedding.kernel"):
        assert kinds[name] == "float32"
    norms = {kind for name, kind in kinds.items() if "norm" in name or name.endswith("bias")}
    assert norms == {"float32"}
    everything = shapes(partial(quantize, min_width=1), config)
    assert {a.dtype.name for name, a in everything.items() if name.endswith("fc1.kernel")} == {"int8"}


def shapes(change, config):
    """Of the parameters, of which none is made."""
    state = nnx.to_flat_state(nnx.state(nnx.eval_shape(lambda: change(TrOCR(config)))))
    return {".".join(map(str, path)): variable.get_value() for path, variable in state}


def test_parameters_of_base_take_at_most_30_percent_of_those_in_float32():
    wide, small = (shapes(change, PRESETS["base-handwritten"]) for change in (lambda model: model, quantize))
    share = sum(a.size * a.dtype.itemsize for a in small.values()) / sum(4 * a.size for a in wide.values())
    assert 0.25 < share <= 0.30


def test_the_original_is_not_changed():
    model = tiny_model()
    before = jax.tree.map(np.asarray, parameters(model))
    quantize(model)
    after = parameters(model)
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name])


# --- from the command to the text


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "floats")


@pytest.fixture(scope="module")
def folder(source):
    assert main(["quantize", str(source), str(source.with_name("int8"))]) == 0
    return source.with_name("int8")


def test_what_is_written_is_what_is_read(source, folder, capsys):
    wanted, found = quantize(checkpoint.load(source)), checkpoint.load(folder)
    assert main(["quantize", str(source), str(folder)]) == 0
    size = sum(array.nbytes for array in parameters(wanted).values())
    assert f"{size:,} bytes of parameters" in capsys.readouterr().err
    for model in (found, checkpoint.load(folder, dtype=jnp.float32), checkpoint.load(folder, dtype="bfloat16")):
        assert nnx.graphdef(model) == nnx.graphdef(wanted)
        for name, array in parameters(wanted).items():
            assert parameters(model)[name].dtype == array.dtype
            np.testing.assert_array_equal(parameters(model)[name], array)
    pixels = random(11, 2, 16, 64, 3).clip(-1, 1)
    for config in (DecodeConfig(max_new_tokens=12), DecodeConfig(num_beams=3, max_new_tokens=12)):
        one, other = (trocr_jax.generate(m, pixels, config) for m in (wanted, found))
        np.testing.assert_array_equal(one.token_ids, other.token_ids)
        with count_compilations() as compiled:
            trocr_jax.generate(found, pixels + 0, config)
        assert len(compiled) <= 1  # the sum
    recognizer = trocr_jax.Recognizer.from_pretrained(folder)
    assert len(recognizer([line_image(seed) for seed in range(3)])) == 3
    assert parameters(recognizer.model)["decoder.embed_tokens"].dtype == jnp.bfloat16  # not widened


def test_info_says_it(folder, capfd):
    assert trocr_jax_main(["info", str(folder)]) == 0
    said = dict(line.split(": ", 1) for line in capfd.readouterr().out.splitlines())
    model = checkpoint.load(folder)
    size = sum(array.nbytes for array in parameters(model).values())
    assert said["parameters"].startswith("13,280 ")
    assert set(said["dtype"].split(", ")) == {"int8", "bfloat16", "float32"}
    assert said["memory"].startswith(f"{size:,} bytes of parameters (")
    integers = sum(array.nbytes for array in parameters(model).values() if array.dtype == jnp.int8)
    assert f"int8 {integers:,}" in said["memory"]


def test_floats_again(folder, tmp_path, capsys):
    assert main([str(folder), str(tmp_path / "out")]) == 0
    assert "is quantised: its int8 weights are written in float32" in capsys.readouterr().err
    twin, found = dequantize(checkpoint.load(folder)), checkpoint.load(tmp_path / "out")
    for name, array in parameters(twin).items():
        np.testing.assert_array_equal(parameters(found)[name], array)
    assert main([str(folder), str(tmp_path / "half"), "--to", "native", "--dtype", "bfloat16"]) == 0
    assert "is quantised: its int8 weights are written in bfloat16" in capsys.readouterr().err
    assert {a.dtype.name for a in parameters(checkpoint.load(tmp_path / "half")).values()} == {"bfloat16"}
    assert main([str(folder), str(tmp_path / "copy"), "--to", "native"]) == 0
    assert is_quantized(checkpoint.load(tmp_path / "copy"))


def test_floats_that_do_not_fit_are_refused_by_name(tmp_path, capsys):
    model = tiny_model(seed=3)
    kernel = model.encoder.layers[0].fc1.kernel
    kernel[...] = kernel[...].at[0, 0].set(1e5)
    checkpoint.save(quantize(model, min_width=8), tmp_path / "int8")
    assert main([str(tmp_path / "int8"), str(tmp_path / "half"), "--to", "native", "--dtype", "float16"]) == 1
    assert "values too large for float16: encoder.layers.0.fc1.kernel holds 1\n" in capsys.readouterr().err
    assert not (tmp_path / "half").exists()


def test_what_cannot_be_quantised(source, folder, tmp_path, capsys):
    out = tmp_path / "out"
    for arguments, message in (
        ([str(folder), str(out)], "is quantised already"),
        ([str(tmp_path / "nowhere"), str(out)], "no such model or folder"),
        (
            [str(source), str(out), "--min-width", "64"],
            "no matrix of the model is 64 wide: give a --min-width of at most",
        ),
        ([str(source), str(tmp_path)], "exists and is no native checkpoint"),
    ):
        (tmp_path / "something").touch()
        assert main(["quantize", *arguments]) == 1
        assert message in capsys.readouterr().err
        assert not out.exists()
    for arguments in ([], [str(source)], [str(source), str(source)], [str(source), str(out), "--min-width", "0"]):
        with pytest.raises(SystemExit) as stop:
            main(["quantize", *arguments])
        assert stop.value.code == 2
    with pytest.raises(CheckpointError, match="has int8 weights, which a folder of transformers cannot hold"):
        checkpoint.save_huggingface(checkpoint.load(folder), out)


def test_training_does_not_start_from_it(folder):
    from train.recipe import Recipe

    recipe = Recipe.__new__(Recipe)  # only these two fields are looked at
    object.__setattr__(recipe, "start_from", str(folder))
    object.__setattr__(recipe, "config", tiny_config())
    with pytest.raises(ConfigError, match="int8 weights, which cannot be trained; start from the model it was made"):
        first_weights(recipe, {})


@pytest.mark.parametrize("damage", ["scale", "kernel"])
def test_a_part_that_is_missing_or_of_another_type(damage, folder, tmp_path):
    model = checkpoint.load(folder)
    layer = model.encoder.layers[0].fc1
    if damage == "scale":
        del layer.kernel_scale
        wanted = r"encoder.layers.0.fc1.kernel is of type int8; supported: bfloat16, float16, float32, float64"
    else:
        layer.kernel = nnx.Param(layer.kernel[...].astype(jnp.float32))
        wanted = r"encoder.layers.0.fc1.kernel is of type float32; supported: int8"
    checkpoint.save(model, tmp_path / "damaged")
    with pytest.raises(CheckpointError, match=wanted):
        checkpoint.load(tmp_path / "damaged")


def test_devices_read_what_one_reads(folder):
    done = programs.run("-m", "tests.test_quantization", str(folder))
    one, four = json.loads(done.stdout.splitlines()[-1])
    assert one == four
    assert len(set(one)) > 1


def read_on_devices(folder):
    jax.config.update("jax_num_cpu_devices", 4)
    images = [line_image(seed) for seed in range(8)]
    found = []
    for mesh in (None, jax.make_mesh((4,), ("data",))):
        recognizer = trocr_jax.Recognizer.from_pretrained(folder, mesh=mesh)
        found.append([result.text for result in recognizer(images, DecodeConfig(max_new_tokens=12), batch_size=8)])
    print(json.dumps(found))


if __name__ == "__main__":
    read_on_devices(sys.argv[1])


def test_sums_in_f16_come_with_their_scale():
    """As a GPU is asked for them: without it they are a thousand times as large."""
    weights, scale = jnp.full((1024, 4), 127, jnp.int8), jnp.full((4,), 1e-3, jnp.float32)
    found = attention_quantized.product(
        jnp.full((1, 2, 1024), 100, jnp.float16), weights, scale, dtype=jnp.float16, out=jnp.float16
    )
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, 100 * 127 * 1024 * 1e-3, rtol=1e-2)


def test_tables_of_half_precision_stay_as_they_are():
    model = jax.tree.map(lambda array: array.astype(jnp.float16), tiny_model())
    assert quantize(model).decoder.embed_tokens.dtype == jnp.float16
