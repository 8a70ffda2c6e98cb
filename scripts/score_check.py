"""Scores beside their oracles on many random texts: CER and WER beside jiwer, SROIE beside a second implementation
of its definition, and how often bootstrap intervals hold the true value.

    python -m scripts.score_check --pairs 100000 --trials 2000
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator

import jiwer
import numpy as np

from trocr_jax.metrics import Tally, cer, interval, paired_difference, sroie, wer
from trocr_jax.metrics.rates import Whitespace

RESAMPLES = 500

# Where definitions part: every white space of Unicode, combining marks, astral planes, and letters that repeat.
_SPACES = [chr(c) for c in range(0x110000) if chr(c).isspace()]
_LETTERS = [chr(c) for r in ((0x21, 0x250), (0x300, 0x330), (0x4E00, 0x4E20), (0x1F600, 0x1F610)) for c in range(*r)]
CHARACTERS = jiwer.Compose([jiwer.ReduceToListOfListOfChars()])
WORDS = jiwer.Compose(
    [jiwer.SubstituteRegexes({r"\s+": " "}), jiwer.Strip(), jiwer.ReduceToListOfListOfWords()]
)  # str.split in the terms of jiwer


def random_pairs(count: int, *, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Texts of up to 30 characters of all of Unicode, and what reading them with mistakes might give. The reference has
    a character that is no space: jiwer takes no empty reference."""
    rng = random.Random(seed)
    while count:
        anything = [c for _ in range(3) if not 0xD800 <= (p := rng.randrange(0x110000)) < 0xE000 for c in [chr(p)]]
        alphabet = [*rng.choices(_LETTERS, k=6), *rng.choices(_SPACES, k=2), " ", " ", *anything]
        reference = "".join(rng.choices(alphabet, k=rng.randint(1, 30)))
        hypothesis = reference if rng.random() < 0.7 else "".join(rng.choices(alphabet, k=rng.randint(0, 30)))
        for _ in range(rng.randint(0, 4)):
            at = rng.randint(0, len(hypothesis))
            hypothesis = hypothesis[:at] + rng.choice([*alphabet, ""]) + hypothesis[at + rng.randint(0, 2) :]
        if reference.strip():
            count -= 1
            yield reference, hypothesis


def largest_difference(pairs: list[tuple[str, str]], whitespace: Whitespace) -> float:
    """The largest difference from jiwer of both rates, over single pairs and over all pairs together."""
    groups = [*([pair] for pair in pairs), pairs]
    found = 0.0
    for group in groups:
        references, hypotheses = map(list, zip(*group, strict=True))
        ours = [rate(references, hypotheses, whitespace=whitespace) for rate in (cer, wer)]
        if whitespace == "jiwer":
            theirs = [jiwer.cer(references, hypotheses), jiwer.wer(references, hypotheses)]
        else:
            theirs = [
                jiwer.cer(references, hypotheses, reference_transform=CHARACTERS, hypothesis_transform=CHARACTERS),
                jiwer.wer(references, hypotheses, reference_transform=WORDS, hypothesis_transform=WORDS),
            ]
        found = max(found, *(abs(a - b) for a, b in zip(ours, theirs, strict=True)))
    return found


def sroie_again(pairs: list[tuple[str, str]]) -> tuple[float, float, float]:
    """Word precision, recall and F1 by crossing words out, as the definition reads."""
    matches = read = written = 0
    for reference, hypothesis in pairs:
        left = reference.split()
        written += len(left)
        for word in hypothesis.split():
            read += 1
            if word in left:
                left.remove(word)
                matches += 1
    precision, recall = matches / read if read else 0.0, matches / written if written else 0.0
    return precision, recall, 2 * precision * recall / (precision + recall) if matches else 0.0


def lines_with_errors(rng: np.random.Generator, count: int) -> Tally:
    """Lines of 20 to 60 characters; each has its own share of wrong ones, 0.05 in the mean, many of them none."""
    lengths = rng.integers(20, 61, count)
    return Tally(rng.binomial(lengths, rng.beta(0.25, 4.75, count)).astype(np.float64), lengths.astype(np.float64))


def coverage(trials: int, *, lines: int, level: float = 0.95, seed: int = 0) -> float:
    """The share of intervals that hold the true rate, 0.05."""
    rng = np.random.default_rng(seed)
    found = (interval(lines_with_errors(rng, lines), level=level, resamples=RESAMPLES, seed=i) for i in range(trials))
    return sum(low <= 0.05 <= high for _, low, high in found) / trials


def share_coverage(trials: int, *, lines: int, share: float, level: float = 0.95, seed: int = 0) -> float:
    """The share of intervals that hold the true share of right lines."""
    rng = np.random.default_rng(seed)
    ones = np.ones(lines)
    tallies = (Tally((rng.random(lines) < share).astype(np.float64), ones) for _ in range(trials))
    return sum(low <= share <= high for _, low, high in (interval(t, level=level) for t in tallies)) / trials


def false_alarms(trials: int, *, lines: int, seed: int = 0) -> tuple[float, float]:
    """Of two systems of which neither is better: how often p < 0.05, and how often the interval leaves 0 out."""
    rng, alarms, outside = np.random.default_rng(seed), 0, 0
    for i in range(trials):
        first, second = lines_with_errors(rng, lines), lines_with_errors(rng, lines)
        second = Tally(np.minimum(second.numerators, first.denominators), first.denominators)
        first = Tally(np.minimum(first.numerators, second.denominators), first.denominators)
        swap = rng.random(lines) < 0.5  # then the two are alike in every way
        first, second = (
            Tally(np.where(swap, b.numerators, a.numerators), first.denominators)
            for a, b in ((first, second), (second, first))
        )
        found = paired_difference(first, second, resamples=RESAMPLES, seed=i)
        alarms += found.p < 0.05
        outside += not found.low <= 0 <= found.high
    return alarms / trials, outside / trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--trials", type=int, default=2000)
    options = parser.parse_args()
    pairs = list(random_pairs(options.pairs))
    modes: tuple[Whitespace, Whitespace] = ("keep", "jiwer")
    for whitespace in modes:
        difference = largest_difference(pairs, whitespace)
        print(f"jiwer, whitespace={whitespace}: largest difference {difference:.1e} on {len(pairs)} pairs", flush=True)
    references, hypotheses = map(list, zip(*pairs, strict=True))
    again = max(abs(a - b) for a, b in zip(sroie(references, hypotheses), sroie_again(pairs), strict=True))
    print(f"SROIE again: largest difference {again:.1e}", flush=True)
    for lines in (50, 200, 1000):
        print(
            f"95 % intervals of {lines} lines hold the true rate: {coverage(options.trials, lines=lines):.3f}",
            flush=True,
        )
    for lines, share in ((50, 0.9), (200, 0.9), (1000, 0.9), (200, 0.99)):
        held = share_coverage(options.trials, lines=lines, share=share)
        print(f"95 % intervals of {lines} lines hold the true share of right ones, {share}: {held:.3f}", flush=True)
    print(
        "no difference: p < 0.05 in {:.3f}, 0 outside the interval in {:.3f}".format(
            *false_alarms(options.trials, lines=200)
        )
    )


if __name__ == "__main__":
    main()
