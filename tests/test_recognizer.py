"""The Recognizer against its parts done one by one, against transformers, and under odd and endless input."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import math
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import BatchFeature, VisionEncoderDecoderModel

from tests.compilations import count_compilations
from tests.tiny import line_image, save_lines, save_tiny, tiny_config, tiny_model
from trocr_jax import checkpoint, recognizer_batches
from trocr_jax.checkpoint.parameters import parameters
from trocr_jax.confidence import minimum_bayes_risk
from trocr_jax.decoding import constraints
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.decoding.constraints import All, Characters, Lexicon, Regex
from trocr_jax.decoding.fusion import NGram, ShallowFusion
from trocr_jax.decoding.types import Decoded
from trocr_jax.errors import ConfigError, DecodeError, ImageError
from trocr_jax.generation import generate
from trocr_jax.image import ImageProcessor
from trocr_jax.recognizer import Recognition, Recognizer
from trocr_jax.recognizer_batches import _close, batches, bucket_sizes, closing_pool, is_image, normalised, submit
from trocr_jax.recognizer_lanes import WINDOW
from trocr_jax.recognizer_lengths import LengthGuess
from trocr_jax.recognizer_result import recognition

ROOT = Path(__file__).resolve().parent.parent
SHORT = DecodeConfig(max_new_tokens=20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def recognizer(folder: Path) -> Recognizer:
    return Recognizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return save_lines(tmp_path_factory.mktemp("lines"), 13)


@pytest.fixture(scope="module")
def alone(recognizer: Recognizer, lines: list[Path]) -> list[Recognition]:
    """Every line read on its own."""
    found = [recognizer(path, SHORT)[0] for path in lines]
    assert len({one.text for one in found}) > 8, "texts must depend on the image, or these tests see nothing"
    assert {one.truncated for one in found} == {True, False}
    return found


def same(a: Recognition | ImageError, b: Recognition | ImageError) -> bool:
    """Equal but for the rounding of floats, which depends on the batch size."""
    assert isinstance(a, Recognition)
    assert isinstance(b, Recognition)
    return (a.text, a.token_ids, a.truncated) == (b.text, b.token_ids, b.truncated) and np.allclose(
        [a.score, *a.token_log_probs], [b.score, *b.token_log_probs], atol=1e-4
    )


# --- what comes out


def test_a_recognition_is_what_its_parts_give(recognizer, lines, alone):
    processor, tokenizer = recognizer.image_processor, recognizer.tokenizer
    for path, found in zip(lines, alone, strict=True):
        pixels = processor.normalize(processor.pixels(path)[None])
        out = generate(recognizer.model, pixels, SHORT)
        length = int(out.lengths[0, 0])
        assert found.token_ids == out.token_ids[0, 0, :length].tolist()
        assert found.truncated == (2 not in found.token_ids) == bool(out.truncated[0, 0])
        assert found.truncated or found.token_ids.index(2) == length - 1
        assert found.text == tokenizer.decode(found.token_ids, skip_special_tokens=True)
        assert len(found.token_log_probs) == length
        assert found.score == pytest.approx(sum(found.token_log_probs), abs=1e-4)


def test_texts_are_those_of_transformers(folder, recognizer, lines, alone):
    theirs = VisionEncoderDecoderModel.from_pretrained(folder).eval()
    pixels = np.stack([recognizer.image_processor.pixels(path) for path in lines])
    pixels = np.array(recognizer.image_processor.normalize(pixels)).transpose(0, 3, 1, 2)
    with torch.no_grad():
        ids = theirs.generate(torch.from_numpy(np.ascontiguousarray(pixels)), max_new_tokens=20, do_sample=False)
    texts = recognizer.tokenizer.batch_decode(ids, skip_special_tokens=True)
    assert [found.text for found in alone] == texts


@pytest.mark.parametrize("batch_size", [1, 3, 8, 16, 50])
def test_a_line_reads_the_same_alone_and_in_any_batch(recognizer, lines, alone, batch_size):
    found = recognizer(lines, SHORT, batch_size=batch_size)
    assert len(found) == len(alone)
    assert all(map(same, found, alone))


def test_results_come_in_order_with_bad_images_in_their_places(recognizer, lines, alone, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(lines[0].read_bytes()[:60])
    images = [tmp_path / "missing.png", *lines[:2], broken, broken, *lines[2:], ImageError("known before"), broken]
    expected = [None, *alone[:2], None, None, *alone[2:], None, None]
    for batch_size in (1, 2, 5, 16):
        found = list(recognizer.read(images, SHORT, batch_size))
        for have, want in zip(found, expected, strict=True):
            assert isinstance(have, ImageError) if want is None else same(have, want)
        assert "missing.png" in str(found[0])
        assert "broken.png" in str(found[3])
        assert str(found[-2]) == "known before"


def test_call_raises_the_first_error_and_names_the_file(recognizer, lines, tmp_path):
    with pytest.raises(ImageError, match=r"first\.png"):
        recognizer([*lines, tmp_path / "first.png", tmp_path / "second.png"], SHORT)


# --- what goes in


def test_every_kind_of_image(recognizer, lines, alone):
    path, want = lines[4], alone[4]
    grey = np.asarray(Image.open(path))
    with path.open("rb") as file:
        for image in (str(path), path, path.read_bytes(), Image.open(path), grey, np.stack([grey] * 3, -1), file):
            (found,) = recognizer(image, SHORT)
            assert same(found, want), type(image)
            (found,) = recognizer([image], SHORT)
            assert same(found, want), type(image)
    both = recognizer(np.stack([grey, grey])[..., None], SHORT)  # a uint8 batch is a series of images
    assert len(both) == 2
    assert all(same(found, want) for found in both)


def test_nothing_gives_nothing(recognizer):
    assert recognizer([], SHORT) == []
    assert recognizer(np.zeros((0, 16, 64, 3), np.float32), SHORT) == []


@pytest.mark.parametrize("kind", ["channels first", "channels last", "jax", "torch"])
def test_arrays_of_transformers_processor_are_taken_as_they_are(recognizer, lines, alone, kind):
    processor = recognizer.image_processor
    pixels = np.array(processor.normalize(np.stack([processor.pixels(path) for path in lines])))  # [B, H, W, 3]
    first = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    given = {"channels last": pixels, "channels first": first, "jax": jnp.asarray(first), "torch": torch.tensor(first)}
    found = recognizer(given[kind], SHORT, batch_size=4)
    assert len(found) == len(alone)
    assert all(map(same, found, alone))


def test_an_image_that_changes_after_it_was_given_is_read_as_it_was(recognizer, alone):
    buffer = np.zeros((24, 200), np.uint8)

    def frames() -> Iterator[np.ndarray]:
        for i in range(len(alone)):
            frame = np.asarray(line_image(i))
            buffer[:, : frame.shape[1]] = frame
            yield buffer[:, : frame.shape[1]]

    assert all(map(same, recognizer(frames(), SHORT), alone))
    assert all(same(found, alone[3]) for found in recognizer([line_image(3)] * 20, SHORT))


# --- several texts, confidences, constraints, language models, streams


BEAMS = dataclasses.replace(SHORT, num_beams=3, num_return_sequences=3)
DRAWS = dataclasses.replace(SHORT, do_sample=True, num_return_sequences=6, temperature=0.5, seed=1)


def found_by(recognizer: Recognizer, paths: list[Path], decode: DecodeConfig) -> Decoded:
    pixels = np.stack([recognizer.image_processor.pixels(path) for path in paths])
    found = generate(recognizer.model, jnp.asarray(pixels), decode, image_processor=recognizer.image_processor)
    return Decoded._make(np.asarray(array) for array in found)


def test_what_several_groups_of_beams_find_counts_once():
    log_probs = np.log([[0.5, 0.5], [0.4, 0.4], [0.5, 0.5]]).astype(np.float32)
    arrays = {
        "token_ids": np.array([[5, 2], [6, 2], [5, 2]], np.int32),
        "token_log_probs": log_probs,
        "model_log_probs": log_probs,
        "beam_indices": np.zeros((3, 2), np.int32),
        "scores": log_probs.sum(-1),
        "lengths": np.full(3, 2, np.int32),
        "truncated": np.zeros(3, bool),
    }
    found = Decoded._make(arrays[name] for name in Decoded._fields)
    read = partial(recognition, found, ["a", "b", "a"], None, choose="score")
    assert [one.probability for one in read(drawn=False).alternatives] == pytest.approx([25 / 41, 16 / 41])
    assert [one.probability for one in read(drawn=True).alternatives] == pytest.approx([2 / 3, 1 / 3])
    penalised = Decoded._make((arrays | {"token_log_probs": log_probs - 9})[name] for name in Decoded._fields)
    assert recognition(penalised, ["a", "b", "a"], None, choose="score", drawn=False).alternatives[0].probability == (
        pytest.approx(25 / 41)
    )
    nothing = np.array([[-np.inf, 0], [0, 0], [-np.inf, 0]], np.float32)  # no token was left for two of the draws
    arrays |= {"token_log_probs": nothing, "scores": nothing.sum(-1)}
    dead = Decoded._make(arrays[name] for name in Decoded._fields)
    (only,) = recognition(dead, ["a", "b", "a"], None, choose="mbr", drawn=True).alternatives
    assert (only.text, only.probability) == ("b", 1.0)


@pytest.mark.parametrize("decode", [BEAMS, DRAWS], ids=["beams", "draws"])
@pytest.mark.parametrize("choose", ["score", "mbr"])
def test_alternatives_are_the_texts_that_were_found(recognizer, lines, decode, choose):
    results = recognizer(lines[:4], dataclasses.replace(decode, choose=choose), batch_size=4)
    found = found_by(recognizer, lines[:4], decode)
    for i, result in enumerate(results):
        texts = recognizer.tokenizer.batch_decode(found.token_ids[i], skip_special_tokens=True)
        weights = np.zeros(len(texts)) if decode.do_sample else found.token_log_probs[i].sum(axis=-1)
        weights = np.exp(weights - weights.max()) / np.exp(weights - weights.max()).sum()
        assert {one.text for one in result.alternatives} == set(texts)
        for one in result.alternatives:
            mine = [j for j, text in enumerate(texts) if text == one.text]
            assert one.probability == pytest.approx(sum(weights[j] for j in mine), abs=1e-5)
            assert one.score == pytest.approx(max(found.scores[i, j] for j in mine), abs=1e-4)
        scores = [one.score for one in result.alternatives]
        assert scores == sorted(scores, reverse=True)
        best = minimum_bayes_risk(result.alternatives) if choose == "mbr" else 0
        assert (result.text, result.score) == (result.alternatives[best].text, result.alternatives[best].score)
        assert recognizer.tokenizer.decode(result.token_ids, skip_special_tokens=True) == result.text
    assert any(len(result.alternatives) > 1 for result in results)


def test_confidences_are_the_probabilities_of_the_tokens(recognizer, lines, alone):
    found = found_by(recognizer, lines[:4], SHORT)
    for i, result in enumerate(alone[:4]):
        length = len(result.token_ids)
        log_probs = found.model_log_probs[i, 0, :length]
        np.testing.assert_allclose(result.model_log_probs, log_probs, atol=1e-4)
        assert result.confidence == pytest.approx(np.exp(log_probs.mean()), abs=1e-4)
        assert "".join(one.text for one in result.characters) == result.text
        probabilities = np.exp([p for p, token in zip(log_probs, result.token_ids, strict=True) if token > 3])
        np.testing.assert_allclose([one.confidence for one in result.characters], probabilities, atol=1e-4)
        assert [one.text for one in result.words] == result.text.split()
        assert result.alternatives == ((result.text, result.score, 1.0),)
        assert pickle.loads(pickle.dumps(result)) == result


def test_confidences_are_those_of_the_model_whatever_a_constraint_does(recognizer, lines):
    (result,) = recognizer(lines[0], dataclasses.replace(SHORT, constraint=Characters("0123456789")))
    assert set(result.text) <= set("0123456789")
    assert sum(result.model_log_probs) < result.score - 0.1


def test_a_constraint_is_compiled_once_for_each_recognizer(recognizer, lines, monkeypatch):
    calls = []
    original = constraints.compile

    def counted(*given, **named):
        calls.append(given)
        return original(*given, **named)

    monkeypatch.setattr(constraints, "compile", counted)
    decode = dataclasses.replace(SHORT, constraint=Characters("abc"))
    for _ in range(2):
        assert all(set(one.text) <= set("abc") for one in recognizer(lines[:2], decode))
    recognizer(lines[:1], dataclasses.replace(SHORT, constraint=Characters("abc")))
    assert len(calls) == 1


def test_a_constraint_holds_for_every_limit_of_tokens(recognizer, lines):
    constraint = Regex("[a-z]{8}|[a-z]{2},")
    for most, length in ((4, 3), (9, 8), (4, 3)):
        (result,) = recognizer(lines[0], DecodeConfig(max_new_tokens=most, constraint=constraint))
        assert len(result.text) == length


@pytest.mark.parametrize("choose", ["score", "mbr"])
def test_a_place_without_a_text_is_no_alternative(recognizer, lines, choose):
    """Of two words one dies in the middle, by an option that the constraint knows nothing of."""
    decode = dataclasses.replace(BEAMS, constraint=Lexicon(["aaa", "bc"], separator=None), choose=choose)
    result, *_ = recognizer(lines[0], dataclasses.replace(decode, no_repeat_ngram_size=2))
    assert [(one.text, one.probability) for one in result.alternatives] == [("bc", 1.0)]
    assert result.text == "bc"
    assert result.confidence > 0
    banned = [[recognizer.tokenizer.convert_tokens_to_ids("b")]]
    result, *_ = recognizer(lines[0], dataclasses.replace(decode, no_repeat_ngram_size=2, bad_words_ids=banned))
    assert (result.text, result.confidence, len(result.alternatives)) == ("", 0.0, 1)
    assert result.score <= -1e9


def test_a_lexicon_that_was_written_anew_is_read_anew(recognizer, lines, tmp_path):
    for word in ("abc", "quiz"):
        (tmp_path / "words.txt").write_text(word)
        words = All(Lexicon(tmp_path / "words.txt", separator=None))
        assert recognizer(lines[0], dataclasses.replace(SHORT, constraint=words))[0].text == word


def test_a_language_model_over_the_tokens(recognizer, lines, tmp_path):
    words = ["<s>", "</s>", *(token for token in recognizer.tokens if token not in (None, " ", "</s>", "<unk>"))]
    log_probs = {word: -0.1 if word == "q" else -9.0 for word in words}
    text = "".join(f"{p}\t{word}\n" for word, p in log_probs.items())
    (tmp_path / "q.arpa").write_text(f"\\data\\\nngram 1={len(words)}\n\\1-grams:\n{text}\\end\\\n", encoding="utf-8")
    lm = NGram.from_arpa(tmp_path / "q.arpa", recognizer.tokens)
    decode = dataclasses.replace(SHORT, suppress_tokens=(0, 1))  # a random model writes <s>, which costs nothing here
    (result,) = recognizer(lines[0], dataclasses.replace(decode, processors=(ShallowFusion(lm, 50.0),)))
    assert result.text == "q" * 20
    (result,) = recognizer(lines[0], dataclasses.replace(decode, processors=(ShallowFusion(lm, 0.0),)))
    assert result.text == recognizer(lines[0], decode)[0].text != "q" * 20
    other = NGram.from_arpa(tmp_path / "q.arpa", [*recognizer.tokens, "more"])
    with pytest.raises(DecodeError, match="a language model over 50 tokens does not fit a model of 49"):
        recognizer.read([], dataclasses.replace(SHORT, processors=(ShallowFusion(other),)))


def test_what_a_processor_returns_is_told_from_a_series(recognizer):
    pixels = np.zeros((2, 3, *recognizer.image_processor.size), np.float32)
    features = BatchFeature({"pixel_values": pixels})
    with pytest.raises(ImageError, match=r'of what a processor of transformers returns, give \["pixel_values"\]'):
        recognizer.read(features, SHORT)
    assert len([*recognizer.read(features["pixel_values"], SHORT)]) == 2


def test_a_stream_ends_with_the_text(recognizer, lines, alone):
    for path, want in list(zip(lines, alone, strict=True))[:2]:
        shown = list(recognizer.stream(path, SHORT))
        assert shown[-1] == want.text
        assert all(now.startswith(before) and now != before for before, now in itertools.pairwise(shown))
        assert len(shown) == len(want.text) + (shown[0] == "")
    with pytest.raises(DecodeError, match="num_return_sequences"):
        recognizer.stream(lines[0], BEAMS)
    with pytest.raises(ImageError, match=r"missing\.png"):
        recognizer.stream("missing.png", SHORT)


@pytest.mark.parametrize(
    ("decode", "said"),
    [
        ({"choose": "mbr"}, 'choose is "mbr" and num_return_sequences is 1'),
        ({"constraint": Characters("")}, "empty"),
        ({"constraint": Characters("€")}, "spells none"),
        ({"constraint": Regex("abc"), "max_new_tokens": 3}, "in 3 tokens"),
        ({"constraint": Lexicon(())}, "lexicon is empty"),
        ({"constraint": Lexicon(("a", "€"))}, "cannot spell"),
    ],
)
def test_what_cannot_be_decoded_is_refused_at_once(recognizer, decode, said):
    with count_compilations() as programs, pytest.raises(DecodeError, match=said):
        recognizer.read([], dataclasses.replace(SHORT, **decode))
    assert programs == []


# --- long input


def test_an_endless_series_is_read_a_few_batches_ahead(recognizer, lines, alone):
    asked = 0

    def series() -> Iterator[Path]:
        nonlocal asked
        for asked in itertools.count(1):
            yield lines[(asked - 1) % len(lines)]

    # As they come while nothing is known of their lengths, then a few windows ahead.
    for ahead, known in ((5 * 4, False), (4 * WINDOW * 4 + 5 * 4, True)):
        if not known:
            recognizer._lengths = LengthGuess()
        outcomes = recognizer.read(series(), SHORT, batch_size=4)
        for i in range(60):
            assert same(next(outcomes), alone[i % len(lines)])
            assert asked - i <= ahead
        outcomes.close()


def test_memory_does_not_grow_with_bad_images(recognizer, lines, alone):
    asked = 0

    def series() -> Iterator[Path | ImageError]:
        nonlocal asked
        yield lines[0]
        while True:
            asked += 1
            yield ImageError("bad")

    outcomes = recognizer.read(series(), SHORT, batch_size=2)
    assert same(next(outcomes), alone[0])
    assert asked < 100
    outcomes.close()


def test_an_error_of_the_series_itself_is_raised(recognizer, lines):
    def series() -> Iterator[Path]:
        yield lines[0]
        raise RuntimeError("from the caller")

    with pytest.raises(RuntimeError, match="from the caller"):
        recognizer(series(), SHORT)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 40])
def test_what_a_series_gave_before_its_error_is_read(recognizer, lines, alone, count):
    def series() -> Iterator[Path]:
        for i in range(count):
            yield lines[i % len(lines)]
        raise RuntimeError("from the caller")

    outcomes = recognizer.read(series(), SHORT, batch_size=2)
    found = list(itertools.islice(outcomes, count))
    with pytest.raises(RuntimeError, match="from the caller"):
        next(outcomes)
    assert all(same(one, alone[i % len(lines)]) for i, one in enumerate(found))


def test_arrays_that_numpy_cannot_have_are_named(recognizer):
    pixels = torch.zeros(2, *recognizer.model.config.encoder.image_size, 3)
    for bad in (pixels.bfloat16(), pixels.requires_grad_()):
        with pytest.raises(ImageError, match="numpy cannot have it"):
            recognizer(bad, SHORT)


def test_a_mesh_that_is_none_is_named(folder):
    with pytest.raises(DecodeError, match=r"mesh is 'data=2': give a Mesh, such as sharding\.make_mesh"):
        Recognizer.from_pretrained(folder, mesh="data=2")  # type: ignore[arg-type]


def test_images_of_another_size_than_the_model_are_told_of(folder, tmp_path, capfd):
    copy = shutil.copytree(folder, tmp_path / "copy")
    height, width = Recognizer.from_pretrained(copy).model.config.encoder.image_size
    assert not capfd.readouterr().err
    named = copy / "preprocessor_config.json"
    values = json.loads(named.read_text())
    named.write_text(json.dumps(values | {"size": {"height": 2 * height, "width": width}}))
    Recognizer.from_pretrained(copy)
    told = f"images come as {2 * height} x {width} (height x width; its image processor's configuration) and the"
    assert told in capfd.readouterr().err
    named.write_text(json.dumps(values | {"size": {"height": height + 1, "width": width}}))
    with pytest.raises(ConfigError, match=r"which patches of .* do not fill"):
        Recognizer.from_pretrained(copy)


# --- compilation


@given(st.integers(1, 300), st.integers(1, 9))
def test_bucket_sizes(batch_size, devices):
    sizes = bucket_sizes(batch_size, devices)
    assert list(sizes) == sorted(set(sizes))
    assert batch_size <= sizes[-1] < batch_size + devices
    assert all(size % devices == 0 for size in sizes)
    assert all(big <= 2 * small for small, big in itertools.pairwise(sizes))
    assert sizes[0] == devices
    assert len(sizes) <= 2 + np.log2(batch_size)


def test_nothing_is_compiled_for_other_counts_of_images(folder, lines):
    recognizer, decode = Recognizer.from_pretrained(folder), DecodeConfig(max_new_tokens=11)
    with count_compilations() as first:
        recognizer(lines[:1], decode, batch_size=4)
        recognizer(lines[:2], decode, batch_size=4)
        recognizer(lines[:4], decode, batch_size=4)
    assert 3 <= len(first) <= 10  # one program for each of the sizes 1, 2, 4, and small change
    with count_compilations() as again:
        for count in (3, 5, 6, 7, 13, 8, 1):
            recognizer(lines[:count], decode, batch_size=4)
        list(recognizer.read([*lines, ImageError("bad"), *lines], DecodeConfig(max_new_tokens=11), batch_size=4))
        Recognizer.from_pretrained(folder)(lines, decode, batch_size=4)  # another object, the same programs
    assert again == []


# --- settings


def test_the_default_is_what_the_model_can_if_that_is_less_than_128_tokens(recognizer, lines, monkeypatch):
    used = []
    original = generate

    def watched(model, pixels, config, **rest):
        used.append(config)
        return original(model, pixels, config, **rest)

    monkeypatch.setattr("trocr_jax.recognizer_devices.generate", watched)
    recognizer(lines[0])
    assert used == [DecodeConfig(max_new_tokens=tiny_config().decoder.max_position_embeddings)]


def test_the_settings_of_fairseq(recognizer):
    preset = DecodeConfig.fairseq()
    assert (preset.num_beams, preset.length_penalty, preset.early_stopping) == (10, 1.0, True)
    assert (preset.max_new_tokens, preset.min_new_tokens) == (200, 1)
    assert DecodeConfig.fairseq(num_beams=5) == dataclasses.replace(preset, num_beams=5)
    with pytest.raises(DecodeError, match="max_new_tokens is 200"):
        recognizer.read([], preset)


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True])
def test_a_bad_batch_size_is_refused_at_once(recognizer, batch_size):
    with pytest.raises(DecodeError, match="batch_size"):
        recognizer.read([], batch_size=batch_size)


def test_more_tokens_than_positions_are_refused_at_once(recognizer):
    with pytest.raises(DecodeError, match="max_new_tokens is 33"):
        recognizer.read([], DecodeConfig(max_new_tokens=33))


def test_half_precision_is_widened_once_for_f32_and_kept_for_bf16(folder, lines, alone, tmp_path):
    half = save_tiny(tmp_path / "half", checkpoint.load(folder, dtype=jnp.bfloat16))
    wide = Recognizer.from_pretrained(half)
    assert {array.dtype.name for array in parameters(wide.model).values()} == {"float32"}
    narrow = Recognizer.from_pretrained(half, dtype=jnp.bfloat16)
    assert {array.dtype.name for array in parameters(narrow.model).values()} == {"bfloat16"}
    stored = Recognizer(checkpoint.load(half), wide.tokenizer, wide.image_processor, dtype=jnp.float32)
    assert all(map(same, wide(lines, SHORT), stored(lines, SHORT)))  # the widening is exact
    for found in narrow(lines, SHORT):
        assert np.isfinite(found.score)


def test_a_recognizer_from_parts(folder, recognizer, lines, alone):
    parts = Recognizer(tiny_model(), recognizer.tokenizer, recognizer.image_processor)
    assert all(map(same, parts(lines, SHORT), alone))
    assert parts.dtype == jnp.float32


MESH = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
from trocr_jax import DecodeConfig, Recognizer
from trocr_jax import recognizer_devices as module
from trocr_jax.recognizer_batches import Batch

encode, shards = module.encode, []

def watched(flat, pixels, *rest, **named):
    assert not pixels.sharding.is_fully_replicated
    shards.append([shard.data.shape[0] for shard in pixels.addressable_shards])
    return encode(flat, pixels, *rest, **named)

module.encode = watched
folder, *lines = sys.argv[1:]
decode = DecodeConfig(max_new_tokens=20)
texts = []
for mesh in jax.make_mesh((4,), ("data",)), jax.sharding.Mesh(jax.devices(), ("data",)):  # explicit, automatic
    recognizer = Recognizer.from_pretrained(folder, mesh=mesh)
    texts.append([found.text for found in recognizer(lines, decode, batch_size=6)])
batch = Batch.of_pixels([recognizer.image_processor.pixels(line) for line in lines[:8]])
texts.append([found.text for found in recognizer.read_batches([batch], decode, batch_size=2)])
print(json.dumps({"texts": texts, "shards": shards}))
"""


def test_batches_are_split_over_a_mesh(folder, lines, alone):
    command = [sys.executable, "-c", MESH, str(folder), *map(str, lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    texts = [one.text for one in alone]
    assert found["texts"] == [texts, texts, texts[:8]]
    # 6 becomes 8; 13 lines are 8, and 5 filled up to 8; a Batch has 2 for each device
    assert found["shards"] == [[2] * 4] * 5


def test_a_file_object_is_read_from_its_start(recognizer, lines, alone):
    file = io.BytesIO(lines[5].read_bytes())
    file.read(10)
    assert same(recognizer(file, SHORT)[0], alone[5])


def test_a_reading_that_is_given_up_says_nothing_when_the_program_ends() -> None:
    program = """
import trocr_jax
recognizer = trocr_jax.Recognizer.from_pretrained("tiny-printed")
outcomes = recognizer.read(["samples/line_1.png"] * 100, batch_size=2)
print(next(outcomes).text)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout
    assert done.stderr == ""


def test_a_thread_reads_on_when_the_main_one_has_ended(tmp_path):
    program = """
import threading, time
from trocr_jax import Recognizer
recognizer = Recognizer.from_pretrained("tiny-printed")
def read():
    threading.main_thread().join()
    time.sleep(0.2)
    print(len([one.text for one in recognizer.read(["samples/line_1.png"] * 40, batch_size=4)]))
threading.Thread(target=read).start()
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "40\n", "")


def test_a_pool_is_closed_in_silence_by_a_thread_of_its_own():
    with closing_pool(1, "lane") as pool:  # where the iterator that it belongs to is collected
        assert pool.submit(_close, pool).exception(60) is None


def test_the_best_of_several_texts_brings_its_own_tokens():
    token_ids = np.array([[5, 2], [6, 2], [7, 2], [7, 2]], np.int32)
    scores = np.array([-4.0, -3.0, -2.0, -1.0], np.float32)  # as of draws and of groups, in no order
    fields: dict[str, Any] = {
        "token_ids": token_ids,
        "token_log_probs": np.log([[0.3, 1], [0.2, 1], [0.3, 1], [0.4, 1]]).astype(np.float32),
        "model_log_probs": np.log([[0.5, 1], [0.25, 1], [0.125, 1], [0.125, 1]]).astype(np.float32),
        "beam_indices": np.zeros((4, 2), np.int32),
        "scores": scores,
        "lengths": np.full(4, 2, np.int32),
        "truncated": np.array([False, False, False, True]),
    }
    found = Decoded(**fields)
    read = recognition(found, ["a", "b", "a", "a"], None, drawn=False, choose="score")
    assert (read.text, read.score, read.token_ids, read.truncated) == ("a", -1.0, [7, 2], True)
    assert read.token_log_probs == pytest.approx([math.log(0.4), 0])
    assert [(one.text, one.score) for one in read.alternatives] == [("a", -1.0), ("b", -3.0)]
    assert read.alternatives[0].probability == pytest.approx(0.625 / 0.875)  # the model's, of each found once
    nothing = dataclasses.replace(read, token_log_probs=[-math.inf, 0.0])  # no token was left: not the model's text
    assert read.confidence > 0 == nothing.confidence
    dead = recognition(
        Decoded(**fields | {"token_log_probs": np.full((4, 2), -np.inf)}), list("abcd"), None, drawn=True, choose="mbr"
    )
    assert (dead.text, len(dead.alternatives), dead.confidence) == ("d", 1, 0.0)


def test_pictures_are_told_from_batches_and_from_pixels():
    assert is_image(np.zeros((16, 64), np.uint8))
    assert is_image(np.zeros((16, 64, 3), np.uint8))
    assert not is_image(np.zeros((2, 16, 64, 3), np.uint8))
    assert normalised(np.zeros((2, 16, 64, 3), np.uint8)) is None  # a series of pictures
    found = normalised(np.zeros((2, 3, 16, 64), np.float16))
    assert found is not None
    assert found.shape == (2, 16, 64, 3)


def test_threads_have_the_default_device_of_the_one_that_makes_them():
    device = jax.devices()[0]
    with jax.default_device(device), closing_pool(1, "test") as pool:
        assert pool.submit(lambda: jax.config.values["jax_default_device"]).result() is device


def test_no_image_is_decoded_for_a_reading_that_was_left(monkeypatch):
    done = []

    def decoded(path, processor):
        time.sleep(0.01)
        done.append(path)
        return np.zeros((2, 2, 3), np.uint8)

    monkeypatch.setattr(recognizer_batches, "_pixels", decoded)
    read = batches(map(str, range(1000)), ImageProcessor(), 50)
    next(read)
    read.close()
    count = len(done)
    time.sleep(0.05)
    assert len(done) == count < 120


def test_what_goes_wrong_in_place_of_a_pool_is_raised_with_the_result():
    with closing_pool(1, "test") as pool:
        pass
    future = submit(pool, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        future.result()
