"""Searches on a toy language model: no network, everything checked by hand or by brute force."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toy import END, PAD, SPECIAL, START, VOCABULARY, toy
from trocr_jax.decoding import DecodeConfig, Decoded, Special, beam_search, processors, sample
from trocr_jax.decoding.loop import Loop
from trocr_jax.errors import DecodeError


def by_hand(table: np.ndarray, length: int) -> tuple[list[int], list[float]]:
    """Greedy search over one table in plain Python."""
    table = table.astype(np.float64)
    log_probs = (
        table - np.log(np.exp(table - table.max(1, keepdims=True)).sum(1, keepdims=True)) - table.max(1, keepdims=True)
    )
    last = START
    ids: list[int] = []
    scores: list[float] = []
    while len(ids) < length and (not ids or ids[-1] != END):
        token = int(log_probs[last].argmax())
        ids.append(token)
        scores.append(float(log_probs[last, token]))
        last = token
    return ids, scores


def run(tables: np.ndarray, length: int, loop: Loop = "jit") -> Decoded:
    step, cache = toy(tables, length)
    return sample(step, cache, batch=len(tables), max_new_tokens=length, special=SPECIAL, loop=loop)


compiled = jax.jit(run, static_argnums=1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(4, 9), (1, 1)]))
def test_greedy_equals_a_search_by_hand(seed: int, shape: tuple[int, int]) -> None:
    batch, length = shape
    tables = np.random.default_rng(seed).normal(size=(batch, VOCABULARY, VOCABULARY)) * 3
    found = compiled(tables, length)
    for i in range(batch):
        ids, log_probs = by_hand(tables[i], length)
        n = len(ids)
        assert found.token_ids[i, 0].tolist() == ids + [PAD] * (length - n)
        np.testing.assert_allclose(found.token_log_probs[i, 0, :n], log_probs, atol=1e-5)
        assert not found.token_log_probs[i, 0, n:].any()
        assert float(found.scores[i, 0]) == pytest.approx(sum(log_probs), abs=1e-4)
        assert int(found.lengths[i, 0]) == n
        assert bool(found.truncated[i, 0]) == (ids[-1] != END)


def test_the_python_loop_equals_the_compiled_one() -> None:
    tables = np.random.default_rng(3).normal(size=(3, VOCABULARY, VOCABULARY)) * 3
    for jit, python in zip(run(tables, 7), run(tables, 7, loop="python"), strict=True):
        np.testing.assert_array_equal(jit, python)


def test_the_loop_stops_when_every_text_has_ended() -> None:
    tables = np.full((2, VOCABULARY, VOCABULARY), -9.0)
    tables[0, START, END] = tables[1, START, 3] = tables[1, 3, END] = 9.0
    steps = []

    step, cache = toy(tables, 50)

    def counted(tokens: jax.Array, cache: jax.Array, position: jax.Array) -> tuple[jax.Array, jax.Array]:
        steps.append(int(position))
        return step(tokens, cache, position)

    found = sample(counted, cache, batch=2, max_new_tokens=50, special=SPECIAL, loop="python")
    assert steps == [0, 1]
    assert found.lengths.tolist() == [[1], [2]]


def test_a_search_refuses_what_it_cannot_do() -> None:
    step, cache = toy(np.zeros((1, 3, VOCABULARY)), 3)
    options: dict = {"batch": 1, "max_new_tokens": 3, "special": SPECIAL}
    with pytest.raises(DecodeError, match="loop is 'Jit': give"):
        sample(step, cache, **options, loop="Jit")  # type: ignore[arg-type]
    for wrong in ({"max_new_tokens": 0}, {"samples": 0}):
        with pytest.raises(DecodeError, match=f"{next(iter(wrong))} is 0: give a whole number of at least 1"):
            sample(step, cache, **options | wrong)
    with pytest.raises(DecodeError, match="max_new_tokens is 0: give a whole number of at least 1"):
        beam_search(step, cache, **options | {"max_new_tokens": 0}, num_beams=2)


def test_several_samples_of_an_image_each_have_a_row() -> None:
    tables = np.random.default_rng(4).normal(size=(2, VOCABULARY, VOCABULARY))
    step, _ = toy(tables, 5)
    found = sample(step, jnp.zeros((2, 3, 5), jnp.int32), batch=2, samples=3, max_new_tokens=5, special=SPECIAL)
    assert found.token_ids.shape == (2, 3, 5)
    assert (found.token_ids == found.token_ids[:, :1]).all()  # greedy draws are all the same


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 0},
        {"max_new_tokens": 0},
        {"max_new_tokens": 2.5},
        {"num_beams": True},
        {"num_return_sequences": 2},
        {"early_stopping": "sometimes"},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict) -> None:
    with pytest.raises(DecodeError, match=next(iter(options))):
        DecodeConfig(**options)


def test_a_text_for_which_no_token_is_left_scores_minus_infinity():
    def step(tokens, cache, position):
        return jnp.zeros((*tokens.shape, 4), jnp.float32), cache

    found = sample(
        step,
        (),
        batch=1,
        max_new_tokens=2,
        special=Special(start=0, end=2, pad=1),
        processor=processors.SuppressTokens(np.arange(4)),
    )
    assert found.token_log_probs[0, 0, 0] == found.scores[0, 0] == -np.inf
