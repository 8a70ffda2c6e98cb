"""The lines that models are trained on: text inside the alphabet, no missing glyphs, readable, and repeatable."""

from __future__ import annotations

import multiprocessing
import unicodedata
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from train.data import page, paint, render, warp
from train.data.corpus import LANGUAGES, Corpus, CorpusError, clean, is_held_out, load_corpus
from train.data.degrade import degrade
from train.data.fonts import FAMILIES, STYLES, Face, Style, drawn_characters, find_faces
from train.data.page import Ink, print_line
from train.data.receipt_text import sample_receipt, sample_sign
from train.data.render import Line, Renderer
from train.data.text import ALPHABET, sample_sentence, sample_text

SMALL_CORPUS = Corpus(
    sentences={
        language: (
            f'"Der Löwe" - c\'est la vie ... said {language} -- and so on.',
            "¿Qué hora es?",
            "Donaudampfschifffahrtsgesellschaftskapitän",
        )
        for language in LANGUAGES
    },
    words=dict.fromkeys(LANGUAGES, ("it's", "Straße", "œuvre", "word", "naïf")),
)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return create("train")


@pytest.fixture(scope="module")
def heldout() -> Renderer:
    return create("heldout")


# of packages that scripts/install-fonts installs: a face, a list of words, a face that looks written
INSTALLED = (
    "share/fonts/truetype/liberation*/LiberationSans-Regular.ttf",
    "share/dict/ngerman",
    "share/fonts/truetype/breip/Breip.ttf",
)


def create(split: str, *, style: str = "printed") -> Renderer:
    """The renderer; skips the test where fonts and text are not installed, not where they are and cannot be used."""
    try:
        return Renderer.create(split, seed=3, style=style)  # type: ignore[arg-type]  # plain str
    except CorpusError as error:
        if all(list(Path("/usr").glob(pattern)) for pattern in INSTALLED):
            raise
        pytest.skip(f"fonts and text are not installed: {error}")


# --- text, on a corpus of its own: these run everywhere ---


def test_alphabet_holds_every_promised_character() -> None:
    promised = {chr(code) for code in range(32, 127)}
    promised |= set("äöüßÄÖÜàâæçéèêëîïôœùûüÿÀÂÆÇÉÈÊËÎÏÔŒÙÛÜŸìòÌÒñÑ¡¿áíóúÁÍÓÚãõÃÕ«»„“”‘’‚‹›–—…€£§°ªº")
    assert promised == set(ALPHABET)
    assert len(ALPHABET) == len(set(ALPHABET))
    assert unicodedata.normalize("NFC", ALPHABET) == ALPHABET


@given(seed=st.integers(0, 2**32), max_chars=st.integers(1, 100))
def test_text_is_clean_and_within_the_limit(seed: int, max_chars: int) -> None:
    text = sample_text(SMALL_CORPUS, Random(seed), max_chars=max_chars)
    assert 1 <= len(text) <= max_chars
    assert set(text) <= set(ALPHABET)
    assert text == " ".join(text.split())
    assert unicodedata.normalize("NFC", text) == text


def test_every_character_is_seen_in_3000_texts() -> None:
    seen = Counter(c for seed in range(3000) for c in sample_text(SMALL_CORPUS, Random(seed), max_chars=40))
    rare = {c: seen[c] for c in ALPHABET if seen[c] < 10}
    assert not rare


def test_texts_are_long_and_short() -> None:
    lengths = [len(sample_text(SMALL_CORPUS, Random(seed), max_chars=40)) for seed in range(500)]
    assert min(lengths) <= 8
    assert max(lengths) == 40
    assert 20 < np.mean(lengths) < 34


def test_no_text_without_room() -> None:
    with pytest.raises(ValueError, match="max_chars"):
        sample_text(SMALL_CORPUS, Random(0), max_chars=0)
    with pytest.raises(ValueError, match="max_chars"):
        sample_sentence(SMALL_CORPUS, Random(0), max_chars=0)


@pytest.mark.parametrize("style", STYLES)
def test_no_line_without_room(renderer: Renderer, style: Style) -> None:
    with pytest.raises(ValueError, match="max_chars"):
        replace(renderer, style=style).line(0, max_chars=0)


def test_clean_composes_joins_and_refuses() -> None:
    assert clean(" e\u0301te\u0301 \n\u00a0a\u00adb ") == "été ab"
    assert clean("1\u20112") == "1-2"
    assert clean("Привет") is None
    assert clean(" \n ") is None


def test_one_sentence_in_twenty_is_held_out() -> None:
    assert 0.04 < np.mean([is_held_out(f"sentence {number}") for number in range(20_000)]) < 0.06


def test_missing_packages_are_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="scripts/install-fonts"):
        load_corpus("train", root=tmp_path)
    with pytest.raises(CorpusError, match="scripts/install-fonts"):
        find_faces("train", root=tmp_path)
    with pytest.raises(ValueError, match="split"):
        Renderer.create("test")  # type: ignore[arg-type]  # the mistake under test


def test_a_damaged_font_file_draws_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"\0\1\0\0 not a font")
    assert drawn_characters(broken) == frozenset()


@pytest.mark.parametrize("height", [24, 40, 64])
def test_damage_keeps_shape_and_strokes(height: int) -> None:
    ink = np.zeros((height, 8 * height), np.uint8)
    stroke = max(2, height // 12)
    for x in range(height // 2, 7 * height, height // 2):
        ink[height // 5 : -height // 5, x : x + stroke] = 255
    correlations = []
    for seed in range(150):
        image = degrade(ink, em=0.8 * height, rng=Random(seed))
        assert image.shape == ink.shape
        assert image.dtype == np.uint8
        assert np.ptp(image.astype(int)) > 60
        correlations.append(np.corrcoef(ink.reshape(-1), image.reshape(-1).astype(float))[0, 1])
    # Ink is dark (negative), but for the few inverted lines; no damage hides the strokes.
    assert 0.0 < np.mean(np.array(correlations) > 0) < 0.1
    assert np.min(np.abs(correlations)) > 0.4


# --- with the packages ---


def _same(a: Line, b: Line) -> bool:
    return a.text == b.text and np.array_equal(a.image, b.image)


def test_a_line_depends_on_seed_split_and_index_alone(renderer: Renderer, heldout: Renderer) -> None:
    first = [renderer.line(index, max_chars=20) for index in range(12)]
    backwards = [renderer.line(index, max_chars=20) for index in reversed(range(12))]
    assert all(map(_same, first, reversed(backwards)))
    assert len({line.text for line in first}) > 9
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        elsewhere = pool.submit(_lines, renderer, 12).result()
    assert all(map(_same, first, elsewhere))
    assert not _same(first[0], heldout.line(0, max_chars=20))


def _lines(renderer: Renderer, count: int) -> list[Line]:
    return [renderer.line(index, max_chars=20) for index in range(count)]


@pytest.mark.parametrize("max_chars", [1, 15, 72])
def test_lines_have_the_promised_form(renderer: Renderer, max_chars: int) -> None:
    bilevel = 0
    for index in range(80):
        line = renderer.line(index, max_chars=max_chars)
        assert line.image.dtype == np.uint8
        assert line.image.ndim == 2
        height, width = line.image.shape
        assert 20 <= height <= 100
        assert width >= 8
        assert 1 <= len(line.text) <= max_chars
        assert clean(line.text) == line.text
        assert line.image.min() < line.image.max() - 60
        bilevel += len(np.unique(line.image)) <= 2
    assert 8 <= bilevel <= 56


def test_splits_share_neither_sentences_nor_words_nor_typefaces(renderer: Renderer, heldout: Renderer) -> None:
    for language in LANGUAGES:
        assert not set(renderer.corpus.sentences[language]) & set(heldout.corpus.sentences[language])
        assert not set(renderer.corpus.words[language]) & set(heldout.corpus.words[language])
    assert not {face.family.name for face in renderer.faces} & {face.family.name for face in heldout.faces}
    assert not {face.path for face in renderer.faces} & {face.path for face in heldout.faces}
    kinds = Counter(family.kind for family in FAMILIES if family.held_out)
    assert kinds["serif"] >= 2
    assert kinds["sans"] >= 2
    assert kinds["mono"] >= 1


def test_sentences_are_whole_and_clean(renderer: Renderer) -> None:
    for language, sentences in renderer.corpus.sentences.items():
        assert all(clean(sentence) == sentence for sentence in sentences[::50])
        assert len(set(sentences)) == len(sentences) > 1000, language
    german = Counter("".join(renderer.corpus.sentences["de"][::20]))
    assert german["ü"] > german["ã"]  # files are read as the language they are in


def test_nothing_is_printed_in_a_face_that_lacks_it(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[tuple[Face, str]] = []

    def spy(text: str, *, above: str | None, below: str | None, face: Face, rng: Random) -> Ink | None:
        printed.extend((face, words) for words in (text, above, below) if words is not None)
        return print_line(text, above=above, below=below, face=face, rng=rng)

    monkeypatch.setattr(render, "print_line", spy)
    for index in range(150):
        renderer.line(index, max_chars=30)
    assert all(face.covers(words) for face, words in printed)
    assert len({face.family.name for face, _ in printed}) > 20
    assert len(printed) > 190  # neighbours were among them


def test_covered_characters_have_glyphs_of_their_own(renderer: Renderer, heldout: Renderer) -> None:
    """The oracle is FreeType's picture of a code point that no font has: the box of a missing glyph."""
    for face in Random(5).sample(renderer.faces + heldout.faces, 60):
        font = ImageFont.truetype(face.path, 20)
        missing = bytes(font.getmask("\U000fffff"))
        boxes = [c for c in sorted(face.characters - {" "}) if bytes(font.getmask(c)) == missing]
        assert not boxes, f"{face.path}: {boxes}"


def test_crops_keep_the_ends_of_the_line(renderer: Renderer) -> None:
    """A tall letter at both ends stays whole, however the crop is tilted and scaled."""
    face = next(face for face in renderer.faces if Path(face.path).stem == "LiberationSans-Bold")
    for seed in range(150):
        ink = print_line("Hxxxxxxxxxx xxxxxxH", above="gjpq" * 6, below="HTLK" * 6, face=face, rng=Random(seed))
        assert ink is not None
        columns = np.flatnonzero((ink.mask > 100).sum(axis=0) > 0.55 * ink.em)  # only stems of H are that tall
        width = ink.mask.shape[1]
        assert len(columns), seed
        assert columns[0] < 1.9 * ink.em, seed
        assert columns[-1] > width - 1.9 * ink.em, seed


def test_neighbours_show_only_at_the_edge(renderer: Renderer) -> None:
    face = next(face for face in renderer.faces if Path(face.path).stem == "LiberationSans-Regular")
    shares = []
    for seed in range(100):
        alone = print_line("xxxxxxxxxx", above=None, below=None, face=face, rng=Random(seed))
        crowded = print_line("xxxxxxxxxx", above=None, below="HHHHHHHHH", face=face, rng=Random(seed))
        assert alone is not None
        assert crowded is not None
        rows = np.any(crowded.mask > 128, axis=1).tolist()
        gaps = np.flatnonzero(np.logical_not(rows))
        last_gap = gaps[gaps < len(rows) - 1].max(initial=0)
        shares.append((len(rows) - 1 - last_gap) / len(rows) if rows[-1] else 0.0)
    assert np.median(shares) > 0.05
    assert np.quantile(shares, 0.9) < 0.4


def test_lines_are_drawn_as_pillow_draws_their_pieces(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle is `ImageDraw.text`, piece by piece: letters that come again are not copied to another pixel."""
    spaced = 0
    draw = page._Type.draw

    def compare(type_: page._Type, sheet: Image.Image, text: str, *, x: float, baseline: float) -> None:
        nonlocal spaced
        spaced += type_.letter != 0
        draw(type_, sheet, text, x=x, baseline=baseline)
        reference = Image.new("L", sheet.size)
        pen = ImageDraw.Draw(reference)
        for piece in type_.pieces(text):
            if x > reference.width:
                break
            if piece != " ":
                features = list(type_.features) or None
                pen.text((x, baseline), piece, fill=255, font=type_.font, anchor="ls", features=features)
            x += type_.font.getlength(piece) * (type_.word if piece == " " else 1.0) + type_.letter
        np.testing.assert_array_equal(np.asarray(sheet), np.asarray(reference), err_msg=f"{type_.font.path!r} {text}")

    monkeypatch.setattr(page._Type, "draw", compare)
    for index in range(200):
        renderer.line(index, max_chars=40)
    assert spaced > 40


def test_handwriting_is_drawn_in_faces_of_its_own(renderer: Renderer) -> None:
    lines: list[Line] = []
    families: list[set[str]] = []
    for split in ("train", "heldout"):
        written = create(split, style="handwriting")
        families.append({face.family.name for face in written.faces})
        lines += [written.line(index, max_chars=30) for index in range(40)]
        assert all(face.family.kind == "hand" for face in written.faces)
    assert not families[0] & families[1]
    assert len(families[0]) > 5
    assert all(line.image.min() < line.image.max() - 60 for line in lines)
    assert not families[0] & {face.family.name for face in renderer.faces}


def test_missing_handwriting_faces_are_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"handwriting faces for the train split .* fonts-dancingscript .*fonts-klee"):
        find_faces("train", style="handwriting", root=tmp_path)
    with pytest.raises(ValueError, match=r"style must be one of printed, .*, scene, not 'cursive'"):
        Renderer.create(style="cursive")  # type: ignore[arg-type]  # the mistake under test


def test_ink_of_the_page_is_drawn_as_pillow_draws_it(renderer: Renderer) -> None:
    """Word by word and letter by letter, a line has the ink that Pillow gives the whole of it."""
    face = next(face for face in renderer.faces if Path(face.path).stem == "LiberationSerif-Regular")
    text = "The quick brown fox"
    reference = Image.new("L", (900, 120))
    ImageDraw.Draw(reference).text((20, 80), text, fill=255, font=ImageFont.truetype(face.path, 40), anchor="ls")
    share = np.asarray(reference, dtype=float).sum() / 255 / 40**2
    for seed in range(60):
        ink = print_line(text, above=None, below=None, face=face, rng=Random(seed))
        assert ink is not None
        stretched = ink.mask.astype(float).sum() / 255 / ink.em**2
        assert 0.75 * share < stretched < 1.3 * share, seed


# --- styles in colour ---

STYLED = ("colour", "receipt", "scene")


@pytest.fixture(scope="module", params=STYLED)
def styled(request: pytest.FixtureRequest, heldout: Renderer) -> Renderer:
    return replace(heldout, style=request.param)


def test_coloured_lines_have_the_promised_form(styled: Renderer) -> None:
    coloured = 0
    for index in range(60):
        line = styled.line(index, max_chars=24)
        assert line.image.dtype == np.uint8
        assert line.image.shape[2:] == (3,)
        assert min(line.image.shape[:2]) >= 8
        assert line.image.shape[0] <= 260
        assert 1 <= len(line.text) <= 24
        assert clean(line.text) == line.text
        red, green, blue = line.image.reshape(-1, 3).mean(axis=0)
        coloured += max(red, green, blue) - min(red, green, blue) > 2
    assert coloured > 15
    assert all(map(_same, _lines(styled, 20), _lines(styled, 20)))


def test_painted_ink_can_be_told_from_its_ground(renderer: Renderer) -> None:
    """Where the mask is full and where it is empty, grey levels differ."""
    ink = np.zeros((40, 400), np.uint8)
    for x in range(30, 370, 20):
        ink[8:32, x : x + 9] = 255
    for finish in (paint.document, paint.receipt):  # a scene moves the ink
        for seed in range(150):
            grey = np.asarray(Image.fromarray(finish(ink, em=30.0, rng=Random(seed))).convert("L"), float)
            inside = [grey[14:26, x + 3 : x + 6].mean() for x in range(30, 370, 20)]
            outside = [grey[14:26, x + 13 : x + 16].mean() for x in range(30, 370, 20)]
            differences = np.abs(np.subtract(inside, outside))
            assert np.median(differences) > 25, (finish.__name__, seed)
    for seed in range(150):
        assert np.ptp(np.asarray(Image.fromarray(paint.scene(ink, em=30.0, rng=Random(seed))).convert("L"), int)) > 50


def test_a_warp_loses_no_ink() -> None:
    ink = np.full((30, 200), 255, np.uint8)
    mask = Image.fromarray(np.pad(ink, 4))
    for seed in range(200):
        for bend in (warp.arched, warp.in_perspective):
            bent = np.asarray(bend(mask, em=28.0, rng=Random(seed)))
            border = np.concatenate([bent[0], bent[-1], bent[:, 0], bent[:, -1]])
            assert (border > 128).mean() < 0.02, (bend.__name__, seed)
            assert bent.sum() > 0.45 * np.asarray(mask, np.int64).sum()


def test_receipts_are_mostly_in_faces_of_one_width_and_scenes_in_all(renderer: Renderer) -> None:
    receipts = find_faces("train", style="receipt")
    narrow = sum(face.weight for face in receipts if face.family.kind == "mono")
    assert narrow > 0.6 * sum(face.weight for face in receipts)
    assert {face.family.kind for face in find_faces("train", style="scene")} == {"serif", "sans", "mono", "hand"}


@given(st.integers(min_value=0), st.integers(min_value=3, max_value=40))
def test_receipts_and_signs_stay_in_the_alphabet(seed: int, max_chars: int) -> None:
    for say in (sample_receipt, sample_sign):
        text = say(SMALL_CORPUS, Random(seed), max_chars=max_chars)
        assert 1 <= len(text) <= max_chars
        assert set(text) <= set(ALPHABET)
        assert unicodedata.is_normalized("NFC", text)
