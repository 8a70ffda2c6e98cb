"""The program `trocr-jax`: arguments, exit status, and nothing that takes time to import.

Exit status: 0 all inputs were read; 1 some were not, each named on stderr; 2 wrong usage, or a model or output that
cannot be used. Interrupted, or with a reader of stdout that has gone (`| head`), it ends by the signal, without a word.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Literal, NoReturn

import tyro

from trocr_jax.cli.jobs_options import JobCommand
from trocr_jax.cli.options import MODEL, REVISION, Reading, argument
from trocr_jax.errors import TrOCRError

_INPUTS = (
    "Image files; folders, of which every image is read, those of folders below too, sorted by name, hidden ones left "
    "out; quoted patterns such as 'scans/*.png', where ** is any depth; - for a list of files on stdin, one a line."
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
    (each is named), 2 wrong usage, or a model or output that cannot be used.
    """

    inputs: tyro.conf.Positional[Annotated[tuple[str, ...], argument("INPUT...", _INPUTS, "(required)")]] = ()
    output: Annotated[str | None, argument("FILE", _OUTPUT, "(default: stdout)")] = None
    format: Annotated[
        Literal["txt", "jsonl", "csv", "parquet"] | None,
        argument("{txt,jsonl,csv,parquet}", _FORMAT, "(default: as the name of --output ends, else txt)"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Info:
    """Print what a model is: its configuration, parameters, image size, vocabulary and files."""

    model: tyro.conf.Positional[Annotated[str, argument("MODEL", MODEL, "(required)")]]
    revision: Annotated[str | None, argument("NAME", REVISION, "(default: main)")] = None


_Command = (
    Annotated[Transcribe, tyro.conf.subcommand("transcribe")]
    | Annotated[JobCommand, tyro.conf.subcommand("jobs", description=_JOBS)]
    | Annotated[Info, tyro.conf.subcommand("info")]
)


def main(args: Sequence[str] | None = None) -> int:
    """Runs the program with `args` (the process's if none) and returns its exit status, which is 2 by SystemExit for
    arguments that cannot be parsed."""
    args = sys.argv[1:] if args is None else args
    if list(args) == ["--version"]:
        print(_version())
        return 0
    command = parse(args)
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it misses PyTorch, which is not needed here
    try:
        if isinstance(command, Transcribe):
            from trocr_jax.cli.transcribe import transcribe

            return transcribe(command)
        if isinstance(command, Info):
            from trocr_jax.cli.info import info

            return info(command)
        from trocr_jax.cli.jobs import run_command

        return run_command(command)
    except TrOCRError as error:
        print(f"trocr-jax: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        _end_by(signal.SIGINT)
    except BrokenPipeError:
        _end_by(signal.SIGPIPE)


def parse(args: Sequence[str]) -> Transcribe | Info | JobCommand:
    """The command that the arguments ask for. Raises SystemExit with status 2 if they cannot be parsed."""
    description = f"Reads images of text lines. trocr-jax {_version()}; --version prints that alone."
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    return tyro.cli(_Command, prog="trocr-jax", description=description, args=args, config=config)


def _version() -> str:
    try:
        return version("trocr-jax")
    except PackageNotFoundError:  # run from a copy of the sources
        return "(not installed)"


def _end_by(number: signal.Signals) -> NoReturn:
    """Ends as a program that does not handle the signal, so that a shell sees what happened."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise SystemExit(128 + number)
