"""Confidences against what they are defined to be, with tokens that split characters and bytes that are no text."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trocr_jax.confidence import (
    alternatives,
    character_confidences,
    line_confidence,
    minimum_bayes_risk,
    token_spans,
    word_confidences,
)
from trocr_jax.errors import TokenizerError
from trocr_jax.metrics import cer


def logs(*probabilities: float) -> list[float]:
    return [math.log(p) for p in probabilities]


def test_a_token_gives_each_of_its_characters_the_same_share() -> None:
    found = character_confidences("the cat", [b"the", b" c", b"at", None], logs(0.125, 0.25, 0.81, 0.5))
    assert "".join(c.text for c in found) == "the cat"
    assert [c.confidence for c in found] == pytest.approx([0.5] * 3 + [0.5] * 2 + [0.9] * 2)
    words = word_confidences(found)
    assert [word.text for word in words] == ["the", "cat"]
    assert [word.confidence for word in words] == pytest.approx([0.125, 0.5 * 0.81])
    assert line_confidence(logs(0.125, 0.25, 0.81, 0.5)) == pytest.approx((0.125 * 0.25 * 0.81 * 0.5) ** 0.25)


def test_tokens_that_split_a_character_multiply() -> None:
    first, second = "é".encode()[:1], "é".encode()[1:]
    found = character_confidences("aéb", [b"a" + first, second + b"b"], logs(0.25, 0.64))
    assert [c.text for c in found] == ["a", "é", "b"]
    assert [c.confidence for c in found] == pytest.approx([0.5, 0.5 * 0.8, 0.8])
    (euro,) = character_confidences("€", [bytes([b]) for b in "€".encode()], logs(0.9, 0.8, 0.7))
    assert euro.confidence == pytest.approx(0.9 * 0.8 * 0.7)


def test_spaces_that_the_tokenizer_drops_take_no_share() -> None:
    found = character_confidences("ab c.", [b" ab", b" c", b" ."], logs(0.25, 0.49, 0.3))
    assert [c.text for c in found] == list("ab c.")
    assert [c.confidence for c in found] == pytest.approx([0.5, 0.5, 0.7, 0.7, 0.3])


@given(st.lists(st.tuples(st.binary(max_size=4), st.floats(-5, 0)), max_size=12))
def test_bytes_of_any_kind_are_the_characters_that_a_decoder_makes_of_them(tokens) -> None:
    text = b"".join(spelling for spelling, _ in tokens).decode(errors="replace")
    found = character_confidences(text, [spelling for spelling, _ in tokens], [p for _, p in tokens])
    assert "".join(c.text for c in found) == text
    spelling = sum(p for spelling, p in tokens if spelling)
    assert math.prod(c.confidence for c in found) == pytest.approx(math.exp(spelling), rel=1e-6, abs=1e-300)
    assert [word.text for word in word_confidences(found)] == text.split()


def test_a_text_that_the_tokens_do_not_spell_is_refused() -> None:
    for text in ("abd", "abcd", "bc"):
        with pytest.raises(TokenizerError, match="do not spell"):
            character_confidences(text, [b"abc"], [-0.1])


def test_nothing_read_is_as_sure_as_its_end() -> None:
    assert character_confidences("", [None], [-0.5]) == ()
    assert (token_spans("", [None]), token_spans("", [])) == ([(0, 0)], [])
    assert word_confidences(()) == ()
    assert line_confidence([-0.5]) == pytest.approx(math.exp(-0.5))


def test_equal_texts_are_one_alternative() -> None:
    found = alternatives(["ab", "a", "ab"], [-0.1, -0.2, -0.3], logs(0.3, 0.2, 0.1))
    assert [(one.text, one.score) for one in found] == [("ab", -0.1), ("a", -0.2)]
    assert [one.probability for one in found] == pytest.approx([0.4 / 0.6, 0.2 / 0.6])
    assert alternatives(["a", "b", "a", "a"], [-1.0, -2.0, -1.0, -1.0], [0.0] * 4)[0].probability == 0.75
    assert alternatives(["a", "b"], [-math.inf] * 2, [-math.inf] * 2)[1].probability == 0.5
    assert alternatives([], [], []) == ()


@given(st.lists(st.tuples(st.text("abc", max_size=5), st.floats(-30, 0)), min_size=1, max_size=6))
def test_minimum_bayes_risk_is_the_least_expected_distance(texts) -> None:
    found = alternatives([t for t, _ in texts], [p for _, p in texts], [p for _, p in texts])
    assert sum(one.probability for one in found) == pytest.approx(1)

    def risk(choice: str) -> float:
        edits = [cer(["x" + one.text], ["x" + choice]) * (1 + len(one.text)) for one in found]
        return sum(one.probability * e for one, e in zip(found, edits, strict=True))

    chosen = found[minimum_bayes_risk(found)].text
    assert risk(chosen) == pytest.approx(min(risk(one.text) for one in found), abs=1e-9)


def test_minimum_bayes_risk_may_differ_from_the_likeliest() -> None:
    found = alternatives(["zzzz", "cats", "cat"], [0.0] * 3, logs(0.4, 0.3, 0.3))
    assert found[minimum_bayes_risk(found)].text == "cats"
