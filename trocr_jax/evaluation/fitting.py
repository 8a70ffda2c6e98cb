"""A calibration from lines whose text is known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from trocr_jax.calibration import Calibration, fit
from trocr_jax.errors import DataError
from trocr_jax.metrics import edits
from trocr_jax.recognizer import Recognition
from trocr_jax.word_boxes import word_spans

FEWEST = 200  # lines below which a fit says little


class Evidence(NamedTuple):
    """Logarithms of the model's own probabilities, and whether what they stand for was right."""

    log_probs: list[float]
    right: list[bool]


class Judged(NamedTuple):
    """Evidence on lines, words and characters."""

    line: Evidence
    word: Evidence
    character: Evidence


def judge(references: Sequence[str], results: Iterable[Recognition]) -> Judged:
    """What was right in texts that were read. A character is right if a shortest alignment keeps it; a word, if it is
    one of the reference, whole and in its place."""
    found = Judged(*(Evidence([], []) for _ in range(3)))
    for reference, result in zip(references, results, strict=True):
        found.line.log_probs.append(math.fsum(result.model_log_probs))
        found.line.right.append(result.text == reference)
        places = kept_characters(reference, result.text)
        own = result.own_characters
        for character, place in zip(own, places, strict=True):
            found.character.log_probs.append(_log(character.confidence))
            found.character.right.append(place is not None)
        for start, stop in word_spans(result.text):
            found.word.log_probs.append(math.fsum(_log(c.confidence) for c in own[start:stop]))
            found.word.right.append(_is_word(reference, places[start:stop]))
    return found


def calibrate(judged: Judged, *, method: Literal["temperature", "isotonic"], fitted_on: str) -> Calibration:
    """Raises DataError for too few lines, words or characters."""
    check_enough(len(judged.line.right))
    if len(judged.word.right) < 2 or len(judged.character.right) < 2:
        raise DataError(
            f"{len(judged.word.right)} words and {len(judged.character.right)} characters were read in "
            f"{len(judged.line.right)} lines: too few to fit confidences on; is it the right model?"
        )
    line, word, character = (fit(e.log_probs, e.right, method=method) for e in judged)
    return Calibration(line, word, character, fitted_on=fitted_on)


def check_enough(lines: int) -> None:
    """Raises DataError for too few lines."""
    if lines < FEWEST:
        raise DataError(f"{lines} lines are too few to fit confidences on; give {FEWEST} or more")


def kept_characters(reference: str, text: str) -> list[int | None]:
    """For each character of `text` where a shortest alignment finds it in the reference, None where it does not."""
    found, at = list[int | None](), 0
    for edit in edits(reference, text):
        found += range(at, at + len(edit.hypothesis)) if edit.equal else [None] * len(edit.hypothesis)
        at += len(edit.reference)
    return found


def _is_word(reference: str, places: Sequence[int | None]) -> bool:
    """Whether these are the places of a whole word of the reference, with spaces or ends around it."""
    first = places[0]
    if first is None or list(places) != list(range(first, first + len(places))):
        return False
    return not (reference[first - 1 : first] + reference[first + len(places) :][:1]).strip()


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else -745.0  # the smallest f64
