"""Lines whose text is known and what models made of them: what is scored, and what a report shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from trocr_jax.confidence import Alternative
from trocr_jax.datasets import Bad
from trocr_jax.word_boxes import Box


@dataclass(frozen=True)
class Sample:
    """A line: `image` is a file, the bytes of one, or None where there is only a text that was read elsewhere; `group`
    is the set it belongs to where a protocol has several; `row` as in `Record`."""

    id: str
    reference: str
    image: bytes | Path | None
    group: str = ""
    row: str = ""


@dataclass(frozen=True)
class Samples:
    """What is scored, what it is called, and lines that could not be used, with the reason."""

    name: str
    samples: list[Sample]
    left_out: list[Bad] = field(default_factory=list)


@dataclass(frozen=True)
class Looked:
    """Where a model looked, reduced to its peaks. words: boxes in pixels of the image, whose size is (width, height);
    grid: rows and columns of patches; span: the part of the image that the columns show, from left to right, in pixels;
    peaks: for each token of the text (patch, share of the token's attention), the largest first; tokens: how many
    characters each spells."""

    words: list[Box]
    size: tuple[int, int]
    grid: tuple[int, int]
    span: tuple[float, float]
    peaks: list[list[tuple[int, float]]]
    tokens: list[int]


@dataclass(frozen=True)
class Outcome:
    """text: "" where nothing could be read, and then `error` says why. words, characters: their confidences; empty
    where they are not known."""

    text: str
    confidence: float | None = None
    truncated: bool = False
    error: str | None = None
    words: Sequence[tuple[str, float]] = ()
    characters: Sequence[tuple[str, float]] = ()
    alternatives: Sequence[Alternative] = ()
    looked: Looked | None = field(default=None, repr=False)


class Reading(NamedTuple):
    """What a run made of each sample, in their order, and the seconds that it took; None for texts read elsewhere.
    name: what the run is called. model, decode: what it was, for people. attention: whether the seconds are also those
    of the second pass, which shows where the model looked: then they say nothing of how fast it reads."""

    name: str
    outcomes: list[Outcome]
    seconds: float | None
    model: str = ""
    decode: str = ""
    attention: bool = False
