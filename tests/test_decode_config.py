"""DecodeConfig: what it refuses, what it makes of a generation_config.json, what compiles anew, and what is drawn."""

from __future__ import annotations

import json
import math
from collections import Counter
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import GenerationConfig

import trocr_jax
from tests.compilations import count_compilations
from tests.small_models import save_transformers, transformers_model
from tests.tiny import HEIGHT, WIDTH, tiny_config, tiny_model
from trocr_jax import DecodeConfig, checkpoint, generation, generation_plan
from trocr_jax.decoding import Decoded, Special, categorical, chain, filters, greedy, sample
from trocr_jax.decoding.config_huggingface import OURS, UNSUPPORTED, WITHOUT_EFFECT
from trocr_jax.decoding.constraints import All, Constraint, Regex
from trocr_jax.errors import DecodeError

# As the published folders have it; the values of old versions are those of transformers 4.
PUBLISHED = {
    "_from_model_config": True,
    "bos_token_id": 0,
    "decoder_start_token_id": 2,
    "eos_token_id": 2,
    "pad_token_id": 1,
    "transformers_version": "4.27.0.dev0",
    "use_cache": False,
}


class Unhashable(Constraint):
    __hash__ = None  # type: ignore[assignment]  # as of a dataclass that is not frozen


@pytest.mark.parametrize(
    "options",
    [
        {"num_beam_groups": 0},
        {"min_length": -1},
        {"min_new_tokens": 1.5},
        {"no_repeat_ngram_size": -1},
        {"seed": -1},
        {"seed": 2**32},
        {"length_penalty": float("nan")},
        {"length_penalty": "1"},
        {"repetition_penalty": 0},
        {"repetition_penalty": float("inf")},
        {"temperature": 0, "do_sample": True},
        {"temperature": True, "do_sample": True},
        {"temperature": 1e-40, "do_sample": True},
        {"temperature": 1.2e-38, "do_sample": True},
        {"top_k": -1, "do_sample": True},
        {"top_k": None, "do_sample": True},
        {"top_p": 1.1, "do_sample": True},
        {"min_p": -0.1, "do_sample": True},
        {"typical_p": 0, "do_sample": True},
        {"epsilon_cutoff": 1, "do_sample": True},
        {"eta_cutoff": -1, "do_sample": True},
        {"do_sample": 1},
        {"constraint": "[0-9]+"},
        {"constraint": Regex},  # not called
        {"constraint": All(Unhashable())},
        {"early_stopping": 1},
        {"renormalize_logits": None},
        {"choose": "worst"},
        {"bad_words_ids": []},
        {"bad_words_ids": [[]]},
        {"bad_words_ids": [3]},
        {"bad_words_ids": "no"},
        {"bad_words_ids": [[-1]]},
        {"bad_words_ids": [["a"]]},
        {"sequence_bias": []},
        {"sequence_bias": {(1,): float("nan")}},
        {"sequence_bias": {(1,): float("inf")}},
        {"sequence_bias": {(): 1.0}},
        {"sequence_bias": [[1, 2, 3]]},
        {"forced_bos_token_id": -1},
        {"forced_bos_token_id": [1]},
        {"forced_eos_token_id": []},
        {"suppress_tokens": 3},
        {"begin_suppress_tokens": [True]},
        {"exponential_decay_length_penalty": (3,)},
        {"exponential_decay_length_penalty": (3, -1.0)},
        {"processors": "none"},
        {"processors": (3,)},
        # contradictions
        {"temperature": 0.7},
        {"top_k": 5},
        {"top_p": 0.9},
        {"min_p": 0.1},
        {"typical_p": 0.9},
        {"epsilon_cutoff": 0.1},
        {"eta_cutoff": 0.1},
        {"num_return_sequences": 4, "num_beams": 3, "do_sample": True},
        {"min_length": 66},
        {"min_new_tokens": 65},
        {"min_length": 3, "min_new_tokens": 3},
        {"diversity_penalty": 0.5, "num_beams": 4},
        {"diversity_penalty": 0.0, "num_beams": 4, "num_beam_groups": 2},
        {"num_beam_groups": 3, "num_beams": 4, "diversity_penalty": 0.5},
        {"num_beam_groups": 2, "num_beams": 4, "diversity_penalty": 0.5, "do_sample": True},
        {"forced_eos_token_id": [2, 3], "suppress_tokens": [3, 2, 1]},
        {"forced_bos_token_id": 3, "suppress_tokens": [3]},
    ],
)
def test_options_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(DecodeError, match=next(iter(options))):
        DecodeConfig(**options)


def test_limits_themselves_are_allowed() -> None:
    DecodeConfig(min_length=65, do_sample=True, top_p=0, top_k=0, min_p=1, typical_p=1, num_return_sequences=9)
    DecodeConfig(min_new_tokens=64, num_beams=4, num_return_sequences=4, num_beam_groups=4, diversity_penalty=1)
    DecodeConfig(seed=2**32 - 1, sequence_bias={(1, 2): -float("inf")}, forced_eos_token_id=2, suppress_tokens=[])


def test_equal_options_are_equal_however_written() -> None:
    one = DecodeConfig(bad_words_ids=[[1], [2, 3]], sequence_bias={(4,): 1}, forced_eos_token_id=2)
    other = DecodeConfig(bad_words_ids=((1,), (2, 3)), sequence_bias=[([4], 1.0)], forced_eos_token_id=[2])
    assert one == other
    assert hash(one) == hash(other)


def test_numbers_of_numpy_are_numbers() -> None:
    given = DecodeConfig(
        num_beams=np.int64(4),  # type: ignore[arg-type]
        early_stopping=np.True_,  # type: ignore[arg-type]
        length_penalty=np.float32(0.5),  # type: ignore[arg-type]
        seed=np.int32(3),  # type: ignore[arg-type]
        suppress_tokens=np.array([5, 6]),  # type: ignore[arg-type]
        bad_words_ids=list(np.array([[1], [2]])),
        exponential_decay_length_penalty=(np.int64(2), np.float32(1.5)),  # type: ignore[arg-type]
    )
    assert given == DecodeConfig(
        num_beams=4,
        early_stopping=True,
        length_penalty=0.5,
        seed=3,
        suppress_tokens=[5, 6],
        bad_words_ids=[[1], [2]],
        exponential_decay_length_penalty=(2, 1.5),
    )
    assert "np." not in repr(given)
    for wrong in (np.float32(4), np.bool_(True), np.int64(0)):
        with pytest.raises(DecodeError, match="num_beams is"):
            DecodeConfig(num_beams=wrong)  # type: ignore[arg-type]


# generation_config.json


def test_a_published_file_means_what_generate_does() -> None:
    assert DecodeConfig.from_generation_config(PUBLISHED) == DecodeConfig(max_new_tokens=20)
    assert DecodeConfig.from_generation_config({**PUBLISHED, "max_length": 64, "num_beams": 4}) == DecodeConfig(
        max_new_tokens=63, num_beams=4
    )


@pytest.mark.parametrize(
    ("options", "overrides", "wanted"),
    [
        ({"max_length": 30, "max_new_tokens": 9}, {}, {"max_new_tokens": 9}),
        ({"max_length": 30}, {"max_new_tokens": 7}, {"max_new_tokens": 7}),
        ({"max_length": np.int64(30)}, {}, {"max_new_tokens": 29}),
        ({"max_length": None, "top_k": None, "num_beams": None}, {}, {}),
        ({"min_length": 4, "min_new_tokens": 6}, {}, {"min_new_tokens": 6}),
        ({"min_length": 4}, {"min_new_tokens": 6}, {"min_new_tokens": 6}),
        ({"min_new_tokens": 6}, {"min_length": 4}, {"min_length": 4}),
        ({"temperature": 0.5, "top_k": 3}, {}, {}),  # generate does not read them without do_sample
        ({"temperature": 0.5}, {"do_sample": True}, {"temperature": 0.5, "do_sample": True}),
        ({"do_sample": True, "top_p": 0.8}, {"seed": 4}, {"do_sample": True, "top_p": 0.8, "seed": 4}),
        ({"do_sample": True, "top_p": 0.8}, {"do_sample": False}, {}),
        ({"diversity_penalty": 0.5}, {}, {}),
        ({"encoder_repetition_penalty": 1.0, "guidance_scale": 1, "penalty_alpha": 0.0}, {}, {}),
        ({"bad_words_ids": [[3], [4, 5]]}, {}, {"bad_words_ids": [[3], [4, 5]]}),
        ({"sequence_bias": [[[3, 4], -1.5]]}, {}, {"sequence_bias": {(3, 4): -1.5}}),
        ({"eos_token_id": [2]}, {}, {}),
    ],
)
def test_options_of_a_file(options: dict[str, Any], overrides: dict[str, Any], wanted: dict[str, Any]) -> None:
    found = DecodeConfig.from_generation_config({**PUBLISHED, **options}, **overrides)
    assert found == DecodeConfig(**{"max_new_tokens": 20, **wanted})


@pytest.mark.parametrize(
    "options",
    [
        {"penalty_alpha": 0.6},
        {"guidance_scale": 1.5},
        {"encoder_repetition_penalty": 1.2},
        {"encoder_no_repeat_ngram_size": 3},
        {"stop_strings": ["."]},
        {"max_time": 3.0},
        {"watermarking_config": {"bias": 2.0}},
        {"top_h": 0.4},
        {"force_words_ids": [[3]]},
        {"is_assistant": True},
        {"num_beam": 4},
        {"seed": 4},
        {"max_length": 1},
        {"max_length": 20.5},
        {"eos_token_id": [2, 3]},
        {"num_return_sequences": 2},
        {"min_length": 30},
    ],
)
def test_what_would_change_the_text_and_is_not_supported_is_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(DecodeError, match=next(iter(options))):
        DecodeConfig.from_generation_config({**PUBLISHED, **options})


def test_overrides_are_checked() -> None:
    for name, value in {"max_length": 3, "temperature": 0.5, "num_beams": 0}.items():
        with pytest.raises(DecodeError, match=name):
            DecodeConfig.from_generation_config(PUBLISHED, **{name: value})


def test_every_option_of_transformers_is_known() -> None:
    ours = set(DecodeConfig.__dataclass_fields__) - OURS
    names = set(vars(GenerationConfig())) | set(GenerationConfig._get_default_generation_params())
    assert names - ours - {"max_length"} <= WITHOUT_EFFECT | UNSUPPORTED.keys()
    assert not ours & (WITHOUT_EFFECT | UNSUPPORTED.keys())
    assert ours <= names


def test_defaults_are_those_of_transformers() -> None:
    for name, value in GenerationConfig._get_default_generation_params().items():
        if name in DecodeConfig.__dataclass_fields__:
            assert getattr(DecodeConfig(), name) == value, name
        elif name in UNSUPPORTED:
            assert UNSUPPORTED[name] == value, name


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    broken, text = tmp_path / "broken.json", tmp_path / "list.json"
    broken.write_text("{", encoding="utf-8")
    text.write_text("[]", encoding="utf-8")
    for source, name in ((broken, "broken.json"), (text, "list.json"), (tmp_path, "generation_config.json")):
        with pytest.raises(DecodeError, match=name):
            DecodeConfig.from_generation_config(source)
    (tmp_path / "generation_config.json").write_text(json.dumps({**PUBLISHED, "num_beams": 3}), encoding="utf-8")
    with pytest.raises(DecodeError, match=r"nowhere\.json: no such file"):
        DecodeConfig.from_generation_config(tmp_path / "nowhere.json")
    with pytest.raises(DecodeError, match=r"a GenerationConfig is no .*to_dict"):
        DecodeConfig.from_generation_config(GenerationConfig())
    sources: list[Path | str] = [tmp_path, str(tmp_path), tmp_path / "generation_config.json"]
    for folder in sources:
        assert DecodeConfig.from_generation_config(folder).num_beams == 3


def test_options_of_before_there_was_a_file_of_their_own(tmp_path: Path) -> None:
    """transformers reads them in config.json, first at its top level, then in the decoder."""
    top = {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "max_length": 16, "top_k": None, "extra": 1}
    decoder = {"num_beams": 2, "no_repeat_ngram_size": 3, "max_length": 20, "do_sample": False, "vocab_size": 50}
    (tmp_path / "config.json").write_text(json.dumps({**top, "decoder": decoder, "encoder": {"min_length": 9}}))
    theirs = GenerationConfig.from_model_config({**top, "decoder": decoder})
    found = DecodeConfig.from_generation_config(tmp_path)
    for name in ("num_beams", "length_penalty", "early_stopping", "no_repeat_ngram_size"):
        assert getattr(found, name) == getattr(theirs, name), name
    assert theirs.max_length is not None
    assert found.max_new_tokens == theirs.max_length - 1
    assert found.min_length == 0
    (tmp_path / "config.json").write_text(json.dumps({"decoder": {"max_time": 1.0}}))
    with pytest.raises(DecodeError, match=r"max_time is 1\.0"):
        DecodeConfig.from_generation_config(tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_length": 16, "repetition_penalty": 1.6, "no_repeat_ngram_size": 2, "min_length": 7,
         "bad_words_ids": [[11], [12, 13], [40]], "temperature": 0.3, "forced_eos_token_id": 2},
        {"max_new_tokens": 12, "num_beams": 3, "num_return_sequences": 2, "length_penalty": 2.0, "early_stopping": True,
         "repetition_penalty": 1.3, "sequence_bias": [[[9], 1.5], [[5, 6], -4.0]], "forced_bos_token_id": 7,
         "exponential_decay_length_penalty": (2, 1.1), "begin_suppress_tokens": [9], "suppress_tokens": [20, 21],
         "renormalize_logits": True, "min_new_tokens": 4},
    ],
    ids=["nothing", "greedy", "beams"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Using the model-agnostic default `max_length`:UserWarning")
def test_a_file_that_transformers_saved_gives_the_text_of_transformers(options: dict[str, Any], tmp_path: Path) -> None:
    theirs, ours = transformers_model("base"), our_model()
    special = {"decoder_start_token_id": 2, "eos_token_id": 2, "pad_token_id": 1, "bos_token_id": 0}
    # Written as a file by itself: save_pretrained refuses what generate only warns about.
    GenerationConfig(**special, **options).to_json_file(tmp_path / "generation_config.json")
    config = GenerationConfig.from_pretrained(tmp_path)
    pixels = np.random.default_rng(5).uniform(-1, 1, (3, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        out = theirs.generate(
            torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()),
            generation_config=config,
            return_dict_in_generate=True,
            output_scores=True,
        )
    decode = DecodeConfig.from_generation_config(tmp_path)
    found = trocr_jax.generate(ours, jnp.asarray(pixels), decode)
    wanted = out.sequences[:, 1:].numpy()
    token_ids = np.asarray(found.token_ids).reshape(len(wanted), -1)
    np.testing.assert_array_equal(token_ids[:, : wanted.shape[1]], wanted)
    assert (token_ids[:, wanted.shape[1] :] == 1).all()
    if decode.num_beams > 1:
        np.testing.assert_allclose(np.ravel(found.scores), out.sequences_scores.numpy(), atol=1e-4)
    else:
        scores = theirs.compute_transition_scores(out.sequences, out.scores, normalize_logits=True).numpy()
        lengths = np.ravel(found.lengths)
        for i, length in enumerate(lengths):
            np.testing.assert_allclose(found.token_log_probs[i, 0, :length], scores[i, :length], atol=1e-4)


@cache
def our_model() -> trocr_jax.TrOCR:
    with TemporaryDirectory() as folder:
        return checkpoint.load(save_transformers("base", Path(folder)))


# Compilation


@cache
def model() -> trocr_jax.TrOCR:
    return tiny_model(scale=6)


def pixels(count: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, (count, HEIGHT, WIDTH, 3)), jnp.float32)


def read(images: jax.Array, **options: Any) -> Decoded:
    return trocr_jax.generate(model(), images, DecodeConfig(max_new_tokens=8, **options))


@pytest.mark.parametrize(
    "cases",
    [
        [
            {"do_sample": True, "temperature": t, "top_k": k, "top_p": p, "min_p": m, "typical_p": y, "seed": s,
             "epsilon_cutoff": e, "eta_cutoff": e / 2, "repetition_penalty": r, "bad_words_ids": w}
            for t, k, p, m, y, s, e, r, w in [
                (0.7, 50, 0.9, 0.01, 0.9, 1, 0.01, 1.2, [[5], [6, 7]]),
                (2, 3, 0.25, 1, 0.5, 2**31, 0.3, 3, [[8, 9], [10]]),
            ]
        ],
        [
            {"num_beams": 3, "length_penalty": p, "repetition_penalty": r, "no_repeat_ngram_size": 2, "min_length": m,
             "sequence_bias": b, "suppress_tokens": t, "exponential_decay_length_penalty": d, "forced_bos_token_id": f}
            for p, r, m, b, t, d, f in [
                (1.0, 1.2, 3, {(5,): 1.0}, [3], (2, 1.1), 4),
                (2, 2, 4, {(6,): -1}, [9], (3, 2), 5),
            ]
        ],
    ],
    ids=["sampling", "beams"],
)  # fmt: skip
def test_other_numbers_compile_nothing(cases: list[dict[str, Any]]) -> None:
    images = pixels(2)
    with count_compilations() as compiled:
        first = read(images, **cases[0])
    assert len(compiled) > 0
    with count_compilations() as compiled:
        second = read(images, **cases[1])
        jax.block_until_ready(second)
    assert compiled == []
    assert (first.token_ids != second.token_ids).any()


def test_tokens_that_the_model_does_not_have_are_refused_before_compilation() -> None:
    images, vocabulary = pixels(2), tiny_config().decoder.vocab_size
    model()
    with (
        count_compilations() as compiled,
        pytest.raises(DecodeError, match=f"suppress_tokens holds token {vocabulary}"),
    ):
        read(images, suppress_tokens=[vocabulary])
    assert compiled == []


# Sampling


SAMPLES = {"do_sample": True, "num_return_sequences": 2}


def test_top_k_of_one_is_greedy() -> None:
    images = pixels(6)
    likeliest = read(images).token_ids
    assert (read(images, **SAMPLES, top_k=1, seed=3).token_ids == likeliest).all()
    assert (read(images, **SAMPLES, top_k=2, seed=3).token_ids != likeliest).any()


def test_what_is_drawn_for_a_line_depends_on_its_pixels_and_the_seed_alone() -> None:
    images = pixels(6)
    together = np.asarray(read(images, **SAMPLES).token_ids)
    order = jnp.asarray([4, 2, 0, 5, 1, 3])
    np.testing.assert_array_equal(read(images[order], **SAMPLES).token_ids, together[order])
    np.testing.assert_array_equal(read(images[3:5], **SAMPLES).token_ids, together[3:5])
    some = jnp.asarray([1, 1, 0, 1, 2, 1])
    np.testing.assert_array_equal(read(images[some], **SAMPLES).token_ids, together[some])  # equal lines, equal draws
    assert (together[:, 0] != together[:, 1]).any(axis=1).all()  # the samples of a line differ
    assert (read(images, seed=1, **SAMPLES).token_ids != together).any(axis=(1, 2)).all()


def test_images_that_differ_have_keys_that_differ() -> None:
    images = np.full((20, 8, 64, 3), 255, np.uint8)  # two dark dots each, as far left of the middle as right of it
    for i, image in enumerate(images, 1):
        image[4, [32 - i, 32 + i]] = 0
    for some in (images, images.astype(np.float32) / 255):
        keys = np.asarray(jax.random.key_data(generation.line_keys(jnp.asarray(some), np.uint32(0))))
        assert len(np.unique(keys, axis=0)) == len(images)


def test_draws_of_beams_belong_to_the_line_too() -> None:
    images, options = pixels(6), {"do_sample": True, "num_beams": 3}
    together = np.asarray(read(images, **options).token_ids)
    np.testing.assert_array_equal(read(images[::-1], **options).token_ids, together[::-1])
    assert (read(images, seed=1, **options).token_ids != together).any()


@pytest.mark.parametrize("absorbed", [False, True])
def test_samples_of_an_image_share_one_memory(absorbed: bool) -> None:
    ours, images, samples = model(), pixels(2), 5
    config = DecodeConfig(max_new_tokens=8, do_sample=True, num_return_sequences=samples)
    shape, numbers = generation_plan.plan(config, ours.config)
    shape = shape._replace(absorbed=absorbed)

    def advance(images: jax.Array) -> Any:
        memory, keys = generation.read(ours, images, numbers.seed, jnp.dtype(jnp.float32), None)
        cross = generation.cross_of(ours, memory, shape, jnp.float32)
        search = generation._search(ours, cross, keys, numbers, shape, jnp.dtype(jnp.float32))
        return cross, search.state, search.advance(search.state)

    cross, state, _ = jax.eval_shape(advance, images)
    # what is computed of the images; absorbed, the layers' projections stand beside it
    memory = {kept.memory.shape if absorbed else kept.key.shape for kept in cross}
    assert not any(samples in shape for shape in memory)
    assert not memory & {leaf.shape for leaf in jax.tree.leaves(state)}  # the loop does not carry it
    numbers_of_memory = {math.prod(shape) for shape in memory}
    for equation in jax.make_jaxpr(advance)(images).jaxpr.eqns:
        for variable in equation.outvars:  # a copy for each sample would be as large as this
            assert math.prod(variable.aval.shape) not in {samples * n for n in numbers_of_memory}, equation


def test_tokens_are_drawn_by_their_probability() -> None:
    logits = jnp.log(jnp.asarray([0.4, 0.3, 0.2, 0.06, 0.04], jnp.float32))
    count, special = 4000, Special(start=0, end=99, pad=98)

    def step(tokens: jax.Array, cache: jax.Array, position: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.broadcast_to(logits, (*tokens.shape, 5)), cache

    def draw(processor: Any) -> np.ndarray:
        keys = jax.vmap(jax.random.key)(jnp.arange(count // 8))
        found = sample(step, jnp.zeros((count // 8, 4, 1)), batch=count // 8, samples=4, max_new_tokens=2,
                       special=special, choose=categorical(keys), processor=processor)  # fmt: skip
        return np.asarray(found.token_ids)  # [500, 4, 2]

    def check(token_ids: np.ndarray, wanted: np.ndarray) -> None:
        seen = np.bincount(token_ids.ravel(), minlength=5) / count
        assert not seen[wanted == 0].any()
        some = wanted > 0
        chi_square = count * ((seen[some] - wanted[some]) ** 2 / wanted[some]).sum()
        assert chi_square < 18.5  # 4 degrees of freedom: exceeded once in 1,000 seeds

    token_ids = draw(chain())
    check(token_ids, np.asarray([0.4, 0.3, 0.2, 0.06, 0.04]))
    pairs = Counter(map(tuple, token_ids.reshape(-1, 2).tolist()))  # the two positions are independent
    assert abs(pairs[0, 0] / (count / 2) - 0.16) < 0.03
    across = (token_ids[:, 0, 0] == token_ids[:, 1, 0]).mean()  # and so are the samples of an image
    assert abs(across - 0.2952) < 0.07
    check(draw(chain(filters.TopP(0.85))), np.asarray([4, 3, 2, 0, 0]) / 9)
    squared = np.asarray([0.4, 0.3, 0.2, 0.06, 0.04]) ** 2
    check(draw(chain(filters.Temperature(0.5))), squared / squared.sum())


def test_greedy_is_the_limit_of_sampling() -> None:
    log_probs = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 7)), jnp.float32)
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    drawn = categorical(keys)(log_probs * 1e6, jnp.int32(0))
    assert (drawn == greedy(log_probs, jnp.int32(0))).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length_penalty": 10**400}, "length_penalty is 1000"),
        ({"length_penalty": 1e39}, r"length_penalty is 1e\+39: give a number of at most 3.4e\+38"),
        ({"sequence_bias": {(1,): 1e39}}, "sequence_bias is"),
        ({"repetition_penalty": 1e-46}, "repetition_penalty is 1e-46: give a number above 0"),
        ({"do_sample": True, "top_k": 3 * 10**9}, r"top_k is 3000000000: give a whole number below 2\*\*31"),
        (
            {"exponential_decay_length_penalty": (3 * 10**9, 1.1)},
            "exponential_decay_length_penalty is 3000000000: give",
        ),
        ({"do_sample": True, "seed": 2**32}, r"seed is 4294967296: give a whole number below 2\*\*32"),
    ],
)
def test_numbers_that_a_device_does_not_hold_are_refused(options, message):
    with pytest.raises(DecodeError, match=message):
        DecodeConfig(**options)
    DecodeConfig(do_sample=True, seed=2**32 - 1, length_penalty=3e38)
