"""Synthetic text lines: a pure function from (seed, split, style, index) to an image and its text.

A line is printed in a free typeface with pieces of the lines above and below it, cropped as line finders crop
(`train.data.page`), and damaged as printers and scanners damage (`train.data.degrade`) or painted in colours
(`train.data.paint`).
"""

from dataclasses import dataclass
from itertools import accumulate
from random import Random

from PIL import features

from train.data.checks import TextLimit, normal_text
from train.data.corpus import LANGUAGES, Corpus, CorpusError, Split, load_corpus
from train.data.fonts import STYLES, Face, Style, find_faces
from train.data.line import DataError
from train.data.line import Line as Line
from train.data.page import Placed, print_line
from train.data.styles import LOOKS

MOST_TEXTS = 1000
"""That are said for one line before it is given up."""


@dataclass(frozen=True)
class Renderer:
    """Draws the lines of one split. Picklable; make one with `create` and share it between worker processes."""

    split: Split
    seed: int
    faces: tuple[Face, ...]
    cumulative_weights: tuple[float, ...]
    corpus: Corpus
    style: Style = "printed"

    @classmethod
    def create(cls, split: Split = "train", *, seed: int = 0, style: Style = "printed") -> "Renderer":
        """Finds the installed typefaces and text of a split ("train" or "heldout"); takes some seconds.

        Raises:
          CorpusError: the packages that scripts/install-fonts installs are missing, or FriBiDi is.
          ValueError: the split is neither "train" nor "heldout", or the style is not one of `train.data.fonts.STYLES`.
        """
        if split not in ("train", "heldout"):
            raise ValueError(f"split must be 'train' or 'heldout', not {split!r}")
        if style not in STYLES:
            raise ValueError(f"style must be one of {', '.join(STYLES)}, not {style!r}")
        if not features.check("raqm"):
            raise CorpusError(
                "Pillow cannot set type here: its libraqm finds no FriBiDi. Install that (Debian: libfribidi0), or all "
                "that rendering needs by scripts/install-fonts."
            )
        faces = find_faces(split, style=style)
        cumulative = tuple(accumulate(face.weight for face in faces))
        return cls(
            split=split, seed=seed, faces=faces, cumulative_weights=cumulative, corpus=load_corpus(split), style=style
        )

    def line(self, index: int, *, max_chars: int = 40, limit: TextLimit | None = None) -> Line:
        """The line of this index, of 1 to `max_chars` characters and within `limit`; the same for every call and every
        process.

        Raises:
          ValueError: max_chars is below 1.
          DataError: hardly any text is within the limit.
        """
        return self.placed_line(index, max_chars=max_chars, limit=limit)[0]

    def placed_line(self, index: int, *, max_chars: int = 40, limit: TextLimit | None = None) -> tuple[Line, Placed]:
        """The same line, and where its words and characters stand in the image before `scene` bends it. Raises as
        `line` does."""
        if max_chars < 1:
            raise ValueError(f"max_chars must be at least 1, not {max_chars}")
        style = "" if self.style == "printed" else f"/{self.style}"  # else every style says the same texts
        rng = Random(f"{self.seed}/{self.split}/{index}/{max_chars}{style}")
        refused = ""
        for _ in range(MOST_TEXTS):
            text = LOOKS[self.style].say(self.corpus, rng, max_chars=max_chars)
            if limit is not None and (why := limit.refusal(normal_text(text))):
                refused = why
            elif (drawn := self._draw(text, rng)) is not None:
                return drawn
        raise DataError(f"line {index} of the renderer: none of {MOST_TEXTS} texts can be used; the last: {refused}")

    def draw(self, text: str, rng: Random) -> Line | None:
        """Prints and finishes a given text; None if it leaves no ink, or no face has all of it."""
        drawn = self._draw(text, rng)
        return None if drawn is None else drawn[0]

    def _draw(self, text: str, rng: Random) -> tuple[Line, Placed] | None:
        if not any(face.covers(text) for face in self.faces):  # handwriting faces have fewer accents
            return None
        face = self._face(text, rng)
        above, below = self._neighbours(text, face, rng)
        ink = print_line(text, above=above, below=below, face=face, rng=rng)
        if ink is None:
            return None
        return Line(image=LOOKS[self.style].finish(ink.mask, em=ink.em, rng=rng), text=text), ink.placed

    def _face(self, text: str, rng: Random) -> Face:
        while True:
            face = rng.choices(self.faces, cum_weights=self.cumulative_weights)[0]
            if face.covers(text):
                return face

    def _neighbours(self, text: str, face: Face, rng: Random) -> tuple[str | None, str | None]:
        """Text for the line above and the line below, None where that side stays empty."""
        if rng.random() >= LOOKS[self.style].neighbours:
            return None, None
        above, below = rng.choice(((True, False), (False, True), (False, True), (True, True)))
        return (self._filler(text, face, rng) if above else None, self._filler(text, face, rng) if below else None)

    def _filler(self, text: str, face: Face, rng: Random) -> str:
        """Running text about as long as `text`."""
        length = max(8, round(len(text) * rng.uniform(0.9, 1.3)))
        while True:
            filler = rng.choice(self.corpus.sentences[rng.choice(LANGUAGES)])
            while len(filler) < length:
                filler += " " + filler
            start = rng.randrange(len(filler) - length + 1)
            piece = filler[start : start + length].strip()
            if piece and face.covers(piece):
                return piece
