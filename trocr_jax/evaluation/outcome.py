"""From a Recognition to what is scored and shown: small enough to keep ten thousand of them."""

from __future__ import annotations

import numpy as np

from trocr_jax.evaluated import Looked, Outcome
from trocr_jax.recognizer import Recognition

PEAKS = 5  # patches of each token that are kept
FAINT = 0.04  # share of a token's attention below which a patch is not kept


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
