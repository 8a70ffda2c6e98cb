"""Synthetic text lines: a pure function from (seed, split, index) to an image and its text.

A line is printed in a free typeface with pieces of the lines above and below it, cropped as line finders crop,
and damaged as printers and scanners damage (see `train.data.degrade`).
"""

from dataclasses import dataclass
from itertools import accumulate
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFont

from train.data.corpus import LANGUAGES, Corpus, Split, load_corpus
from train.data.degrade import degrade
from train.data.fonts import Face, find_faces, open_face
from train.data.text import sample_text

_NEIGHBOURS = 0.45  # share of lines with pieces of other lines at the top or bottom edge
_MIN_EM, _MAX_EM = 20, 56  # pixels per em at which text is drawn
_SMALLEST_EM = 15.0  # pixels per em below which a final image is hard to read for a human
_MIN_HEIGHT, _MAX_HEIGHT = 24, 64  # pixels, of a final image


@dataclass(frozen=True)
class Line:
    """One training example: `image` is uint8 [height, width], 0 black and 255 white; `text` is what it says."""

    image: NDArray[np.uint8]
    text: str


@dataclass(frozen=True)
class Spacing:
    """Extra space after each letter in pixels, and the width of a space as a multiple of the face's own."""

    letter: float
    word: float


@dataclass(frozen=True)
class Renderer:
    """Draws the lines of one split. Picklable; make one with `create` and share it between worker processes."""

    split: Split
    seed: int
    faces: tuple[Face, ...]
    cumulative_weights: tuple[float, ...]
    corpus: Corpus

    @classmethod
    def create(cls, split: Split = "train", *, seed: int = 0) -> "Renderer":
        """Finds the installed typefaces and text of a split ("train" or "heldout"); takes some seconds.

        Raises:
          CorpusError: the packages that scripts/install-fonts installs are missing.
          ValueError: the split is neither "train" nor "heldout".
        """
        if split not in ("train", "heldout"):
            raise ValueError(f"split must be 'train' or 'heldout', not {split!r}")
        faces = find_faces(split)
        cumulative = tuple(accumulate(face.weight for face in faces))
        return cls(split=split, seed=seed, faces=faces, cumulative_weights=cumulative, corpus=load_corpus(split))

    def line(self, index: int, *, max_chars: int = 40) -> Line:
        """The line of this index, of 1 to `max_chars` characters; the same for every call and every process.

        Raises:
          ValueError: max_chars is below 1.
        """
        rng = Random(f"{self.seed}/{self.split}/{index}/{max_chars}")
        while True:
            text = sample_text(self.corpus, rng, max_chars=max_chars)
            face = self._face(text, rng)
            ink = _print(face, text, self._neighbours(text, face, rng), rng)
            if ink is not None:
                em = ink.em
                return Line(image=degrade(ink.mask, em=em, rng=rng), text=text)

    def _face(self, text: str, rng: Random) -> Face:
        while True:
            face = rng.choices(self.faces, cum_weights=self.cumulative_weights)[0]
            if face.covers(text):
                return face

    def _neighbours(self, text: str, face: Face, rng: Random) -> tuple[str | None, str | None]:
        """Text for the line above and the line below, None where that side stays empty."""
        if rng.random() >= _NEIGHBOURS:
            return None, None
        above, below = rng.choice(((True, False), (False, True), (False, True), (True, True)))
        return (self._filler(text, face, rng) if above else None, self._filler(text, face, rng) if below else None)

    def _filler(self, text: str, face: Face, rng: Random) -> str:
        length = max(8, round(len(text) * rng.uniform(0.9, 1.3)))
        while True:
            filler = rng.choice(self.corpus.sentences[rng.choice(LANGUAGES)])
            while len(filler) < length:
                filler += " " + filler
            if face.covers(filler):
                start = rng.randrange(len(filler) - length + 1)
                return filler[start : start + length].strip() or "x"


@dataclass(frozen=True)
class Ink:
    """A printed and cropped line: `mask` is uint8 [height, width], 255 full ink; `em` is its size in pixels."""

    mask: NDArray[np.uint8]
    em: float


def _print(face: Face, text: str, neighbours: tuple[str | None, str | None], rng: Random) -> Ink | None:
    """Prints a line and its neighbours, tilts and crops them; None where the text left no ink."""
    em = rng.randint(_MIN_EM, _MAX_EM)
    font = open_face(face.path, em)
    spacing = _spacing(face, em, rng)
    leading = rng.uniform(0.98, 1.4) * em
    width = round(_length(font, text, spacing) + 1.2 * em)
    height = round(2 * leading + 2.2 * em)
    baseline = round(leading + 1.3 * em)

    def printed(words: str, x: float, y: float) -> Image.Image:
        page = Image.new("L", (width, height))
        _draw(page, words, x, y, font=font, spacing=spacing, ligatures=face.family.kind != "mono")
        return page

    page = printed(text, 0.6 * em, baseline)
    box = page.getbbox()
    if box is None:
        return None
    left, top, right, bottom = map(float, box)
    crop_top = top - _vertical_margin(em, rng)
    crop_bottom = bottom + _vertical_margin(em, rng)
    above, below = neighbours
    shift = 0.0 if rng.random() < 0.6 else rng.uniform(-1.5, 0.3) * em
    tilt = _tilt(right - left, em, rng)
    drift = abs(tilt) * (right - left) / 2
    crop_top, crop_bottom = crop_top - drift, crop_bottom + drift
    if above:
        other = printed(above, 0.6 * em + shift, baseline - leading)
        other_box = other.getbbox()
        if other_box:
            visible = rng.uniform(0.03, 0.3) * em
            crop_top = min(top, max(other_box[3] - visible - drift, top - 0.9 * em))
            page = ImageChops.lighter(page, other)
    if below:
        other = printed(below, 0.6 * em + shift, baseline + leading)
        other_box = other.getbbox()
        if other_box:
            visible = rng.uniform(0.03, 0.3) * em
            crop_bottom = max(bottom, min(other_box[1] + visible + drift, bottom + 0.9 * em))
            page = ImageChops.lighter(page, other)
    if rng.random() < 0.02:
        _rule(page, baseline, em, rng)
    crop_left, crop_right = left - _side_margin(em, rng), right + _side_margin(em, rng)

    # One resampling does the crop, the tilt, the change of width and the scale to the final height.
    crop_height, crop_width = crop_bottom - crop_top, crop_right - crop_left
    lowest = max(_MIN_HEIGHT, crop_height * _SMALLEST_EM / em)
    natural = _MIN_HEIGHT <= crop_height <= _MAX_HEIGHT and rng.random() < 0.4
    target = crop_height if natural else rng.uniform(lowest, max(lowest, _MAX_HEIGHT if rng.random() < 0.5 else 44))
    scale = target / crop_height
    stretch = 1.0 if rng.random() < 0.6 else rng.uniform(0.85, 1.15)
    out_height, out_width = max(8, round(target)), max(8, round(crop_width * scale * stretch))
    if scale < 0.75:  # bilinear sampling would skip ink
        page = page.reduce(2) if scale < 0.5 else page.resize((round(width * scale), round(height * scale)), Image.Resampling.BOX)
    grid_x, grid_y = page.width / width, page.height / height
    step_x, step_y = crop_width / out_width, crop_height / out_height
    middle = (left + right) / 2
    coefficients = (
        step_x * grid_x, 0.0, crop_left * grid_x,
        tilt * step_x * grid_y, step_y * grid_y, (crop_top + tilt * (crop_left - middle)) * grid_y,
    )  # fmt: skip
    page = page.transform((out_width, out_height), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return Ink(mask=np.asarray(page, dtype=np.uint8), em=em * scale)


def _spacing(face: Face, em: int, rng: Random) -> Spacing:
    letter = 0.0
    if rng.random() < 0.25:
        letter = em * (rng.uniform(-0.02, 0.05) if rng.random() < 0.6 else rng.uniform(0.05, 0.16))
    word = 1.0 if rng.random() < 0.5 else rng.uniform(0.75, 1.4) if rng.random() < 0.7 else rng.uniform(1.4, 2.2)
    return Spacing(letter=letter, word=max(word, 0.95) if face.family.kind == "mono" else word)


def _pieces(text: str, spacing: Spacing) -> list[str]:
    """The strings that are set as one: the line, its words, or its letters."""
    if spacing.letter:
        return list(text)
    return [text] if spacing.word == 1.0 else text.replace(" ", "\0 \0").split("\0")


def _length(font: ImageFont.FreeTypeFont, text: str, spacing: Spacing) -> float:
    return sum(
        font.getlength(piece) * (spacing.word if piece == " " else 1.0) + spacing.letter for piece in _pieces(text, spacing)
    )


def _draw(
    page: Image.Image, text: str, x: float, y: float, *, font: ImageFont.FreeTypeFont, spacing: Spacing, ligatures: bool
) -> None:
    draw = ImageDraw.Draw(page)
    features = None if ligatures else ["-calt", "-liga"]  # programming faces turn "->" into an arrow
    for piece in _pieces(text, spacing):
        if piece == " ":
            x += font.getlength(piece) * spacing.word + spacing.letter
            continue
        draw.text((x, y), piece, fill=255, font=font, anchor="ls", features=features)
        if len(piece) < len(text):
            x += font.getlength(piece) + spacing.letter
        if x > page.width:
            break


def _vertical_margin(em: float, rng: Random) -> float:
    dice = rng.random()
    if dice < 0.5:
        return rng.uniform(-0.03, 0.12) * em
    return (rng.uniform(0.1, 0.4) if dice < 0.87 else rng.uniform(0.4, 0.8)) * em


def _side_margin(em: float, rng: Random) -> float:
    dice = rng.random()
    if dice < 0.6:
        return rng.uniform(0.0, 0.25) * em
    return (rng.uniform(0.1, 0.6) if dice < 0.9 else rng.uniform(0.6, 1.5)) * em


def _tilt(width: float, em: float, rng: Random) -> float:
    """Slope of the baseline: up to 1.2 degrees, and never more than 0.3 em over the line."""
    if rng.random() < 0.6:
        return 0.0
    limit = min(0.021, 0.3 * em / max(width, 1.0))
    return rng.uniform(-limit, limit)


def _rule(page: Image.Image, baseline: float, em: float, rng: Random) -> None:
    y = baseline + rng.uniform(0.08, 0.3) * em
    ImageDraw.Draw(page).line((0, y, page.width, y), fill=rng.randint(120, 255), width=max(1, round(em * 0.05)))
