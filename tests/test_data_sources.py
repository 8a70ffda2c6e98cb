"""Streams of lines: the same for every reader, every line once an epoch, augmented by index, and known again."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter
from tokenizers import processors

from train.data import records
from train.data.augment import PAPER, RANDAUGMENT, augment, dilation, erosion
from train.data.build import build
from train.data.builders import Folder
from train.data.checks import TextLimit, is_grey
from train.data.encode import Tokens, check_vocabulary, pixels
from train.data.line import ENDLESS, DataError, Line
from train.data.sources import Pictures, Selected, Stream, Synthetic, open_folder, within
from train.input import IGNORED, Examples
from train.manifest import differences
from trocr_jax.checkpoint import resolve
from trocr_jax.config import TrOCRConfig
from trocr_jax.errors import ImageError
from trocr_jax.image import ImageProcessor
from trocr_jax.tokenizer import character_tokenizer, load_tokenizer


@dataclass(frozen=True)
class Numbers:
    """Line i is blank and says i."""

    name: str
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Line:
        return Line(writing(index % 7), f"{self.name}{index}")

    def fingerprint(self) -> dict[str, Any]:
        return {"kind": "numbers", "records": self.length}


def writing(seed: int, *, height: int = 48, width: int = 160, colour: bool = False) -> np.ndarray:
    """Dark bars on light paper, with a margin."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width), 230, np.uint8)
    for x in range(12, width - 12, 9):
        image[rng.integers(8, height // 2) : height - 10, x : x + 4] = 20
    return np.repeat(image[..., None], 3, 2) // np.array([1, 2, 1], np.uint8) if colour else image


def said(stream: Stream, start: int, stop: int) -> list[str]:
    return [stream[i].text for i in range(start, stop)]


def test_every_line_is_seen_once_an_epoch_in_an_order_of_its_own() -> None:
    stream = Stream([(Numbers("a", 20), 1.0)], seed=5)
    assert len(stream) == ENDLESS
    epochs = [said(stream, 20 * e, 20 * e + 20) for e in range(3)]
    assert all(sorted(epoch) == sorted(f"a{i}" for i in range(20)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != said(Stream([(Numbers("a", 20), 1.0)], seed=6), 0, 20)
    again = pickle.loads(pickle.dumps(Stream([(Numbers("a", 20), 1.0)], seed=5)))
    assert said(again, 25, 45) == said(stream, 25, 45)  # from the middle, by another process


def test_sources_take_turns_by_weight_and_none_runs_dry() -> None:
    parts = [(Numbers("a", 3), 3.0), (Numbers("b", ENDLESS), 1.0)]
    lines = said(Stream(parts, seed=0), 0, 400)
    assert Counter(line[0] for line in lines) == {"a": 300, "b": 100}
    assert Counter(line for line in lines if line[0] == "a") == {"a0": 100, "a1": 100, "a2": 100}
    assert [line for line in lines if line[0] == "b"] == [f"b{i}" for i in range(100)]


def test_streams_of_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="at least one source"):
        Stream([], seed=0)
    with pytest.raises(DataError, match="source 1 of the stream has no lines"):
        Stream([(Numbers("a", 3), 1.0), (Numbers("b", 0), 1.0)], seed=0)
    for weight in (0.0, float("inf"), float("nan")):
        with pytest.raises(DataError, match=f"source 0 of the stream has the weight {weight}"):
            Stream([(Numbers("a", 3), weight), (Numbers("b", 3), 1.0)], seed=0)


def test_augmentation_is_a_function_of_seed_and_index() -> None:
    parts = [(Numbers("a", 2), 1.0)]
    first, second = (Stream(parts, seed=5, augmentation="paper") for _ in range(2))
    other = Stream(parts, seed=6, augmentation="paper")
    backwards = {i: second[i] for i in reversed(range(30))}
    assert all(np.array_equal(first[i].image, backwards[i].image) for i in range(30))
    assert not all(np.array_equal(first[i].image, other[i].image) for i in range(30))
    assert len({first[i].image.tobytes() for i in range(30)}) > 10  # two pictures, many ways


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("name", list(RANDAUGMENT))
def test_an_operation_keeps_the_form_and_the_writing(name: str, colour: bool) -> None:
    image = writing(1, colour=colour)
    for seed in range(5):
        changed = np.asarray(RANDAUGMENT[name](Image.fromarray(image), np.random.default_rng(seed)))
        again = np.asarray(RANDAUGMENT[name](Image.fromarray(image), np.random.default_rng(seed)))
        np.testing.assert_array_equal(changed, again)
        assert changed.dtype == np.uint8
        assert changed.shape[2:] == image.shape[2:]
        assert np.ptp(changed.astype(int)) > 60
        np.testing.assert_array_equal(image, writing(1, colour=colour))  # the input is not touched


def test_the_seven_of_the_paper_do_what_their_names_say() -> None:
    assert list(PAPER) == ["rotation", "gaussian_blur", "dilation", "erosion", "downscale", "underline", "none"]
    image = writing(1)
    ink = {name: _ink(np.asarray(f(Image.fromarray(image), np.random.default_rng(3)))) for name, f in PAPER.items()}
    assert ink["dilation"] > 1.2 * ink["none"]
    assert ink["erosion"] < 0.9 * ink["none"]
    assert ink["underline"] > ink["none"]
    assert ink["rotation"] == pytest.approx(ink["none"], rel=0.1)
    assert ink["gaussian_blur"] == pytest.approx(ink["none"], rel=0.1)
    turned = np.asarray(PAPER["rotation"](Image.fromarray(image), np.random.default_rng(0)))
    assert turned.shape[0] > image.shape[0]
    assert turned[0, 0] == 230  # new corners are paper
    drawn: Counter[bool] = Counter()
    for seed in range(1400):
        drawn[augment(image, np.random.default_rng(seed), "paper").tobytes() == image.tobytes()] += 1
    assert 140 < drawn[True] < 260  # one in seven is left as it is


@pytest.mark.parametrize(("name", "wider", "higher"), [("shear", 15, 0), ("rotation", 10, 27)])
def test_a_line_set_askew_keeps_its_ink_and_its_paper(name: str, wider: int, higher: int) -> None:
    ink = np.full((48, 150), 230, np.uint8)
    ink[4:44, :8] = ink[4:44, -8:] = 20  # at both ends
    coloured = np.repeat(ink[..., None], 3, 2) // np.array([1, 2, 1], np.uint8)
    sizes = set()
    for seed in range(8):
        askew = np.asarray(RANDAUGMENT[name](Image.fromarray(coloured), np.random.default_rng(seed)))
        sizes.add(askew.shape)
        assert _ink(askew[..., 0]) == pytest.approx(_ink(ink), rel=0.05)
        assert {tuple(askew[y, x].tolist()) for y in (0, -1) for x in (0, -1)} == {(230, 115, 230)}
    assert len(sizes) > 4
    assert max(size[0] for size in sizes) <= 48 + higher
    assert max(size[1] for size in sizes) <= 150 + wider


def test_a_stretched_line_is_a_fifth_wider_or_narrower_at_most() -> None:
    stretched = [RANDAUGMENT["stretch"](Image.new("L", (200, 9)), np.random.default_rng(seed)) for seed in range(40)]
    assert {image.height for image in stretched} == {9}
    widths = [image.width for image in stretched]
    assert 160 <= min(widths) < 170
    assert 240 < max(widths) <= 250


def test_noise_is_grey_and_turns_no_white_to_black() -> None:
    image = np.full((40, 50, 3), 255, np.uint8)
    image[:20] = 0
    for seed in range(5):
        noisy = np.asarray(RANDAUGMENT["noise"](Image.fromarray(image), np.random.default_rng(seed)))
        assert np.ptp(noisy, axis=2).max() == 0
        assert noisy[:20].max() < 120 < noisy[20:].min()


def test_two_of_all_are_chosen_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = list[str]()

    def noting(name: str) -> Any:
        def operation(image: Image.Image, rng: np.random.Generator) -> Image.Image:
            drawn.append(name)
            return image

        return operation

    monkeypatch.setattr("train.data.augment.RANDAUGMENT", {name: noting(name) for name in RANDAUGMENT})
    for seed in range(300):
        augment(writing(0), np.random.default_rng(seed), "randaugment")
    assert Counter(drawn).keys() == RANDAUGMENT.keys()
    assert len(drawn) == 600
    assert min(Counter(drawn).values()) > 20


@pytest.mark.parametrize("height", [1, 2, 48, 128, 140])
def test_strokes_grow_and_shrink_as_pillows_filters_make_them(height: int) -> None:
    size = 3 if height < 128 else 5
    for colour in (False, True):
        shape = (height, 57, 3) if colour else (height, 57)
        picture = Image.fromarray(np.random.default_rng(height).integers(0, 256, shape).astype(np.uint8))
        grown = dilation(picture, np.random.default_rng(0))
        np.testing.assert_array_equal(grown, picture.filter(ImageFilter.MinFilter(size)))
        shrunk = picture.filter(ImageFilter.MaxFilter(size))
        expected = shrunk if height >= 64 else Image.blend(picture, shrunk, 0.5)
        np.testing.assert_array_equal(erosion(picture, np.random.default_rng(0)), expected)


def _ink(image: np.ndarray) -> float:
    return float((230 - image.astype(np.float64)).clip(0).sum())


def test_an_unknown_augmentation_is_refused() -> None:
    with pytest.raises(DataError, match="augmentation must be one of none, paper, randaugment, not 'papr'"):
        augment(writing(0), np.random.default_rng(0), "papr")  # type: ignore[arg-type]  # the mistake under test
    for name in ("paper", "randaugment"):
        assert augment(np.full((3, 2), 9, np.uint8), np.random.default_rng(0), name).dtype == np.uint8


# --- folders, limits and fingerprints ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(4):
        Image.fromarray(writing(i, colour=i == 3)).save(tmp_path / f"{i}.png")
    (tmp_path / "train.tsv").write_text("0.png\tnil\n1.png\tsingle\n2.png\ta pair\n3.png\tthree of them\ngone.png\tx\n")
    return tmp_path


def test_a_folder_is_read_as_it_is(folder: Path) -> None:
    source = open_folder(folder)
    assert [source[i].text for i in range(len(source))] == ["nil", "single", "a pair", "three of them"]
    np.testing.assert_array_equal(source[1].image, writing(1))
    np.testing.assert_array_equal(source[3].image, writing(3, colour=True))
    assert [bad.id for bad in source.left_out] == ["gone.png"]
    short = open_folder(folder, limit=TextLimit(6))
    assert len(short) == 3
    assert "13 characters, more than 6" in short.left_out[0].reason
    with pytest.raises(DataError, match=r"no line of train can be used, 5 were left out; the first: 0.png"):
        open_folder(folder, limit=TextLimit(0))
    with pytest.raises(DataError, match="no list for the split 'test'; it has train"):
        open_folder(folder, "test")
    (folder / "1.png").write_bytes(b"damaged since")
    with pytest.raises(ImageError, match=r"1\.png"):
        pickle.loads(pickle.dumps(source))[1]


def test_a_damaged_picture_is_left_out_when_a_folder_is_opened(folder: Path) -> None:
    whole = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(whole[: len(whole) // 2])
    source = open_folder(folder)
    assert [source[i].text for i in range(len(source))] == ["nil", "single", "three of them"]
    assert [bad.id for bad in source.left_out] == ["gone.png", "2.png"]
    assert "2.png: " in source.left_out[1].reason
    (folder / "train.tsv").write_text("2.png\ta pair\n")
    with pytest.raises(DataError, match=r"no line of train can be used, 1 were left out; the first: 2\.png: .*2\.png"):
        open_folder(folder)
    (folder / "2.png").write_bytes(whole)
    assert len(open_folder(folder)) == 1  # a picture that was mended is looked at again


def test_built_records_are_held_to_a_limit(folder: Path) -> None:
    source = records.open(build(Folder(source=folder), folder / "out").folder, "train")
    assert within(source, TextLimit(13)) == (source, [])
    chosen, left_out = within(source, TextLimit(6))
    assert isinstance(chosen, Selected)
    assert [chosen[i].text for i in range(len(chosen))] == ["nil", "single", "a pair"]
    assert "more than 6" in left_out[0].reason
    kept, left_out = within(source, TextLimit(8, character_tokenizer("nilsgeapr thof"), "toy"))
    assert [kept[i].text for i in range(len(kept))] == ["nil", "single", "a pair"]
    assert "no token for ['m']" in left_out[0].reason
    with pytest.raises(DataError, match="no record of train can be used"):
        within(source, TextLimit(1))


def test_what_was_built_within_the_limit_is_not_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = character_tokenizer("nilsgeapr thofm")
    source = records.open(build(Folder(source=folder), folder / "out", limit=TextLimit(12, toy, "toy")).folder, "train")
    monkeypatch.setattr(source, "record", lambda index: pytest.fail("was read"))
    for longest in 12, 14, None:
        assert within(source, TextLimit(longest, toy, "toy")) == (source, [])
    monkeypatch.undo()
    for limit in TextLimit(5, toy, "toy"), TextLimit(12, toy, "another"):
        assert not source.built_within(limit)


def test_a_change_of_the_data_is_named(folder: Path) -> None:
    def stream(source: Pictures, weight: float = 1.0) -> dict[str, Any]:
        return Stream([(Numbers("a", 9), 2.0), (source, weight)], seed=1).fingerprint()

    before = stream(open_folder(folder))
    assert [*differences(before, stream(open_folder(folder)))] == []
    assert [*differences(before, stream(open_folder(folder), 0.5))] == ["parts[1].weight was 1.0 and is 0.5"]
    (folder / "train.tsv").write_text("0.png\tnil\n1.png\tsingle\n2.png\ta pair\n")
    found = [*differences(before, stream(open_folder(folder)))]
    assert found[0] == "parts[1].records was 4 and is 3"
    assert len(found) == 2  # and the checksum
    alone = Stream([(Numbers("a", 9), 2.0)], seed=2).fingerprint()
    assert [line.split(" ")[0] for line in differences(before, alone)] == ["parts", "seed"]


def test_another_picture_and_another_name_are_a_change_of_the_data(folder: Path) -> None:
    found = [open_folder(folder).fingerprint()["sha256"]]
    Image.new("L", (90, 40), 255).save(folder / "0.png")
    found.append(open_folder(folder).fingerprint()["sha256"])
    (folder / "0.png").rename(folder / "9.png")
    (folder / "train.tsv").write_text("9.png\tnil\n1.png\tsingle\n2.png\ta pair\n3.png\tthree of them\n")
    found.append(open_folder(folder).fingerprint()["sha256"])
    assert len(set(found)) == 3


# --- encoding ---

PROCESSORS = (
    ImageProcessor(height=40, width=200, keep_aspect_ratio=True),
    ImageProcessor(height=32, width=32, resample=3),
    ImageProcessor(height=48, width=48, crop_size=(32, 32)),
)


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("size", [(48, 160), (17, 3), (90, 900)])
def test_training_sees_the_pixels_of_inference(processor: ImageProcessor, colour: bool, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3) if colour else size, dtype=np.uint8)
    np.testing.assert_array_equal(pixels(processor, image), processor.pixels(image))


def test_examples_have_fixed_shapes_and_nothing_is_cut() -> None:
    model = resolve("tiny-printed")
    config = TrOCRConfig.from_huggingface(json.loads((model / "config.json").read_text()))
    tokenizer, processor = load_tokenizer(model), ImageProcessor.from_folder(model)
    made = Examples.of(config, Tokens(tokenizer), width=240, max_tokens=7, processor=processor)
    examples = pickle.loads(pickle.dumps(made))
    example = examples(Line(writing(1), "Straße!"))
    assert example.pixels.shape == (40, 240, 3) == examples.pixel_shape
    assert example.pixels.dtype == np.uint8
    assert example.labels.dtype == np.int32
    assert example.labels.tolist() == tokenizer("Straße!").input_ids
    assert examples(Line(writing(1), "ab")).labels.tolist() == [*tokenizer("ab").input_ids, *[IGNORED] * 5]
    with pytest.raises(DataError, match=r"'12345678': 8 tokens, and the stage takes 7"):
        examples(Line(writing(1), "12345678"))
    with pytest.raises(DataError, match=r"no token for \['猫'\]"):
        examples(Line(writing(1), "猫"))
    assert Tokens(tokenizer)("ab") == tokenizer("ab").input_ids[:-1]
    with pytest.raises(DataError, match="ids up to 174 and the model a vocabulary of 100"):
        check_vocabulary(replace(config, decoder=replace(config.decoder, vocab_size=100)), tokenizer)


def test_the_end_token_is_counted_whoever_adds_it() -> None:
    tokenizer = character_tokenizer("ab")
    assert TextLimit(tokenizer=tokenizer).measure("ab") == 3
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B")
    assert len(tokenizer("ab").input_ids) == len(Tokens(tokenizer)("ab")) == 2
    assert TextLimit(3, tokenizer, "endless").refusal("ab") is None
    assert TextLimit(2, tokenizer, "endless").refusal("ab") == "its text has 3 tokens, more than 2: 'ab'"


def test_a_text_that_spells_a_special_token_is_no_label(tmp_path: Path) -> None:
    tokenizer = character_tokenizer("ab</s>")
    tokenizer.backend_tokenizer.encode_special_tokens = False  # as the published ones
    tokenizer.split_special_tokens = False
    assert TextLimit(tokenizer=tokenizer, tokenizer_name="t").refusal("a</s>b") == (
        "the tokenizer t takes </s> in its text for a mark of its own"
    )
    assert TextLimit(tokenizer=tokenizer).refusal("a</sb") is None
    with pytest.raises(DataError, match="'a</s>b': the tokenizer  takes </s>"):
        Tokens(tokenizer)("a</s>b")
    tokenizer.add_tokens(["<math>"], special_tokens=True)  # without a role
    assert "takes <math> in its text" in str(TextLimit(tokenizer=tokenizer).refusal("a<math>b"))


def test_an_encoder_that_was_used_is_the_same_in_another_process() -> None:
    tokens = Tokens(character_tokenizer("ab</s>"))
    found = tokens("a</s>b")  # spelt, not the end of the text
    assert pickle.loads(pickle.dumps(tokens))("a</s>b") == found == [4, 6, 7, 8, 9, 5]


def test_sources_of_one_length_have_orders_of_their_own() -> None:
    stream = Stream([(Numbers("a", 20), 1.0), (Numbers("b", 20), 1.0)], seed=5)
    lines = [stream[i].text for i in range(40)]
    a, b = ([line[1:] for line in lines if line[0] == name] for name in "ab")
    assert sorted(a) == sorted(b)
    assert a != b


def test_everything_that_decides_the_lines_is_in_the_fingerprint() -> None:
    face = SimpleNamespace(path="/fonts/a.ttf", weight=1.0, characters=frozenset("ab"))
    corpus = SimpleNamespace(sentences={"en": ("a b c",)}, words={"en": ("a",)})
    renderer: Any = SimpleNamespace(faces=(face,), corpus=corpus, style="printed", seed=0, split="train")

    def printed(max_chars: int = 8, limit: TextLimit | None = None, **changes: Any) -> dict[str, Any]:
        return Synthetic(SimpleNamespace(**vars(renderer) | changes), max_chars, limit).fingerprint()  # type: ignore[arg-type]

    others = [
        printed(9),
        printed(limit=TextLimit(8)),
        printed(limit=TextLimit(9)),
        printed(seed=1),
        printed(split="heldout"),
        printed(style="receipt"),
        printed(style="handwritten"),
        printed(faces=(SimpleNamespace(**vars(face) | {"weight": 2.0}),)),
        printed(corpus=SimpleNamespace(**vars(corpus) | {"words": {"en": ("b",)}})),
    ]
    every = [printed(), *others]
    assert all(a != b for number, a in enumerate(every) for b in every[:number])
    stream = Stream([(Numbers("a", 9), 1.0)], seed=1)
    assert stream.fingerprint() != Stream(stream.parts, seed=1, augmentation="paper").fingerprint()
    some = np.arange(3)
    assert Selected(Numbers("a", 9), some).fingerprint() != Selected(Numbers("a", 10), some).fingerprint()
    assert Selected(Numbers("a", 9), some).fingerprint() != Selected(Numbers("a", 9), some + 1).fingerprint()


def test_no_two_seeds_share_their_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = list[float]()

    def draw(image: np.ndarray, rng: np.random.Generator, *_: Any) -> np.ndarray:
        drawn.append(rng.random())
        return image

    monkeypatch.setattr("train.data.sources.augment", draw)
    for seed in range(4):
        stream = Stream([(Numbers("a", 20), 1.0)], seed=seed, augmentation="paper")
        for index in range(4):
            stream[index]
    assert len(set(drawn)) == 16


def test_what_is_turned_or_transparent_is_not_taken_for_grey(tmp_path: Path) -> None:
    grey, turned = Image.new("L", (4, 2), 200), Image.Exif()
    turned[0x0112] = 6
    found = []
    for options in ({}, {"exif": turned}, {"transparency": 200}):
        grey.save(tmp_path / "1.png", **options)
        found.append(is_grey((tmp_path / "1.png").read_bytes()))
    assert found == [True, False, False]


def test_a_model_of_one_channel_sees_the_luminance() -> None:
    model = resolve("tiny-printed")
    config = TrOCRConfig.from_huggingface(json.loads((model / "config.json").read_text()))
    grey = replace(config, encoder=replace(config.encoder, num_channels=1))
    examples = Examples.of(grey, Tokens(load_tokenizer(model)), width=240, max_tokens=7)
    red = np.zeros((40, 240, 3), np.uint8)
    red[..., 0] = 255
    found = examples(Line(red, "a")).pixels
    assert found.shape == (40, 240) == examples.pixel_shape
    assert set(found.ravel().tolist()) == {76}  # ITU-R 601-2, as Pillow has it
