"""An int8 cache: rows beside numpy, cross- and self-attention beside floats within what rounding may do, what the
compiled search holds, and the way of the option from the command to the text."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import trocr_jax
from tests.compilations import count_compilations
from tests.small_models import FAMILIES
from tests.tiny import save_lines, save_tiny, tiny_model
from trocr_jax import DecodeConfig, TrOCR, attention, attention_cross, generation, generation_plan, jobs
from trocr_jax.attention import attend
from trocr_jax.attention_cross import absorb, prime, prime_columns, prime_rounded
from trocr_jax.attention_rows import Int8Rows, Kept, empty_rows, numbers, round_rows, widened
from trocr_jax.cli import main
from trocr_jax.decoding.types import take
from trocr_jax.errors import DecodeError, JobError

SAMPLES = Path(__file__).parents[1] / "samples"


def random(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("axis", [-1, 2])
def test_rows_are_rounded_by_their_own_largest_value(axis: int) -> None:
    x = np.array(random(0, 2, 3, 5, 7))
    x[0, 1] = 0
    x[1] *= 1000
    rows = round_rows(jnp.asarray(x), axis=axis)
    largest = np.abs(x).max(axis=axis)
    assert rows.integers.dtype == jnp.int8
    assert rows.shape == x.shape
    np.testing.assert_allclose(rows.scale, largest / 127, rtol=1e-6)
    assert (np.abs(np.asarray(rows.integers)).max(axis=axis) == np.where(largest > 0, 127, 0)).all()
    stands_for = np.asarray(rows.integers) * np.expand_dims(np.asarray(rows.scale), axis)
    assert (np.abs(stands_for - x) <= np.expand_dims(largest, axis) / 127 * 0.5001).all()
    if axis == -1:
        np.testing.assert_array_equal(widened(rows, dtype=jnp.float32), stands_for)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_attention_reads_what_the_rows_stand_for(dtype: Any) -> None:
    """Scales of scores and weights are scales of keys and values: the same but for the rounding of `dtype`."""
    query, key, value = random(1, 2, 3, 4, 8), random(2, 2, 3, 20, 8) * 3, random(3, 2, 3, 20, 8)
    bias = jnp.where(random(4, 2, 1, 4, 20) > 1, np.float32(-1e30), np.float32(0))
    rows = round_rows(key), round_rows(value)
    wide = tuple(widened(each, dtype=jnp.float32) for each in rows)
    found, wanted = attend(query, *rows, bias=bias, dtype=dtype), attend(query, *wide, bias=bias, dtype=jnp.float32)
    step = 2.0**-8 if dtype == jnp.bfloat16 else 2.0**-23
    terms = float(jnp.abs(query[:, :, :, None] * wide[0][:, :, None]).sum(-1).max()) * 8**-0.5  # of a score
    off = float(jnp.abs(found.astype(jnp.float32) - wanted).max())
    assert off <= float(jnp.abs(wide[1]).max()) * step * (4 * terms + 4)


def cross_forms(model: TrOCR, memory: jax.Array) -> dict[str, tuple[Any, Any]]:
    """Of a layer's cross-attention, in floats and in int8."""
    a, dtype = model.decoder.layers[0].cross_attention, jnp.float32
    return {
        "projected": (prime_columns(a, memory, dtype=dtype), prime_rounded(a, memory, dtype=dtype)),
        "absorbed": (absorb(a, memory, dtype=dtype), absorb(a, round_rows(memory), dtype=dtype)),
    }


@pytest.mark.parametrize("form", ["projected", "absorbed"])
def test_cross_attention_is_as_near_to_floats_as_rounding_allows(form: str) -> None:
    """A key is off by half a step of its row at most, so that a score is by |q| · step / 2 summed over H, and weights
    change by no more than the factor exp(2 · that); a value is off by half a step of its row."""
    model = tiny_model(7, scale=8, config=FAMILIES["base"])
    a, memory, query = model.decoder.layers[0].cross_attention, random(5, 3, 5, 24), random(6, 3, 4, 2, 8)
    floats, rounded = cross_forms(model, memory)[form]
    wanted, found = (np.asarray(cross.read(query, dtype=jnp.float32)) for cross in (floats, rounded))
    key, value = (np.asarray(numbers(each)) for each in prime(a, memory, dtype=jnp.float32))  # [B, N, S, H]
    q = np.asarray(query) * 8**-0.5
    if form == "projected":
        key_off = np.abs(key).max(-1, keepdims=True) / 254 * np.ones_like(key)
        value_off = np.abs(value).max(-1, keepdims=True) / 254 * np.ones_like(value)
    else:  # what half a step of the memory becomes behind its projections
        half = np.abs(np.asarray(memory)).max(-1)[:, None, :, None] / 254
        key_off, value_off = (
            half * np.abs(np.asarray(p.kernel[...])).sum(0)[None, :, None, :] for p in (a.key, a.value)
        )
    score_off = np.einsum("BNKH,BNSH->BNKS", np.abs(q), key_off).max(-1, keepdims=True)
    bound = np.expm1(2 * score_off) * np.abs(value).max(2)[:, :, None] * (1 + 1 / 127) + value_off.max(2)[:, :, None]
    off = np.abs(found - wanted)
    assert (off <= bound).all()
    assert off.max() > 1e-5  # it was rounded
    assert bound.mean() < np.abs(wanted).max()  # a bound that says something


def test_cells_of_the_cache_are_written_in_their_place() -> None:
    model = TrOCR(FAMILIES["base"], rngs=nnx.Rngs(1))
    cross, step = jax.jit(model.prime)(random(7, 2, 5, 24)), jax.jit(model.step)
    caches = [model.init_cache(2, 3, 4, dtype=dtype) for dtype in (jnp.float32, jnp.int8)]
    for position in range(3):
        tokens = jnp.asarray([[5 + position, 6, 7], [8, 9, 10 + position]], jnp.int32)
        caches = [step(tokens, each, jnp.int32(position), cross)[1] for each in caches]
    floats, rounded = caches
    np.testing.assert_array_equal(floats.rows, rounded.rows)
    first, small = floats.layers[0], rounded.layers[0]  # of the first layer, which reads no rounded row
    for exact, rows in zip(first, small, strict=True):
        assert isinstance(rows, Int8Rows)
        whole = np.asarray(rows.scale)[..., None]
        assert (np.abs(np.asarray(widened(rows, dtype=jnp.float32)) - np.asarray(exact)) <= whole * 0.501 + 1e-6).all()
        assert (np.asarray(rows.scale)[:, :, :9] > 0).all()
        assert not np.asarray(rows.scale)[:, :, 9:].any()


def test_reordering_moves_numbers_of_rows_alone() -> None:
    cache = tiny_model().init_cache(2, 3, 4, dtype=jnp.int8)
    program = jax.make_jaxpr(lambda cache, indices: take(cache, indices))(cache, jnp.zeros((2, 3), jnp.int32))
    outputs, inputs = program.jaxpr.outvars, program.jaxpr.invars
    assert outputs[:-1] == inputs[: len(outputs) - 1]  # integers and scales come out as they went in
    assert outputs[-1] not in inputs


# --- searches


PIXELS = jnp.asarray(np.random.default_rng(8).normal(size=(5, 16, 64, 3)).clip(-1, 1), jnp.float32)
SEARCHES = {
    "greedy, memory": DecodeConfig(max_new_tokens=8),
    "greedy, keys and values": DecodeConfig(max_new_tokens=20),
    "beams, memory": DecodeConfig(max_new_tokens=4, num_beams=3),
    "beams, keys and values": DecodeConfig(max_new_tokens=20, num_beams=3),
    "samples": DecodeConfig(max_new_tokens=20, do_sample=True, num_return_sequences=2),
}


def int8(config: DecodeConfig) -> DecodeConfig:
    return replace(config, cache_dtype="int8")


def compiled(config: DecodeConfig, *, dtype: Any = jnp.float32) -> tuple[generation_plan.Shape, str]:
    """The search's program for the CPU, from memory to texts."""
    model = small_model()
    shape, plan = generation_plan.plan(config, model.config)
    search = jax.jit(lambda m, memory: generation.decode(m, memory, plan, shape, dtype))
    memory = jax.ShapeDtypeStruct((5, 8, 16), dtype)
    text = search.lower(model, memory).compile().as_text()
    assert text is not None
    return shape, text


@cache
def small_model() -> TrOCR:
    return tiny_model()


@pytest.mark.parametrize("search", ["greedy, memory", "greedy, keys and values", "beams, keys and values"])
def test_the_loop_of_the_compiled_program_holds_int8(search: str) -> None:
    """What the loop is given and gives back: of images and texts int8 and scales, and no floats of their size."""
    shape, text = compiled(int8(SEARCHES[search]))
    (loop,) = [line for line in text.splitlines() if " while(" in line and "s8[" in line]
    carried = set(re.findall(r"(\w+)\[([\d,]+)\]", loop.split(" while(")[0]))
    k, length = shape.hypotheses, shape.max_new_tokens
    of_texts, of_images = f"5,2,{k * length},8", "5,8,16" if shape.absorbed else "5,2,8,8"
    for size in (of_texts, of_images):
        assert ("s8", size) in carried
        assert ("f32", size) not in carried
    _, floats = compiled(SEARCHES[search])
    assert "s8[" not in floats


def stands_for(rows: Kept) -> jax.Array:
    """Of rows along the last axis, or of columns."""
    if not isinstance(rows, Int8Rows):
        return rows
    axis = -1 if rows.scale.shape == rows.shape[:-1] else -2
    return rows.integers.astype(jnp.float32) * jnp.expand_dims(rows.scale, axis)


@pytest.mark.parametrize("search", SEARCHES)
def test_searches_equal_those_of_what_the_rows_stand_for(search: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = small_model(), int8(SEARCHES[search])
    found = trocr_jax.generate(model, PIXELS, config)
    with count_compilations() as again:
        trocr_jax.generate(model, PIXELS, replace(config, length_penalty=0.5 if config.num_beams > 1 else 1.0))
    assert not again
    assert (found.scores != trocr_jax.generate(model, PIXELS, SEARCHES[search]).scores).any()
    for module in (attention, attention_cross):
        monkeypatch.setattr(module, "numbers", stands_for)
        monkeypatch.setattr(module, "scaled", lambda x, rows: x)
    jax.clear_caches()
    wanted = trocr_jax.generate(model, PIXELS, config)
    jax.clear_caches()
    np.testing.assert_array_equal(found.token_ids, wanted.token_ids)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)


def test_a_stream_and_refilled_slots_find_the_same() -> None:
    from trocr_jax.generation_refill import Refill

    model = small_model()
    for config in (int8(SEARCHES["greedy, memory"]), int8(SEARCHES["beams, keys and values"])):
        wanted = trocr_jax.generate(model, PIXELS, config)
        *_, last = generation.stream(model, PIXELS, config)
        np.testing.assert_array_equal(last.token_ids, wanted.token_ids)
        refill = Refill(model, config, slots=3, group=2)
        groups = [(list(range(i, min(i + 2, 5))), np.asarray(PIXELS[i : i + 2])) for i in (0, 2, 4)]
        found = {one.label: one.decoded.token_ids for one in refill.read(groups)}
        np.testing.assert_array_equal(np.stack([found[i] for i in range(5)]), wanted.token_ids)


@pytest.mark.parametrize(("tokens", "beams"), [(64, 1), (128, 1), (128, 3)])
def test_the_built_in_model_reads_its_samples_as_with_floats(tokens: int, beams: int) -> None:
    recognizer = trocr_jax.Recognizer.from_pretrained("tiny-printed")
    images, config = sorted(SAMPLES.glob("*.png")), DecodeConfig(max_new_tokens=tokens, num_beams=beams)
    found, wanted = (recognizer(images, each) for each in (int8(config), config))
    assert [one.text for one in found] == [one.text for one in wanted]
    assert [one.score for one in found] != [one.score for one in wanted]


def test_bytes_of_what_is_kept() -> None:
    rows = empty_rows((2, 3, 4, 64), jnp.int8)
    assert sum(array.nbytes for array in jax.tree.leaves(rows)) == 2 * 3 * 4 * (64 + 4)
    assert numbers(empty_rows((2, 3), jnp.bfloat16)).dtype == jnp.bfloat16


# --- the option


def test_what_does_not_go_is_refused() -> None:
    with pytest.raises(DecodeError, match="cache_dtype is 'int4': give \"int8\""):
        DecodeConfig(cache_dtype="int4")  # type: ignore[arg-type]
    config, placed = small_model().config, generation_plan.Placed("tpu", "TPU v5 lite")
    wide = replace(
        config,
        encoder=replace(config.encoder, hidden_size=128),
        decoder=replace(config.decoder, cross_attention_hidden_size=128),
    )
    generation_plan.plan(DecodeConfig(max_new_tokens=8), wide, placed=placed, cross_attention="kernel")
    with pytest.raises(DecodeError, match="cache_dtype is 'int8' and cross_attention is 'kernel', which"):
        generation_plan.plan(int8(DecodeConfig(max_new_tokens=8)), wide, placed=placed, cross_attention="kernel")


def test_the_commands_take_it_and_a_job_keeps_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_lines(tmp_path / "lines", 3)
    model, lines = str(save_tiny(tmp_path / "tiny")), str(tmp_path / "lines")
    assert main(["transcribe", lines, "--model", model, "--cache-dtype", "int8", "--max-new-tokens", "8"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    with pytest.raises(SystemExit):
        main(["transcribe", lines, "--model", model, "--cache-dtype", "int4"])
    job = ["jobs", "run", lines, "--output", str(tmp_path / "job"), "--model", model, "--max-new-tokens", "8"]
    assert main([*job, "--plan-only", "--cache-dtype", "int8"]) == 0
    assert jobs.Job.open(str(tmp_path / "job")).plan.configuration["decode"]["cache_dtype"] == "int8"
    capsys.readouterr()
    assert main(job) != 0
    assert 'decode.cache_dtype: "int8" in the plan, nothing now' in capsys.readouterr().err
    source, recognizer = jobs.open_source([lines]), trocr_jax.Recognizer.from_pretrained(model)
    jobs.plan(source, str(tmp_path / "floats"), recognizer, model, DecodeConfig(max_new_tokens=8))
    with pytest.raises(JobError, match=r'decode\.cache_dtype: nothing in the plan, "int8" now'):
        jobs.plan(source, str(tmp_path / "floats"), recognizer, model, int8(DecodeConfig(max_new_tokens=8)))


def test_a_cache_has_no_room_for_more_hypotheses_than_it_was_made_for() -> None:
    cache = tiny_model().init_cache(1, 2, 4)
    assert cache.reordered(jnp.array([[1]])).rows.shape == (1, 1, 4)
    with pytest.raises(ValueError, match="a cache of 2 hypotheses has no room for 3"):
        cache.reordered(jnp.array([[0, 1, 1]]))
