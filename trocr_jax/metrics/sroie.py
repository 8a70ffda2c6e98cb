"""SROIE task 2, text recognition (ICDAR 2019, rrc.cvc.uab.es/?ch=13&com=tasks): words of lines as bags.

A word is what stands between white spaces, to the character. The words of a line that was read match the words of the
line that was written as often as they occur in both; where a word stands does not count. Matches, words read and words
written are added up over all lines:

    precision = matches / words read    recall = matches / words written    F1 = 2 matches / (read + written)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from trocr_jax.metrics.rates import Texts, UnicodeForm, pair
from trocr_jax.metrics.tally import Tally


class WordScores(NamedTuple):
    """Shares between 0 and 1."""

    precision: float
    recall: float
    f1: float


def sroie(references: Texts, hypotheses: Texts, *, unicode_form: UnicodeForm | None = None) -> WordScores:
    """Word precision, recall and F1 over all lines; 0 where nothing was read, written or both. Arguments and errors as
    for `metrics.cer`."""
    sides = pair(references, hypotheses, unicode_form=unicode_form)
    one, other = [r for r, _ in sides], [h for _, h in sides]
    return WordScores(word_precision(one, other).value, word_recall(one, other).value, word_f1(one, other).value)


def word_precision(references: Texts, hypotheses: Texts, *, unicode_form: UnicodeForm | None = None) -> Tally:
    """Words of each line that match, and words read."""
    return Tally.of((match, read) for match, read, _ in _counts(references, hypotheses, unicode_form))


def word_recall(references: Texts, hypotheses: Texts, *, unicode_form: UnicodeForm | None = None) -> Tally:
    """Words of each line that match, and words written."""
    return Tally.of((match, written) for match, _, written in _counts(references, hypotheses, unicode_form))


def word_f1(references: Texts, hypotheses: Texts, *, unicode_form: UnicodeForm | None = None) -> Tally:
    """Twice the words of each line that match, and words read and written together."""
    return Tally.of(
        (2 * match, read + written) for match, read, written in _counts(references, hypotheses, unicode_form)
    )


def _counts(references: Texts, hypotheses: Texts, unicode_form: UnicodeForm | None) -> Iterator[tuple[int, int, int]]:
    """Of each line: words that match, words read, words written."""
    for reference, hypothesis in pair(references, hypotheses, unicode_form=unicode_form):
        written, read = Counter(reference.split()), Counter(hypothesis.split())
        yield (written & read).total(), read.total(), written.total()
