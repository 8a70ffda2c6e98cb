"""What a recipe trains on, by name: `train.lines` opens it."""

from __future__ import annotations

from dataclasses import dataclass

from train.data.augment import Augmentation
from train.data.fonts import Style


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """Lines drawn while a model trains, without end; those of the held-out typefaces and texts where they are read to
    score it."""

    style: Style = "printed"
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Built:
    """A split of a data set that `python -m train data build` wrote, DATA/NAME/1.0.0."""

    name: str
    split: str = "train"
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The folder DATA itself: pictures and a list of what they say, read as they are. Training takes the split train;
    a model is scored on the split validation, or else test, or else on every tenth line, which training then leaves
    out."""

    weight: float = 1.0


Part = Rendered | Built | Pictures


@dataclass(frozen=True, kw_only=True)
class Data:
    """Training takes turns in the proportion of the weights; `held_out` is what `Recipe.eval_every` reads, the first
    `Recipe.eval_lines` of each part."""

    train: tuple[Part, ...]
    held_out: tuple[Part, ...] = ()
    augmentation: Augmentation = "none"
