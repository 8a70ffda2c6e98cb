"""The lines that a reading got most wrong, as one picture to look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rapidfuzz.distance import Levenshtein

COLUMNS, CELL = 2, (560, 64)  # pixels that an image is fitted into
CAPTION = 16  # pixels of each of the two lines under it


@dataclass(frozen=True)
class Misread:
    """image uint8 [height, width] or [height, width, 3], what it says, what was read; errors: characters to insert,
    delete or replace."""

    image: NDArray[np.uint8]
    reference: str
    hypothesis: str
    errors: int


def worst(
    images: Sequence[NDArray[np.uint8]], references: Sequence[str], hypotheses: Sequence[str], *, count: int
) -> list[Misread]:
    """At most `count` lines that were not read right, those with the highest character error rate first."""
    lines = zip(images, references, hypotheses, strict=True)
    found = [Misread(*line, Levenshtein.distance(*line[1:])) for line in lines if line[1] != line[2]]
    return sorted(found, key=lambda line: -line.errors / max(len(line.reference), 1))[:count]


def write(lines: Sequence[Misread], path: Path) -> None:
    """PATH.png, what `grid` draws, and PATH.jsonl with the texts, since a typeface does not have every character."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grid(lines).save(path.with_suffix(".png"))
    rows = [{"text": line.reference, "read": line.hypothesis, "errors": line.errors} for line in lines]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.with_suffix(".jsonl").write_text(text, encoding="utf-8")


def grid(lines: Sequence[Misread]) -> Image.Image:
    """Images in rows of two, under each what it says and what was read. Characters that Pillow's own typeface does not
    have are written as their escape."""
    width, height = CELL[0], CELL[1] + 2 * CAPTION
    rows = -(-len(lines) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (width + 16), max(rows, 1) * (height + 16)), (235, 235, 235))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(CAPTION - 4)
    for number, line in enumerate(lines):
        x, y = 8 + number % COLUMNS * (width + 16), 8 + number // COLUMNS * (height + 16)
        image = Image.fromarray(line.image).convert("RGB")
        image.thumbnail(CELL)
        sheet.paste(image, (x, y))
        captions = (line.reference, (0, 90, 0)), (f"{line.hypothesis}  ({line.errors} wrong)", (170, 0, 0))
        for at, (text, colour) in enumerate(captions):
            draw.text((x, y + CELL[1] + at * CAPTION), _drawable(text, font), fill=colour, font=font)
    return sheet


def _drawable(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    box = bytes(font.getmask("\uffff"))  # what stands for a character that the typeface does not have
    there = (c == " " or (c.isprintable() and bytes(font.getmask(c)) != box) for c in text)
    return "".join(c if has else c.encode("unicode_escape").decode() for c, has in zip(text, there, strict=True))
