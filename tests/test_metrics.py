"""Error rates against jiwer and against the recursive definition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import jiwer
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trocr_jax.metrics import cer, wer

CHARACTERS = jiwer.Compose([jiwer.ReduceToListOfListOfChars()])  # jiwer's own default strips the ends first
TEXT = st.text(alphabet="abA .é\u0301\t\u00a0", max_size=12)
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6)


def distance(a: Sequence[str], b: Sequence[str]) -> int:
    @cache
    def tail(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return len(a) - i + len(b) - j
        return min(tail(i + 1, j) + 1, tail(i, j + 1) + 1, tail(i + 1, j + 1) + (a[i] != b[j]))

    return tail(0, 0)


@given(PAIRS)
def test_cer_equals_jiwer_without_its_strip_and_the_definition(pairs):
    references, hypotheses = map(list, zip(*pairs, strict=True))
    assume(any(references))
    theirs = jiwer.cer(references, hypotheses, reference_transform=CHARACTERS, hypothesis_transform=CHARACTERS)
    assert cer(references, hypotheses) == pytest.approx(theirs)
    assert cer(references, hypotheses) == sum(distance(r, h) for r, h in pairs) / sum(map(len, references))


@given(PAIRS)
def test_wer_equals_jiwer_on_single_spaces_and_the_definition(pairs):
    # jiwer splits at the space character alone; here every white space separates words
    references, hypotheses = ([" ".join(text.split()) for text in side] for side in zip(*pairs, strict=True))
    assume(any(references))
    theirs = jiwer.wer(references, hypotheses)
    assert wer(*map(list, zip(*pairs, strict=True))) == pytest.approx(theirs)
    edits = sum(distance(r.split(), h.split()) for r, h in pairs)
    assert wer(*map(list, zip(*pairs, strict=True))) == edits / sum(len(r.split()) for r in references)


def test_rates_are_of_the_corpus_not_means_of_lines():
    assert cer(["a", "abcdefghi"], ["b", "abcdefghi"]) == 0.1
    assert wer(["a", "b c d"], ["x", "b c d"]) == 0.25


def test_nothing_is_normalised():
    assert cer("Ab.", "ab") == pytest.approx(2 / 3)
    assert cer("é", "e\u0301") == 2.0  # one code point against two
    assert cer("a b", " a b") == pytest.approx(1 / 3)
    assert wer("The end.", "the end") == 1.0


def test_much_inserted_is_more_than_one():
    assert cer("a", "abcd") == 3.0


def test_empty_references():
    assert cer([], []) == wer([], []) == cer([""], [""]) == wer("  ", "") == 0.0
    assert cer("", "a") == wer(["", ""], ["", "x"]) == math.inf
    assert cer(["ab", ""], ["ab", "x"]) == 0.5


def test_generators_are_taken():
    assert cer((text for text in ("ab", "cd")), iter(["ab", "cx"])) == 0.25


@pytest.mark.parametrize("rate", [cer, wer])
def test_different_lengths_are_refused(rate):
    with pytest.raises(ValueError, match="2 references and 1 hypotheses"):
        rate(["a", "b"], ["a"])
