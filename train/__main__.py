"""`python -m train run|export|evaluate …`; `python -m train data build …` is train.data.__main__."""

from __future__ import annotations

import sys
from pathlib import Path

import tyro


def run(recipe: tyro.conf.Positional[str], /, folder: Path | None = None, workers: int = 1) -> None:
    """Trains a recipe, or goes on where it was stopped.

    Args:
        recipe: name of a file in train/recipes, for example tiny-printed.
        folder: where logs and checkpoints go; runs/RECIPE by default.
        workers: processes that render lines; 0 renders in threads.
    """
    from train.loop import train
    from train.recipe import load_recipe

    train(load_recipe(recipe), folder or Path("runs") / recipe, workers=workers)


def export(recipe: tyro.conf.Positional[str], /, output: Path, folder: Path | None = None) -> None:
    """Writes the latest checkpoint of a run as a model folder.

    Args:
        recipe: the recipe that was trained.
        output: the model folder.
        folder: the run; runs/RECIPE by default.
    """
    from train.export import export as write
    from train.recipe import load_recipe

    step = write(load_recipe(recipe), folder or Path("runs") / recipe, output)
    print(f"{output}: step {step}")


def evaluate(
    model: tyro.conf.Positional[str],
    /,
    lines: int = 1000,
    max_chars: int = 64,
    sentences: bool = False,
    real: Path | None = None,
    show: int = 0,
) -> None:
    """Prints the character error rate of a model.

    Args:
        model: name or folder.
        lines: how many rendered lines, in typefaces and of sentences held out of training.
        max_chars: characters a rendered line may have.
        sentences: running text alone, without the loose words, figures and random characters of the mixture.
        real: a manifest.jsonl of real lines, scored instead of rendered ones.
        show: how many misread lines are printed.
    """
    from train.evaluate import evaluate as score
    from train.evaluate import manifest, rendered

    found = manifest(real) if real else rendered(lines, max_chars=max_chars, sentences=sentences)
    rate, reads = score(model, list(found))
    for read in [r for r in reads if r.reference != r.hypothesis][:show]:
        print(f"- {read.reference}\n+ {read.hypothesis}")
    print(f"CER {100 * rate:.2f} % on {len(reads)} lines")


if __name__ == "__main__":
    if sys.argv[1:2] == ["data"]:
        from train.data.__main__ import main as data

        sys.exit(data(sys.argv[2:]))
    tyro.extras.subcommand_cli_from_dict({"run": run, "export": export, "evaluate": evaluate}, prog="python -m train")
