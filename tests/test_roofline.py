"""`benchmarks.roofline`: what is counted of a program, beside formulas written by hand."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from benchmarks import roofline
from benchmarks.chips import CHIPS, Chip, chip_of
from benchmarks.roofline import Asked, Bound, bound, counted, line
from benchmarks.roofline_count import count
from tests.tiny import tiny_config
from train.flops import PEAKS, encoder_flops
from trocr_jax import TrOCR, attention_quantized
from trocr_jax.presets import PRESETS


def array(dtype, *shape):
    return jax.ShapeDtypeStruct(shape, dtype)


def test_one_product():
    def product(x, y):
        return jnp.einsum("AD,DF->AF", x, y, preferred_element_type=jnp.float32)

    work = count(product, array(jnp.bfloat16, 3, 5), array(jnp.bfloat16, 5, 7), platform="tpu")
    assert work.operations == {"bfloat16": 2 * 3 * 5 * 7}
    assert work.state == work.products == 2 * (3 * 5 + 5 * 7) + 4 * 3 * 7


def test_a_batched_product_and_what_lies_between_two():
    def attention(q, k, v):
        scores = jnp.einsum("BTH,BSH->BTS", q, k, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores, axis=-1).astype(jnp.bfloat16)
        return jnp.einsum("BTS,BSH->BTH", weights, v, preferred_element_type=jnp.float32).astype(jnp.bfloat16)

    b, t, s, h = 2, 3, 11, 5
    work = count(attention, *(array(jnp.bfloat16, b, n, h) for n in (t, s, s)), platform="tpu")
    assert work.operations == {"bfloat16": 2 * 2 * b * t * s * h}
    factors, scores, result = 2 * b * (t + s + s) * h, 2 * b * t * s, 2 * b * t * h
    assert work.state == factors + result
    assert (
        work.products == factors + scores + scores + result
    )  # the scores written, read, as the weights that they become


@pytest.mark.parametrize(("platform", "kind"), [("cpu", "int8"), ("tpu", "bfloat16"), ("cuda", "bfloat16")])
def test_int8_weights_are_read_as_int8_in_the_form_of_the_platform(platform, kind):
    def product(x, weights, scale):
        return attention_quantized.product(x, weights, scale, dtype=jnp.bfloat16, out=jnp.float32).astype(jnp.bfloat16)

    x, weights, scale = array(jnp.bfloat16, 2, 3, 64), array(jnp.int8, 64, 32), array(jnp.float32, 32)
    work = count(product, x, weights, scale, platform=platform)
    assert work.operations == {kind: 2 * 6 * 64 * 32}
    activations = 2 * 3 * 64 * (1 if platform == "cpu" else 2)
    assert work.products == activations + 64 * 32 + 2 * 6 * 32
    assert work.state == (0 if platform == "cpu" else activations) + 64 * 32 + 2 * 6 * 32


def test_rows_that_are_looked_up_and_places_that_are_written():
    def step(table, numbers, cache, place, unused):
        rows = table[numbers]
        cache = jax.lax.dynamic_update_slice_in_dim(cache, rows, place, axis=0)
        return cache, jnp.einsum("LD,D->L", cache, rows[0])

    f32 = jnp.float32
    given = (array(f32, 1000, 8), array(jnp.int32, 2), array(f32, 50, 8), array(jnp.int32), array(f32, 9999))
    work = count(step, *given, platform="cpu")
    assert work.state == 4 * (2 * 8 + 2 * 8 + 50 * 8 + 50)  # rows, written, the cache read, the result


def test_a_loop_is_refused():
    with pytest.raises(ValueError, match=r"a loop \(while\): count what it does in one turn"):
        count(lambda x: jax.lax.while_loop(lambda x: x < 3, lambda x: x + 1, x), array(jnp.int32), platform="cpu")
    with pytest.raises(ValueError, match="depends on its arguments"):
        count(lambda x: jax.lax.cond(x > 0, jnp.sin, jnp.cos, x), array(jnp.float32), platform="cpu")


@pytest.mark.parametrize("preset", ["small-printed", "base-handwritten", "large-printed"])
def test_encoders_have_the_operations_that_training_counts(preset):
    config = PRESETS[preset]
    model = nnx.eval_shape(lambda: TrOCR(config, param_dtype=jnp.bfloat16))
    pixels = array(jnp.float32, 2, *config.encoder.image_size, 3)
    work = count(lambda m, p: m.encode(p, dtype=jnp.bfloat16), model, pixels, platform="tpu")
    assert work.operations == {"bfloat16": 2 * encoder_flops(config)}


@pytest.mark.parametrize(("platform", "beams"), [("cpu", 3), ("tpu", 1)])
def test_a_step_of_the_decoder_by_hand(platform, beams, monkeypatch):
    """On a CPU many tokens read keys and values, elsewhere the memory itself."""
    config = tiny_config()
    monkeypatch.setattr(roofline, "config_of", lambda shape: config)
    asked = Asked("tiny", "bfloat16", batch=2, num_beams=beams, tokens=10)
    works = counted.__wrapped__(asked, platform)
    d, f, v, n = 16, 32, config.decoder.vocab_size, 2
    rows, s, places = 2 * beams, config.encoder.memory_length, 10 * beams
    layer = 4 * d * d + 2 * places * d + 2 * d * d + 2 * d * f  # self-attention, the outer projections of cross, MLP
    cross = 2 * s * d if platform == "cpu" else 2 * n * s * d + 2 * d * d
    assert sum(works["step"].operations.values()) == 2 * rows * (layer + cross + d * v)
    prepared = 2 * 2 * 2 * s * d * d if platform == "cpu" else 0
    assert sum(works["preparation"].operations.values()) == prepared


def test_times_and_what_binds():
    chip = Chip("tpu", ("X",), {"bfloat16": 1e12, "float32": 1e11}, 1e9)
    assert chip.seconds({"bfloat16": 10**12, "float32": 10**11}) == pytest.approx(2)
    found = Bound(operations=2.0, state=1.0, products=3.0)
    assert (found.least, found.unfused) == (2, 3)
    times = {"encoder": found, "preparation": Bound(0, 1, 1), "step": Bound(0.1, 0.5, 0.25)}
    assert line(times, 10) == pytest.approx((2 + 1 + 5, 3 + 1 + 2.5))
    assert roofline.shown(found) == "2e+03 (operations)"
    assert roofline.shown(times["step"]) == "500 (memory)"
    work = count(lambda x: x @ x, array(jnp.bfloat16, 1000, 1000), platform="tpu")
    assert bound(work, chip).operations == pytest.approx(2e-3)


def test_chips_are_those_of_the_mfu_table():
    assert {name: chip.operations["bfloat16"] for name, chip in CHIPS.items()} == {
        name: PEAKS[chip.kinds[0]] for name, chip in CHIPS.items()
    }
    assert chip_of("TPU v5 lite") is CHIPS["v5e"]
    assert chip_of("NVIDIA H200") is CHIPS["H200"]
    assert chip_of("TPU v2") is None


def test_tables(monkeypatch, capsys):
    monkeypatch.setattr(roofline, "config_of", lambda shape: tiny_config())
    roofline.main(shape=("tiny",), dtype=("int8",), num_beams=(3,), chips=("v5e",), batch=2, tokens=4, cpu=(1, 2, 3, 4))
    out = capsys.readouterr().out
    rows = [line.split(" | ") for line in out.splitlines() if line.startswith("| tiny")]
    roofline.counted.cache_clear()  # of another model under the same name
    assert (
        len(rows) == 5 + 2 + 1
    )  # three programs each of cpu and tpu, of which one is the same on both; two chips; speeds
    assert {row[3] for row in rows[-3:-1]} == {"v5e", "CPU"}
    assert "| lines/s: shape | weights | beams | v5e | CPU |" in out
    with pytest.raises(SystemExit, match="no such chip: v9; there are v5e"):
        roofline.main(chips=("v9",))
