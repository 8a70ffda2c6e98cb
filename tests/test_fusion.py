"""n-gram models against the definition of the ARPA format in plain Python, and fusion against brute force."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compilations import count_compilations
from tests.toy import END, PAD, SPECIAL, START, VOCABULARY, toy
from trocr_jax.decoding import Decoded, beam_search, chain, sample
from trocr_jax.decoding.fusion import NGram, ShallowFusion
from trocr_jax.errors import DecodeError

TOKENS: list[str | None] = ["<s>", "</s>", None, "a", "▁b", " "]  # of the toy model: START, END, PAD, 3, 4, 5
WORDS = ["<s>", "</s>", "a", "▁b", "▁"]  # how a file writes them
Table = dict[tuple[str, ...], tuple[float, float]]


def random_model(seed: int, order: int, words: list[str], *, unknown: bool, density: float = 0.5) -> Table:
    """log10 probabilities and back-off weights. They need not sum to one: the format does not ask for it. Prefixes of
    an n-gram may be missing, as in models that were pruned by others."""
    random = np.random.default_rng(seed)
    table: Table = {}
    words = [*words, "<unk>"] if unknown else words
    for n in range(1, order + 1):
        for ngram in itertools.product(words, repeat=n):
            if "</s>" in ngram[:-1] or "<s>" in ngram[1:] or (n > 1 and random.random() > density):
                continue
            weight = 0.0 if n == order or random.random() < 0.3 else -random.exponential()
            table[ngram] = (round(-random.exponential(), 4), round(weight, 4))
    return table


def write(path: Path, table: Table) -> Path:
    order = max(map(len, table))
    grams = [[ngram for ngram in table if len(ngram) == n] for n in range(1, order + 1)]
    lines = ["written for a test", "", "\\data\\", *(f"ngram {n}={len(g)}" for n, g in enumerate(grams, 1)), ""]
    for n, listed in enumerate(grams, 1):
        lines.append(f"\\{n}-grams:")
        for ngram in listed:
            log_prob, weight = table[ngram]
            lines.append(f"{log_prob}\t{' '.join(ngram)}" + (f"\t{weight}" if n < order else ""))
        lines.append("")
    text = "\n".join([*lines, "\\end\\", ""])
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def log10(table: Table, context: tuple[str, ...], word: str) -> float:
    """The format's definition: what is listed, else the weight of the context and the same with a shorter one."""
    if (*context, word) in table:
        return table[(*context, word)][0]
    if not context:
        return table[("<unk>",)][0] if ("<unk>",) in table else -100.0
    return table.get(context, (0.0, 0.0))[1] + log10(table, context[1:], word)


def by_definition(table: Table, tokens: list[str | None], sentence: list[int]) -> list[float]:
    """Natural log-probability of every token of a sentence."""
    history: tuple[str, ...] = ("<s>",)
    longest = max(map(len, table)) - 1
    found = []
    for token in sentence:
        text = tokens[token]
        if text is None or text == "<s>":
            found.append(0.0)
            continue
        word = "▁" if text == " " else text
        word = word if (word,) in table else "<unk>"
        found.append(log10(table, history[max(len(history) - longest, 0) :], word) * math.log(10))
        history = (*history, word)
    return found


def padded(lm: NGram, size: int) -> NGram:
    """With contexts and arcs that nothing leads to, so that models of all sizes share a program."""
    longer: dict[str, Any] = {}
    for name in ("first_arcs", "shorter", "backoffs", "paths", "unknowns", "arc_symbols", "arc_contexts"):
        array = getattr(lm, name)
        longer[name] = jnp.pad(array, (0, size - len(array)), constant_values=jnp.asarray(-7, array.dtype))
    log_probs = jnp.pad(lm.arc_log_probs, (0, size - len(lm.arc_log_probs)), constant_values=jnp.nan)
    return dataclasses.replace(lm, arc_log_probs=log_probs, **longer)


@jax.jit
def along(lm: NGram, sentences: jax.Array) -> jax.Array:
    """Log-probabilities of all tokens before each token of sentences [K, T], all of one image: [T, K, V]."""

    def step(contexts: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        return lm.advance(contexts, tokens[None]), lm.log_probs(contexts)[0]

    return jax.lax.scan(step, lm.init(1, len(sentences)), sentences.T)[1]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.booleans(), st.sampled_from([0.1, 0.5, 1.0]))
def test_probabilities_are_those_of_the_definition(tmp_path_factory, seed, order, unknown, density) -> None:
    table = random_model(seed, order, WORDS[: 3 if order == 4 else 5], unknown=unknown, density=density)
    lm = NGram.from_arpa(write(tmp_path_factory.mktemp("lm") / "a.arpa", table), TOKENS)
    sentences = np.random.default_rng(seed).integers(0, VOCABULARY, (6, 9))
    found = np.asarray(along(padded(lm, 1000), jnp.asarray(sentences)))
    for k, sentence in enumerate(sentences.tolist()):
        want = [
            [by_definition(table, TOKENS, [*sentence[:t], v])[-1] for v in range(VOCABULARY)]
            for t in range(len(sentence))
        ]
        np.testing.assert_allclose(found[:, k], want, rtol=1e-5, atol=1e-5)


def test_a_vocabulary_of_fifty_thousand_tokens(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    tokens: list[str | None] = ["<s>", None, "</s>", "<unk>", *(f"Ġ{i}" for i in range(50_261))]
    words = ["<s>", "</s>", "<unk>", *(f"Ġ{i}" for i in range(0, 3_000, 2))]
    table: Table = {(word,): (-3.5, -0.25) for word in words}
    popular = words[3:8]
    for first in ["<s>", *popular]:  # many arcs at one context, more than are looked at together
        table |= {(first, word): (-random.exponential(), -random.exponential()) for word in words[1:]}
    for pair in [ngram for ngram in table if len(ngram) == 2 and ngram[1] in popular]:
        table |= {(*pair, words[3 + i]): (-random.exponential(), 0.0) for i in range(100)}
    lm = NGram.from_arpa(write(tmp_path / "lm.arpa.gz", table), tokens)
    sentences = random.integers(0, 12, (3, 4)) + 3
    found = np.asarray(along(lm, jnp.asarray(sentences)))
    assert found.shape == (4, 3, 50_265)
    for k, sentence in enumerate(sentences.tolist()):
        for t in range(len(sentence)):
            some = [*range(20), *random.integers(0, 3_000, 20).tolist(), 50_264]
            want = [by_definition(table, tokens, [*sentence[:t], v])[-1] for v in some]
            np.testing.assert_allclose(found[t, k, some], want, rtol=1e-5, atol=1e-5)


# --- in a search


LENGTH = 3


def search(tables: np.ndarray, fusion: ShallowFusion, beams: int) -> Decoded:
    """Beams of the toy model; none for greedy search."""
    step, _ = toy(tables, LENGTH)
    cache = jnp.zeros((len(tables), max(beams, 1), LENGTH), jnp.int32)
    named: dict[str, Any] = {
        "batch": len(tables),
        "max_new_tokens": LENGTH,
        "special": SPECIAL,
        "processor": chain(fusion),
    }
    if not beams:
        return sample(step, cache, **named)
    return beam_search(step, cache, num_beams=beams, early_stopping="never", num_return_sequences=5, **named)


compiled = jax.jit(search, static_argnames="beams")


def logits(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, VOCABULARY, VOCABULARY)).astype(np.float32) * 2


def log_softmax(values: np.ndarray) -> np.ndarray:
    return values - np.logaddexp.reduce(values, axis=-1, keepdims=True)


def fused(log_probs: np.ndarray, table: Table, ids: tuple[int, ...], weight: float, bonus: float) -> list[float]:
    """What each token of a text adds to its score."""
    model = [log_probs[last, token] for last, token in itertools.pairwise((START, *ids))]
    lm = by_definition(table, TOKENS, list(ids))
    counted = [token not in (START, END, PAD) for token in ids]
    return [m + weight * p + bonus * c for m, p, c in zip(model, lm, counted, strict=True)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Table, NGram]:
    table = random_model(5, 3, WORDS, unknown=True)
    return table, NGram.from_arpa(write(tmp_path_factory.mktemp("lm") / "toy.arpa", table), TOKENS)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.4, 1.5]), st.sampled_from([0.0, 0.7]))
def test_all_beams_find_what_brute_force_finds(model, seed: int, weight: float, bonus: float) -> None:
    table, lm = model
    tables = logits(seed)
    found = compiled(tables, ShallowFusion(lm, weight, bonus), VOCABULARY**LENGTH)
    texts = [
        ids
        for n in range(1, LENGTH + 1)
        for ids in itertools.product(range(VOCABULARY), repeat=n)
        if END not in ids[:-1] and (n == LENGTH or ids[-1] == END)
    ]
    for i, log_probs in enumerate(log_softmax(tables)):
        scores = {ids: sum(fused(log_probs, table, ids, weight, bonus)) / len(ids) for ids in texts}
        best = sorted(scores, key=lambda ids: -scores[ids])[:5]
        np.testing.assert_allclose(found.scores[i], [scores[ids] for ids in best], atol=1e-4)
        for j, ids in enumerate(best):  # equal scores may come in any order
            mine = tuple(found.token_ids[i, j, : int(found.lengths[i, j])].tolist())
            assert scores[mine] == pytest.approx(scores[ids], abs=1e-4)


def test_greedy_search_maximises_the_sum_and_reports_it_normalised(model) -> None:
    table, lm = model
    tables = logits(11)
    found = compiled(tables, ShallowFusion(lm, 0.8, 0.3), 0)
    for i, log_probs in enumerate(log_softmax(tables)):
        ids: tuple[int, ...] = ()
        for t in range(int(found.lengths[i, 0])):
            choices = [fused(log_probs, table, (*ids, v), 0.8, 0.3)[-1] for v in range(VOCABULARY)]
            ids = (*ids, int(np.argmax(choices)))
            assert found.token_log_probs[i, 0, t] == pytest.approx(log_softmax(np.array(choices)).max(), abs=1e-5)
        assert found.token_ids[i, 0, : len(ids)].tolist() == list(ids)
        assert len(ids) == LENGTH or ids[-1] == END


def test_a_finished_text_says_nothing_to_its_neighbour(model) -> None:
    fusion = ShallowFusion(model[1], 0.8)
    tables = logits(12)
    tables[:, :, END] = -50.0
    together = compiled(tables, fusion, 0)
    ending = tables.copy()  # a program may be at work on the array itself
    ending[0, START, END] = 50.0  # the first line ends at once, the second goes on
    apart = compiled(ending, fusion, 0)
    assert apart.token_ids[0, 0].tolist() == [END, PAD, PAD]
    assert together.lengths[:, 0].tolist() == [LENGTH, LENGTH]
    assert np.isfinite(apart.scores).all()
    assert apart.token_ids[1].tolist() == together.token_ids[1].tolist()
    assert apart.scores[1] == together.scores[1]


def test_another_weight_or_bonus_compiles_nothing(model) -> None:
    tables = logits(13)
    first = compiled(tables, ShallowFusion(model[1], 0.1, 0.0), 0)
    with count_compilations() as programs:
        second = compiled(tables, ShallowFusion(model[1], 5.0, -2.0), 0)
        compiled(tables, ShallowFusion(model[1], 1, np.float32(0.5)), 0)
    assert programs == []
    assert first.scores.tolist() != second.scores.tolist()


def test_weights_count_where_the_highest_orders_are_empty(tmp_path: Path) -> None:
    table = random_model(3, 2, WORDS, unknown=False, density=1.0)
    table = {ngram: (log_prob, -0.5) for ngram, (log_prob, _) in table.items()}
    table[("</s>",) * 3] = (-0.1, 0.0)  # which no sentence has
    text = write(tmp_path / "lm.arpa", table).read_text()
    text = text.replace("ngram 3=1", "ngram 3=0").replace("-0.1\t</s> </s> </s>\n", "")
    (tmp_path / "lm.arpa").write_text(text)
    lm = NGram.from_arpa(tmp_path / "lm.arpa", TOKENS)
    sentence = [3, 4, 3, 3]
    found = along(lm, jnp.asarray([sentence]))[jnp.arange(4), 0, jnp.asarray(sentence)]
    np.testing.assert_allclose(found, by_definition(table, TOKENS, sentence), rtol=1e-5, atol=1e-5)


# --- files that cannot be used


GOOD = "\\data\\\nngram 1=3\n\n\\1-grams:\n-1 <s> -0.5\n-1 </s>\n-1 a\n\n\\end\\\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no \\\\data\\\\ header"),
        ("{}", "no \\\\data\\\\ header"),
        (GOOD.replace("\\end\\\n", ""), "cut off"),
        (GOOD.replace("ngram 1=3", "ngram 1=4"), "has 3 1-grams where its header says 4"),
        (GOOD.replace("ngram 1=3", "ngram 1=3\nngram 2=1"), "ends behind 1 of 2 orders"),
        (GOOD.replace("ngram 1=3", "3 words"), "line 2: is no count"),
        (GOOD.replace("-1 a", "-1"), "line 7: is not a 1-gram"),
        (GOOD.replace("-1 a", "x a"), "line 7: could not convert"),
        (GOOD.replace("-1 a", "nan a"), "no number"),
        (GOOD.replace("-1 a", "-1 </s>"), "line 7: a word is listed twice"),
        (GOOD.replace("\\1-grams", "\\2-grams"), "1-grams are missing"),
        (
            GOOD.replace("ngram 1=3", "ngram 1=3\nngram 2=1").replace("\\end", "\\2-grams:\n-1 a z\n\\end"),
            "'z' is not among",
        ),
        (
            GOOD.replace("ngram 1=3", "ngram 1=3\nngram 2=2").replace("\\end", "\\2-grams:\n-1 a a\n-1 a a\n\\end"),
            "2-gram twice",
        ),
    ],
)
def test_what_is_not_arpa_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "lm.arpa"
    path.write_text(text)
    with pytest.raises(DecodeError, match=said) as caught:
        NGram.from_arpa(path, TOKENS)
    assert str(path) in str(caught.value)


def test_damaged_and_missing_files_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "lm.arpa.gz"
    with pytest.raises(DecodeError, match=r"lm\.arpa\.gz: no such file"):
        NGram.from_arpa(path, TOKENS)
    with pytest.raises(DecodeError, match="cannot be read"):
        NGram.from_arpa(tmp_path, TOKENS)
    path.write_bytes(gzip.compress(GOOD.encode())[:-12])
    with pytest.raises(DecodeError, match=r"lm\.arpa\.gz: "):
        NGram.from_arpa(path, TOKENS)
    path.write_bytes(GOOD.replace("-1 a", "-1 \udcff").encode("utf-8", "surrogateescape"))
    with pytest.raises(DecodeError, match="not UTF-8"):
        NGram.from_arpa(path, TOKENS)


def test_a_fusion_of_what_is_no_model_or_no_number_is_refused(tmp_path: Path) -> None:
    lm = NGram.from_arpa(write(tmp_path / "lm.arpa", random_model(0, 1, WORDS, unknown=False)), TOKENS)
    for weight in ("0.5", math.nan, True):
        with pytest.raises(DecodeError, match=r"weight is .*: give a finite number"):
            ShallowFusion(lm, weight=weight)  # type: ignore[arg-type]
    with pytest.raises(DecodeError, match=r"lm is 'lm\.arpa': give a language model, as NGram\.from_arpa"):
        ShallowFusion("lm.arpa")  # type: ignore[arg-type]
    assert ShallowFusion(lm, weight=np.int64(1)).weight == ShallowFusion(lm, weight=jnp.float32(1)).weight == 1


def test_a_model_of_other_words_is_refused_with_some_of_them(tmp_path: Path) -> None:
    words = ["<s>", "</s>", "<unk>", "a", *(f"word{i}" for i in range(7))]
    path = write(tmp_path / "lm.arpa", {(word,): (-1.0, 0.0) for word in words})
    with pytest.raises(DecodeError, match=r"7 of its 11 words are no tokens of this model, such as 'word0', 'word1'"):
        NGram.from_arpa(path, TOKENS)
