"""`python -m train run|export|log|evaluate|compile …`; `python -m train data build …` is train.data.__main__."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import tyro


def run(
    recipe: tyro.conf.Positional[str],
    /,
    folder: Path | None = None,
    workers: int = 1,
    mesh: str | None = None,
    until: int | None = None,
    tensorboard: bool = False,
    profile: str | None = None,
    coordinator: str | None = None,
    process: int | None = None,
    processes: int | None = None,
) -> None:
    """Trains a recipe, or goes on where it was stopped. SIGTERM and SIGINT save and end it with status 0.

    Args:
        recipe: name of a file in train/recipes, for example tiny-printed.
        folder: where logs and checkpoints go; runs/RECIPE by default. Processes on several machines share it.
        workers: processes that render lines; 0 renders in threads.
        mesh: of the devices, for example data=4,fsdp=2,model=1; the recipe's by default.
        until: ends, saved, after so many steps of the whole run.
        tensorboard: writes the log for TensorBoard too.
        profile: START:STOP, a profile of these steps (the first is 0) in FOLDER/profile.
        coordinator: HOST:PORT of process 0 of a run of several processes; auto where jax finds it by itself.
        process: number of this process.
        processes: how many there are.
    """
    from train.processes import Stop, initialize

    with Stop() as stop:  # before everything that takes long
        from train.loop import train
        from train.recipe import load_recipe

        initialize(coordinator, process=process, processes=processes)
        stop.listen()
        outcome = train(
            load_recipe(recipe),
            folder or Path("runs") / recipe,
            workers=workers,
            mesh=mesh,
            until=until,
            stop=stop,
            tensorboard=tensorboard,
            profile=_range(profile),
        )
        if outcome.compiling:  # a thread of XLA that nobody waits for
            sys.stderr.flush()
            os._exit(0)


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


def log(files: tyro.conf.Positional[tuple[Path, ...]], /, plot: Path | None = None) -> None:
    """Prints the last row of each training log, and draws them.

    Args:
        files: log.jsonl of runs.
        plot: a picture of every curve over the steps (png, svg, pdf).
    """
    from train.curves import plot_logs, read_log

    for file in files:
        print(f"{file}: " + ", ".join(f"{name} {value:g}" for name, value in read_log(file)[-1].items()))
    if plot is not None:
        plot_logs(files, plot)


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


def compile_(
    recipe: tyro.conf.Positional[str],
    /,
    topology: str,
    slices: int = 1,
    stage: int = -1,
    mesh: str | None = None,
    lines_per_device: int | None = None,
    micro_batches: int | None = None,
    remat: bool | None = None,
    num_beams: int = 4,
    json_file: Path | None = None,
) -> None:
    """Compiles the step and the generation of a recipe for devices that need not be there, from shapes alone, and
    prints the memory each device needs, collectives and the compiler's estimate of cycles. Status 1: it does not fit.

    Args:
        recipe: name of a file in train/recipes.
        topology: v5e:16x16, v6e:16x16, v5p:4x4x4 … (extra tpu), or h200:8 (package jax-cuda12-plugin).
        slices: so many of these, joined by a slower network; the data axis goes over them.
        stage: of the recipe, the first is 0; the last by default.
        mesh: of the devices, for example data=16,fsdp=16; the recipe's by default.
        lines_per_device: in a step, instead of the recipe's batch_size.
        micro_batches: instead of the recipe's.
        remat: of encoder and decoder, instead of the recipe's.
        num_beams: of the generation.
        json_file: a row with the figures is added to it.
    """
    from train.ahead.environment import prepare

    prepare(topology)  # before jax
    from train.ahead.command import compile_ahead
    from train.recipe import load_recipe
    from trocr_jax.errors import ConfigError

    try:
        fits = compile_ahead(
            load_recipe(recipe),
            topology,
            slices=slices,
            stage=stage,
            mesh=mesh,
            lines_per_device=lines_per_device,
            micro_batches=micro_batches,
            remat=remat,
            num_beams=num_beams,
            json_file=json_file,
        )
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    sys.exit(0 if fits else 1)


def _range(text: str | None) -> range:
    """START:STOP."""
    if text is None:
        return range(0)
    start, _, stop = text.partition(":")
    if not (start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
        raise SystemExit(f"--profile {text!r}: give START:STOP, two step numbers, as in 20:25")
    return range(int(start), int(stop))


if __name__ == "__main__":
    if sys.argv[1:2] == ["data"]:
        from train.data.__main__ import main as data

        sys.exit(data(sys.argv[2:]))
    commands: dict[str, Callable[..., None]] = {
        "run": run,
        "export": export,
        "log": log,
        "evaluate": evaluate,
        "compile": compile_,
    }
    tyro.extras.subcommand_cli_from_dict(commands, prog="python -m train")
