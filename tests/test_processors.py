"""Processors against the classes of transformers that they stand for, on random scores and hypotheses."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig
from transformers.generation import GenerationMixin
from transformers.generation import logits_process as theirs

from tests import toy
from trocr_jax.decoding import Context, DecodeConfig, Special, beam_search, chain, filters, processors, sample
from trocr_jax.decoding.diverse import diverse_beam_search
from trocr_jax.decoding.order import check_token_ids, processor_for
from trocr_jax.decoding.pytree import pytree
from trocr_jax.decoding.types import Processor
from trocr_jax.errors import DecodeError

BATCH, BEAMS, VOCABULARY, LENGTH = 2, 3, 40, 12
START = END = 2
SPECIAL = Special(start=START, end=END, pad=1)


def hypotheses(seed: int, *, alphabet: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Scores [B, K, V] with some forbidden tokens, and tokens [B, K, 1 + L] of few kinds, so that they repeat."""
    random = np.random.default_rng(seed)
    scores = (random.normal(size=(BATCH, BEAMS, VOCABULARY)) * 4).astype(np.float32)
    scores[random.random(scores.shape) < 0.1] = -np.inf
    token_ids = random.integers(0, alphabet, (BATCH, BEAMS, 1 + LENGTH)).astype(np.int32)
    token_ids[..., 0] = START
    return scores, token_ids


@jax.jit
def apply(processor: Processor, scores: Any, token_ids: Any, position: Any) -> jax.Array:
    processor = chain(processor)
    return processor(scores, Context(token_ids, position, processors.init(processor, BATCH, BEAMS)))


def check_equal(ours: Processor, oracle: Any, *, seeds: range = range(2), at: tuple[int, ...] = (0, 1, 2, 6)) -> None:
    """`oracle`: transformers' (input_ids [N, T], scores [N, V]) -> scores. What follows `position` must not matter."""
    for seed in seeds:
        scores, token_ids = hypotheses(seed)
        for position in at:
            found = np.asarray(apply(ours, scores, token_ids, np.int32(position)))
            ids = torch.from_numpy(token_ids.reshape(BATCH * BEAMS, -1)[:, : position + 1].astype(np.int64))
            wanted = oracle(ids, torch.from_numpy(scores.reshape(BATCH * BEAMS, -1).copy())).numpy()
            wanted = wanted.reshape(scores.shape)
            np.testing.assert_array_equal(np.isneginf(found), np.isneginf(wanted), f"position {position}")
            np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6, err_msg=f"position {position}")


WORDS = [[7], [2, 3], [3, 3, 4], [2], [5, 0, 1, 8], [30], [4, 4]]
BIASES = {(7,): 1.5, (2, 3): -2.0, (3, 4): 0.5, (1, 1, 4): 3.0, (9,): -float("inf"), (0, 5, 4): 0.25, (4,): -1.0}
SOME = torch.tensor([END])
CASES: dict[str, tuple[Processor, Any]] = {
    "temperature": (filters.Temperature(0.7), theirs.TemperatureLogitsWarper(0.7)),
    "top_k": (filters.top_k(5), theirs.TopKLogitsWarper(5)),
    "top_k 1": (filters.top_k(1), theirs.TopKLogitsWarper(1)),
    "top_k 1, keep 2": (filters.top_k(1, min_tokens_to_keep=2), theirs.TopKLogitsWarper(1, min_tokens_to_keep=2)),
    "top_k of more than there are": (filters.top_k(900), theirs.TopKLogitsWarper(900)),
    "top_p": (filters.TopP(0.83), theirs.TopPLogitsWarper(0.83)),
    "top_p of nothing": (filters.TopP(0.0), theirs.TopPLogitsWarper(0.0)),
    "top_p, keep 2": (filters.TopP(0.3, 2), theirs.TopPLogitsWarper(0.3, min_tokens_to_keep=2)),
    "min_p": (filters.MinP(0.13), theirs.MinPLogitsWarper(0.13)),
    "min_p of all": (filters.MinP(1.0), theirs.MinPLogitsWarper(1.0)),
    "min_p, keep 2": (filters.MinP(0.9, 2), theirs.MinPLogitsWarper(0.9, min_tokens_to_keep=2)),
    "typical": (filters.Typical(0.6), theirs.TypicalLogitsWarper(0.6)),
    "typical of much": (filters.Typical(0.9999), theirs.TypicalLogitsWarper(0.9999)),
    "typical, keep 2": (filters.Typical(0.05, 2), theirs.TypicalLogitsWarper(0.05, min_tokens_to_keep=2)),
    "epsilon": (filters.EpsilonCutoff(0.02), theirs.EpsilonLogitsWarper(0.02)),
    "epsilon, keep 2": (filters.EpsilonCutoff(0.9, 2), theirs.EpsilonLogitsWarper(0.9, min_tokens_to_keep=2)),
    "eta": (filters.EtaCutoff(0.05), theirs.EtaLogitsWarper(0.05)),
    "eta, keep 2": (filters.EtaCutoff(0.99, 2), theirs.EtaLogitsWarper(0.99, min_tokens_to_keep=2)),
    "repetition": (processors.RepetitionPenalty(1.3), theirs.RepetitionPenaltyLogitsProcessor(1.3)),
    "repetition wanted": (processors.RepetitionPenalty(0.8), theirs.RepetitionPenaltyLogitsProcessor(0.8)),
    "no 1-gram": (processors.NoRepeatNGram(1), theirs.NoRepeatNGramLogitsProcessor(1)),
    "no 2-gram": (processors.NoRepeatNGram(2), theirs.NoRepeatNGramLogitsProcessor(2)),
    "no 3-gram": (processors.NoRepeatNGram(3), theirs.NoRepeatNGramLogitsProcessor(3)),
    "no 20-gram": (processors.NoRepeatNGram(20), theirs.NoRepeatNGramLogitsProcessor(20)),
    "bad words": (processors.bad_words(WORDS), theirs.NoBadWordsLogitsProcessor(WORDS)),
    "sequence bias": (
        processors.sequence_bias(BIASES),
        theirs.SequenceBiasLogitsProcessor([[list(ids), bias] for ids, bias in BIASES.items()]),
    ),
    "min_length": (processors.MinLength(3, END), theirs.MinLengthLogitsProcessor(4, END)),
    "min_new_tokens": (processors.MinLength(2, END), theirs.MinNewTokensLengthLogitsProcessor(1, 2, END)),
    "forced bos": (processors.ForcedBos(5), theirs.ForcedBOSTokenLogitsProcessor(5)),
    "forced eos": (processors.ForcedEos(np.asarray([END]), 7), theirs.ForcedEOSTokenLogitsProcessor(8, END)),
    "forced eos, two": (processors.ForcedEos(np.asarray([END, 9]), 3), theirs.ForcedEOSTokenLogitsProcessor(4, [2, 9])),
    "decay": (
        processors.ExponentialDecayLength(1, 1.2, END),
        theirs.ExponentialDecayLengthPenalty((1, 1.2), SOME, 1),
    ),
    "suppress": (processors.SuppressTokens(np.asarray([3, 9])), theirs.SuppressTokensLogitsProcessor([3, 9])),
    "begin": (processors.BeginSuppress(np.asarray([3, 9])), theirs.SuppressTokensAtBeginLogitsProcessor([3, 9], 1)),
    "begin behind bos": (
        processors.BeginSuppress(np.asarray([3]), 1),
        theirs.SuppressTokensAtBeginLogitsProcessor([3], 2),
    ),
    "invalid": (processors.RemoveInvalidValues(), theirs.InfNanRemoveLogitsProcessor()),
    "normalize": (processors.Normalize(), theirs.LogitNormalization()),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_processor_equals_that_of_transformers(name: str) -> None:
    check_equal(*CASES[name])


def test_every_processor_is_tested() -> None:
    tested = {type(ours).__name__ for ours, _ in CASES.values()} | {"Chain", "Function"}
    classes = {name for module in (processors, filters) for name, kind in vars(module).items() if isinstance(kind, type)
               and kind.__module__ == module.__name__}  # fmt: skip
    assert classes == tested


def test_nan_and_infinities_are_removed_as_transformers_does() -> None:
    scores, token_ids = hypotheses(0)
    scores[0, 0, :3] = np.nan, np.inf, -np.inf
    found = apply(processors.RemoveInvalidValues(), scores, token_ids, np.int32(1))
    wanted = theirs.InfNanRemoveLogitsProcessor()(torch.zeros(1, 1), torch.from_numpy(scores)).numpy()
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("name", ["no 2-gram", "bad words", "repetition", "top_p", "typical"])
def test_no_array_is_larger_than_the_scores(name: str) -> None:
    scores, token_ids = hypotheses(0)
    jaxpr = jax.make_jaxpr(lambda *x: apply(CASES[name][0], *x))(scores, token_ids, np.int32(3))

    def sizes(jaxpr: Any) -> Any:
        for equation in jaxpr.eqns:
            yield from (variable.aval.size for variable in equation.outvars)
            for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    yield from sizes(getattr(inner, "jaxpr", inner))

    found = list(sizes(jaxpr.jaxpr))
    assert max(found) == BATCH * BEAMS * VOCABULARY
    assert len(found) > 5


def test_equal_scores_at_a_threshold_are_all_kept() -> None:
    scores = np.full((BATCH, BEAMS, VOCABULARY), -9.0, np.float32)
    scores[..., :4] = 1.0
    _, token_ids = hypotheses(0)
    for ours in (filters.top_k(2), filters.TopP(0.4), filters.Typical(0.4), filters.MinP(0.9)):
        kept = np.isfinite(apply(ours, scores, token_ids, np.int32(0)))
        assert (kept.sum(axis=-1) == 4).all(), ours


def test_processors_of_two_classes_are_never_the_same_to_jit() -> None:
    def same(one: Processor, other: Processor) -> bool:
        return bool(operator.eq(jax.tree.structure(one), jax.tree.structure(other)))

    for first, _ in CASES.values():
        for second, _ in CASES.values():
            assert type(first) is type(second) or not same(first, second)
    assert same(filters.TopP(0.1), filters.TopP(0.2))
    assert not same(filters.TopP(0.1), filters.TopP(0.1, 2))
    named = jax.tree_util.tree_flatten_with_path(processors.MinLength(3, END))[0]
    assert [(jax.tree_util.keystr(path), leaf) for path, leaf in named] == [(".min_new_tokens", 3), (".end", END)]


class After:
    """A processor with a state that is no pytree: no end before `tokens` tokens."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def init(self, batch: int, beams: int) -> jax.Array:
        return jnp.zeros((batch, beams), jnp.int32)

    def advance(self, state: jax.Array, tokens: jax.Array) -> jax.Array:
        return state + 1

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        is_end = (jnp.arange(scores.shape[-1]) == toy.SPECIAL.end)[None, None]
        return jnp.where(is_end & (context.state < self.tokens)[..., None], -jnp.inf, scores)


def test_an_object_with_a_state_is_a_processor() -> None:
    tables = np.zeros((2, 6, toy.VOCABULARY), np.float32)
    tables[:, :, toy.SPECIAL.end] = 9
    step, cache = toy.toy(tables, 6)
    for processor in (After(3), chain(After(3)), chain(chain(After(3)), After(1))):
        found = sample(step, cache, batch=2, max_new_tokens=6, special=toy.SPECIAL, processor=processor)
        assert found.lengths.tolist() == [[4], [4]]

    @dataclass
    class Unhashable(After):
        tokens: int

    with pytest.raises(DecodeError, match="Unhashable: cannot be compiled; put @pytree before its class"):
        chain(Unhashable(1))


@pytree
@dataclass(frozen=True)
class Wrong:
    """A processor with a mistake."""

    mistake: str = field(metadata={"static": True})
    weight: Any = 1.0

    def init(self, batch: int, beams: int) -> jax.Array:
        return jnp.int32(0) if self.mistake == "state" else jnp.zeros((batch, beams))

    def advance(self, state: jax.Array, tokens: jax.Array) -> Any:
        return {"kind": tokens, "more": state[..., None], "list": [state]}.get(self.mistake, state)

    def __call__(self, scores: jax.Array, context: Context) -> Any:
        return {"rank": scores[0], "nothing": None, "type": scores > 0}.get(self.mistake, scores)


@pytest.mark.parametrize(
    ("mistake", "weight", "message"),
    [
        ("state", 1.0, r"Wrong: a state of shape \(\); give arrays of shape \(2, 3, …\)"),
        ("kind", 1.0, r"Wrong: advance makes int32\[2,3\] of a state float32\[2,3\]; give the same types"),
        ("more", 1.0, r"Wrong: advance makes float32\[2,3,1\] of a state float32\[2,3\]"),
        ("list", 1.0, r"Wrong: advance makes \[.*\] of a state float32\[2,3\]"),
        ("rank", 1.0, r"Wrong: gives float32\(3, 6\), not scores \[B, K, V\], floats\(2, 3, 6\)"),
        ("nothing", 1.0, r"Wrong: gives NoneType, not scores"),
        ("type", 1.0, r"Wrong: gives bool\(2, 3, 6\), not scores"),
        ("leaf", "much", r"Wrong\.weight is 'much', no number or array; make it a static field"),
    ],
)
def test_mistakes_are_said_of_the_processor(mistake: str, weight: Any, message: str) -> None:
    step, cache = toy.toy(np.zeros((2, 6, toy.VOCABULARY), np.float32), 6)
    with pytest.raises(DecodeError, match=message):
        beam_search(
            step,
            jax.tree.map(lambda leaf: jnp.repeat(leaf, 3, axis=1), cache),
            batch=2,
            num_beams=3,
            max_new_tokens=6,
            special=toy.SPECIAL,
            processor=chain(Wrong(mistake, weight)),
        )


def test_a_step_without_an_axis_of_hypotheses() -> None:
    def step(tokens: jax.Array, cache: Any, position: jax.Array) -> tuple[Any, Any]:
        return jnp.zeros((2, toy.VOCABULARY)), cache

    options: dict[str, Any] = {"batch": 2, "max_new_tokens": 3, "special": toy.SPECIAL}
    for search, more, beams in (
        (sample, {}, 1),
        (beam_search, {"num_beams": 2}, 2),
        (diverse_beam_search, {"num_beams": 2, "num_beam_groups": 2, "diversity_penalty": 1.0}, 2),
    ):
        with pytest.raises(DecodeError, match=rf"logits \[2, \d+\]: give \[B, K, V\], here \[2, {beams}, V\]"):
            search(step, jnp.zeros((2, beams)), **options, **more)


def test_a_score_that_is_nan_is_not_chosen() -> None:
    step, cache = toy.toy(np.zeros((1, toy.VOCABULARY, toy.VOCABULARY)), 3)
    odd = chain(lambda scores, context: scores.at[..., 4:].set(jnp.nan).at[..., 3].set(1.0))
    drawn = sample(step, cache, batch=1, max_new_tokens=3, special=toy.SPECIAL, processor=odd)
    two = jnp.repeat(cache, 2, axis=1)
    beams = beam_search(step, two, batch=1, num_beams=2, max_new_tokens=3, special=toy.SPECIAL, processor=odd)
    for found in (drawn, beams):
        assert found.token_ids[0, 0].tolist() == [3, 3, 3]
        assert np.isfinite(found.scores[0, 0])


def test_searches_check_what_they_are_asked() -> None:
    def search(batch: int = 2, cache: Any = (), early_stopping: Any = False) -> None:
        beam_search(
            lambda *given: given,
            cache,
            batch=batch,
            num_beams=2,
            max_new_tokens=3,
            special=toy.SPECIAL,
            early_stopping=early_stopping,
        )

    with pytest.raises(DecodeError, match="room for 2 tokens"):
        search(cache=SimpleNamespace(max_new_tokens=2))
    with pytest.raises(DecodeError, match="room for 2 tokens"):
        sample(lambda *given: given, SimpleNamespace(max_new_tokens=2), batch=2, max_new_tokens=3, special=toy.SPECIAL)
    with pytest.raises(DecodeError, match="batch is 0"):
        search(batch=0)
    for wrong in ("x", 1, np.True_):
        with pytest.raises(DecodeError, match=f"early_stopping is {re.escape(repr(wrong))}"):
            search(early_stopping=wrong)
    step, cache = toy.toy(np.zeros((2, toy.VOCABULARY, toy.VOCABULARY)), 3)
    with pytest.raises(DecodeError, match=r"gives .*, not scores"):
        sample(step, cache, batch=2, max_new_tokens=3, special=toy.SPECIAL, processor=lambda s, context: s[..., :3])


@pytest.mark.parametrize(
    ("given", "why"), [((DecodeConfig,), "holds the class Dec"), ((3,), "holds a int"), (3, "is a int")]
)
def test_what_is_no_processor_is_said(given: Any, why: str) -> None:
    with pytest.raises(DecodeError, match=f"processors {why}"):
        DecodeConfig(processors=given)


def test_a_check_of_values_sees_no_tracer() -> None:
    @pytree
    @dataclass(frozen=True, slots=True)
    class Against:
        weight: float

        def __post_init__(self) -> None:
            if self.weight < 0:
                raise ValueError("a weight below 0")

        def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
            return scores - self.weight

    found = jax.jit(lambda own: own(jnp.ones(2), None))(Against(2.0))
    assert found.tolist() == [-1, -1]
    with pytest.raises(ValueError, match="below 0"):
        Against(-1.0)


def test_sequences_need_a_token() -> None:
    nothing: list[list[list[int]]] = [[], [[]]]
    for words in nothing:
        with pytest.raises(DecodeError, match="sequence_bias"):
            processors.bad_words(words)


# Options in all combinations: the order is that of transformers' own _get_logits_processor.


class Oracle(GenerationMixin):
    """What transformers' function needs of a model."""

    config = SimpleNamespace(is_encoder_decoder=True)

    def processors(self, options: dict[str, Any], *, max_new_tokens: int, user: list) -> Any:
        config = GenerationConfig(max_length=max_new_tokens + 1, **options)
        config.update(**GenerationConfig._get_default_generation_params(), defaults_only=True)
        config._eos_token_tensor = torch.tensor([END])
        return self._get_logits_processor(config, input_ids_seq_length=1, logits_processor=user, device="cpu")


PENALTIES: dict[str, list[Any]] = {
    "repetition_penalty": [1.0, 1.4],
    "no_repeat_ngram_size": [0, 2],
    "bad_words_ids": [None, WORDS],
    "sequence_bias": [None, [[[7], 1.5], [[2, 3], -2.0]]],
    "min_length": [0, 4],
    "forced_bos_token_id": [None, 5],
    "forced_eos_token_id": [None, END],
    "exponential_decay_length_penalty": [None, (1, 1.2)],
    "suppress_tokens": [None, [3, 9]],
    "begin_suppress_tokens": [None, [4, 6]],
    "remove_invalid_values": [False, True],
    "renormalize_logits": [False, True],
}
SAMPLING: dict[str, list[Any]] = {
    "temperature": [1.0, 0.6, 1.7],
    "top_k": [50, 0, 3, 20],
    "top_p": [1.0, 0.9, 0.4],
    "min_p": [None, 0.05],
    "typical_p": [1.0, 0.8],
    "epsilon_cutoff": [0.0, 0.03],
    "eta_cutoff": [0.0, 0.04],
    "num_beams": [1, 3],
}


def double_token_8(ids: Any, scores: Any) -> Any:
    return torch.cat([scores[:, :8], scores[:, 8:9] * 2, scores[:, 9:]], dim=1)


def our_double_token_8(scores: jax.Array, context: Context) -> jax.Array:
    return scores.at[..., 8].multiply(2)


def options_of(names: dict[str, list[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({name: st.sampled_from(values) for name, values in names.items()})


def eager(ours: Processor, scores: np.ndarray, token_ids: np.ndarray, position: int) -> np.ndarray:
    state = processors.init(ours, BATCH, BEAMS)
    return np.asarray(ours(jnp.asarray(scores), Context(jnp.asarray(token_ids), jnp.int32(position), state)))


def check_options(options: dict[str, Any], seed: int, user: bool) -> None:
    config = DecodeConfig(max_new_tokens=LENGTH, processors=(our_double_token_8,) if user else (), **options)
    oracle = Oracle().processors(options, max_new_tokens=LENGTH, user=[double_token_8] if user else [])
    ours = processor_for(config, SPECIAL)
    assert len(ours.processors) == len(oracle)
    scores, token_ids = hypotheses(seed)
    for position in (0, LENGTH - 1):
        ids = torch.from_numpy(token_ids.reshape(BATCH * BEAMS, -1)[:, : position + 1].astype(np.int64))
        wanted = oracle(ids, torch.from_numpy(scores.reshape(BATCH * BEAMS, -1).copy())).numpy()
        wanted[np.isnan(wanted).all(axis=-1)] = -np.inf  # where nothing is left, it divides by nothing
        found = eager(ours, scores, token_ids, position).reshape(wanted.shape)
        np.testing.assert_array_equal(np.isneginf(found), np.isneginf(wanted))
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


NOTHING_LEFT = {
    "no_repeat_ngram_size": 2,
    "exponential_decay_length_penalty": (1, 1.2),
    "remove_invalid_values": True,
    "renormalize_logits": True,
}


@settings(max_examples=8, deadline=None)
@given(options_of(PENALTIES), st.integers(0, 1000), st.booleans())
@example(NOTHING_LEFT, 0, False)
def test_penalties_in_the_order_of_transformers(options: dict[str, Any], seed: int, user: bool) -> None:
    check_options(options, seed, user)


@settings(max_examples=8, deadline=None)
@given(options_of(SAMPLING), st.sampled_from([{}, {"repetition_penalty": 1.4, "renormalize_logits": True}]),
       st.integers(0, 1000), st.booleans())  # fmt: skip
def test_filters_leave_the_tokens_that_transformers_leaves(
    options: dict[str, Any], more: dict[str, Any], seed: int, user: bool
) -> None:
    check_options({**options, **more, "do_sample": True}, seed, user)


@pytest.mark.parametrize(
    "options",
    [
        {"bad_words_ids": [[1], [3, 40]]},
        {"sequence_bias": {(3, 40): 1.0}},
        {"forced_bos_token_id": 40},
        {"forced_eos_token_id": [2, 40]},
        {"suppress_tokens": [40]},
        {"begin_suppress_tokens": [40]},
    ],
)
def test_tokens_that_the_model_does_not_have_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(DecodeError, match=f"{next(iter(options))} holds token 40: .* 0 to 39"):
        check_token_ids(DecodeConfig(**options), VOCABULARY)
    check_token_ids(DecodeConfig(**options), VOCABULARY + 1)


def test_a_sequence_longer_than_the_text_with_token_0_does_not_count_yet() -> None:
    check_equal(
        processors.bad_words([[0, START, 3]]),
        theirs.NoBadWordsLogitsProcessor([[0, START, 3]], eos_token_id=[7]),
        seeds=range(1),
    )


@pytest.mark.parametrize(
    ("ours", "oracle"),
    [
        (filters.TopP(0.5), theirs.TopPLogitsWarper(0.5)),
        (filters.MinP(0.5), theirs.MinPLogitsWarper(0.5)),
        (filters.EpsilonCutoff(0.25), theirs.EpsilonLogitsWarper(0.25)),
    ],
    ids=["top_p", "min_p", "epsilon"],
)
def test_a_threshold_that_is_met_exactly(ours, oracle) -> None:
    scores = np.full((BATCH, BEAMS, VOCABULARY), -np.inf, np.float32)
    scores[..., :3] = np.log(np.array([0.5, 0.25, 0.25], np.float32))
    _, token_ids = hypotheses(0)
    wanted = oracle(None, torch.from_numpy(scores.reshape(-1, VOCABULARY).copy())).numpy().reshape(scores.shape)
    np.testing.assert_array_equal(np.isneginf(apply(ours, scores, token_ids, np.int32(0))), np.isneginf(wanted))
