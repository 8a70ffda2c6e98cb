"""Styles of rendered lines: what each says, and how its ink becomes a picture. The faces are `train.data.fonts`'."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from train.data.corpus import Corpus
from train.data.degrade import degrade
from train.data.fonts import Style
from train.data.paint import document, receipt, scene
from train.data.receipt_text import sample_receipt, sample_sign
from train.data.text import sample_text

Pixels = NDArray[np.uint8]


class Say(Protocol):
    """A text of 1 to `max_chars` characters."""

    def __call__(self, corpus: Corpus, rng: Random, *, max_chars: int) -> str: ...


class Finish(Protocol):
    """An ink mask uint8 [height, width], 255 full ink, of `em` pixels per em -> a picture, grey or RGB."""

    def __call__(self, ink: Pixels, *, em: float, rng: Random) -> Pixels: ...


@dataclass(frozen=True)
class Look:
    """A style. neighbours: share of lines with pieces of other lines at the top or bottom edge."""

    say: Say
    finish: Finish
    neighbours: float = 0.45


LOOKS: Mapping[Style, Look] = {
    "printed": Look(sample_text, degrade),
    "handwriting": Look(sample_text, degrade),
    "colour": Look(sample_text, document, neighbours=0.25),
    "receipt": Look(sample_receipt, receipt, neighbours=0.3),
    "scene": Look(sample_sign, scene, neighbours=0.0),
}
