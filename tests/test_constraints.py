"""Constraints against Python's `re`, brute force over a toy vocabulary, and the tokenizers' own decoding."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compilations import count_compilations
from tests.test_tokenizer import roberta, xlm_roberta  # noqa: F401  (fixtures)
from tests.toy import toy
from trocr_jax.decoding import (
    Context,
    Decoded,
    Special,
    beam_search,
    categorical,
    constraints,
    diverse_beam_search,
    greedy,
    sample,
)
from trocr_jax.decoding import automaton as automaton_module
from trocr_jax.decoding.automaton import Automaton, SparseAutomaton, TableAutomaton
from trocr_jax.decoding.beam_state import EarlyStopping
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.decoding.constraints import All, Characters, Constraint, Lexicon, Prefix, Regex
from trocr_jax.decoding.lexicon import from_words
from trocr_jax.decoding.processors import ForcedEos, Normalize, chain
from trocr_jax.errors import DecodeError, TokenizerError
from trocr_jax.recognizer import Recognizer
from trocr_jax.tokenizer import character_tokenizer, decode, load_tokenizer
from trocr_jax.tokenizer_spelling import Spellings, spellings

SPECIAL = Special(start=0, end=1, pad=2)
# "é" as one token and as its two bytes; two tokens that spell the same; one across a word's end.
TOY: list[bytes | None] = [None, None, None, b"a", b"b", b"ab", b" ", b"b a", b"a", b"\xc3", b"\xa9", "é".encode()]
V, L = len(TOY), 4
# As sentencepiece: " a" and " " lose their space at the beginning.
OPENING = Spellings([None, None, None, b"a", b" a", b" ", b"b", b"ab"])
OPENING.first = [None, None, None, b"a", b"a", b"", b"b", b"ab"]

CASES: list[tuple[Constraint, Callable[[str], bool]]] = [
    (Characters("ba"), lambda text: set(text) <= set("ab")),
    (Characters("é "), lambda text: set(text) <= set("é ")),
    (Regex("(ab|b){2}é?"), lambda text: bool(re.fullmatch("(ab|b){2}é?", text))),
    (Regex("a|ab"), lambda text: text in ("a", "ab")),
    (Prefix("ab"), lambda text: text.startswith("ab")),
    (Prefix("b "), lambda text: text.startswith("b ")),
    (Lexicon(("a", "ab", "bé")), lambda text: bool(text) and set(text.split(" ")) <= {"a", "ab", "bé"}),
    (Lexicon({"a", "b a", "b"}), lambda text: bool(re.fullmatch("(a|b a|b)( (a|b a|b))*", text))),
    (Lexicon(["abb", "é"], separator=None), lambda text: text in ("abb", "é")),
    (All(Prefix("b"), Characters("ab "), Regex(".+[^ ]")), lambda text: bool(re.fullmatch("b[ab ]*[ab]", text))),
]


def spelled(tokens: Iterable[int], known: list[bytes | None] = TOY) -> str:
    first = getattr(known, "first", known)
    parts = [(first if i == 0 else known)[token] or b"" for i, token in enumerate(tokens)]
    return b"".join(parts).decode(errors="replace")


def valid(holds: Callable[[str], bool], known: list[bytes | None], length: int = L) -> set[tuple[int, ...]]:
    """Every sequence of up to `length` tokens, end token last, whose text satisfies."""
    usable = [i for i, text in enumerate(known) if text is not None]
    every = (ids for n in range(length) for ids in itertools.product(usable, repeat=n))
    return {(*ids, SPECIAL.end) for ids in every if "\ufffd" not in (text := spelled(ids, known)) and holds(text)}


@cache
def compiled(case: int, sparse: bool) -> tuple[Automaton, frozenset[tuple[int, ...]]]:
    spec, holds = CASES[case]
    with pytest.MonkeyPatch.context() as patch:
        if sparse:
            patch.setattr(automaton_module, "TABLE_LIMIT", 0)
            patch.setattr(automaton_module, "DENSE_BYTES", 2 * V)  # one row: the other arcs are scattered
        found = constraints.compile(spec, TOY, special=SPECIAL, max_new_tokens=L)
    assert isinstance(found, SparseAutomaton if sparse else TableAutomaton)
    return found, frozenset(valid(holds, TOY))


@partial(jax.jit, static_argnames=("beams", "samples"))
def search(tables: Any, processor: Automaton, *, beams: int = 1, samples: int = 0) -> Decoded:
    """Greedy, or with `samples` sampling, or a beam search that misses nothing."""
    step, cache = toy(tables, L)
    batch = len(tables)
    if beams > 1:
        cache = jnp.zeros((batch, beams, L), jnp.int32)
        return beam_search(
            step,
            cache,
            batch=batch,
            num_beams=beams,
            max_new_tokens=L,
            special=SPECIAL,
            length_penalty=0.0,
            early_stopping="never",
            processor=processor,
        )
    choose = categorical(jax.random.split(jax.random.key(7), batch)) if samples else greedy
    cache = jnp.zeros((batch, max(samples, 1), L), jnp.int32)
    return sample(
        step,
        cache,
        batch=batch,
        samples=max(samples, 1),
        max_new_tokens=L,
        special=SPECIAL,
        choose=choose,
        processor=processor,
    )


def written(row: jax.Array) -> tuple[int, ...]:
    ids = np.asarray(row).tolist()
    return (*ids[: ids.index(SPECIAL.end)], SPECIAL.end)  # ValueError: it was cut


def log_softmax(table: np.ndarray) -> np.ndarray:
    shifted = table - table.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0, 2, 3, 6, 7, 8]), st.booleans())
def test_every_search_equals_brute_force(seed: int, case: int, sparse: bool) -> None:
    found, allowed = compiled(case, sparse)
    tables = np.random.default_rng(seed).normal(size=(1, V, V)) * 2
    log_probs = log_softmax(tables[0])

    def score(ids: tuple[int, ...]) -> float:
        return float(sum(log_probs[a, b] for a, b in itertools.pairwise((SPECIAL.start, *ids))))

    best = max(allowed, key=score)
    beams = search(tables, found, beams=V**2)  # of V ** 3 prefixes, no constraint here keeps as many
    assert written(beams.token_ids[0, 0]) == best
    assert float(beams.scores[0, 0]) == pytest.approx(score(best), abs=1e-4)

    prefixes = {ids[:n] for ids in allowed for n in range(len(ids) + 1)}
    by_hand: tuple[int, ...] = ()
    while not by_hand or by_hand[-1] != SPECIAL.end:
        after = log_probs[by_hand[-1] if by_hand else SPECIAL.start]
        by_hand += (max((t for t in range(V) if (*by_hand, t) in prefixes), key=lambda t: after[t]),)
    assert written(search(tables, found).token_ids[0, 0]) == by_hand
    assert all(written(row) in allowed for row in search(tables, found, samples=40).token_ids[0])


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("special", [SPECIAL, SPECIAL._replace(pad=SPECIAL.end)], ids=["pad", "pad is end"])
@pytest.mark.parametrize("spec", [Regex("a|ab"), Lexicon(["abb", "é"], separator=None), Regex("a{1,2}b?")])
def test_more_beams_than_texts_find_each_text_once(
    spec: Constraint, special: Special, early_stopping: EarlyStopping
) -> None:
    """The first hypothesis stands in all beams, and its copies are no texts."""
    holds = {Regex("a|ab"): "a|ab", Regex("a{1,2}b?"): "a{1,2}b?"}.get(spec, "abb|é")  # type: ignore[call-overload]
    allowed = valid(lambda text: bool(re.fullmatch(holds, text)), TOY)
    tables = np.random.default_rng(1).normal(size=(2, V, V))
    beams, counted = len(allowed) + 3, []

    def step(tokens: jax.Array, cache: jax.Array, position: jax.Array) -> tuple[jax.Array, jax.Array]:
        jax.debug.callback(lambda position: counted.append(int(position)), position)
        return jnp.asarray(tables, jnp.float32)[jnp.arange(2)[:, None], tokens], cache

    found = beam_search(
        step,
        jnp.zeros((2, beams, 1), jnp.int32),
        batch=2,
        num_beams=beams,
        max_new_tokens=L,
        special=special,
        num_return_sequences=beams,
        length_penalty=1.0,
        early_stopping=early_stopping,
        processor=constraints.compile(spec, TOY, special=special, max_new_tokens=L),
    )
    for image, table in enumerate(log_softmax(tables)):
        texts = [written(row) for row in found.token_ids[image, : len(allowed)]]
        assert sorted(texts) == sorted(allowed)
        by_hand = [sum(table[a, b] for a, b in itertools.pairwise((special.start, *ids))) / len(ids) for ids in texts]
        np.testing.assert_allclose(found.scores[image, : len(allowed)], by_hand, rtol=1e-5)
        assert by_hand == sorted(by_hand, reverse=True)
    assert (found.scores[:, len(allowed) :] == -1e9).all()
    assert (found.token_log_probs[:, len(allowed) :] == -np.inf).all()
    assert (found.token_ids[:, len(allowed) :] == special.pad).all()
    jax.effects_barrier()
    assert max(counted) + 1 == max(map(len, allowed))  # no step more when every text has ended


SEARCHES: dict[str, Callable[..., Decoded]] = {
    "greedy": sample,
    "samples": partial(sample, samples=3, choose=categorical(jax.random.split(jax.random.key(0), 1))),
    "beams": partial(beam_search, num_beams=3),
    "diverse": partial(diverse_beam_search, num_beams=4, num_beam_groups=2, diversity_penalty=0.0),
}


@pytest.mark.parametrize("spec", [Characters("ab"), None], ids=["constraint", "forced end"])
@pytest.mark.parametrize("search", SEARCHES)
def test_a_text_that_the_limit_ends_counts_as_truncated(search: str, spec: Constraint | None) -> None:
    if spec is None:
        processor: Any = ForcedEos(np.array([SPECIAL.end]), L)
    else:
        processor = constraints.compile(spec, TOY, special=SPECIAL, max_new_tokens=L)

    for count in range(L + 2):  # what the model writes: so many times "a", and the end

        def step(tokens: jax.Array, cache: Any, position: jax.Array, count: int = count) -> tuple[jax.Array, Any]:
            token = jnp.where(position < count, 3, SPECIAL.end)
            return jnp.broadcast_to(20.0 * jax.nn.one_hot(token, V), (*tokens.shape, V)), cache

        found = SEARCHES[search](step, (), batch=1, max_new_tokens=L, special=SPECIAL, processor=processor)
        assert found.lengths[0, 0] == min(count + 1, L)
        assert found.token_ids[0, 0, found.lengths[0, 0] - 1] == SPECIAL.end
        assert bool(found.truncated[0, 0]) is (count + 1 > L)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_both_forms_allow_the_tokens_that_brute_force_allows(case: int) -> None:
    (table, allowed), (sparse, _) = compiled(case, False), compiled(case, True)
    prefixes = sorted({ids[:n] for ids in allowed for n in range(len(ids) + 1)})
    rng = np.random.default_rng(case)
    for i in rng.choice(len(prefixes), min(len(prefixes), 12), replace=False):
        prefix = prefixes[i]
        if prefix and prefix[-1] == SPECIAL.end:
            wanted = {SPECIAL.pad} if len(prefix) < L else set()
        else:
            wanted = {ids[len(prefix)] for ids in allowed if ids[: len(prefix)] == prefix}
        for found in (table, sparse):
            assert allowed_after(found, prefix) == wanted, prefix


def allowed_after(found: Automaton, prefix: tuple[int, ...]) -> set[int]:
    """Tokens that may follow, of one hypothesis beside another that stays at the beginning."""
    state = found.init(1, 2)
    for token in prefix:
        state = follow(found, state, jnp.array([[token, token]], jnp.int32))
    state = state.at[0, 1].set(found.init(1, 1)[0, 0])
    sizes = [getattr(found, name).shape[-1] for name in ("classes", "dense") if hasattr(found, name)]
    left = scored(found, jnp.zeros((1, 2, *sizes)), Context(jnp.zeros((1, 2, 1 + L)), jnp.int32(len(prefix)), state))
    return set(np.flatnonzero(np.isfinite(left[0, 0])).tolist())


follow = jax.jit(lambda found, state, tokens: found.advance(state, tokens))
scored = jax.jit(lambda found, scores, context: found(scores, context))


@pytest.mark.parametrize("count", [32, 64, 128, 256])
def test_few_and_many_classes_are_looked_up_alike(count: int) -> None:
    rng = np.random.default_rng(count)
    allowed, classes = rng.random((2, 3, count)) < 0.5, rng.integers(0, count, 500)
    found = automaton_module._of_classes(jnp.asarray(allowed), jnp.asarray(classes, jnp.int32))
    assert (np.asarray(found) == allowed[..., classes]).all()


def test_the_first_token_spells_what_it_spells_at_the_beginning() -> None:
    for spec, holds in [
        (Regex("ab a"), lambda text: text == "ab a"),
        (Lexicon(("a", "b")), lambda text: bool(re.fullmatch("[ab]( [ab])*", text))),
        (Regex(" a"), lambda text: text == " a"),
    ]:
        allowed = valid(holds, OPENING)
        assert allowed
        found = constraints.compile(spec, OPENING, special=SPECIAL, max_new_tokens=L)
        for prefix in {ids[:n] for ids in allowed for n in range(len(ids))}:
            assert allowed_after(found, prefix) == {ids[len(prefix)] for ids in allowed if ids[: len(prefix)] == prefix}


@settings(max_examples=60, deadline=None)
@given(
    st.sets(st.text("ab é", min_size=1, max_size=4), min_size=1, max_size=6),
    st.sampled_from([None, " ", "ab", "é"]),
    st.lists(st.text("ab é", max_size=8), max_size=10),
)
def test_a_word_list_accepts_what_a_regular_expression_of_it_does(words, separator, texts) -> None:
    dfa = from_words(words, separator=separator)
    one = f"(?:{'|'.join(map(re.escape, words))})"
    pattern = one if separator is None else f"{one}(?:{re.escape(separator)}{one})*"
    joined = (separator or "").join
    for text in {*texts, *words, *map(joined, itertools.product(words, repeat=2)), joined([*words, "a", *words])}:
        assert accepts(dfa, text) == bool(re.fullmatch(pattern, text))


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        r"[A-Z]{2}-\d{4}",
        "a|ab",
        "a*?b??",
        "a{,2}b{,}",
        r"\{,2[{,}]?",
        "a{1, 2}",
        "a{ 2}|a{, 2}|b{}",
        "a{2}{|a{1,2",
        "^a+$",
        r"\w+é?",
        "(é|ab)*",
        r"a{2,3}\.|\$",
        "(?i)AB",
        ".",
        "[^a]+",
        r"[\d\-x]+",
        r"[^\W\d]+",
        r"[]a\S]*",
        "^[0-9]+$|^[A-Za-z]+$",
        r"\Aa|ab\Z|\$",
        "(?i)^a|ü$",
        r"[$^|]|^^é[|]?ab$$|\^$",
        "a$b",
    ],
)
def test_a_regex_accepts_what_python_does(pattern: str) -> None:
    if pattern == "a$b":
        with pytest.raises(DecodeError, match="matches no text"):
            Regex(pattern).automaton()
        return
    dfa = Regex(pattern).automaton()
    for text in [
        "",
        "a",
        "ab",
        "aab",
        "AB-1234",
        "AB-12345",
        "éab",
        "ü",
        "aa.",
        "$",
        "漢字",
        "\n",
        "AB-١٢٣٤",
        "aB",
        "{,2",
    ]:
        assert accepts(dfa, text) == bool(re.fullmatch(pattern, text)), text


def test_what_any_character_repeats_takes_as_many_states_as_it_is_long() -> None:
    code = "from trocr_jax.decoding.regex import from_regex; print(len(from_regex('[^:]{1,60}: .{,60}').accepting))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert int(found.stdout) < 2000  # 2 ** 60 of an automaton that may begin anywhere


def accepts(dfa, text: str) -> bool:
    state = 0
    for byte in text.encode():
        row = slice(dfa.offsets[state], dfa.offsets[state + 1])
        found = np.flatnonzero(dfa.symbols[row] == byte)
        if not found.size:
            return False
        state = dfa.targets[row][found[0]]
    return bool(dfa.accepting[state])


def test_a_prefix_may_be_any_text() -> None:
    text = "".join(map(chr, range(128))) + "é\u2028漢"
    dfa = Prefix(text).automaton()
    assert accepts(dfa, text)
    assert accepts(dfa, text + "\nmore")
    assert not accepts(dfa, text[:-1])


def test_equal_endings_of_words_are_kept_once() -> None:
    dfa = from_words([a + b + "ing" for a in "abcdefgh" for b in "xyz"], separator=None)
    assert len(dfa.accepting) == 6  # start, behind a letter, behind two, i, n, g


# --- tokenizers


@pytest.mark.parametrize("kind", ["roberta", "xlm_roberta", "characters", "tiny-printed"])
def test_spellings_are_what_the_tokenizer_decodes(kind: str, request) -> None:
    if kind == "characters":
        tokenizer = character_tokenizer("abc é漢\n")
    elif kind == "tiny-printed":
        tokenizer = load_tokenizer(Path(constraints.__file__).parents[1] / "models" / "tiny-printed")
    else:
        tokenizer = load_tokenizer(request.getfixturevalue(kind))
        tokenizer.add_tokens(["two words", "Ünder▁"])  # ordinary tokens beyond the published vocabulary
    known = spellings(tokenizer)
    assert [i for i, text in enumerate(known) if text is None] == sorted(tokenizer.all_special_ids)
    usable = [i for i, text in enumerate(known) if text is not None]
    rng = np.random.default_rng(0)
    rows = [[i] for i in usable] + [rng.choice(usable, rng.integers(2, 9)).tolist() for _ in range(300)]
    for ids in rows:
        assert spelled(ids, known) == tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert decode(tokenizer, [[0, *ids, 2, 1]]) == [spelled(ids, known)]


def test_as_many_spellings_as_the_model_has_tokens() -> None:
    known = spellings(character_tokenizer("ab"), 8)
    assert known == known.first == [None] * 4 + [b"a", b"b", None, None]
    assert len(spellings(character_tokenizer("ab"), 5).first) == 5


def test_another_kind_of_tokenizer_is_refused() -> None:
    tokenizer = character_tokenizer("ab")
    from tokenizers import decoders

    tokenizer.backend_tokenizer.decoder = decoders.WordPiece()
    with pytest.raises(TokenizerError, match="WordPiece"):
        spellings(tokenizer)


@partial(jax.jit, static_argnames=("batch", "size", "beams", "samples", "length"))
def random_lines(
    processor: Automaton, *, batch: int, size: int, beams: int = 1, samples: int = 0, length: int = 16
) -> jax.Array:
    """Texts of a model that has an opinion on every token: [B, R, L]."""

    def step(tokens: jax.Array, cache: jax.Array, position: jax.Array) -> tuple[jax.Array, jax.Array]:
        key = jax.random.fold_in(jax.random.key(3), position)
        return 5 * jax.random.normal(key, (*tokens.shape, size), jnp.float32), cache

    cache = jnp.zeros((batch, max(beams, samples, 1), 1), jnp.int32)
    options: Any = {"batch": batch, "max_new_tokens": length, "special": Special(2, 2, 1), "processor": processor}
    if beams > 1:
        return beam_search(step, cache, num_beams=beams, num_return_sequences=beams, **options).token_ids
    choose = categorical(jax.random.split(jax.random.key(1), batch)) if samples else greedy
    return sample(step, cache, samples=max(samples, 1), choose=choose, **options).token_ids


def test_no_line_breaks_its_constraint(roberta, xlm_roberta) -> None:  # noqa: F811
    words = frozenset(f"{a}{b}" for a in ("ab", "Br", "l", "fo") for b in ("", "own", "et", "x", "9", "ç", "n l"))
    several = re.compile("(?:{0})(?: (?:{0}))*".format("|".join(map(re.escape, words))))
    checked = []
    for folder in (roberta, xlm_roberta):
        tokenizer = load_tokenizer(folder)
        known = spellings(tokenizer)
        usable = frozenset(w for w in words if "ç" not in w or folder is roberta)
        for spec, pattern, more in (
            (Regex(r"[A-Zé]{2}-\d{4}"), re.compile(r"[A-Zé]{2}-\d{4}"), {"samples": 3}),
            (Characters("0123456789"), re.compile("[0-9]*"), {"samples": 3}),
            (Lexicon(usable), several, {"beams": 4}),
        ):
            try:
                found = constraints.compile(spec, known, special=Special(2, 2, 1), max_new_tokens=16)
            except DecodeError as error:  # a small sentencepiece model lacks most letters
                assert folder is xlm_roberta and "spell" in str(error)  # noqa: PT017, PT018
                continue
            run = partial(random_lines, found, batch=60, size=len(known))
            for ids in (run(), run(**more)):
                texts = decode(tokenizer, np.asarray(ids))
                assert [text for text in texts if not pattern.fullmatch(text)] == []
                assert len(set(texts)) > 30
            checked.append((folder, type(spec)))
    assert len(checked) > 3, checked


def test_a_constraint_of_the_same_size_compiles_nothing() -> None:
    def make(spec: Constraint) -> Automaton:
        return constraints.compile(spec, TOY, special=SPECIAL, max_new_tokens=L)

    tables = jnp.asarray(np.random.default_rng(0).normal(size=(1, V, V)), jnp.float32)
    search(tables, make(Regex("a(ab|b)"))).scores.block_until_ready()
    with count_compilations() as programs:
        for spec in (Regex("b(a|ab)"), Characters("ab"), Lexicon(("a", "b"), separator=None)):
            search(tables, make(spec)).scores.block_until_ready()
    assert programs == []


# --- what cannot be


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Regex("("), "regex '\\('.*unterminated"),
        (Regex("a(?=b)"), "look-around"),
        (Regex(r"(a)\1"), "back-references"),
        (Regex(r"[^\s\S]"), "matches no text"),
        (Regex("[[a]]"), "nested set"),
        *((Regex(pattern), "anchor inside") for pattern in ("(^a|b)c", "(?:^|b)a", r"b|a\b", "(?m)a$\n^b")),
        *((Regex(pattern), "regular") for pattern in ("a*+a", "(b+?a?+)*", "(?>a|ab)b")),
        *((Regex(pattern), "the flag a is not understood") for pattern in (r"(?a)\d+", r"b|((?a:\w))+")),
        *((Regex(pattern), "flag x") for pattern in ("(?x)[a b]+", "b|((?x:[a b]))+")),
        (Regex("a(?#b|c)d"), "comment"),
        (Regex("c+"), "spells no text"),
        (Regex("(a ){4}"), "in 4 tokens"),
        (All(Prefix("a"), Regex("b+")), "no text satisfies"),
        (All(), "no constraint"),
        (Characters(""), "empty"),
        (Characters("xyz"), "none of the allowed characters 'xyz'"),
        (Prefix("x"), "spells no text"),
        (Lexicon(()), "lexicon is empty"),
        (Lexicon(("", "")), "lexicon is empty"),
        (Lexicon(("a",), separator=""), "separator"),
        (Lexicon((1,)), "str"),  # type: ignore[arg-type]
        (Lexicon("no/such/file"), "no/such/file"),
        (Lexicon(("ab", "ac", "a", "xa")), "2 of the lexicon's words \\('ac', 'xa'\\)"),
        (Lexicon([f"a{c}" for c in "cdefghi"]), "7 of.*'ac', 'ad', 'ae', 'af', 'ag', \\.\\.\\."),
        (All(Prefix("a"), Lexicon(("q",))), "1 of the lexicon's words \\('q'\\)"),
    ],
)
def test_what_cannot_be_satisfied_is_refused_before_any_compilation(spec: Constraint, message: str) -> None:
    with count_compilations() as programs, pytest.raises(DecodeError, match=message):
        constraints.compile(spec, TOY, special=SPECIAL, max_new_tokens=L)
    assert programs == []


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Characters("\udce9a"),
        lambda: Prefix("\udce9a"),
        lambda: Regex("\udce9a"),
        lambda: Lexicon(["a"], separator="\ud800"),
        lambda: Lexicon(["a", "\ud800"]).entries(),
        lambda: Lexicon("no\0path").entries(),
        lambda: Characters(["0", "1"]),  # type: ignore[arg-type]
        lambda: Prefix(5),  # type: ignore[arg-type]
        lambda: Regex(None),  # type: ignore[arg-type]
        lambda: Lexicon(["a"], separator=5),  # type: ignore[arg-type]
        lambda: Lexicon(["a", ["b"]]),  # type: ignore[list-item]
        lambda: Lexicon(5),  # type: ignore[arg-type]
        lambda: All("abc"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_text_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(DecodeError, match=r"no valid Unicode|give a str|no collection|All\(...\) holds|no.path"):
        wrong()


def test_spellings_of_another_model_are_refused() -> None:
    found = constraints.compile(Characters("ab"), TOY[:-1], special=SPECIAL, max_new_tokens=L)
    with pytest.raises(DecodeError, match="11 tokens and the model has 12"):
        search(np.zeros((1, V, V)), found)


def test_a_text_that_nothing_could_complete_has_no_confidence() -> None:
    decode = DecodeConfig(constraint=Regex("ab"), min_new_tokens=5, max_new_tokens=8)
    for search in (decode, replace(decode, num_beams=2)):
        (found,) = Recognizer.from_pretrained("tiny-printed")("samples/line_1.png", search)
        assert found.confidence == 0


def test_a_score_of_minus_infinity_says_that_other_processors_left_nothing() -> None:
    def no_b(scores: jax.Array, context: Context) -> jax.Array:
        holds_b = jnp.asarray([text is not None and b"b" in text for text in TOY])[None, None, :]
        return jnp.where(holds_b, -jnp.inf, scores)

    found = chain(no_b, constraints.compile(Regex("ab"), TOY, special=SPECIAL, max_new_tokens=L))
    tables = np.zeros((2, V, V))
    for samples in (0, 2):
        texts = search(tables, found, samples=samples)
        assert np.asarray(texts.scores == -np.inf).all()
        assert not np.isnan(texts.token_log_probs).any()
        texts = search(tables, chain(found, Normalize()), samples=samples)
        assert np.asarray(texts.scores == -np.inf).all()
    beams = search(tables, found, beams=4)
    assert np.asarray(beams.scores <= -1e9).all()  # empty places, as in transformers
    assert np.asarray(beams.token_ids == SPECIAL.pad).all()
    assert np.asarray(beams.token_log_probs == -np.inf).all()
    assert np.asarray(beams.model_log_probs == -np.inf).all()


def test_specs_are_hashable_and_files_are_read(tmp_path) -> None:
    assert {Characters("a"), Characters("a"), Lexicon(["a"]), Lexicon(("a",))} == {Characters("a"), Lexicon(("a",))}
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeffab\r\né b\n\na".encode())
    assert list(Lexicon(path).entries()) == ["ab", "é b", "a"]
    (tmp_path / "latin").write_bytes(b"\xe9\n")
    with pytest.raises(DecodeError, match="latin"):
        Lexicon(tmp_path / "latin").entries()
    assert compiled(0, False)[0].nbytes == sum(x.nbytes for x in jax.tree.leaves(compiled(0, False)[0]))
