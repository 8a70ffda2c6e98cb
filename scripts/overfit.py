"""Sixty-four lines learnt by heart: the real loop on rendered lines, from random weights, until every one is read
without a mistake.

    python -m scripts.overfit FOLDER [--style printed] [--max-chars 16] [--steps 750]

Prints the character error rate as it falls, and ends with status 1 if it is not 0 at the end.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from train.data.fonts import Style
from train.data.line import Line
from train.data.render import Renderer
from train.data.sources import Selected, Synthetic
from train.loop import train
from train.recipe import Optimizer, Recipe, Stage
from train.recipes.tiny_printed import CONFIG


@dataclass(frozen=True)
class Options:
    """Attributes:
    folder: of the run; what is there goes on.
    style: of the lines.
    lines: how many.
    max_chars: characters of a line.
    steps: of training.
    batch: lines of a step.
    width: of the picture, in pixels.
    """

    folder: tyro.conf.Positional[Path]
    style: Style = "printed"
    lines: int = 64
    max_chars: int = 16
    steps: int = 750
    batch: int = 16
    width: int = 320


def recipe(options: Options) -> Recipe:
    """The shapes of tiny-printed with fewer layers: large enough to know 64 lines by heart."""
    encoder = replace(CONFIG.encoder, image_size=(40, options.width), num_layers=2)
    stage = Stage(
        steps=options.steps,
        batch_size=options.batch,
        width=options.width,
        max_chars=options.max_chars,
        ctc_weight=0.3,
    )
    return Recipe(
        name="overfit",
        config=replace(CONFIG, encoder=encoder, decoder=replace(CONFIG.decoder, num_layers=1)),
        stages=(stage,),
        optimizer=Optimizer(learning_rate=1e-3, schedule="linear", warmup_steps=options.steps // 20, clip_norm=1.0),
        dtype="float32",
        log_every=50,
        save_every=options.steps,
        eval_every=max(options.steps // 5, 1),
    )


def main(options: Options) -> int:
    source: Any = Synthetic(Renderer.create(seed=0, style=options.style), options.max_chars)
    few = Selected(source, np.arange(options.lines))
    lines: list[Line] = [few[i] for i in range(options.lines)]
    train(recipe(options), options.folder, workers=0, lines=lambda stage: few, held_out=lines)
    rows = [json.loads(row) for row in (options.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    rate = next((row["cer"] for row in reversed(rows) if "cer" in row), None)
    if rate is None:
        print("stopped before the lines were read; the same command goes on")
        return 1
    print(f"CER {100 * rate:.2f} % on the {options.lines} lines")
    return 0 if rate == 0 else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
