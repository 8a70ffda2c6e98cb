"""Word accuracy of the scene text benchmarks, as Li et al. 2023 (TrOCR, section 4.1) and Baek et al. 2019 (section 4.1)
score: both texts in lower case, everything but the digits and the 26 letters left out, equal or not."""

from __future__ import annotations

import re

from trocr_jax.metrics.rates import Texts, pair
from trocr_jax.metrics.tally import Tally

_LEFT_OUT = re.compile("[^0-9a-z]")


def scene_text_form(text: str) -> str:
    """What of a text is compared: its digits and letters a to z, in lower case."""
    return _LEFT_OUT.sub("", text.lower())


def scene_text_accuracy(references: Texts, hypotheses: Texts) -> float:
    """Share of words whose digits and letters are right. Takes two strings or two equally long series of strings;
    raises ValueError if the lengths differ."""
    return scene_text_matches(references, hypotheses).value


def scene_text_matches(references: Texts, hypotheses: Texts) -> Tally:
    """Whether the digits and letters of each word are right (1 or 0), of 1."""
    return Tally.of((scene_text_form(r) == scene_text_form(h), 1) for r, h in pair(references, hypotheses))
