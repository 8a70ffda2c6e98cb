"""Speculative search writes what greedy search writes, whatever the draft, in as few calls as its guesses are right."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import trocr_jax
from tests.small_models import FAMILIES
from tests.toy import END, PAD, SPECIAL, START, VOCABULARY, toy_of_two
from trocr_jax.decoding import Decoded, sample
from trocr_jax.decoding.loop import Loop
from trocr_jax.decoding.speculative import Speculated, drafted_by, ngram_draft, speculative

LENGTH = 9


def random_tables(seed: int, batch: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(batch, VOCABULARY, VOCABULARY, VOCABULARY)) * 3


def greedily(tables: np.ndarray) -> Decoded:
    step, _, cache = toy_of_two(tables, LENGTH)
    return sample(step, cache, batch=len(tables), max_new_tokens=LENGTH, special=SPECIAL)


def speculatively(tables: np.ndarray, guesses: np.ndarray, block: int, loop: Loop = "jit") -> Speculated:
    """With a model of other tables, `guesses`, for a draft."""
    _, extend, cache = toy_of_two(tables, LENGTH + block)
    step, _, draft_cache = toy_of_two(guesses, LENGTH + block)
    return speculative(
        extend,
        cache,
        draft=drafted_by(step),
        draft_state=draft_cache,
        block=block,
        batch=len(tables),
        max_new_tokens=LENGTH,
        special=SPECIAL,
        loop=loop,
    )


compiled_greedily = jax.jit(greedily)
compiled = jax.jit(speculatively, static_argnums=2)


def assert_equal(found: Decoded, expected: Decoded) -> None:
    for name, a, b in zip(Decoded._fields, found, expected, strict=True):
        if jnp.issubdtype(b.dtype, jnp.floating):
            np.testing.assert_allclose(a, b, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(a, b, err_msg=name)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 3]), st.sampled_from([1, 2, 5]), st.floats(0, 3))
def test_it_equals_greedy_search(seed: int, batch: int, block: int, noise: float) -> None:
    tables = random_tables(seed, batch)
    found = compiled(tables, tables + noise * random_tables(seed + 1, batch), block)
    expected = compiled_greedily(tables)
    assert_equal(found.decoded, expected)
    longest = int(expected.lengths.max())
    assert -(-longest // block) <= found.calls <= longest
    if noise == 0 and batch == 1:  # a draft that is always right: whole blocks are kept
        assert found.calls == -(-longest // block)


def test_the_python_loop_equals_the_compiled_one() -> None:
    tables = random_tables(5, 2)
    found, expected = (speculatively(tables, tables[::-1], 3, loop=loop) for loop in ("python", "jit"))
    assert_equal(found.decoded, expected.decoded)
    assert found.calls == expected.calls


def test_guesses_that_are_always_wrong_cost_a_call_a_token() -> None:
    tables = np.zeros((1, VOCABULARY, VOCABULARY, VOCABULARY))
    tables[..., 3] = 9
    _, extend, cache = toy_of_two(tables, LENGTH + 4)

    def wrong(token_ids: jax.Array, position: jax.Array, state: Any, count: int) -> tuple[jax.Array, Any]:
        return jnp.full((1, 1, count), 4, jnp.int32), state

    found = speculative(extend, cache, draft=wrong, block=4, max_new_tokens=LENGTH, special=SPECIAL)
    assert found.decoded.token_ids.tolist() == [[[3] * LENGTH]]
    assert found.decoded.truncated.all()
    assert found.calls == LENGTH


def count_ngrams(texts: list[list[int]], context: list[int]) -> set[int]:
    """The commonest tokens behind the longest end of `context` that `texts` hold."""
    for n in range(len(context), 0, -1):
        following: dict[int, int] = {}
        for text in texts:
            padded = [-1] * len(context) + [START, *text]
            for i in range(len(context) + 1, len(padded)):
                if padded[i - n : i] == context[-n:]:
                    following[padded[i]] = following.get(padded[i], 0) + 1
        if following:
            return {token for token, count in following.items() if count == max(following.values())}
    return {END}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(3, 5), max_size=8), max_size=6), st.lists(st.integers(3, 5), max_size=5))
def test_ngrams_guess_what_most_often_followed_the_longest_known_context(
    texts: list[list[int]], written: list[int]
) -> None:
    texts = [[*text, END] for text in texts]
    draft = ngram_draft(texts, special=SPECIAL, order=3, buckets=1 << 16)
    token_ids = np.full((1, 1, 1 + LENGTH), PAD, np.int32)
    token_ids[0, 0, : 1 + len(written)] = [START, *written]
    guesses, _ = draft(jnp.asarray(token_ids), jnp.int32(len(written)), (), 3)
    context = [-1, -1, START, *written]
    for guess in guesses[0, 0].tolist():
        assert guess in count_ngrams(texts, context[-3:])
        context.append(guess)


def test_ngrams_of_lines_read_before_save_calls() -> None:
    tables = random_tables(11, 1)
    tables[..., END] -= 50
    expected = compiled_greedily(tables)
    draft = ngram_draft(np.asarray(expected.token_ids[0]).tolist(), special=SPECIAL, order=4, buckets=1 << 12)
    _, extend, cache = toy_of_two(tables, LENGTH + 3)
    found = speculative(extend, cache, draft=draft, block=3, max_new_tokens=LENGTH, special=SPECIAL)
    assert_equal(found.decoded, expected)
    assert found.calls < LENGTH


@pytest.fixture(scope="module", params=["base", "large-printed"])
def model(request: pytest.FixtureRequest) -> trocr_jax.TrOCR:
    return trocr_jax.TrOCR(FAMILIES[request.param])


def test_several_tokens_at_once_equal_teacher_forcing(model: trocr_jax.TrOCR) -> None:
    """Blocks of 5, behind wrong tokens that an earlier block left in the cache; two hypotheses of two images."""
    random = np.random.default_rng(0)
    tokens = random.integers(0, 60, (2, 2, 40)).astype(np.int32)  # pads among them: position rows of their own
    tokens[..., 0] = 2
    if not model.config.decoder.learned_positions:
        tokens = np.where(tokens == model.config.pad_token_id, 3, tokens)  # a pad takes no position there
    pixels = jnp.asarray(random.normal(size=(2, 32, 32, 3)), jnp.float32)
    memory = model.encode(pixels)
    cross, cache, found = model.prime(memory), model.init_cache(2, 2, 45), []
    extend = jax.jit(lambda m, t, c, p, x: m.extend(t, c, p, x))
    for position in range(0, 40, 5):
        right = tokens[:, :, position : position + 5]
        for block in (right[..., ::-1], right):
            logits, cache = extend(model, jnp.asarray(block), cache, jnp.int32(position), cross)
        found.append(logits)
    for k in range(2):
        expected = model.decoder(jnp.asarray(tokens[:, k]), memory)
        np.testing.assert_allclose(jnp.concatenate(found, axis=2)[:, k], expected, atol=1e-5, rtol=0)


def test_a_model_reads_what_it_reads_greedily(model: trocr_jax.TrOCR) -> None:
    """Two images, so that they wait for each other; the draft is the model itself with other weights."""
    length, block, ids = 24, 4, model.config
    special = trocr_jax.decoding.Special(ids.decoder_start_token_id, ids.eos_token_id, ids.pad_token_id)
    pixels = jnp.asarray(np.random.default_rng(1).normal(size=(2, 32, 32, 3)), jnp.float32)
    other = trocr_jax.TrOCR(ids, rngs=nnx.Rngs(1))

    @jax.jit
    def read(model: trocr_jax.TrOCR, other: trocr_jax.TrOCR, pixels: jax.Array) -> Speculated:
        cross, guessing = (m.prime(m.encode(pixels)) for m in (model, other))
        return speculative(
            lambda tokens, cache, position: model.extend(tokens, cache, position, cross),
            model.init_cache(2, 1, length + block),
            draft=drafted_by(lambda tokens, cache, position: other.step(tokens, cache, position, guessing)),
            draft_state=other.init_cache(2, 1, length + block),
            block=block,
            batch=2,
            max_new_tokens=length,
            special=special,
        )

    expected = trocr_jax.generate(model, pixels, trocr_jax.DecodeConfig(max_new_tokens=length))
    assert_equal(read(model, other, pixels).decoded, expected)
    agreeing = read(model, model, pixels)
    assert_equal(agreeing.decoded, expected)
    assert agreeing.calls == -(-int(expected.lengths.max()) // block)
