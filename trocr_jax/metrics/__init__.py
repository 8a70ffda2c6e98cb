"""How good read text is, and what its confidences are worth. Plain Python and numpy: strings and numbers in, numbers
out; nothing here knows a model.

A score is a quotient of two sums over lines (`Tally`), so every score has the same bootstrap interval and the same
paired test. docs/evaluation.md writes the definitions down.
"""

from __future__ import annotations

from trocr_jax.metrics.bootstrap import Difference, Interval, interval, intervals, paired_difference
from trocr_jax.metrics.calibration import (
    Bin,
    Coverage,
    adaptive_calibration_error,
    area_under_risk_coverage,
    calibration_error_by_chance,
    debiased_calibration_error,
    expected_calibration_error,
    reliability,
    risk_coverage,
)
from trocr_jax.metrics.confusion import Edit, confusions, edits
from trocr_jax.metrics.rates import cer, character_edits, exact_match, exact_matches, wer, word_edits
from trocr_jax.metrics.scene_text import scene_text_accuracy, scene_text_form, scene_text_matches
from trocr_jax.metrics.sroie import WordScores, sroie, word_f1, word_precision, word_recall
from trocr_jax.metrics.tally import Tally
from trocr_jax.metrics.throughput import Throughput

__all__ = [
    "Bin",
    "Coverage",
    "Difference",
    "Edit",
    "Interval",
    "Tally",
    "Throughput",
    "WordScores",
    "adaptive_calibration_error",
    "area_under_risk_coverage",
    "calibration_error_by_chance",
    "cer",
    "character_edits",
    "confusions",
    "debiased_calibration_error",
    "edits",
    "exact_match",
    "exact_matches",
    "expected_calibration_error",
    "interval",
    "intervals",
    "paired_difference",
    "reliability",
    "risk_coverage",
    "scene_text_accuracy",
    "scene_text_form",
    "scene_text_matches",
    "sroie",
    "wer",
    "word_edits",
    "word_f1",
    "word_precision",
    "word_recall",
]
