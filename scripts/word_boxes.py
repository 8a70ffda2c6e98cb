"""Boxes of words and characters beside where the renderer put them: intersection over union of their horizontal extent.

python -m scripts.word_boxes --lines 500
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein

from train.data.page import Extent
from train.data.render import Renderer
from trocr_jax.recognizer import Recognition, Recognizer
from trocr_jax.word_boxes import Box


class Overlaps(NamedTuple):
    """Of each word that was read where one stands (to the character or not), of the same by attention alone, and of
    each character of the lines that are right."""

    words: list[float]
    words_by_attention: list[float]
    characters: list[float]


def overlap(box: Box, extent: Extent, width: int) -> float:
    """Of two stretches of an image: the length that they share by the length that they cover."""
    left, right = max(0.0, extent.left), min(float(width), extent.right)  # the image may cut the ink off
    shared = min(box.right, right) - max(box.left, left)
    return max(0.0, shared) / (max(box.right, right) - min(box.left, left))


def overlaps(recognizer: Recognizer, renderer: Renderer, count: int, *, max_chars: int = 64) -> Overlaps:
    """Over the first lines of a renderer, read with greedy search."""
    lines = [renderer.placed_line(i, max_chars=max_chars) for i in range(count)]
    found = Overlaps([], [], [])
    for (line, placed), result in zip(
        lines, recognizer([line.image for line, _ in lines], attention=True), strict=True
    ):
        width, truth, alone = line.image.shape[1], placed.words(), without_ink(result)
        for here, there in words_in_both(line.text.split(), result.text.split()):
            found.words.append(overlap(result.word_boxes[there], truth[here], width))
            found.words_by_attention.append(overlap(alone.word_boxes[there], truth[here], width))
        if line.text == result.text:
            pairs = zip(result.character_boxes, placed.characters(), strict=True)
            found.characters.extend(overlap(box, own, width) for box, own in pairs if not box.text.isspace())
    return found


def without_ink(result: Recognition) -> Recognition:
    """The same with no ink to go by."""
    assert result.attention is not None
    # ink everywhere: then nothing is blank
    return replace(result, attention=replace(result.attention, ink=np.ones_like(result.attention.ink)))


def words_in_both(written: list[str], read: list[str]) -> list[tuple[int, int]]:
    """Places of words in two texts that stand for each other: equal ones, and one read as another."""
    pairs = []
    for block in Levenshtein.opcodes(written, read):
        if block.tag in ("equal", "replace"):
            pairs += list(
                zip(range(block.src_start, block.src_end), range(block.dest_start, block.dest_end), strict=True)
            )
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-printed")
    parser.add_argument("--lines", type=int, default=500)
    options = parser.parse_args()
    recognizer = Recognizer.from_pretrained(options.model)
    found = overlaps(recognizer, Renderer.create(split="heldout", seed=0), options.lines)
    for name, values in found._asdict().items():
        array = np.asarray(values)
        bad = (array < 0.5).mean()
        print(f"{name}: mean {array.mean():.3f}, median {np.median(array):.3f}, below 0.5 {bad:.3f}, of {len(array)}")


if __name__ == "__main__":
    main()
