"""Searches watched step by step: every state of a loop, texts while they grow, and nothing compiled on the way."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trocr_jax
from tests.compilations import count_compilations
from tests.tiny import HEIGHT, WIDTH, tiny_model
from tests.toy import END, SPECIAL, VOCABULARY, toy
from trocr_jax.decoding import run, states
from trocr_jax.decoding.beam import beam_search_loop
from trocr_jax.decoding.loop import last
from trocr_jax.decoding.processors import identity
from trocr_jax.decoding.sample import greedy, sample_search
from trocr_jax.decoding.types import Search
from trocr_jax.errors import DecodeError
from trocr_jax.generation import prime, stream

LENGTH = 12


def toy_search(beams: int) -> Search:
    tables = np.random.default_rng(7).normal(size=(2, VOCABULARY, VOCABULARY)) * 2
    tables[..., END] -= 1
    step, _ = toy(tables, LENGTH)
    cache = jnp.zeros((2, beams, LENGTH), jnp.int32)
    if beams == 1:
        return sample_search(
            step,
            cache,
            batch=2,
            samples=1,
            max_new_tokens=LENGTH,
            special=SPECIAL,
            choose=greedy,
            processor=identity,
        )
    return beam_search_loop(
        step,
        cache,
        batch=2,
        num_beams=beams,
        max_new_tokens=LENGTH,
        special=SPECIAL,
        num_return_sequences=1,
        length_penalty=1.0,
        early_stopping=False,
        processor=identity,
        keys=None,
    )


@pytest.mark.parametrize("beams", [1, 3])
def test_every_step_can_be_seen(beams: int) -> None:
    search = toy_search(beams)
    seen = list(states(search))
    assert [int(state.position) for state in seen] == list(range(1, len(seen) + 1))
    assert all(bool(search.unfinished(state)) for state in seen[:-1])
    assert not bool(search.unfinished(seen[-1]))
    for a, b in zip(jax.tree.leaves(seen[-1]), jax.tree.leaves(jax.jit(lambda: last(search))()), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    for a, b in zip(search.finish(seen[-1]), run(search), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_search_with_nothing_to_do_ends_in_its_first_state() -> None:
    search = toy_search(1)._replace(unfinished=lambda state: jnp.asarray(False))
    assert list(states(search)) == []
    for loop in ("jit", "python"):
        assert int(last(search, loop=loop).position) == 0


@pytest.fixture(scope="module")
def model() -> trocr_jax.TrOCR:
    return tiny_model()


def pixels(seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (2, HEIGHT, WIDTH, 3)), jnp.float32)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_stream_ends_with_what_generate_returns_and_compiles_nothing_on_the_way(
    model: trocr_jax.TrOCR, beams: int
) -> None:
    decode = trocr_jax.DecodeConfig(num_beams=beams, max_new_tokens=LENGTH)
    first = stream(model, pixels(0), decode)
    begun = [next(first), next(first), next(first)]
    with count_compilations() as compiled:
        seen = [*begun, *first]
    assert not compiled
    with count_compilations() as compiled:
        list(stream(model, pixels(1), decode))
    assert not compiled

    assert 4 <= len(seen) <= LENGTH
    for a, b in zip(seen[-1], trocr_jax.generate(model, pixels(0), decode), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    if beams == 1:
        for count, (before, after) in enumerate(pairwise(seen), start=1):
            np.testing.assert_array_equal(before.token_ids[..., :count], after.token_ids[..., :count])
            assert (before.token_ids[..., count:] == model.config.pad_token_id).all()
            assert (before.lengths <= count).all()
    else:  # a finished text is only ever replaced by a better one
        scores = np.stack([found.scores for found in seen])
        assert (np.diff(scores, axis=0) >= 0).all()


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, "1"])
def test_seeds_are_checked(model: trocr_jax.TrOCR, seed: Any) -> None:
    for begin in (lambda: prime(model, pixels(0), seed=seed), lambda: trocr_jax.DecodeConfig(seed=seed)):
        with pytest.raises(DecodeError, match=r"seed is .*: give a whole number"):
            begin()


def test_a_search_of_ones_own_has_no_more_tokens_than_positions(model: trocr_jax.TrOCR) -> None:
    init_cache = prime(model, pixels(1)).init_cache
    most = model.config.decoder.max_position_embeddings
    assert init_cache(1, most).max_new_tokens == most
    with pytest.raises(DecodeError, match=f"{most + 1} tokens: the model has {most} positions"):
        init_cache(1, most + 1)


def test_a_search_of_ones_own_reads_what_generate_reads(model: trocr_jax.TrOCR) -> None:
    @jax.jit
    def read(model: trocr_jax.TrOCR, pixels: jax.Array) -> trocr_jax.decoding.Decoded:
        lines = prime(model, pixels)
        return trocr_jax.decoding.sample(
            lines.step,
            lines.init_cache(1, LENGTH),
            batch=lines.batch,
            max_new_tokens=LENGTH,
            special=lines.special,
        )

    expected = trocr_jax.generate(model, pixels(2), trocr_jax.DecodeConfig(max_new_tokens=LENGTH))
    for a, b in zip(read(model, pixels(2)), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
