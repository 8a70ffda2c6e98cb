"""From what a model says of itself to how often it is right: confidences that hold on lines it was not trained on.

A calibration has a map for lines, for words and for characters, each fitted on lines with known text. What is mapped is
the probability that the model gives to the whole: the product of the probabilities of its tokens, the end token too for
a line. A map is one of two:

- temperature: p ** (1 / T), one number (Guo et al. 2017, section 4.2, taken for whole texts);
- isotonic: the non-decreasing step function that is closest to what was right (Zadrozny and Elkan 2002; pool adjacent
  violators), joined by straight lines.

It is the file calibration.json of a model folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trocr_jax.errors import CheckpointError

FILE = "calibration.json"
_FORMAT = "trocr_jax calibration 1"
_FLOOR = 1e-6  # probabilities below are all the same in an isotonic map: so are the logarithms that are interpolated
_SMALLEST_LOG = -745.0  # of an f64
_SMALLEST = 40  # right and wrong results together that a step of an isotonic map stands for, at least


@dataclass(frozen=True)
class Temperature:
    """p ** (1 / value)."""

    value: float

    def __call__(self, log_prob: float) -> float:
        """From the logarithm of the model's probability to the calibrated one."""
        return math.exp(log_prob / self.value)


@dataclass(frozen=True)
class Isotonic:
    """Straight lines through points (logarithm of the model's probability, probability), both not decreasing; flat
    beyond the ends."""

    log_probs: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __call__(self, log_prob: float) -> float:
        """From the logarithm of the model's probability to the calibrated one."""
        return float(np.interp(max(log_prob, math.log(_FLOOR)), self.log_probs, self.probabilities))


Map = Temperature | Isotonic


@dataclass(frozen=True)
class Calibration:
    """The maps of a model, and what they were fitted on: a sentence for people."""

    line: Map
    word: Map
    character: Map
    fitted_on: str = ""

    @classmethod
    def from_folder(cls, folder: Path) -> Calibration | None:
        """That of a model folder, None if it has none. Raises CheckpointError for a file that cannot be used."""
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["format"] != _FORMAT:
                raise ValueError(f"its format is {values['format']!r}, not {_FORMAT!r}")
            maps = {name: _map(values[name]) for name in ("line", "word", "character")}
            return cls(**maps, fitted_on=str(values.get("fitted_on", "")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"{path}: not a calibration that can be read ({type(error).__name__}: {error}); remove it, for "
                "confidences of the model itself or to fit it again with trocr-jax calibrate"
            ) from None

    def to_json(self) -> str:
        """The text of calibration.json."""
        parts = {"line": self.line, "word": self.word, "character": self.character}
        maps = {name: {"kind": _KIND[type(m)], **_rounded(asdict(m))} for name, m in parts.items()}
        return json.dumps({"format": _FORMAT, "fitted_on": self.fitted_on, **maps}, indent=1) + "\n"


def fit(log_probs: Sequence[float], right: Sequence[bool], *, method: Literal["temperature", "isotonic"]) -> Map:
    """The map that fits the results best: the likeliest temperature, or the isotonic map of least squared error.

    log_probs: logarithms of the model's probabilities; right: whether each was. Raises ValueError for fewer than 2, or
    sides of different length.
    """
    x, y = np.asarray(log_probs, np.float64), np.asarray(right, np.float64)
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(f"{len(x)} probabilities and {len(y)} results: give as many of each, at least 2")
    if method == "temperature":
        return Temperature(_temperature(np.clip(x, _SMALLEST_LOG, 0), y))
    return _isotonic(np.clip(x, math.log(_FLOOR), 0), y)


def _temperature(x: np.ndarray, y: np.ndarray) -> float:
    """By golden section over the logarithm of T: the likelihood has one maximum there."""

    def loss(log_t: float) -> float:
        log_p = np.minimum(x / math.exp(log_t), -1e-9)
        return -float((y * log_p + (1 - y) * np.log(-np.expm1(log_p))).sum())

    low, high, ratio = math.log(0.02), math.log(50), (math.sqrt(5) - 1) / 2
    for _ in range(60):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if loss(a) < loss(b) else (a, high)
    return math.exp((low + high) / 2)


def _isotonic(x: np.ndarray, y: np.ndarray) -> Isotonic:
    order = np.argsort(x, kind="stable")
    # Small groups first, so that no step rests on a few results; then neighbours are pooled until none goes down.
    blocks: list[list[float]] = []  # sum of results, how many, sum of x
    for part in np.split(order, _cuts(x[order])):
        blocks.append([float(y[part].sum()), float(len(part)), float(x[part].sum())])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    places = tuple(total / count for _, count, total in blocks)
    # Laplace's rule of succession: never certain, however often it was right. A large step below a small one may come
    # out above it then.
    values = np.maximum.accumulate([(good + 1) / (count + 2) for good, count, _ in blocks])
    return Isotonic(places, tuple(values.tolist()))


def _cuts(x: np.ndarray) -> list[int]:
    """Where x, sorted, is cut into groups of at least _SMALLEST, nearly equal ones if no values are: equal values stay
    together."""
    cuts, last = list[int](), 0
    for part in np.array_split(np.arange(len(x)), max(1, len(x) // _SMALLEST))[1:]:
        cut = int(np.searchsorted(x, x[part[0] - 1], side="right"))
        if min(cut - last, len(x) - cut) >= _SMALLEST:
            cuts.append(last := cut)
    return cuts


_KIND = {Temperature: "temperature", Isotonic: "isotonic"}


def _map(values: dict[str, Any]) -> Map:
    if values["kind"] == "temperature":
        value = float(values["value"])
        if not 0 < value < math.inf:
            raise ValueError(f"the temperature is {value}")
        return Temperature(value)
    if values["kind"] != "isotonic":
        raise ValueError(f"the kind of map {values['kind']!r} is not known")
    x, y = (tuple(map(float, values[name])) for name in ("log_probs", "probabilities"))
    rising = all(list(side) == sorted(side) for side in (x, y))
    finite = all(map(math.isfinite, (*x, *y)))
    if not x or len(x) != len(y) or not finite or not rising or not 0 <= y[0] <= y[-1] <= 1:
        raise ValueError("an isotonic map needs as many log_probs as probabilities from 0 to 1, both not decreasing")
    return Isotonic(x, y)


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {k: [round(x, 6) for x in v] if isinstance(v, tuple) else round(v, 6) for k, v in values.items()}
