"""Word accuracy of the scene text benchmarks, as Li et al. 2023 (TrOCR, section 4.1) and Baek et al. 2019 (section 4.1)
score: both texts in lower case, everything but the digits and the 26 letters left out, equal or not."""

from __future__ import annotations

import re

from trocr_jax.metrics.rates import Texts, UnicodeForm, pair
from trocr_jax.metrics.tally import Tally

_LEFT_OUT = re.compile("[^0-9a-z]")


def scene_text_form(text: str) -> str:
    """What of a text is compared: its digits and letters a to z, in lower case."""
    return _LEFT_OUT.sub("", text.lower())


def scene_text_accuracy(references: Texts, hypotheses: Texts, *, unicode_form: UnicodeForm | None = None) -> float:
    """Share of words whose digits and letters are right. Takes two strings or two equally long series of strings;
    raises DataError if the lengths differ. unicode_form: as of `cer`."""
    return scene_text_matches(references, hypotheses, unicode_form=unicode_form).value


def scene_text_matches(references: Texts, hypotheses: Texts, *, unicode_form: UnicodeForm | None = None) -> Tally:
    """Whether the digits and letters of each word are right (1 or 0), of 1."""
    pairs = pair(references, hypotheses, unicode_form=unicode_form)
    return Tally.of((scene_text_form(r) == scene_text_form(h), 1) for r, h in pairs)
