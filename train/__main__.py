"""`python -m train RECIPE --folder RUN`."""

from __future__ import annotations

from pathlib import Path

import tyro

from train.loop import train
from train.recipe import load_recipe


def main(recipe: tyro.conf.Positional[str], /, folder: Path | None = None, workers: int = 1) -> None:
    """Trains a recipe, or goes on where it was stopped.

    Args:
        recipe: name of a file in train/recipes, for example tiny-printed.
        folder: where logs and checkpoints go; runs/RECIPE by default.
        workers: processes that render lines; 0 renders in threads.
    """
    train(load_recipe(recipe), folder or Path("runs") / recipe, workers=workers)


if __name__ == "__main__":
    tyro.cli(main, prog="python -m train")
