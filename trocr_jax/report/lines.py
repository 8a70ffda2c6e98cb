"""The lines of a report as compact values of JSON; report.js draws them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trocr_jax.evaluated import Looked, Outcome, Reading, Sample
from trocr_jax.metrics import edits
from trocr_jax.metrics.rates import UnicodeForm, character_edits, exact_match
from trocr_jax.report.thumbnails import Thumbnail
from trocr_jax.say import printable


def rows(
    samples: Sequence[Sample],
    readings: Sequence[Reading],
    images: Sequence[Thumbnail],
    min_confidence: float | None,
    form: UnicodeForm | None,
) -> list[dict[str, Any]]:
    """A row for each line: i id, g group, r reference, l its characters, m image, w and h its size, o what each run
    made of it. form: in which texts are compared, and characters are counted."""
    return [
        {
            "i": printable(sample.id),
            "g": printable(sample.group),
            "r": printable(sample.reference),
            "l": int(character_edits(sample.reference, "", unicode_form=form).denominators[0]),
            "m": image.data,
            "w": image.width,
            "h": image.height,
            "o": [_outcome(sample.reference, r.outcomes[number], min_confidence, form) for r in readings],
        }
        for number, (sample, image) in enumerate(zip(samples, images, strict=True))
    ]


def _outcome(reference: str, found: Outcome, min_confidence: float | None, form: UnicodeForm | None) -> dict[str, Any]:
    """e: wrong characters; d: differences, a text that is right or [reference, read]; c: confidence; k: of each
    character, two digits each; x: marks; n: n-best; b: word boxes; a: attention. What is empty is left out."""
    marks = [*(["cut off"] if found.truncated else []), *(["unreadable"] if found.error else [])]
    if min_confidence is not None and (found.confidence is None or found.confidence < min_confidence):
        marks.append("review")
    row = {
        "e": int(character_edits(reference, found.text, unicode_form=form).numerators[0]),
        "d": [
            printable(e.hypothesis)
            if exact_match(e.reference, e.hypothesis, unicode_form=form)
            else [printable(e.reference), printable(e.hypothesis)]
            for e in edits(reference, found.text)
        ],
        "c": None if found.confidence is None else round(found.confidence, 4),
        "k": "".join(f"{min(99, round(100 * c)):02}" for _, c in found.characters),
        "x": marks,
        "f": printable(found.error) if found.error else "",
        "n": [[printable(a.text), round(a.probability, 4)] for a in found.alternatives],
    }
    if found.looked is not None:
        row |= _looked(found.looked)
    return {key: value for key, value in row.items() if value not in ("", [], None)}


def _looked(looked: Looked) -> dict[str, Any]:
    """b: [left, right] of each word in thousandths of the image's width. a: for each token its number of characters and
    its peaks, as patch and hundredths. q: rows and columns of patches, and where the columns begin and end, in
    thousandths of the width."""
    width = looked.size[0] or 1
    tokens = zip(looked.tokens, looked.peaks, strict=True)
    return {
        "b": [[round(1000 * box.left / width), round(1000 * box.right / width)] for box in looked.words],
        "a": [[count, *(v for i, share in peaks for v in (i, round(100 * share)))] for count, peaks in tokens],
        "q": [*looked.grid, *(round(1000 * side / width) for side in looked.span)],
    }
