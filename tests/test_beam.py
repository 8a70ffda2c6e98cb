"""Beam search on a toy model, against exhaustive search; on small models, against transformers; what it compiles."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterator
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
from hypothesis import given, settings
from hypothesis import strategies as st

import trocr_jax
from scripts.parity import random_oracle
from scripts.parity_decoding import Found, Sides, Tally, compare, let_texts_end, random_images
from tests.compilations import count_compilations
from tests.small_models import FAMILIES, save_transformers, transformers_model
from tests.tiny import tiny_model
from tests.toy import END, SPECIAL, START, VOCABULARY, toy
from trocr_jax import DecodeConfig, attention_cross, checkpoint, generation, generation_plan
from trocr_jax.decoding import Context, Decoded, Special, beam_search, processors, sample
from trocr_jax.decoding.beam_state import EarlyStopping
from trocr_jax.errors import DecodeError
from trocr_jax.model import TrOCR


def random_tables(seed: int, batch: int, vocabulary: int = VOCABULARY) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(batch, vocabulary, vocabulary)) * 2


def search(
    tables: np.ndarray, length_penalty: float, *, beams: int, length: int, early_stopping: EarlyStopping, **options: Any
) -> Decoded:
    step, cache = toy(tables, length)
    return beam_search(
        step,
        jnp.repeat(cache, beams, axis=1),
        batch=len(tables),
        num_beams=beams,
        max_new_tokens=length,
        special=SPECIAL,
        num_return_sequences=beams,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        **options,
    )


compiled = partial(jax.jit, static_argnames=("beams", "length", "early_stopping"))(search)


@jax.jit
def compiled_greedy(tables: np.ndarray) -> Decoded:
    step, cache = toy(tables, 9)
    return sample(step, cache, batch=len(tables), max_new_tokens=9, special=SPECIAL)


def every_text(table: np.ndarray, length: int) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every text of at most `length` tokens with its log-probability; what has no end token is `length` long."""
    log_probs = np.asarray(jax.nn.log_softmax(jnp.asarray(table, jnp.float32), axis=-1), np.float64)
    for n in range(1, length + 1):
        for ids in itertools.product(range(len(table)), repeat=n):
            if END not in ids[:-1] and (ids[-1] == END or n == length):
                yield ids, float(sum(log_probs[a, b] for a, b in itertools.pairwise((START, *ids))))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(-1, 3), st.sampled_from([False, "never"]))
def test_with_a_beam_for_every_text_it_is_exhaustive_search(
    seed: int, length_penalty: float, early_stopping: EarlyStopping
) -> None:
    vocabulary, length = 4, 3
    tables = random_tables(seed, 2, vocabulary)
    found = compiled(tables, length_penalty, beams=vocabulary**length, length=length, early_stopping=early_stopping)
    for i, table in enumerate(tables):
        texts = {ids: log_prob / len(ids) ** length_penalty for ids, log_prob in every_text(table, length)}
        assert len(texts) == 40  # 1 + 3 + 9 * 4
        scores = sorted(texts.values(), reverse=True)
        np.testing.assert_allclose(found.scores[i, :40], scores, rtol=1e-4, atol=1e-4)
        read = [tuple(ids[:n]) for ids, n in zip(found.token_ids[i].tolist(), found.lengths[i].tolist(), strict=True)]
        assert set(read[:40]) == texts.keys()
        for ids, score in zip(read[:40], found.scores[i, :40].tolist(), strict=True):
            assert score == pytest.approx(texts[ids], rel=1e-4, abs=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_one_beam_that_stops_early_is_greedy_search(seed: int) -> None:
    tables = random_tables(seed, 4)
    greedy = compiled_greedy(tables)
    found = compiled(tables, 1.0, beams=1, length=9, early_stopping=True)
    np.testing.assert_array_equal(found.token_ids, greedy.token_ids)
    np.testing.assert_array_equal(found.lengths, greedy.lengths)
    np.testing.assert_array_equal(found.truncated, greedy.truncated)
    np.testing.assert_array_equal(found.beam_indices, greedy.beam_indices)
    np.testing.assert_allclose(found.token_log_probs, greedy.token_log_probs, atol=1e-6)
    np.testing.assert_allclose(np.asarray(found.scores) * np.asarray(found.lengths), greedy.scores, atol=1e-4)


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
def test_a_finished_line_does_not_stop_another(early_stopping: EarlyStopping) -> None:
    tables = random_tables(1, 3)
    tables[0, :, END] += 20  # at an end at once
    tables[1, :, END] -= 20  # never
    together = compiled(tables, 1.0, beams=3, length=8, early_stopping=early_stopping)
    assert int(together.lengths[0, 0]) == 1
    assert together.lengths[1].tolist() == [8, 8, 8]
    assert together.truncated[1].all()
    for i in range(3):
        alone = compiled(tables[i : i + 1], 1.0, beams=3, length=8, early_stopping=early_stopping)
        for both, one in zip(together, alone, strict=True):
            np.testing.assert_array_equal(both[i], one[0])


def test_processors_see_the_tokens_of_the_running_hypotheses() -> None:
    batch, beams, length = 2, 4, 5
    fed: list[np.ndarray] = []
    seen: list[np.ndarray] = []
    toy_step, cache = toy(random_tables(5, batch), length)

    def step(tokens: jax.Array, cache: jax.Array, position: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits, cache = toy_step(tokens, cache, position)
        fed.append(np.asarray(cache[..., : int(position) + 1]))  # what each hypothesis has been fed, reordered with it
        return logits, cache

    def record(scores: jax.Array, context: Context) -> jax.Array:
        assert context.token_ids.shape == (batch, beams, 1 + length)
        np.testing.assert_allclose(jax.nn.logsumexp(scores, axis=-1), 0, atol=1e-5)  # log-probabilities
        seen.append(np.asarray(context.token_ids[..., : int(context.position) + 1]))
        return scores

    found = beam_search(
        step,
        jnp.repeat(cache, beams, axis=1),
        batch=batch,
        num_beams=beams,
        max_new_tokens=length,
        special=SPECIAL,
        early_stopping="never",
        processor=record,
        loop="python",
    )
    assert len(seen) == len(fed) > 3
    for tokens, cached in zip(seen, fed, strict=True):
        np.testing.assert_array_equal(tokens, cached)
    assert len({tuple(row) for row in seen[3][0].tolist()}) == beams  # they differ, and had been exchanged:
    assert any((seen[i][..., :-1] != seen[i - 1]).any() for i in range(2, len(seen)))
    n = int(found.lengths[0, 0])
    assert found.token_ids[0, 0, : n - 1].tolist() in seen[n - 1][0, :, 1:].tolist()


def test_the_python_loop_equals_the_compiled_one() -> None:
    tables = random_tables(3, 2)
    python = search(tables, 1.0, beams=3, length=3, early_stopping=False, loop="python")
    for one, other in zip(compiled(tables, 1.0, beams=3, length=3, early_stopping=False), python, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_beam_sampling_belongs_to_the_line() -> None:
    tables = random_tables(8, 3)
    keys = jax.random.split(jax.random.key(0), 3)
    together = compiled(tables, 1.0, beams=3, length=6, early_stopping=False, keys=keys)
    alone = compiled(tables[2:], 1.0, beams=3, length=6, early_stopping=False, keys=keys[2:])
    np.testing.assert_array_equal(together.token_ids[2], alone.token_ids[0])
    other = compiled(tables, 1.0, beams=3, length=6, early_stopping=False, keys=jax.random.split(jax.random.key(1), 3))
    assert (together.token_ids != other.token_ids).any()


# --- transformers


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Sides:
    config = replace(FAMILIES["base"], decoder_start_token_id=0)
    oracle, pixels = random_oracle(config, seed=0), random_images(config, 6, seed=0)
    with torch.no_grad():
        oracle.decoder.get_output_embeddings().weight.mul_(4)  # probabilities that are not all alike
    let_texts_end(oracle, config, pixels, tokens=16, seed=0)
    folder = tmp_path_factory.mktemp("models") / "base"
    oracle.save_pretrained(folder)
    return Sides(oracle, trocr_jax.checkpoint.load(Path(folder)), pixels)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 1, "repetition_penalty": 1.3},
        {"num_beams": 2, "length_penalty": 0.5, "early_stopping": True, "repetition_penalty": 1.3},
        {"num_beams": 3, "length_penalty": 2.0, "early_stopping": False},
        {"num_beams": 3, "length_penalty": 1.0, "early_stopping": False},  # compiles nothing anew
        {"num_beams": 4, "length_penalty": 1.0, "early_stopping": "never", "no_repeat_ngram_size": 3},
        {"num_beams": 5, "length_penalty": 1.0, "early_stopping": True, "min_length": 6},
    ],
    ids=str,
)
def test_texts_and_scores_are_those_of_transformers(sides: Sides, options: dict[str, Any]) -> None:
    tally = Tally()
    ours, theirs = (side(max_new_tokens=16, **options) for side in (sides.ours, sides.theirs))
    compare(tally, ours, theirs, name=str(options), end=2, returned=options["num_beams"])
    assert tally.disagreements == []
    assert tally.equal == tally.texts == 6 * options["num_beams"]  # no ties among these
    assert len(tally.lengths) > 2


@pytest.mark.parametrize("same", [True, False], ids=["same text", "other text"])
def test_a_score_that_is_no_number_is_a_disagreement(same: bool) -> None:
    log_probs, beams = np.full((1, 2), -0.5), np.zeros((1, 2), int)
    theirs = Found(np.array([[5, 2]]), np.array([-1.0]), log_probs, beams)
    ours = theirs if same else Found(np.array([[6, 2]]), theirs.scores, log_probs, beams)
    tally = Tally()
    compare(tally, replace(ours, scores=np.array([np.nan])), theirs, name="", end=2, returned=1)
    assert len(tally.disagreements) == 1


# --- one memory for all hypotheses

BATCH, BEAMS, MEMORY, LENGTH = 2, 7, 13, 10  # 12 patches and a class token; no other axis has these sizes
WIDTHS = {32, 24, 8}  # of the decoder, of the encoder, of a head


def shapes(jaxpr: Any) -> Iterator[tuple[int, ...]]:
    """Shapes of everything that a jaxpr computes, loops and calls within it too."""
    for equation in jaxpr.eqns:
        yield from (v.aval.shape for v in (*equation.invars, *equation.outvars))
        for parameter in equation.params.values():
            for inner in parameter if isinstance(parameter, list | tuple) else (parameter,):
                if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                    yield from shapes(getattr(inner, "jaxpr", inner))


def replicas(jaxpr: Any) -> set[tuple[int, ...]]:
    """Shapes of keys, values or encoder states with an axis of beams. Attention scores [B, N, K, S] are none."""
    beams = {n * BEAMS for n in (1, 2, BATCH, 2 * BATCH)}
    found = set()
    for shape in shapes(jaxpr):
        apart = bool(beams & set(shape)) and MEMORY in shape
        merged = any(size % (BEAMS * MEMORY) == 0 for size in shape)
        if (apart or merged) and (WIDTHS & set(shape)):
            found.add(shape)
    return found


def trace(model: TrOCR, *, absorbed: bool = False) -> Any:
    config = trocr_jax.DecodeConfig(num_beams=BEAMS, max_new_tokens=LENGTH, repetition_penalty=1.1)
    shape, numbers = generation_plan.plan(config, model.config)
    shape = shape._replace(absorbed=absorbed)
    run = inspect.unwrap(generation._generate)  # not jitted: a trace of its own
    pixels = jnp.zeros((BATCH, 16, 48, 3))
    return jax.make_jaxpr(lambda pixels: run(model, pixels, numbers, shape, jnp.dtype(jnp.float32), None))(pixels).jaxpr


@pytest.fixture(scope="module")
def line_model() -> TrOCR:
    return TrOCR(FAMILIES["line"])


def test_no_array_of_the_memory_has_an_axis_of_beams(line_model: TrOCR) -> None:
    jaxpr = trace(line_model)
    every = set(shapes(jaxpr))
    assert (BATCH, 4, BEAMS, MEMORY) in every  # the scores: the loop has been looked into
    assert (BATCH, 4, MEMORY, 8) in every  # keys and values
    assert (BATCH, MEMORY, 24) in every  # encoder states
    assert replicas(jaxpr) == set()


def test_no_array_has_an_axis_of_beams_and_the_memory_itself(line_model: TrOCR) -> None:
    jaxpr = trace(line_model, absorbed=True)
    every = set(shapes(jaxpr))
    assert (BATCH, 4 * BEAMS, MEMORY) in every  # the scores: the loop has been looked into
    assert (BATCH, 4, MEMORY, 8) not in every  # no keys and values
    assert replicas(jaxpr) == set()


def test_replicated_keys_are_found(line_model: TrOCR, monkeypatch: pytest.MonkeyPatch) -> None:
    read = attention_cross.KeyColumns.read

    def replicated(self: attention_cross.KeyColumns, query: jax.Array, **options: Any) -> jax.Array:
        b, n, k, h = query.shape  # one key and value for each query
        every = jax.tree.map(lambda x: jnp.repeat(x, k, axis=0), self)
        y = read(every, query.transpose(0, 2, 1, 3).reshape(b * k, n, 1, h), **options)
        return y.reshape(b, k, n, h).transpose(0, 2, 1, 3)

    monkeypatch.setattr(attention_cross.KeyColumns, "read", replicated)
    assert (BATCH * BEAMS, 4, MEMORY, 8) in replicas(trace(line_model))


def test_replicated_encoder_states_are_found(line_model: TrOCR, monkeypatch: pytest.MonkeyPatch) -> None:
    prime = TrOCR.prime

    def replicated(self: TrOCR, memory: jax.Array, **options: Any) -> Any:
        every = prime(self, jnp.repeat(memory, BEAMS, axis=0), **options)
        return jax.tree.map(lambda leaf: leaf[::BEAMS], every)

    monkeypatch.setattr(TrOCR, "prime", replicated)
    assert (BATCH * BEAMS, MEMORY, 24) in replicas(trace(line_model))


# --- compilations


def test_one_program_for_each_bucket_beams_length_and_set_of_processors() -> None:
    model = tiny_model()
    pixels = {n: jnp.asarray(np.random.default_rng(n).uniform(-1, 1, (n, 16, 64, 3)), jnp.float32) for n in (1, 2)}

    def compilations(batch: int = 1, **options: Any) -> int:
        config = trocr_jax.DecodeConfig(**{"num_beams": 2, "max_new_tokens": 5, **options})
        with count_compilations() as found:
            trocr_jax.generate(model, pixels[batch], config)
        return len(found)

    assert compilations() == 1
    assert compilations(batch=2) == 1
    assert compilations(num_beams=3) == 1
    assert compilations(max_new_tokens=6) == 1
    assert compilations(early_stopping=True) == 1
    assert compilations(repetition_penalty=1.2) == 1
    assert compilations(num_beams=4, num_beam_groups=2, diversity_penalty=0.5) == 1
    assert compilations(do_sample=True) == 1
    again = [
        compilations(length_penalty=0.3),
        compilations(length_penalty=2),
        compilations(batch=2, length_penalty=-1.0),
        compilations(num_beams=3, length_penalty=0.0),
        compilations(early_stopping=True, length_penalty=1.5),
        compilations(repetition_penalty=1.9, length_penalty=0.7),
        compilations(num_beams=4, num_beam_groups=2, diversity_penalty=1.5),
        compilations(do_sample=True, seed=7),
    ]
    assert again == [0] * len(again)


def test_more_beams_than_tokens_are_refused_before_anything_is_compiled() -> None:
    model = tiny_model()
    beams = model.config.decoder.vocab_size + 1
    pixels = jnp.zeros((1, 16, 64, 3))
    with count_compilations() as found, pytest.raises(DecodeError, match=f"num_beams is {beams}"):
        trocr_jax.generate(model, pixels, trocr_jax.DecodeConfig(num_beams=beams, max_new_tokens=9))
    assert found == []


@pytest.mark.skipif(
    tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 24),
    reason="transformers before 5.24 lets the beams end that were drawn first, not the best of them",
)
def test_beams_are_drawn_as_those_of_transformers(tmp_path: Path) -> None:
    """Equal in distribution: how many of a thousand searches end at once, and their mean score."""
    count = 1000
    options: dict[str, Any] = {"num_beams": 2, "do_sample": True, "top_k": 0, "max_new_tokens": 5}
    options |= {"sequence_bias": [[[2], 4.0]], "early_stopping": True}
    model = checkpoint.load(save_transformers("base", tmp_path))
    pixels = np.random.default_rng(5).uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        theirs = transformers_model("base").generate(
            torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).repeat(count, 1, 1, 1),
            return_dict_in_generate=True, output_scores=True, decoder_start_token_id=2,
            eos_token_id=2, pad_token_id=1, **options,
        )  # fmt: skip
    shape, numbers = generation_plan.plan(DecodeConfig(**options), model.config)
    keys = jax.random.split(jax.random.key(1), count)

    @jax.jit
    def draw(memory: jax.Array, keys: jax.Array) -> Decoded:
        return generation.decode(model, jnp.repeat(memory, count, axis=0), numbers, shape, jnp.dtype("float32"), keys)

    ours = draw(model.encode(jnp.asarray(pixels)), keys)
    ended = (theirs.sequences[:, 1] == 2).double().mean().item()
    scores = theirs.sequences_scores.numpy()
    # Four standard deviations of the difference of two shares and of two means.
    share = 4 * math.sqrt(ended * (1 - ended) * 2 / count)
    assert np.mean(np.asarray(ours.lengths) == 1) == pytest.approx(ended, abs=share)
    assert np.mean(ours.scores) == pytest.approx(
        float(scores.mean()), abs=4 * float(scores.std()) * math.sqrt(2 / count)
    )


def test_a_copy_of_a_beam_does_not_end_a_second_time():
    def step(tokens, cache, position):
        return jnp.zeros((*tokens.shape, 4), jnp.float32), cache

    only_end = processors.chain(processors.SuppressTokens(np.array([0, 1, 3])), processors.ForcedBos(3))
    found = beam_search(
        step,
        (),
        batch=1,
        num_beams=2,
        num_return_sequences=2,
        max_new_tokens=3,
        special=Special(start=0, end=2, pad=1),
        processor=only_end,
    )
    assert found.token_ids[0, 0].tolist() == [3, 2, 1]
    assert np.isneginf(found.token_log_probs[0, 1]).all()
    assert (found.beam_indices[0, 1] == -1).all()
