"""From what was read to metrics.json: plain values, a dictionary a run, and runs beside each other."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from trocr_jax import metrics
from trocr_jax.evaluated import Outcome, Reading, Sample, Samples
from trocr_jax.metrics.rates import UnicodeForm

CURVE = 200  # points of a risk-coverage curve that are kept
CONFUSIONS = 200  # entries of each table that are kept


def evaluate(
    samples: Samples,
    readings: Sequence[Reading],
    *,
    headline: str = "cer",
    unicode_form: UnicodeForm | None = None,
    min_confidence: float | None = None,
    level: float = 0.95,
    resamples: int = 2000,
) -> dict[str, Any]:
    """The content of metrics.json (docs/evaluation.md names its fields). A line that could not be read counts as an
    empty text."""
    tallies = [_tallies(samples.samples, reading, unicode_form) for reading in readings]
    runs = [
        _run(samples.samples, reading, own, unicode_form, min_confidence, level=level, resamples=resamples)
        for reading, own in zip(readings, tallies, strict=True)
    ]
    return {
        "format": "trocr_jax evaluation 1",
        "source": samples.name,
        "lines": len(samples.samples),
        "left_out": [{"id": bad.id, "reason": bad.reason} for bad in samples.left_out],
        "headline": headline,
        "unicode_form": unicode_form,
        "min_confidence": min_confidence,
        "level": level,
        "resamples": resamples,
        "runs": runs,
        "comparisons": [
            {"first": readings[i].name, "second": readings[j].name, "score": name, **found._asdict()}
            for i, j in combinations(range(len(readings)), 2)
            for name in dict.fromkeys((headline, "exact"))
            for found in [
                metrics.paired_difference(tallies[i][name], tallies[j][name], level=level, resamples=resamples)
            ]
        ],
    }


def _tallies(samples: Sequence[Sample], reading: Reading, form: UnicodeForm | None) -> dict[str, metrics.Tally]:
    references, hypotheses = [s.reference for s in samples], [o.text for o in reading.outcomes]
    return {
        "cer": metrics.character_edits(references, hypotheses, unicode_form=form),
        "cer_jiwer": metrics.character_edits(references, hypotheses, whitespace="jiwer", unicode_form=form),
        "wer": metrics.word_edits(references, hypotheses, unicode_form=form),
        "wer_jiwer": metrics.word_edits(references, hypotheses, whitespace="jiwer", unicode_form=form),
        "exact": metrics.exact_matches(references, hypotheses, unicode_form=form),
        "word_precision": metrics.word_precision(references, hypotheses, unicode_form=form),
        "word_recall": metrics.word_recall(references, hypotheses, unicode_form=form),
        "word_f1": metrics.word_f1(references, hypotheses, unicode_form=form),
        "scene_text_accuracy": metrics.scene_text_matches(references, hypotheses, unicode_form=form),
    }


def _run(
    samples: Sequence[Sample],
    reading: Reading,
    tallies: dict[str, metrics.Tally],
    form: UnicodeForm | None,
    min_confidence: float | None,
    *,
    level: float,
    resamples: int,
) -> dict[str, Any]:
    outcomes = reading.outcomes
    references, hypotheses = [s.reference for s in samples], [o.text for o in outcomes]
    fast = metrics.Throughput(len(outcomes), sum(map(len, hypotheses)), reading.seconds or 0.0)
    return {
        "name": reading.name,
        "model": reading.model,
        "decode": reading.decode,
        "unreadable": sum(o.error is not None for o in outcomes),
        "truncated": sum(o.truncated for o in outcomes),
        "scores": _scores(tallies, level=level, resamples=resamples),
        "groups": _groups(samples, tallies, level=level, resamples=resamples),
        "throughput": None
        if reading.seconds is None or reading.attention
        else {
            "seconds": fast.seconds,
            "lines_per_second": fast.lines_per_second,
            "characters_per_second": fast.characters_per_second,
        },
        "errors_by_length": _by_length(tallies["cer"]),
        "confidence": _confidence(outcomes, tallies, min_confidence),
        "confusions": {
            "characters": _table(metrics.confusions(references, hypotheses, unicode_form=form)),
            "pieces": _table(metrics.confusions(references, hypotheses, longest=3, unicode_form=form)),
        },
    }


def _scores(tallies: dict[str, metrics.Tally], *, level: float, resamples: int) -> dict[str, Any]:
    found = metrics.intervals(list(tallies.values()), level=level, resamples=resamples)
    return {
        name: {side: number(value) for side, value in interval._asdict().items()}
        for name, interval in zip(tallies, found, strict=True)
    }


def _groups(
    samples: Sequence[Sample], tallies: dict[str, metrics.Tally], *, level: float, resamples: int
) -> dict[str, Any]:
    found = {}
    for group in dict.fromkeys(s.group for s in samples if s.group):
        inside = np.array([s.group == group for s in samples])
        own = {name: tally.select(inside) for name, tally in tallies.items()}
        found[group] = {"lines": int(inside.sum()), "scores": _scores(own, level=level, resamples=resamples)}
    return found


def _by_length(errors: metrics.Tally) -> list[dict[str, Any]]:
    """CER of lines of about equal length: six groups of equally many lines at most."""
    lengths = errors.denominators.astype(int)
    cuts: list[int] = np.unique(np.quantile(lengths, np.linspace(0, 1, 7)).round().astype(int)).tolist()
    highest = [cut - 1 for cut in cuts[1:-1]] + cuts[-1:]
    found = []
    for low, high in zip(cuts, highest, strict=False):
        inside = (lengths >= low) & (lengths <= high)
        if inside.any():
            own = errors.select(inside)
            found.append({"from": int(low), "to": int(high), "lines": int(inside.sum()), "cer": number(own.value)})
    return found


def _confidence(
    outcomes: Sequence[Outcome], tallies: dict[str, metrics.Tally], min_confidence: float | None
) -> dict[str, Any] | None:
    """None where no confidences are known. Lines that could not be read have none and are left out."""
    known = np.array([o.confidence is not None for o in outcomes])
    if not known.any():
        return None
    confidences = [o.confidence for o in outcomes if o.confidence is not None]
    right = tallies["exact"].numerators[known] == 1
    wrong = metrics.Tally(1 - tallies["exact"].numerators[known], tallies["exact"].denominators[known])
    lines, characters = (metrics.risk_coverage(confidences, t) for t in (wrong, tallies["cer"].select(known)))
    found: dict[str, Any] = {
        "expected_calibration_error": metrics.expected_calibration_error(confidences, right.tolist()),
        "calibration_error_by_chance": metrics.calibration_error_by_chance(confidences),
        "debiased_calibration_error": metrics.debiased_calibration_error(confidences, right.tolist()),
        "adaptive_calibration_error": metrics.adaptive_calibration_error(confidences, right.tolist()),
        "reliability": [b._asdict() for b in metrics.reliability(confidences, right.tolist())],
        "area_under_risk_coverage": metrics.area_under_risk_coverage(lines),
        "risk_coverage": [
            {"coverage": a.coverage, "confidence": a.confidence, "wrong_lines": a.risk, "cer": number(b.risk)}
            for a, b in _thinned(list(zip(lines, characters, strict=True)))
        ],
    }
    if min_confidence is not None:
        kept = np.array([c >= min_confidence for c in confidences])
        found["review"] = {
            "min_confidence": min_confidence,
            "lines_to_review": int((~kept).sum()) + int((~known).sum()),
            "wrong_lines_kept": int((kept & ~right).sum()),
            "cer_kept": number(tallies["cer"].select(known).select(kept).value),
        }
    return found


def _thinned(points: list[Any]) -> list[Any]:
    if len(points) <= CURVE:
        return points
    return [points[i] for i in np.linspace(0, len(points) - 1, CURVE).round().astype(int)]


def _table(counts: Counter[tuple[str, str]]) -> list[dict[str, Any]]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [{"reference": r, "read": h, "count": n} for (r, h), n in ordered[:CONFUSIONS]]


def number(value: float) -> float | None:
    """A number of JSON: what is infinite is null."""
    return value if math.isfinite(value) else None
