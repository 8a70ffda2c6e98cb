"""The code of docs/decoding.md runs, and the search that it writes draws what it says: checked against brute force."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.toy import END, PAD, SPECIAL, START, VOCABULARY, toy
from trocr_jax.decoding import run
from trocr_jax.metrics import cer

ROOT = Path(__file__).parents[1]
DRAWS, LENGTH = 4000, 3
Texts = dict[tuple[int, ...], float]


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """The names that the page's code leaves behind."""
    text = (ROOT / "docs/decoding.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "decoding"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for code in re.findall(r"^```python\n(.*?)^```", text, flags=re.M | re.S):
            exec(compile(code, "docs/decoding.md", "exec", dont_inherit=True), names)
    return names


def test_the_toy_is_searched(page: dict[str, Any]) -> None:
    assert page["best"].token_ids.shape == (2, 1, 5)
    final = page["trace"][-1]
    for step, row in enumerate(page["trace"], start=1):
        assert row == final[:step] + [PAD] * (5 - step)


def test_a_streamed_text_grows_into_what_is_read(page: dict[str, Any]) -> None:
    growing = page["growing"]
    assert len(growing) > 20
    assert growing[-1] == page["texts"][0]
    assert all(growing[-1].startswith(text) for text in growing)


def test_texts_drawn_from_lines_differ_and_are_near_what_is_read(page: dict[str, Any]) -> None:
    drawn = page["drawn"]
    rows = [[tuple(row) for row in image] for image in np.asarray(drawn.token_ids).tolist()]
    assert all(len(set(image)) == 4 for image in rows)
    assert cer([page["texts"][0]] * 4, page["alternatives"]) < 0.3
    again = page["draw"](page["model"], page["pixels"][1:], 0)  # alone: the same texts
    np.testing.assert_array_equal(again.token_ids[0], drawn.token_ids[1])


def table() -> np.ndarray:
    table = np.random.default_rng(2).normal(size=(VOCABULARY, VOCABULARY))
    table[:, PAD] = -60  # never drawn
    return table


def enumerated(table: np.ndarray) -> Texts:
    """The log-probability of every text of at most LENGTH tokens."""
    log_probs = table - np.log(np.exp(table).sum(axis=1, keepdims=True))

    def behind(text: tuple[int, ...], score: float) -> Iterator[tuple[tuple[int, ...], float]]:
        if len(text) == LENGTH or text[-1:] == (END,):
            yield text, score
            return
        for token in range(VOCABULARY):
            if token != PAD:
                yield from behind((*text, token), score + log_probs[text[-1] if text else START, token])

    return dict(behind((), 0.0))


def drawn(page: dict[str, Any], samples: int) -> list[list[tuple[int, ...]]]:
    """DRAWS draws of `samples` texts, and the check that each has the score that it should."""
    tables, texts = np.tile(table(), (DRAWS, 1, 1)), enumerated(table())
    step, _ = toy(tables, LENGTH)
    search = page["stochastic_beam_search"](
        step,
        jnp.zeros((DRAWS, samples, LENGTH), jnp.int32),
        keys=jax.random.split(jax.random.key(0), DRAWS),
        num_samples=samples,
        max_new_tokens=LENGTH,
        special=SPECIAL,
    )
    found = jax.jit(lambda: run(search))()
    ids, length = np.asarray(found.token_ids), np.asarray(found.lengths)
    rows = [[tuple(ids[b, k, : length[b, k]].tolist()) for k in range(samples)] for b in range(DRAWS)]
    expected = [[texts[text] for text in row] for row in rows]
    np.testing.assert_allclose(found.scores, expected, atol=1e-4)
    return rows


def test_one_draw_follows_the_exact_distribution(page: dict[str, Any]) -> None:
    counts: dict[tuple[int, ...], int] = {}
    for (text,) in drawn(page, 1):
        counts[text] = counts.get(text, 0) + 1
    for text, log_prob in enumerated(table()).items():
        p = np.exp(log_prob)
        assert abs(counts.get(text, 0) - DRAWS * p) < 4.5 * np.sqrt(DRAWS * p * (1 - p)) + 1, text


def test_three_draws_are_those_of_gumbel_top_k_over_all_texts(page: dict[str, Any]) -> None:
    rows = drawn(page, 3)
    assert all(len(set(row)) == 3 for row in rows), "without replacement"
    texts = enumerated(table())
    scores = np.array(list(texts.values()))
    gumbel = np.random.default_rng(3).gumbel(size=(200_000, len(scores)))
    order = np.argpartition(-(scores + gumbel), 3, axis=1)[:, :3]
    included = np.bincount(order.ravel(), minlength=len(scores)) / len(gumbel)
    first = np.bincount((scores + gumbel).argmax(axis=1), minlength=len(scores)) / len(gumbel)
    for text, p, q in zip(texts, included, first, strict=True):
        for expected, count in ((p, sum(text in row for row in rows)), (q, sum(text == row[0] for row in rows))):
            assert abs(count - DRAWS * expected) < 4.5 * np.sqrt(DRAWS * expected) + 1, text
