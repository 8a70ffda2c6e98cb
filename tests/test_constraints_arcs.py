"""Constraints as tables of arcs: shared by many states, made in blocks, cut at the limit, kept to by every group of
beams."""

from __future__ import annotations

import itertools
import re
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.test_constraints import CASES, OPENING, SPECIAL, TOY, L, V, allowed_after, compiled, valid, written
from tests.toy import toy
from trocr_jax.decoding import automaton as automaton_module
from trocr_jax.decoding import constraints, diverse_beam_search
from trocr_jax.decoding import dfa as dfa_module
from trocr_jax.decoding import token_arcs as token_arcs_module
from trocr_jax.decoding.automaton import SparseAutomaton, TableAutomaton
from trocr_jax.decoding.constraints import All, Lexicon, Regex
from trocr_jax.errors import DecodeError
from trocr_jax.tokenizer_spelling import Spellings

LETTERS = "abcdefghijklmnopqrst"
LETTER_TOKENS: list = [None, None, None, *(x.encode() for x in LETTERS), b" ", b" a", b"b c", b"cd"]
# 20 different ends that a space may follow, one with many letters more
LONGER = (*map("".join, itertools.pairwise(LETTERS)), *("a" + letter for letter in LETTERS[2:14]))
WORDS = (*LETTERS, *LONGER)
ONE = f"(?:{'|'.join(WORDS)})"


@pytest.mark.parametrize("rows", [1, 1000])
@pytest.mark.parametrize(
    ("spec", "pattern"),
    [
        (Lexicon(WORDS), f"{ONE}(?: {ONE})*"),
        (
            All(Lexicon(WORDS), Regex("([^ ]+ )*[^ ]{2}")),
            f"(?:{ONE} )*(?:{'|'.join(LONGER)})",
        ),  # ends that accept and not
    ],
)
def test_arcs_that_many_states_share(spec, pattern, rows, monkeypatch) -> None:
    """What follows a separator is kept once for all words of a list."""
    vocabulary = len(LETTER_TOKENS)
    monkeypatch.setattr(automaton_module, "DENSE_BYTES", 2 * vocabulary * rows)
    monkeypatch.setattr(automaton_module, "CHUNK", 4)
    found = constraints.compile(spec, LETTER_TOKENS, special=SPECIAL, max_new_tokens=L)
    assert isinstance(found, SparseAutomaton)
    assert np.asarray(found.base).any()
    allowed = valid(lambda text: bool(re.fullmatch(pattern, text)), LETTER_TOKENS)
    after: dict = {}
    for ids in allowed:
        for n in range(len(ids)):
            after.setdefault(ids[:n], set()).add(ids[n])
    prefixes = sorted(after)
    for i in np.random.default_rng(0).choice(len(prefixes), 40, replace=False):
        assert allowed_after(found, prefixes[i]) == after[prefixes[i]], prefixes[i]


def test_every_group_of_beams_keeps_to_a_constraint() -> None:
    found, allowed = compiled(3 + 3, False)  # words of a list, joined by spaces
    tables = np.random.default_rng(5).normal(size=(8, V, V)) * 2
    step, _ = toy(tables, L)
    texts = jax.jit(lambda processor: diverse_beam_search(
        step, jnp.zeros((8, 6, L), jnp.int32), batch=8, num_beams=6, num_beam_groups=3, diversity_penalty=2.0,
        max_new_tokens=L, special=SPECIAL, num_return_sequences=6, processor=processor,
    ))(found)  # fmt: skip
    count = 0
    for row, score in zip(texts.token_ids.reshape(48, L), texts.scores.ravel().tolist(), strict=True):
        if score > -1e8:
            count += 1
            assert written(row) in allowed
    assert count > 30


@pytest.mark.parametrize("case", [0, 6, 9])
def test_arcs_come_in_blocks_of_any_size(case: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def arcs():
        texts = CASES[case][0].automaton()
        return token_arcs_module.token_arcs(texts, OPENING, OPENING.first, special=SPECIAL, max_new_tokens=L)

    whole = arcs()
    monkeypatch.setattr(token_arcs_module, "BLOCK", 1)
    for one, other in zip(arcs(), whole, strict=True):
        np.testing.assert_array_equal(one, other)
    monkeypatch.setattr(token_arcs_module, "ARC_LIMIT", 2)
    with pytest.raises(DecodeError, match="more than 2 arcs: give a simpler one"):
        arcs()


def looked_at(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many arcs a module will have looked at, each time that it asks for rows of them."""
    counts, rows = list[int](), dfa_module.rows

    def counted(offsets: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = rows(offsets, chosen)
        counts.append(len(found[0]))
        return found

    monkeypatch.setattr(module, "rows", counted)
    return counts


def test_where_any_character_may_follow_those_of_tokens_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = looked_at(token_arcs_module, monkeypatch)
    texts = [None, None, None, *(bytes(pair) for n in (1, 2) for pair in itertools.product(LETTERS.encode(), repeat=n))]
    dfa = Regex(".{1,20}").automaton()
    found = token_arcs_module.token_arcs(dfa, texts, texts, special=SPECIAL, max_new_tokens=30)
    assert sum(counts) < 8 * len(found.tokens)  # some 200 bytes may follow each character of a token


@pytest.mark.parametrize("turn", [1, -1])
def test_where_any_character_may_follow_those_of_words_are_looked_at(
    turn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = looked_at(dfa_module, monkeypatch)
    both = All(*(Regex(".{1,20}"), Lexicon(WORDS))[::turn]).automaton()
    assert sum(counts) < 2 * len(both.symbols)


def test_special_tokens_spell_nothing() -> None:
    """Whatever their strings are: of a tokenizer that takes them for ordinary ones, say."""
    known = Spellings([b"a", b"a", b"a", b"a", b"ab", b" "])
    known.first = [b"", b"", b"", b"a", b"ab", b""]
    found = constraints.compile(Regex("ab?a*"), known, special=SPECIAL, max_new_tokens=L)
    assert allowed_after(found, ()) == {3, 4, 5}
    assert allowed_after(found, (3,)) == {3, SPECIAL.end}


def test_the_end_token_is_the_last_that_counts() -> None:
    found = constraints.compile(Regex("a{3}"), TOY, special=SPECIAL, max_new_tokens=4)
    assert isinstance(found, TableAutomaton | SparseAutomaton)
    assert int(found.distance[found.init(1, 1)[0, 0]]) == 4
    with pytest.raises(DecodeError, match="in 4 tokens"):
        constraints.compile(Regex("a{4}"), TOY, special=SPECIAL, max_new_tokens=4)
