"""The program `trocr-jax`: arguments, exit status, and nothing that takes time to import.

Exit status: 0 all inputs were read; 1 some were not, each named on stderr; 2 wrong usage, or a model or output that
cannot be used; 4 an error that nobody foresaw, such as a device that fails, with its traceback. Interrupted or told to
end (SIGINT, SIGTERM, SIGHUP), or with a reader of stdout that has gone (`| head`), it ends by the signal, without a
word; `jobs run` says what is left, and after SIGTERM or SIGHUP it ends with --stopped-status.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Literal

import tyro

from trocr_jax.cli.jobs_options import JobCommand, Merge, Run, Status, Verify
from trocr_jax.cli.options import MODEL, REVIEW, REVISION, Reading, argument
from trocr_jax.cli.signals import end_by, ended_by_signals, stopped_by_signals
from trocr_jax.errors import OutputError, TrOCRError
from trocr_jax.jobs.stop import Stop
from trocr_jax.say import give_up_stderr, say, say_where

FAILED = 4
"""Exit status after an error that is none of the user's."""

_INPUTS = (
    "Image files; folders, of which every image is read, those of folders below too, sorted by name, hidden ones left "
    "out; quoted patterns such as 'scans/*.png', where ** is any depth; - for a list of files on stdin, one a line. "
    "Of a file with several pages the first is read; `jobs run --source tiff` reads all."
)
_JOBS = "Bulk transcription in a job folder: planned, resumable, shared by any number of processes and hosts."
_OUTPUT = "File to write. It appears when it is complete."
_FORMAT = (
    "txt has one line of text for each input, an empty one where nothing could be read; the others have the fields id, "
    "text, score, truncated, error and confidence."
)


@dataclass(frozen=True, kw_only=True)
class Transcribe(Reading):
    """Read line images: one row for each, in the order of the inputs.

    Results go to stdout or to --output, everything else to stderr. Exit status: 0 all inputs were read, 1 some were not
    (each is named), 2 wrong usage, or a model or output that cannot be used, 4 an error that nobody foresaw.
    """

    inputs: tyro.conf.Positional[Annotated[tuple[str, ...], argument("INPUT...", _INPUTS, "(required)")]] = ()
    output: Annotated[str | None, argument("FILE", _OUTPUT, "(default: stdout)")] = None
    format: Annotated[
        Literal["txt", "jsonl", "csv", "parquet"] | None,
        argument("{txt,jsonl,csv,parquet}", _FORMAT, "(default: as the name of --output ends, else txt)"),
    ] = None
    min_confidence: Annotated[float | None, argument("P", REVIEW, "(default: no column)")] = None


_LINES = (
    "A folder of lines with a list of what they say (tsv, csv or jsonl), or such a list; a folder of PAGE or ALTO "
    "files; a data set in ArrayRecord files"
)
_SOURCES = (
    f"{_LINES}; with --protocol the folder of a published data set; with --references the JSONL files or job folders "
    "of finished runs, to be compared."
)
_RUN = (
    "A run beside others, such as 'beams: --num-beams 4' or 'small: --model DIR': a name and options of transcribe. "
    "May be given several times; the runs are compared on the same lines. Options outside do not count then, but "
    "--model and its --revision do."
)
_PARTIAL = "Score a published data set although the number of its lines is another, or sets are missing."
_FORM = "Bring both texts to this Unicode form first."
_REVIEW = "Mark lines that are less sure than this for review, and say what that would find."


@dataclass(frozen=True, kw_only=True)
class Evaluate(Reading):
    """Score models on lines whose text is known: metrics.json and report.html.

    The report is one file that works offline. Exit status: 0 all lines were read, 1 some were not (they count as empty
    texts), 2 wrong usage, or a model, data set or output that cannot be used, 4 an error that nobody foresaw.
    """

    sources: tyro.conf.Positional[Annotated[tuple[str, ...], argument("SOURCE...", _SOURCES, "(required)")]] = ()
    output: Annotated[str, argument("DIR", "Folder for metrics.json and report.html.", "(required)")]
    run: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], argument("NAME:OPTIONS", _RUN, "(default: one run)")
    ] = ()
    protocol: Annotated[
        Literal["iam", "sroie", "str"] | None,
        argument("{iam,sroie,str}", "A published test set, checked to be complete.", "(default: none)"),
    ] = None
    partial: Annotated[bool, argument(None, _PARTIAL, "(default: no)")] = False
    split: Annotated[str | None, argument("NAME", "Which split of the source.", "(default: test, or the only one)")] = (
        None
    )
    references: Annotated[str | None, argument("FILE", "List of what the lines of finished runs say.", "")] = None
    limit: Annotated[int | None, argument("N", "Only the first N lines.", "(default: all)")] = None
    unicode_form: Annotated[
        Literal["NFC", "NFD", "NFKC", "NFKD"] | None, argument("FORM", _FORM, "(default: as they are)")
    ] = None
    min_confidence: Annotated[float | None, argument("P", _REVIEW, "(default: none)")] = None
    level: Annotated[float, argument("P", "How often the intervals shall hold the true score.", "(default: 0.95)")] = (
        0.95
    )
    no_attention: Annotated[
        bool,
        argument(
            None,
            "No attention and word boxes in the report: reads faster, and says how fast.",
            "(default: those of the first run)",
        ),
    ] = False
    plot: Annotated[str | None, argument("FILE", "Also a picture of the plots (png, svg, pdf).", "(default: none)")] = (
        None
    )


@dataclass(frozen=True, kw_only=True)
class Calibrate:
    """Fit what a model's confidences mean on lines whose text is known: calibration.json.

    The lines should be like those that will be read, and none that the model was trained on or is scored on.
    """

    sources: tyro.conf.Positional[Annotated[tuple[str, ...], argument("SOURCE...", f"{_LINES}.", "(required)")]] = ()
    model: Annotated[str, argument("MODEL", MODEL, "(default: tiny-printed)")] = "tiny-printed"
    revision: Annotated[str | None, argument("NAME", REVISION, "(default: main)")] = None
    output: Annotated[
        str | None, argument("FILE", "Where to write it.", "(default: calibration.json in the model's folder)")
    ] = None
    method: Annotated[
        Literal["isotonic", "temperature"],
        argument(
            "{isotonic,temperature}",
            "A step function, or one number, for each of lines, words and characters.",
            "(default: isotonic)",
        ),
    ] = "isotonic"
    split: Annotated[str | None, argument("NAME", "Which split of the source.", "(default: test, or the only one)")] = (
        None
    )
    limit: Annotated[int | None, argument("N", "Only the first N lines.", "(default: all)")] = None
    batch_size: Annotated[
        int | None, argument("N", "Images read at a time.", "(default: 16 on a CPU, 64 elsewhere)")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Info:
    """Print what a model is: its configuration, parameters, image size, vocabulary and files."""

    model: tyro.conf.Positional[Annotated[str, argument("MODEL", MODEL, "(required)")]]
    revision: Annotated[str | None, argument("NAME", REVISION, "(default: main)")] = None


@dataclass(frozen=True, kw_only=True)
class Compile(Reading):
    """Compile the programs that reading needs and keep them beside the model: the next starts find them.

    Options that change a program are those of the later command: batch size, type, beams, tokens, constraints. --model
    is a folder; the programs go to compiled-… in it, apart for each kind of processor, and serve `transcribe` and
    `jobs run` on this machine or one like it. Once for each set of options.
    """


Command = Transcribe | Evaluate | Calibrate | Info | Compile | JobCommand
_Command = (
    Annotated[Transcribe, tyro.conf.subcommand("transcribe")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Calibrate, tyro.conf.subcommand("calibrate")]
    | Annotated[JobCommand, tyro.conf.subcommand("jobs", description=_JOBS)]
    | Annotated[Info, tyro.conf.subcommand("info")]
    | Annotated[Compile, tyro.conf.subcommand("compile")]
)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the program with `args` (the process's if none) and returns its exit status, which is 2 by SystemExit for
    arguments that cannot be parsed."""
    args = sys.argv[1:] if args is None else args
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it misses PyTorch, which is not needed here
    command: Command | None = None
    try:
        with printing():  # --help
            if list(args) == ["--version"]:
                print(_version())
                return 0
            command = parse(args)
        if isinstance(command, Run):
            return _run(command)
        with ended_by_signals():
            return _do(command)
    except TrOCRError as error:
        say(f"error: {error}")
        _give_up_stdout()
        return 2
    except KeyboardInterrupt:
        end_by(signal.SIGINT)
    except BrokenPipeError:
        end_by(signal.SIGPIPE)
    except Exception:  # noqa: BLE001  whatever a device or a library raises
        say_where()
        if isinstance(command, Run):
            say("what is committed is safe; the same command goes on")
        return FAILED
    finally:
        give_up_stderr()


def _do(command: Transcribe | Evaluate | Calibrate | Info | Compile | Merge | Status | Verify) -> int:
    if isinstance(command, Transcribe):
        from trocr_jax.cli.compiled import keep_programs

        keep_programs(command.model)
        from trocr_jax.cli.transcribe import transcribe

        return transcribe(command)
    if isinstance(command, Evaluate):
        from trocr_jax.cli.evaluate import evaluate

        return evaluate(command)
    if isinstance(command, Calibrate):
        from trocr_jax.cli.calibrate import calibrate

        return calibrate(command)
    if isinstance(command, Info):
        from trocr_jax.cli.info import info

        return info(command)
    if isinstance(command, Compile):
        from trocr_jax.cli.compiled import make_programs

        folder = make_programs(command.model)
        from trocr_jax.cli.compile import compile

        return compile(command, folder)
    from trocr_jax.cli.jobs import look

    return look(command)


def _run(command: Run) -> int:
    if command.engine == "local":
        from trocr_jax.cli.compiled import use_programs

        use_programs(command.model)

    def run(stop: Stop) -> int:
        from trocr_jax.cli.jobs_run import run  # and jax, which takes seconds

        return run(command, stop)

    return stopped_by_signals(run)


@contextmanager
def printing() -> Iterator[None]:
    """Around what prints to stdout, which may have been closed. Raises OutputError if it cannot be written."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"stdout: cannot be written ({error.strerror or error})") from error


def _give_up_stdout() -> None:
    """Python would write what is left in it at the end, and change the exit status if it cannot."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        sys.stdout = None


def parse(args: Sequence[str]) -> Command:
    """The command that the arguments ask for. Raises SystemExit with status 2 if they cannot be parsed."""
    description = f"Reads images of text lines. trocr-jax {_version()}; --version prints that alone."
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
    return tyro.cli(_Command, prog="trocr-jax", description=description, args=args, config=config)


def _version() -> str:
    try:
        return version("trocr-jax")
    except PackageNotFoundError:  # run from a copy of the sources
        return "(not installed)"
