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
    """What was right in texts that were read. A word is right if all its characters stand in the reference, in place,
    and so do the spaces or ends around it; a character, if a shortest alignment keeps it."""
    found = Judged(*(Evidence([], []) for _ in range(3)))
    for reference, result in zip(references, results, strict=True):
        found.line.log_probs.append(math.fsum(result.model_log_probs))
        found.line.right.append(result.text == reference)
        kept = kept_characters(reference, result.text)
        own = result.own_characters
        for character, good in zip(own, kept, strict=True):
            found.character.log_probs.append(_log(character.confidence))
            found.character.right.append(good)
        for start, stop in word_spans(result.text):
            found.word.log_probs.append(math.fsum(_log(c.confidence) for c in own[start:stop]))
            found.word.right.append(all(kept[max(start - 1, 0) : stop + 1]))
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


def kept_characters(reference: str, text: str) -> list[bool]:
    """For each character of `text` whether a shortest alignment finds it in the reference."""
    return [edit.equal for edit in edits(reference, text) for _ in edit.hypothesis]


def _log(probability: float) -> float:
    return math.log(probability) if probability > 0 else -745.0  # the smallest f64
