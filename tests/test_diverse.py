"""Diverse beam search against the same search in plain Python, over a toy model."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trocr_jax
from tests.tiny import tiny_model
from tests.toy import END, PAD, SPECIAL, START, VOCABULARY
from trocr_jax.decoding import Decoded, StepFn, beam_search
from trocr_jax.decoding.beam_state import EarlyStopping
from trocr_jax.decoding.diverse import diverse_beam_search
from trocr_jax.errors import DecodeError

LENGTH = 6


def toy(tables: np.ndarray, beams: int) -> tuple[StepFn, jax.Array]:
    """Markov models whose tables [B, L, V, V] differ from place to place, so that no two texts have equal scores."""
    logits_of = jnp.asarray(tables, jnp.float32)

    def step(tokens: jax.Array, cache: jax.Array, position: jax.Array) -> tuple[jax.Array, jax.Array]:
        here = jax.lax.dynamic_index_in_dim(logits_of, position, axis=1, keepdims=False)  # [B, V, V]
        return jnp.take_along_axis(here, tokens[..., None], axis=1), cache

    return step, jnp.zeros((len(tables), beams, 1), jnp.int32)


def random_tables(seed: int, batch: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(batch, LENGTH, VOCABULARY, VOCABULARY)) * 2


class Group:
    """A beam search of `size` hypotheses in plain Python. Texts are (score, token ids)."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.running: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        self.finished: list[tuple[float, tuple[int, ...]]] = []
        self.can_improve = True

    def goes_on(self, early_stopping: EarlyStopping) -> bool:
        return self.can_improve and not (early_stopping is True and len(self.finished) == self.size)

    def step(
        self, log_probs: np.ndarray, lowered: np.ndarray, *, length_penalty: float, early_stopping: EarlyStopping
    ) -> None:
        """log_probs [L, V, V] of a token given the last one, of which `lowered` [V] is taken off."""
        if not self.running:
            return
        n = len(self.running[0][1]) + 1
        continued = [
            (score + float(log_probs[n - 1, (ids or (START,))[-1], token] - lowered[token]), (*ids, token))
            for score, ids in self.running
            for token in range(VOCABULARY)
            if log_probs[n - 1, (ids or (START,))[-1], token] > -np.inf
        ]
        top = sorted(continued, reverse=True)[: 2 * self.size]
        if self.goes_on(early_stopping):
            new = [(score / n**length_penalty, ids) for score, ids in top[: self.size] if ids[-1] == END or n == LENGTH]
            self.finished = sorted(self.finished + new, reverse=True)[: self.size]
        self.running = [(score, ids) for score, ids in top if ids[-1] != END][: self.size]
        reach = LENGTH if early_stopping == "never" and length_penalty > 0 else n
        full = len(self.finished) == self.size
        self.can_improve &= bool(self.running) and (
            not full or self.running[0][0] / reach**length_penalty > self.finished[-1][0]
        )


def in_python(
    table: np.ndarray, length_penalty: float, penalty: float, *, groups: int, size: int, early_stopping: EarlyStopping
) -> list[tuple[float, tuple[int, ...]]]:
    log_probs = np.asarray(jax.nn.log_softmax(jnp.asarray(table, jnp.float32), axis=-1), np.float64)
    searches = [Group(size) for _ in range(groups)]
    for _ in range(LENGTH):
        lowered = np.zeros(VOCABULARY)
        going_on = [group.goes_on(early_stopping) for group in searches]
        for group, repels in zip(searches, going_on, strict=True):
            group.step(log_probs, lowered, length_penalty=length_penalty, early_stopping=early_stopping)
            for _, ids in group.running if repels else ():
                lowered[ids[-1]] += penalty
    return sorted((text for group in searches for text in group.finished), reverse=True)


@partial(jax.jit, static_argnames=("groups", "size", "early_stopping"))
def search(
    tables: np.ndarray,
    length_penalty: float,
    penalty: float,
    *,
    groups: int,
    size: int,
    early_stopping: EarlyStopping,
) -> Decoded:
    step, cache = toy(tables, groups * size)
    return diverse_beam_search(
        step,
        cache,
        batch=len(tables),
        num_beams=groups * size,
        num_beam_groups=groups,
        diversity_penalty=penalty,
        max_new_tokens=LENGTH,
        special=SPECIAL,
        num_return_sequences=groups * size,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
    )


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.floats(0.05, 4),
    st.sampled_from([(2, 2, False), (3, 1, "never"), (2, 3, True)]),
)
def test_it_equals_the_search_in_python(
    seed: int, length_penalty: float, penalty: float, shape: tuple[int, int, EarlyStopping]
) -> None:
    groups, size, early_stopping = shape
    tables = random_tables(seed, 3)
    found = search(tables, length_penalty, penalty, groups=groups, size=size, early_stopping=early_stopping)
    for i, table in enumerate(tables):
        texts = in_python(table, length_penalty, penalty, groups=groups, size=size, early_stopping=early_stopping)
        assert len(texts) == groups * size
        for rank, (score, _) in enumerate(texts):
            assert float(found.scores[i, rank]) == pytest.approx(score, abs=1e-4)
        read = {tuple(row[:n]) for row, n in zip(found.token_ids[i].tolist(), found.lengths[i].tolist(), strict=True)}
        assert read == {ids for _, ids in texts}


@pytest.mark.parametrize("allowed", [1, 2, 3])
def test_places_without_a_hypothesis_repel_nobody(allowed: int) -> None:
    """As behind the last letter of a word of a lexicon, where the end token alone is allowed."""
    tables = random_tables(7, 16)
    order = np.random.default_rng(allowed).permuted(np.broadcast_to(np.arange(VOCABULARY), tables.shape), axis=-1)
    forbidden = order >= allowed
    forbidden[..., END] &= forbidden[..., 3:].sum(-1) != 3  # where nothing else is, a text may end
    found = search(np.where(forbidden, -np.inf, tables), 1.0, 1.5, groups=2, size=3, early_stopping=False)
    few = 0
    for i, table in enumerate(np.where(forbidden, -np.inf, tables)):
        texts = in_python(table, 1.0, 1.5, groups=2, size=3, early_stopping=False)
        few += len(texts) < 6
        for rank, (score, ids) in enumerate(texts):
            assert tuple(found.token_ids[i, rank, : found.lengths[i, rank]].tolist()) == ids
            assert float(found.scores[i, rank]) == pytest.approx(score, abs=1e-4)
        assert (np.asarray(found.scores[i, len(texts) :]) < -1e8).all()
    assert few or allowed > 1


@pytest.mark.parametrize("early_stopping", [False, True])
def test_one_group_is_beam_search(early_stopping: EarlyStopping) -> None:
    tables = random_tables(1, 4)
    step, cache = toy(tables, 3)
    plain = beam_search(
        step,
        cache,
        batch=4,
        num_beams=3,
        max_new_tokens=LENGTH,
        special=SPECIAL,
        num_return_sequences=3,
        early_stopping=early_stopping,
    )
    found = search(tables, 1.0, 0.7, groups=1, size=3, early_stopping=early_stopping)
    for name in Decoded._fields:
        np.testing.assert_allclose(getattr(found, name), getattr(plain, name), atol=1e-6, err_msg=name)


def test_without_a_penalty_all_groups_find_the_same() -> None:
    found = search(random_tables(2, 4), 1.0, 0.0, groups=3, size=2, early_stopping=False)
    ids = np.asarray(found.token_ids).reshape(4, 2, 3, LENGTH)  # best first: each text three times
    assert (ids == ids[:, :, :1]).all()
    assert sorted({int(i) // 2 for i in np.unique(found.beam_indices) if i >= 0}) == [0, 1, 2]


def test_the_penalty_counts_in_the_token_log_probs_but_not_in_what_the_model_thinks() -> None:
    found = search(random_tables(4, 2), 1.0, 0.5, groups=2, size=2, early_stopping=False)
    lowered = np.asarray(found.model_log_probs - found.token_log_probs)
    assert {round(float(x), 3) for x in np.unique(lowered.round(3))} <= {0.0, 0.5, 1.0}
    assert lowered.max() > 0.4
    np.testing.assert_allclose(
        np.asarray(found.token_log_probs).sum(-1) / np.asarray(found.lengths), found.scores, atol=1e-5
    )
    for row, n in zip(found.token_ids.reshape(8, -1).tolist(), found.lengths.reshape(8).tolist(), strict=True):
        assert row[n:] == [PAD] * (LENGTH - n)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beam_groups": 3}, "num_beam_groups is 3: 4 beams cannot be divided evenly"),
        ({"num_return_sequences": 5}, "num_return_sequences is 5: 4 beams give at least 1 text and at most 4"),
    ],
)
def test_beams_that_give_less_than_is_asked_for_are_refused(options: dict[str, int], message: str) -> None:
    step, cache = toy(random_tables(0, 1), 4)
    asked: dict[str, Any] = {"batch": 1, "num_beams": 4, "max_new_tokens": LENGTH, "special": SPECIAL, **options}
    with pytest.raises(DecodeError, match=message):
        diverse_beam_search(step, cache, diversity_penalty=1.0, **{"num_beam_groups": 2, **asked})
    if "num_beam_groups" not in options:
        with pytest.raises(DecodeError, match=message):
            beam_search(step, cache, **asked)


def test_a_model_reads_with_groups() -> None:
    pixels = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 16, 64, 3)), jnp.float32)
    config = trocr_jax.DecodeConfig(
        num_beams=4, num_beam_groups=2, diversity_penalty=2.0, num_return_sequences=4, max_new_tokens=8
    )
    found = trocr_jax.generate(tiny_model(), pixels, config)
    assert (np.diff(np.asarray(found.scores), axis=1) <= 0).all()
    assert {int(i) for i in np.unique(found.beam_indices)} == {-1, 0, 1, 2, 3} or int(found.lengths.min()) == 8


def test_every_group_remembers_its_own_texts() -> None:
    """A model that looks at all that was written, by its cache."""
    table = np.random.default_rng(3).normal(size=(97, VOCABULARY)).astype(np.float32) * 2
    log_probs = np.asarray(jax.nn.log_softmax(jnp.asarray(table), axis=-1))

    def step(tokens: jax.Array, cache: jax.Array, position: jax.Array) -> tuple[jax.Array, jax.Array]:
        cache = (31 * cache + tokens + 1) % 97
        return jnp.asarray(table)[cache], cache

    found = diverse_beam_search(
        step,
        jnp.zeros((1, 6), jnp.int32),
        batch=1,
        num_beams=6,
        num_beam_groups=2,
        diversity_penalty=1.0,
        max_new_tokens=LENGTH,
        special=SPECIAL,
        num_return_sequences=6,
    )
    for row, n, said in zip(
        found.token_ids[0].tolist(), found.lengths[0].tolist(), found.model_log_probs[0], strict=True
    ):
        memory, wanted = 0, []
        for last, token in zip([START, *row], row[:n], strict=False):
            memory = (31 * memory + last + 1) % 97
            wanted.append(log_probs[memory, token])
        np.testing.assert_allclose(said[:n], wanted, atol=1e-5)


def test_no_groups_are_refused() -> None:
    step, cache = toy(random_tables(0, 1), 4)
    with pytest.raises(DecodeError, match="num_beam_groups is 0"):
        diverse_beam_search(
            step,
            cache,
            batch=1,
            num_beams=4,
            num_beam_groups=0,
            diversity_penalty=1.0,
            max_new_tokens=LENGTH,
            special=SPECIAL,
        )
