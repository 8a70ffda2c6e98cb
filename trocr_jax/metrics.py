"""Error rates of read text.

Definition: the Levenshtein distances (insertions, deletions and substitutions, each 1) of all pairs are added up and
divided by the total length of the references. That is the corpus-level rate, not the mean of the rates of single
lines; it exceeds 1 where much is inserted. Nothing is normalised: case, punctuation and every space count, and so does
the Unicode form (NFC or NFD). If all references are empty the rate is 0 when all hypotheses are empty too, and infinite
otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rapidfuzz.distance import Levenshtein


def cer(references: str | Iterable[str], hypotheses: str | Iterable[str]) -> float:
    """Character error rate: edits per reference character (Unicode code point, spaces counted).

    Takes two strings, or two equally long series of strings; raises ValueError if the lengths differ.
    jiwer's `cer` strips the ends of every string first; otherwise the two are equal.
    """
    return _rate(_texts(references), _texts(hypotheses))


def wer(references: str | Iterable[str], hypotheses: str | Iterable[str]) -> float:
    """Word error rate: edits per reference word. Words are what `str.split()` gives: runs without white space.

    Takes two strings, or two equally long series of strings; raises ValueError if the lengths differ.
    """
    return _rate([text.split() for text in _texts(references)], [text.split() for text in _texts(hypotheses)])


def _rate(references: Sequence[Sequence[str]], hypotheses: Sequence[Sequence[str]]) -> float:
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references and {len(hypotheses)} hypotheses: give as many of each")
    edits = sum(Levenshtein.distance(r, h) for r, h in zip(references, hypotheses, strict=True))
    length = sum(map(len, references))
    if length == 0:
        return math.inf if edits else 0.0
    return edits / length


def _texts(texts: str | Iterable[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)
