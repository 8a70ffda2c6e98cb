"""Fits calibration.json of tiny-printed on rendered lines, and measures it on others, whose typefaces and sentences
were held out of training and of the fit.

    python -m scripts.calibrate_tiny_printed --fit 4000 --test 2000
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from train.data.line import Line
from train.data.render import Renderer
from trocr_jax.calibration import FILE
from trocr_jax.evaluation.fitting import Evidence, Judged, calibrate, judge
from trocr_jax.metrics import adaptive_calibration_error, expected_calibration_error
from trocr_jax.recognizer import Recognizer

FIT_SEED = 777_001  # no run of training draws lines with it
MAX_CHARS = 64
MODEL = Path("trocr_jax/models/tiny-printed")


def judged(recognizer: Recognizer, lines: Sequence[Line]) -> Judged:
    """What is right of what is read in the lines, by greedy search."""
    return judge([line.text for line in lines], recognizer([line.image for line in lines], batch_size=32))


def drawn(split: str, seed: int, count: int) -> list[Line]:
    """Lines of the renderer's whole mixture; split: "train" or "heldout"."""
    renderer = Renderer.create(split="heldout" if split == "heldout" else "train", seed=seed)
    return [renderer.line(i, max_chars=MAX_CHARS) for i in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", type=int, default=4000)
    parser.add_argument("--test", type=int, default=2000)
    options = parser.parse_args()
    recognizer = Recognizer.from_pretrained("tiny-printed")
    fitted = judged(recognizer, drawn("train", FIT_SEED, options.fit))
    held_out = judged(recognizer, drawn("heldout", 0, options.test))
    about = f"{options.fit} rendered lines of the training typefaces, drawn with a seed that training does not use"
    for method in ("temperature", "isotonic"):
        calibration = calibrate(fitted, method=method, fitted_on=about)
        for name, evidence in held_out._asdict().items():
            report(f"{method}, {name}", evidence, [getattr(calibration, name)(p) for p in evidence.log_probs])
    (MODEL / FILE).write_text(calibration.to_json(), encoding="utf-8")


def report(name: str, evidence: Evidence, confidences: list[float]) -> None:
    even, same = (f(confidences, evidence.right) for f in (expected_calibration_error, adaptive_calibration_error))
    share = sum(evidence.right) / len(evidence.right)
    print(f"{name}: expected calibration error {100 * even:.2f} %, of equally large bins {100 * same:.2f} %; ", end="")
    print(f"{100 * share:.2f} % of {len(evidence.right)} are right", flush=True)


if __name__ == "__main__":
    main()
