"""Fits calibration.json of tiny-printed on rendered lines in typefaces that it was not trained on, and measures it on
other such lines: drawn with another seed; and, fitted on half of the families, in the families of the other half.

    python -m scripts.calibrate_tiny_printed --fit 2500 --test 2000
    python -m scripts.calibrate_tiny_printed --fit 0 --test 6000      # measures the calibration that is there
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from train.data.line import Line
from train.data.render import Renderer
from trocr_jax.calibration import FILE, Calibration
from trocr_jax.evaluation.fitting import Evidence, Judged, calibrate, judge
from trocr_jax.metrics import (
    adaptive_calibration_error,
    calibration_error_by_chance,
    debiased_calibration_error,
    expected_calibration_error,
)
from trocr_jax.recognizer import Recognizer

FIT_SEED = 777_001
MAX_CHARS = 64
MODEL = Path("trocr_jax/models/tiny-printed")


def judged(recognizer: Recognizer, lines: Sequence[Line]) -> Judged:
    """What is right of what is read in the lines, by greedy search."""
    return judge([line.text for line in lines], recognizer([line.image for line in lines], batch_size=32))


def halves(renderer: Renderer) -> tuple[Renderer, Renderer]:
    """Two renderers that share no family of typefaces: every second one by name."""
    families = sorted({face.family.name for face in renderer.faces})
    found = []
    for own in (families[::2], families[1::2]):
        faces = tuple(face for face in renderer.faces if face.family.name in own)
        weights = tuple(accumulate(face.weight for face in faces))
        found.append(replace(renderer, faces=faces, cumulative_weights=weights))
    return found[0], found[1]


def drawn(renderer: Renderer, count: int) -> list[Line]:
    """Lines of the renderer's whole mixture."""
    return [renderer.line(i, max_chars=MAX_CHARS) for i in range(count)]


def together(one: Judged, other: Judged) -> Judged:
    return Judged(*(Evidence(a.log_probs + b.log_probs, a.right + b.right) for a, b in zip(one, other, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", type=int, default=2500, help="lines of each half of the families")
    parser.add_argument("--test", type=int, default=2000)
    options = parser.parse_args()
    recognizer = Recognizer.from_pretrained("tiny-printed")
    if options.fit == 0:
        if recognizer.calibration is None:
            raise SystemExit(f"{MODEL / FILE} is not there: fit it first")
        test = judged(recognizer, drawn(Renderer.create("heldout", seed=0), options.test))
        measure("the calibration of the model", recognizer.calibration, test)
        return
    one, other = (judged(recognizer, drawn(r, options.fit)) for r in halves(Renderer.create("heldout", seed=FIT_SEED)))
    test = judged(recognizer, drawn(Renderer.create("heldout", seed=0), options.test))
    report("fitted on one half of the families, measured on the other", one, other)
    report("the other way round", other, one)
    both = together(one, other)
    report("fitted on both halves, measured on lines of another seed", both, test)
    about = f"{2 * options.fit} rendered lines in typefaces that the model was not trained on"
    (MODEL / FILE).write_text(calibrate(both, method="isotonic", fitted_on=about).to_json(), encoding="utf-8")


def report(title: str, fitted: Judged, measured: Judged) -> None:
    for method in ("temperature", "isotonic"):
        measure(f"{title}, {method}", calibrate(fitted, method=method, fitted_on=""), measured)


def measure(title: str, calibration: Calibration, measured: Judged) -> None:
    """Prints the errors, what a perfect calibration would show by chance, and the debiased error."""
    print(title)
    for name, evidence in measured._asdict().items():
        found = [getattr(calibration, name)(p) for p in evidence.log_probs]
        even, same = (f(found, evidence.right) for f in (expected_calibration_error, adaptive_calibration_error))
        perfect, rest = calibration_error_by_chance(found), debiased_calibration_error(found, evidence.right)
        share, count = sum(evidence.right) / len(evidence.right), len(evidence.right)
        errors = f"ECE {100 * even:.2f} % (by chance alone {100 * perfect:.2f} %, debiased {100 * rest:.2f} %)"
        errors += f", of equally large bins {100 * same:.2f} %"
        print(f"  {name}: {errors}; {100 * share:.2f} % of {count} are right", flush=True)


if __name__ == "__main__":
    main()
