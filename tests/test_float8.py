"""float8 weights: rounding beside the definition of the type, products, and the way from the command to the text. What
they share with int8 is in test_quantization."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

import trocr_jax
from convert.__main__ import main
from tests.small_models import FAMILIES
from tests.tiny import line_image, save_tiny, tiny_config, tiny_model
from train.warm_start import first_weights
from trocr_jax import TrOCR, attention_quantized, checkpoint
from trocr_jax.checkpoint.parameters import parameters
from trocr_jax.cli import main as trocr_jax_main
from trocr_jax.errors import CheckpointError, ConfigError
from trocr_jax.metrics import cer
from trocr_jax.presets import PRESETS
from trocr_jax.quantization import dequantize, kind_of, quantize

FLOAT8 = jnp.dtype(ml_dtypes.float8_e4m3fn)
SAMPLES = Path(__file__).parents[1] / "samples"


def random(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_weights_are_the_nearest_of_their_type() -> None:
    weights = np.array(random(0, 200, 2, 3))
    weights[:, 1, 2] = 0
    weights[:, 0, 0] *= 100
    weights[5, 0, 1] = 1e-9
    rounded, scale = attention_quantized.round_channels(jnp.asarray(weights), channels=2, kind="float8")
    assert rounded.dtype == FLOAT8
    assert scale.shape == ()
    assert np.abs(weights).max() / 448 <= scale < np.abs(weights).max() / 224
    found = np.asarray(rounded).astype(np.float64)
    assert 224 <= np.abs(found).max() <= 448  # and none is NaN
    every = np.arange(256, dtype=np.uint8).view(FLOAT8).astype(np.float64)
    every = every[np.isfinite(every)]
    wanted = weights.astype(np.float64) / np.asarray(scale)
    nearest = np.abs(wanted[..., None] - every).min(axis=-1)
    assert (np.abs(found - wanted) <= nearest + 1e-6 * np.abs(wanted)).all()
    # 3 bits of mantissa: off by a 16th of the number at most, or by half the smallest one
    assert (np.abs(found - wanted) <= np.maximum(np.abs(wanted) / 16, 2.0**-10) * 1.000001).all()


@pytest.mark.parametrize(
    ("largest", "wanted"),
    [(448, 1), (449, 2), (896, 2), (224, 0.5), (1, 2**-8), (7, 2**-6), (0, 1), (2**-99, 2**-107)],
)
def test_the_scale_is_the_least_power_of_two(largest: float, wanted: float) -> None:
    weights = jnp.asarray([[largest, -largest / 3], [0, 0]], jnp.float32)
    rounded, scale = attention_quantized.round_channels(weights, channels=1, kind="float8")
    assert float(scale) == wanted
    assert np.isfinite(np.asarray(rounded).astype(np.float32)).all()


def test_both_factors_beside_the_definition_of_the_type() -> None:
    x = np.array(random(10, 2, 5, 48))
    x[0, 0, :4] = 1000, -1000, 2.0**-12, 3e-39  # beyond the type, below its smallest number, below any
    weights, scale = attention_quantized.round_channels(random(11, 48, 32) * 0.02, channels=1, kind="float8")
    small = np.clip(x * 4, -448, 448).astype(FLOAT8).astype(np.float64) / 4
    exact = small @ (np.asarray(weights).astype(np.float64) * float(scale))
    assert np.abs(small - x).max() == 1000 - 112
    f32 = attention_quantized.both_float8(jnp.asarray(x), weights, scale, out=jnp.float32)
    np.testing.assert_allclose(f32, exact, rtol=1e-5, atol=1e-5)
    bf16 = attention_quantized.both_float8(jnp.asarray(x, jnp.bfloat16), weights, scale, out=jnp.bfloat16)
    x = np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32)
    exact = (
        np.clip(x * 4, -448, 448).astype(FLOAT8).astype(np.float64)
        / 4
        @ (np.asarray(weights).astype(np.float64) * float(scale))
    )
    np.testing.assert_allclose(np.asarray(bf16, np.float64), exact, rtol=2.0**-8, atol=1e-5)


@pytest.mark.parametrize(("dtype", "units", "inner"), [
    (jnp.bfloat16, True, "f8E4M3FN"), (jnp.float16, True, "f8E4M3FN"), (jnp.float32, True, "f32"),
    (jnp.bfloat16, False, "bf16"),
])  # fmt: skip
def test_both_factors_are_float8_where_there_are_units_for_it(
    dtype: Any, units: bool, inner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_quantized, "multiplies_float8", lambda: units)
    weights, scale = attention_quantized.round_channels(random(2, 48, 32), channels=1, kind="float8")
    product = jax.jit(partial(attention_quantized.product, dtype=dtype, out=jnp.bfloat16))
    text = product.lower(random(1, 2, 3, 48), weights, scale).as_text()
    assert f"(tensor<2x3x48x{inner}>, tensor<48x32x{inner}>) -> tensor<2x3x32xbf16>" in text


@pytest.mark.parametrize(
    ("backend", "capability", "has"),
    [("gpu", "9.0", True), ("gpu", "8.9", True), ("gpu", "10.0", True), ("gpu", "8.0", False), ("gpu", "gfx942", False),
     ("cpu", "9.0", False), ("tpu", "9.0", False)],
)  # fmt: skip
def test_which_gpus_have_units_for_float8(
    backend: str, capability: str, has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(compute_capability=capability)])
    attention_quantized.compute_capability.cache_clear()
    assert attention_quantized.multiplies_float8() is has
    attention_quantized.compute_capability.cache_clear()


@pytest.mark.parametrize(("rows", "instructions", "inner"), [(4, True, "f32"), (64, True, "bf16"), (64, False, "f32")])
def test_weights_alone_are_rounded_on_a_cpu_too(
    rows: int, instructions: bool, inner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_quantized, "multiplies_bf16", lambda: instructions)
    x, (weights, scale) = (
        random(1, 2, rows, 48),
        attention_quantized.round_channels(random(2, 48, 32), channels=1, kind="float8"),
    )
    product = jax.jit(partial(attention_quantized.product, dtype=jnp.float32, out=jnp.float32))
    assert f"tensor<48x32x{inner}>) -> tensor<2x{rows}x32xf32>" in product.lower(x, weights, scale).as_text()
    exact = np.asarray(x, np.float64) @ (np.asarray(weights).astype(np.float64) * np.asarray(scale))
    terms = np.abs(np.asarray(x)) @ (np.abs(np.asarray(weights).astype(np.float64)) * np.asarray(scale))
    step = 2.0**-8 if inner == "bf16" else 2.0**-22  # of x; bf16 holds every float8
    assert (np.abs(np.asarray(product(x, weights, scale)) - exact) <= step * terms + 1e-6).all()


def test_a_model_equals_what_its_weights_stand_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_quantized, "multiplies_bf16", lambda: False)
    model = tiny_model(7, scale=8, config=FAMILIES["base"])
    small = quantize(model, kind="float8", min_width=1)
    assert (kind_of(model), kind_of(small), kind_of(dequantize(small))) == (None, "float8", None)
    twin = dequantize(small)
    small.decoder.head_dtype = None
    pixels = random(8, 2, *model.config.encoder.image_size, 3).clip(-1, 1)
    ids = jnp.asarray(np.random.default_rng(9).integers(3, 60, (2, 20)), jnp.int32)
    exact, found = (jax.jit(lambda m, *given: m(*given))(each, pixels, ids) for each in (twin, small))
    np.testing.assert_allclose(found, exact, atol=2e-5)


def test_parameters_of_base_take_at_most_30_percent_of_those_in_float32() -> None:
    def size(change):
        state = nnx.to_flat_state(nnx.state(nnx.eval_shape(lambda: change(TrOCR(PRESETS["base-handwritten"])))))
        return sum(v.get_value().size * v.get_value().dtype.itemsize for _, v in state)

    assert size(partial(quantize, kind="float8")) / size(lambda model: model) <= 0.30


def test_the_built_in_model_reads_its_samples_as_with_floats() -> None:
    recognizer, images = trocr_jax.Recognizer.from_pretrained("tiny-printed"), sorted(SAMPLES.glob("*.png"))
    wanted = recognizer(images)
    recognizer.model = quantize(recognizer.model, kind="float8")
    found = recognizer(images)
    assert [one.text for one in found] == [one.text for one in wanted]
    assert [one.score for one in found] != [one.score for one in wanted]


def test_the_built_in_model_reads_its_samples_as_on_a_gpu_with_units_for_float8(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = sorted(SAMPLES.glob("*.png"))
    wanted = trocr_jax.Recognizer.from_pretrained("tiny-printed")(images)
    monkeypatch.setattr(attention_quantized, "multiplies_float8", lambda: True)
    recognizer = trocr_jax.Recognizer.from_pretrained("tiny-printed", dtype=jnp.bfloat16)
    recognizer.model = quantize(recognizer.model, kind="float8")
    found = recognizer(images)
    assert [one.score for one in found] != [one.score for one in wanted]
    assert cer([one.text for one in wanted], [one.text for one in found]) <= 0.02  # of 363 characters 5


# --- from the command to the text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = save_tiny(tmp_path_factory.mktemp("models") / "floats")
    assert main(["quantize", str(source), str(source.with_name("float8")), "--dtype", "float8"]) == 0
    return source.with_name("float8")


def test_what_is_written_is_what_is_read(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wanted = parameters(quantize(checkpoint.load(folder.with_name("floats")), kind="float8"))
    for dtype in (None, jnp.float32):
        found = parameters(checkpoint.load(folder, dtype=dtype))
        for name, array in wanted.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(np.asarray(found[name], np.float32), np.asarray(array, np.float32))
    assert len(trocr_jax.Recognizer.from_pretrained(folder)([line_image(seed) for seed in range(3)])) == 3
    capfd.readouterr()
    assert trocr_jax_main(["info", str(folder)]) == 0
    said = dict(line.split(": ", 1) for line in capfd.readouterr().out.splitlines())
    assert set(said["dtype"].split(", ")) == {"float8_e4m3fn", "bfloat16", "float32"}
    size = sum(array.nbytes for array in wanted.values() if array.dtype == FLOAT8)
    assert f"float8_e4m3fn {size:,}" in said["memory"]
    assert main([str(folder), str(tmp_path / "floats")]) == 0
    assert "is quantised: its float8 weights are written in float32" in capfd.readouterr().err
    again = parameters(checkpoint.load(tmp_path / "floats"))
    for name, array in parameters(dequantize(checkpoint.load(folder))).items():
        np.testing.assert_array_equal(again[name], array)


def test_what_cannot_be_done(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from train.recipe import Recipe

    assert main(["quantize", str(folder), str(tmp_path / "again"), "--dtype", "float8"]) == 1
    assert "is quantised already" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["quantize", str(folder.with_name("floats")), str(tmp_path / "other"), "--dtype", "float4"])
    with pytest.raises(ConfigError, match="kind is 'float4': give 'int8' or 'float8'"):
        quantize(tiny_model(), kind="float4")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="has float8 weights, which a folder of transformers cannot hold"):
        checkpoint.save_huggingface(checkpoint.load(folder), tmp_path / "out")
    recipe = Recipe.__new__(Recipe)
    object.__setattr__(recipe, "start_from", str(folder))
    object.__setattr__(recipe, "config", tiny_config())
    with pytest.raises(ConfigError, match="float8 weights, which cannot be trained"):
        first_weights(recipe, {})


def test_kernels_that_are_damaged_or_of_two_types(folder: Path, tmp_path: Path) -> None:
    model = checkpoint.load(folder)
    layer = model.encoder.layers[0].fc1
    layer.kernel = nnx.Param(layer.kernel[...].at[0, 0].set(jnp.asarray(np.nan, FLOAT8)))
    checkpoint.save(model, tmp_path / "nan")
    with pytest.raises(CheckpointError, match=r"encoder.layers.0.fc1.kernel holds 1 values that are not finite"):
        checkpoint.load(tmp_path / "nan")
    layer.kernel = nnx.Param(jnp.zeros(layer.kernel.shape, jnp.int8))
    shutil.rmtree(tmp_path / "nan")
    checkpoint.save(model, tmp_path / "nan")
    with pytest.raises(CheckpointError, match="is of type float8_e4m3fn; supported: int8"):
        checkpoint.load(tmp_path / "nan")
