"""`python -m train run|export|vocabulary|log|evaluate|compile …`; `… data build …` is train.data.__main__."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from trocr_jax.say import give_up_stderr, tell

if TYPE_CHECKING:
    from train.recipe import Recipe

DATA = Path("data")


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What some recipes leave to choose; the others refuse it.

    Attributes:
        data: where data sets were built, data by default; for finetune-folder the folder of your lines.
        model: name or folder of the model that the run goes on from.
        decoder: name or folder of a text model that gives the decoder its first weights.
        tokenizer: name or folder of a model whose vocabulary takes the place of the model's.
        image_size: height and width of the pictures instead of the model's.
        rendered: of finetune-folder: printed lines drawn for each line of yours; 0 for none.
    """

    data: Path | None = None
    model: str | None = None
    decoder: str | None = None
    tokenizer: str | None = None
    image_size: tuple[int, int] | None = None
    rendered: float | None = None


NOTHING = Chosen()


def run(
    recipe: tyro.conf.Positional[str],
    /,
    chosen: Chosen = NOTHING,
    output: Path | None = None,
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
    """Trains a recipe, or goes on where it was stopped. SIGTERM, SIGINT and SIGHUP save and end it with status 0, a
    second SIGINT ends it at once.

    Args:
        recipe: name of a file in train/recipes, for example tiny-printed.
        chosen: what the recipe leaves to you.
        output: writes the model there once the run is finished, as export does; not with an --until before its end.
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
    from train.processes import Stop, together

    with Stop() as stop, together(coordinator, process=process, processes=processes, stop=stop):
        import jax

        from train.export import check_output, kept_step
        from train.export import export as write
        from train.lines import open_lines
        from train.loop import check_options, train
        from train.progress import before_and_after
        from trocr_jax.errors import ConfigError

        if output is not None:
            check_output(output)
        what, folder = load(recipe, chosen), folder or Path("runs") / recipe
        if output is not None and until is not None and until < what.total_steps:
            raise ConfigError(
                f"--output is for the end of a run, step {what.total_steps}, and --until {until} ends before it: leave "
                "out one of them; `python -m train export` writes the state of any checkpoint"
            )
        steps, devices = _range(profile), check_options(what, mesh, workers=workers, until=until)  # before pictures
        opened = None if what.data is None else open_lines(what, chosen.data or DATA)
        outcome = train(
            what,
            folder,
            lines=opened and opened.lines,
            held_out=opened and opened.held_out,
            workers=workers,
            mesh=devices,
            until=until,
            stop=stop,
            tensorboard=tensorboard,
            profile=steps,
        )
        if outcome.finished:
            # all processes restore what is written
            step = kept_step(what, folder) or outcome.step if output is None else write(what, folder, output)
            if jax.process_index() == 0:
                if (found := before_and_after(folder, step)) is not None:
                    print(found)
                if output is not None:
                    print(f"{output}: step {step}")
        elif jax.process_index() == 0:
            without = "" if until is None or outcome.step < until else " without --until"
            unwritten = "" if output is None else f"; {output} is not written yet"
            where = f"stopped after step {outcome.step} of {what.total_steps}"
            tell(f"{where}; the same command{without} goes on{unwritten}")
        if outcome.compiling:  # a thread of XLA that nobody waits for
            os._exit(0)


def export(
    recipe: tyro.conf.Positional[str],
    /,
    output: Path,
    folder: Path | None = None,
    step: int | None = None,
    chosen: Chosen = NOTHING,
) -> None:
    """Writes the latest checkpoint of a run as a model folder.

    Args:
        recipe: the recipe that was trained.
        output: the model folder.
        folder: the run; runs/RECIPE by default.
        step: of the checkpoint; by default the one with the best score if the recipe ends when scores no longer become
            better, else the newest.
        chosen: as for run.
    """
    from train.export import export as write

    what = load(recipe, chosen)
    step = write(what, folder or Path("runs") / recipe, output, step=step)
    print(f"{output}: step {step}")


def vocabulary(
    model: tyro.conf.Positional[str],
    /,
    output: Path,
    data: Path | None = None,
    characters: str = "",
) -> None:
    """Writes the tokenizer of a model with a token more for each character that it cannot spell, for `run --tokenizer`.

    Args:
        model: name or folder.
        output: folder for the tokenizer's files.
        data: a folder of your lines; all characters of their texts are wanted.
        characters: others that are wanted.
    """
    import unicodedata

    from train.lines import texts_of
    from train.vocabulary import extend
    from trocr_jax.checkpoint import resolve
    from trocr_jax.errors import ConfigError, TokenizerError
    from trocr_jax.tokenizer import load_tokenizer, save_tokenizer

    if (output / "config.json").exists():
        raise ConfigError(
            f"{output}: is the folder of a model, whose weights have no rows for new tokens; name another folder for "
            "the tokenizer"
        )
    tokenizer = load_tokenizer(resolve(model))
    wanted = [*unicodedata.normalize("NFC", characters), *([] if data is None else texts_of(data))]
    added = extend(tokenizer, wanted)
    try:
        save_tokenizer(tokenizer, output)
    except OSError as error:
        raise TokenizerError(f"{output}: cannot be written ({error.strerror or error})") from None
    print(f"{output}: {len(tokenizer)} tokens, {len(added)} of them new: {''.join(added)}")


def log(files: tyro.conf.Positional[tuple[Path, ...]], /, plot: Path | None = None) -> None:
    """Prints the last row of each training log, and draws them.

    Args:
        files: log.jsonl of runs, or their folders.
        plot: a picture of every curve over the steps (png, svg, pdf).
    """
    from train.curves import plot_logs, read_log

    if not files:
        print("no log: give log.jsonl of one run or of several", file=sys.stderr)
        sys.exit(2)
    for file in files:
        row = read_log(file)[-1].items()
        print(f"{file}: " + ", ".join(f"{name} {value:{'' if type(value) is int else 'g'}}" for name, value in row))
    if plot is not None:
        plot_logs(files, plot)


def evaluate(
    model: tyro.conf.Positional[str],
    /,
    lines: int = 1000,
    max_chars: int = 64,
    sentences: bool = False,
    show: int = 0,
) -> None:
    """Prints the character error rate of a model on rendered lines; `trocr-jax evaluate` scores real ones.

    Args:
        model: name or folder.
        lines: how many, in typefaces and of sentences held out of training.
        max_chars: characters a line may have.
        sentences: running text alone, without the loose words, figures and random characters of the mixture.
        show: how many misread lines are printed.
    """
    from train.evaluate import evaluate as score
    from train.evaluate import rendered
    from trocr_jax.errors import ConfigError

    for name, number in (("lines", lines), ("max-chars", max_chars)):
        if number < 1:
            raise ConfigError(f"--{name} is {number}: give a number of at least 1")
    if show < 0:
        raise ConfigError(f"--show is {show}: give a number of at least 0")
    rate, reads = score(model, list(rendered(lines, max_chars=max_chars, sentences=sentences)))
    for read in [r for r in reads if r.reference != r.hypothesis][:show]:
        print(f"- {read.reference}\n+ {read.hypothesis}")
    cut = sum(read.truncated for read in reads)
    print(f"CER {100 * rate:.2f} % on {len(reads)} lines" + (f"; {cut} texts were cut off" if cut else ""))


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
    chosen: Chosen = NOTHING,
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
        chosen: as for run.
    """
    from train.ahead.environment import prepare

    prepare(topology)  # before jax
    from train.ahead.command import compile_ahead
    from trocr_jax.errors import TrOCRError

    try:
        fits = compile_ahead(
            load(recipe, chosen),
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
    except TrOCRError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    sys.exit(0 if fits else 1)


def load(name: str, chosen: Chosen) -> Recipe:
    """A recipe with what was chosen. Raises ConfigError for what it does not leave to choose."""
    from train.data.parts import Rendered
    from train.recipe import load_recipe
    from trocr_jax.errors import ConfigError

    options = asdict(chosen)
    recipe = load_recipe(name, data=options.pop("data") or DATA, **options)
    if chosen.data is not None and (recipe.data is None or all(isinstance(p, Rendered) for p in recipe.data.train)):
        raise ConfigError(f"recipe {name!r} draws its lines; leave out --data, or give a copy of it other data")
    return recipe


def _range(text: str | None) -> range:
    """START:STOP."""
    from trocr_jax.errors import ConfigError

    if text is None:
        return range(0)
    start, _, stop = text.partition(":")
    if not (start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
        raise ConfigError(f"--profile {text!r}: give START:STOP, two step numbers, as in 20:25")
    return range(int(start), int(stop))


def main(arguments: list[str]) -> int:
    """Runs a command and returns the exit status: 0 done, 1 it cannot be done; wrong usage and `compile` exit."""
    if arguments[:1] == ["data"]:
        from train.data.__main__ import main as data

        return data(arguments[1:])
    named: dict[str, Callable[..., None]] = {"run": run, "export": export, "log": log, "evaluate": evaluate}
    commands = named | {"vocabulary": vocabulary, "compile": compile_}
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="python -m train",
            description="`python -m train data build NAME` writes data sets to train on.",
            args=arguments,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone),
        )
    except Exception as error:
        from trocr_jax.errors import TrOCRError

        if not isinstance(error, TrOCRError | FloatingPointError):  # of a loss that is not finite
            raise
        tell(str(error))  # it says what is wrong and what to do: a traceback would hide that
        return 1
    finally:
        give_up_stderr()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:  # of commands other than `run`, which notes it
        sys.exit(128 + signal.SIGINT)
