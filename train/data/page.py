"""A line on its page: set in type between its neighbours, tilted, cropped and sampled at scanner resolution."""

import math
import re
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFont

from train.data.fonts import Face, open_face

_MIN_EM, _MAX_EM = 20, 56  # pixels per em at which text is drawn
_SMALLEST_EM = 15.0  # pixels per em below which a final image is hard to read for a human
_MIN_HEIGHT, _MAX_HEIGHT = 24, 64  # pixels, of a final image
_LONG = 48  # characters from which on a line is never spaced out: it would be squeezed to fit a model's width


@dataclass(frozen=True)
class Ink:
    """A printed and cropped line: `mask` is uint8 [height, width], 255 full ink; `em` is its size in pixels."""

    mask: NDArray[np.uint8]
    em: float
    placed: "Placed"


class Extent(NamedTuple):
    """Where the ink of a piece of text begins and ends, in pixels from the left of the image."""

    left: float
    right: float


@dataclass(frozen=True)
class _Box:
    """Edges in pixels of the page, y downwards."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class _Type:
    """A face at a size of `em` pixels, `letter` pixels after each letter, and spaces `word` times as wide as usual."""

    font: ImageFont.FreeTypeFont
    em: int
    letter: float
    word: float
    features: tuple[str, ...]
    advances: dict[str, float] = field(default_factory=dict)  # found so far, by piece
    letters: dict[str, tuple[Any, tuple[int, int]]] = field(default_factory=dict)  # masks of single ones, likewise

    def pieces(self, text: str) -> list[str]:
        """The strings that are set as one: the line, its words and spaces, or its letters."""
        if self.letter:
            return list(text)
        return [text] if self.word == 1.0 else text.replace(" ", "\0 \0").split("\0")

    def advance(self, piece: str) -> float:
        if piece not in self.advances:  # laying out costs more than drawing, and letters come again
            own = self.font.getlength(piece)
            self.advances[piece] = own * (self.word if piece == " " else 1.0) + self.letter
        return self.advances[piece]

    def length(self, text: str) -> float:
        return sum(map(self.advance, self.pieces(text)))

    def draw(self, page: Image.Image, text: str, *, x: float, baseline: float) -> None:
        """As `ImageDraw.text` draws each piece, to the bit; letters that come again are copied."""
        target = ImageDraw.Draw(page)
        features = list(self.features) or None
        part_y, whole_y = math.modf(baseline)
        # Pillow puts a glyph on a whole pixel: it rounds the part to 64ths, and these to pixels, down the page the half
        # downwards. Words, and letters that a face builds of two glyphs, have more to round.
        row = int(whole_y) + (_in_64ths(part_y) + 31) // 64
        for piece in self.pieces(text):
            if x > page.width:
                return
            if piece != " ":
                part_x, whole_x = math.modf(x)
                if len(piece) == 1 and piece.isascii():
                    if piece not in self.letters:
                        self.letters[piece] = self.font.getmask2(piece, "L", features=features, anchor="ls")
                    mask, (right, down) = self.letters[piece]
                    place = int(whole_x) + (_in_64ths(part_x) + 32) // 64 + right, row + down
                else:
                    start = part_x, part_y
                    mask, (right, down) = self.font.getmask2(piece, "L", features=features, anchor="ls", start=start)
                    place = int(whole_x) + right, int(whole_y) + down
                target.draw.draw_bitmap(place, mask, 255)
            if len(piece) < len(text):
                x += self.advance(piece)


def _in_64ths(part: float) -> int:
    return math.floor(float(np.float32(part)) * 64 + 0.5)


@dataclass(frozen=True)
class Placed:
    """How a line got from the page into its image, horizontally; damage does not move its ink sideways.

    x: where on the page it begins. left: of the crop. step: pixels of the page that one pixel of the image takes.
    """

    text: str
    type_: _Type
    x: float
    left: float
    step: float

    def words(self) -> list[Extent]:
        """The ink of each word of the text (`str.split`), in order. Where the image cuts a word off, so does this."""
        places = [(match.start(), match.end()) for match in re.finditer(r"\S+", self.text)]
        return [self._extent(start, stop) for start, stop in places]

    def characters(self) -> list[Extent]:
        """The ink of each character; of a space, what lies between its neighbours' advances."""
        return [self._extent(i, i + 1) for i in range(len(self.text))]

    def _extent(self, start: int, stop: int) -> Extent:
        before = self.type_.length(self.text[:start])
        piece, font = self.text[start:stop], self.type_.font
        if self.type_.letter:  # each letter is set by itself
            last = self.type_.length(self.text[: stop - 1])
            boxes = [font.getbbox(c, anchor="ls", features=self._features) for c in (piece[0], piece[-1])]
            left, right = boxes[0][0], last - before + boxes[1][2]
        else:
            left, _, right, _ = font.getbbox(piece, anchor="ls", features=self._features)
        if piece.isspace():
            left, right = 0.0, self.type_.length(piece)
        return Extent(*((self.x + before + side - self.left) / self.step for side in (left, right)))

    @property
    def _features(self) -> list[str] | None:
        return list(self.type_.features) or None


def print_line(text: str, *, above: str | None, below: str | None, face: Face, rng: Random) -> Ink | None:
    """Prints a line, and pieces of the lines above and below it where given; None where the text leaves no ink.

    Args:
      text: the line. The face must cover it and its neighbours.
      above, below: what neighbouring lines say; 3% to 30% of an em of each is left inside the crop.
      face: the typeface.
      rng: source of every choice.
    """
    type_ = _choose_type(face, text, rng)
    em = type_.em
    leading = rng.uniform(0.98, 1.4) * em
    size = round(type_.length(text) + 1.2 * em), round(2 * leading + 2.2 * em)
    x, baseline = 0.6 * em, round(leading + 1.3 * em)

    page = Image.new("L", size)
    type_.draw(page, text, x=x, baseline=baseline)
    own = page.getbbox()
    if own is None:
        return None
    left, top, right, bottom = map(float, own)
    tilt = _tilt(right - left, em, rng)
    drift = abs(tilt) * (right - left) / 2
    crop_top = top - drift - _vertical_margin(em, rng)
    crop_bottom = bottom + drift + _vertical_margin(em, rng)
    shift = 0.0 if rng.random() < 0.6 else rng.uniform(-1.5, 0.3) * em
    for words, y in ((above, baseline - leading), (below, baseline + leading)):
        if words is None:
            continue
        other = Image.new("L", size)
        type_.draw(other, words, x=x + shift, baseline=y)
        box = other.getbbox()
        if box is None:
            continue
        page = ImageChops.lighter(page, other)
        visible = min(rng.uniform(0.03, 0.3) * em, 0.4 * (bottom - top))
        if y < baseline:
            crop_top = min(top, max(box[3] - visible - drift, top - 0.9 * em))
        else:
            crop_bottom = max(bottom, min(box[1] + visible + drift, bottom + 0.9 * em))
    if rng.random() < 0.02:
        _rule(page, baseline, em, rng)
    crop = _Box(left - _side_margin(em, rng), crop_top, right + _side_margin(em, rng), crop_bottom)
    mask, scanned = _scan(page, crop, tilt=tilt, em=em, rng=rng)
    step = (crop.right - crop.left) / mask.shape[1]
    return Ink(mask, scanned, Placed(text, type_, x=x, left=crop.left, step=step))


def _choose_type(face: Face, text: str, rng: Random) -> _Type:
    em = rng.randint(_MIN_EM, _MAX_EM)
    letter = 0.0
    if rng.random() < 0.25:
        letter = em * (rng.uniform(-0.02, 0.05) if len(text) > _LONG or rng.random() < 0.6 else rng.uniform(0.05, 0.16))
    word = 1.0
    if rng.random() < 0.5:
        word = rng.uniform(0.75, 1.4) if len(text) > _LONG or rng.random() < 0.7 else rng.uniform(1.4, 2.2)
    mono = face.family.kind == "mono"
    return _Type(
        font=open_face(face.path, em),
        em=em,
        letter=letter,
        word=max(word, 0.95) if mono else word,
        features=("-calt", "-liga") if mono else (),  # programming faces turn "->" into an arrow
    )


def _vertical_margin(em: float, rng: Random) -> float:
    """Paper left above or below the line's ink; a tight crop may shave it."""
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
    """Underlines the text, or prints it on a ruled line."""
    y = baseline + rng.uniform(0.08, 0.3) * em
    ImageDraw.Draw(page).line((0, y, page.width, y), fill=rng.randint(120, 255), width=max(1, round(em * 0.05)))


def _scan(page: Image.Image, crop: _Box, *, tilt: float, em: float, rng: Random) -> tuple[NDArray[np.uint8], float]:
    """Samples the crop at a random resolution: one affine map does the crop, the tilt and the change of scale. The ink
    and its size."""
    crop_width, crop_height = crop.right - crop.left, crop.bottom - crop.top
    lowest = max(_MIN_HEIGHT, crop_height * _SMALLEST_EM / em)
    if _MIN_HEIGHT <= crop_height <= _MAX_HEIGHT and rng.random() < 0.4:
        target = crop_height
    else:
        target = rng.uniform(lowest, max(lowest, _MAX_HEIGHT if rng.random() < 0.5 else 44))
    scale = target / crop_height
    stretch = 1.0 if rng.random() < 0.6 else rng.uniform(0.85, 1.15)
    height, width = max(8, round(target)), max(8, round(crop_width * scale * stretch))
    grid = 1.0
    if scale < 0.75:  # bilinear sampling would skip ink
        grid = scale
        page = page.resize((round(page.width * grid), round(page.height * grid)), Image.Resampling.BOX)
    step_x, step_y = crop_width / width, crop_height / height
    start_y = crop.top + tilt * (crop.left - (crop.left + crop.right) / 2)
    coefficients = (
        step_x * grid, 0.0, crop.left * grid,
        tilt * step_x * grid, step_y * grid, start_y * grid,
    )  # fmt: skip
    page = page.transform((width, height), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return np.asarray(page, dtype=np.uint8), em * scale
