"""How sure a model is of what it read, from the log-probabilities of its tokens.

All probabilities are the model's own, before penalties, constraints and other models, of a token behind those that were
written before it. They are not calibrated: what they are worth is a question for held-out lines, which
`trocr_jax.calibration` answers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein

from trocr_jax.errors import TokenizerError

# One character of UTF-8, or the bytes that a decoder replaces by one U+FFFD (Unicode 16, section 3.9, table 3-7).
_CHARACTER = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]?|\xe0(?:[\xa0-\xbf][\x80-\xbf]?)?|[\xe1-\xec\xee\xef][\x80-\xbf]{0,2}"
    rb"|\xed(?:[\x80-\x9f][\x80-\xbf]?)?|\xf0(?:[\x90-\xbf][\x80-\xbf]{0,2})?|[\xf1-\xf3][\x80-\xbf]{0,3}"
    rb"|\xf4(?:[\x80-\x8f][\x80-\xbf]{0,2})?|.",
    re.DOTALL,
)


class Confidence(NamedTuple):
    """A character or a word, and the probability that the model gives it."""

    text: str
    confidence: float


class Alternative(NamedTuple):
    """A text that was found. score: the search's. probability: among all that were found, so that they add up to 1."""

    text: str
    score: float
    probability: float


def line_confidence(log_probs: Sequence[float]) -> float:
    """The geometric mean of the probabilities of all tokens, the end token too: exp of their mean logarithm."""
    return math.exp(math.fsum(log_probs) / len(log_probs)) if log_probs else 1.0


def character_confidences(
    text: str, spellings: Sequence[bytes | None], log_probs: Sequence[float]
) -> tuple[Confidence, ...]:
    """The confidence of every character (code point) of `text`.

    spellings: the bytes that each token spells, None for special ones; log_probs: one for each token. The probability p
    of a token that spells n characters counts p ** (1 / n) for each of them; a character that several tokens spell
    together, as in byte-level vocabularies, has the product of their shares. So the characters of a text multiply to
    the probability of the tokens that spell it. Spaces that the tokenizer spells and drops (before the first word, say)
    are no characters here, and take no share.
    Raises TokenizerError if `text` is not what the tokens spell.
    """
    kept = list(_kept(text, _spelt(spellings)))
    counts = [0] * len(spellings)
    for _, tokens in kept:
        for token in tokens:
            counts[token] += 1
    return tuple(
        Confidence(character, math.exp(math.fsum(log_probs[token] / counts[token] for token in tokens)))
        for character, tokens in kept
    )


def word_confidences(characters: Iterable[Confidence]) -> tuple[Confidence, ...]:
    """The product of the confidences of the characters of every word: the probability that the model gives to the whole
    word. Words are what `str.split` makes of the text; the spaces between them belong to none."""
    words = (list(run) for space, run in groupby(characters, lambda c: c.text.isspace()) if not space)
    return tuple(Confidence("".join(c.text for c in word), math.prod(c.confidence for c in word)) for word in words)


def alternatives(texts: Sequence[str], scores: Sequence[float], log_probs: Sequence[float]) -> tuple[Alternative, ...]:
    """What a search found, in its order, equal texts together.

    log_probs: the logarithm of what each counts for: the log-probability of the whole text (not divided by its length,
    as scores may be), or 0 for each of several samples. Equal texts that were spelt with different tokens, or drawn
    several times, are one: their probabilities are added, the first score stays.
    """
    largest = max(log_probs, default=0.0)
    weights = [math.exp(p - largest) if largest > -math.inf else 1.0 for p in log_probs]
    total = math.fsum(weights)
    found: dict[str, Alternative] = {}
    for text, score, weight in zip(texts, scores, weights, strict=True):
        known = found.get(text, Alternative(text, score, 0.0))
        found[text] = known._replace(probability=known.probability + weight / total)
    return tuple(found.values())


def minimum_bayes_risk(found: Sequence[Alternative]) -> int:
    """The place of the text with the fewest expected wrong characters (Levenshtein distance) if the truth is among
    `found` with the probabilities given; the first of equals (Kumar and Byrne 2004)."""
    risks = [
        math.fsum(truth.probability * Levenshtein.distance(truth.text, choice.text) for truth in found)
        for choice in found
    ]
    return risks.index(min(risks))


def token_spans(text: str, spellings: Sequence[bytes | None]) -> list[tuple[int, int]]:
    """Which characters of `text` each token spells, from and to; nothing for special tokens and for spaces that are
    dropped. A character that several tokens spell together counts for the first of them. Raises as
    `character_confidences` does."""
    first = [tokens[0] for _, tokens in _kept(text, _spelt(spellings))]
    ends = [sum(owner <= token for owner in first) for token in range(len(spellings))]
    return list(pairwise([0, *ends]))


def _spelt(spellings: Sequence[bytes | None]) -> list[tuple[str, list[int]]]:
    """Every character with the tokens that have a byte of it."""
    owners = [token for token, spelling in enumerate(spellings) for _ in spelling or b""]
    return [
        (match[0].decode(errors="replace"), sorted(set(owners[match.start() : match.end()])))
        for match in _CHARACTER.finditer(b"".join(spelling or b"" for spelling in spellings))
    ]


def _kept(text: str, spelt: Iterable[tuple[str, list[int]]]) -> Iterable[tuple[str, list[int]]]:
    """The characters that stand in the text, in order; what is dropped must be space."""
    place = 0
    for character, tokens in spelt:
        if text[place : place + 1] == character:
            place += 1
            yield character, tokens
        elif not character.isspace():
            break
    if place < len(text):
        raise TokenizerError(f"the tokens do not spell {text!r} behind its first {place} characters")
