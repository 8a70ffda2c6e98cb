"""Draws lines in typefaces that tiny-printed was not trained on, with a list of what they say: something to evaluate.

python -m scripts.make_lines --output LINES --lines 2000
trocr-jax evaluate LINES --output DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from train.data.render import Renderer


def draw(folder: Path, count: int, *, max_chars: int = 64, seed: int = 0) -> None:
    """Writes PNG files and labels.tsv (name, tab, text)."""
    folder.mkdir(parents=True, exist_ok=True)
    renderer = Renderer.create(split="heldout", seed=seed)
    with open(folder / "labels.tsv", "w", encoding="utf-8") as labels:
        for index in range(count):
            line = renderer.line(index, max_chars=max_chars)
            Image.fromarray(line.image).save(folder / f"{index:05}.png")
            labels.write(f"{index:05}.png\t{line.text}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--lines", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw(options.output, options.lines, seed=options.seed)


if __name__ == "__main__":
    main()
