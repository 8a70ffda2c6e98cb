"""What came of one line with one model: small enough to keep ten thousand of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from trocr_jax.confidence import Alternative
from trocr_jax.recognizer import Recognition
from trocr_jax.word_boxes import Box

PEAKS = 5  # patches of each token that are kept
FAINT = 0.04  # share of a token's attention below which a patch is not kept


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


def outcome(result: Recognition) -> Outcome:
    """The part of a Recognition that is scored and shown."""
    spelt = result.spellings is not None
    return Outcome(
        text=result.text,
        confidence=result.confidence,
        truncated=result.truncated,
        words=[(w.text, w.confidence) for w in result.words] if spelt else (),
        characters=[(c.text, c.confidence) for c in result.characters] if spelt else (),
        alternatives=result.alternatives if len(result.alternatives) > 1 else (),
        looked=_looked(result) if spelt and result.attention is not None else None,
    )


def _looked(result: Recognition) -> Looked:
    attention = result.attention
    assert attention is not None
    tokens = [stop - start for start, stop in result.token_spans]
    written = [i for i, count in enumerate(tokens) if count]
    maps = attention.maps().reshape(len(tokens), -1)[written]
    peaks = []
    for row in maps:
        largest = np.argsort(-row)[:PEAKS]
        floor = FAINT * float(row.sum())
        peaks.append([(int(i), float(row[i])) for i in largest if row[i] >= floor])
    return Looked(
        words=result.word_boxes,
        size=(attention.width, attention.height),
        grid=attention.grid,
        span=attention.span,
        peaks=peaks,
        tokens=[tokens[i] for i in written],
    )
