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

from trocr_jax.errors import TrOCRError


@dataclass(frozen=True, kw_only=True)
class Transcribe:
    """Read line images: one row for each, in the order of the inputs.

    Results go to stdout or to --output, everything else to stderr. Exit status: 0 all were read, 1 some were not (each
    is named), 2 wrong usage.
    """

    inputs: tyro.conf.Positional[tuple[str, ...]]
    """Image files; folders, of which every image is read, also in folders below, sorted by name, hidden ones left out;
    quoted patterns such as 'scans/*.png', where ** means any depth; and - for a list of files on stdin, one a line."""
    model: str = "tiny-printed"
    """The built-in model, a local folder, or a repository of the Hugging Face hub such as
    microsoft/trocr-base-printed."""
    revision: str | None = None
    """Branch, tag or commit of the repository, such as refs/pr/3."""
    output: str | None = None
    """File to write, which appears when it is complete; stdout if none."""
    format: Literal["txt", "jsonl", "csv", "parquet"] | None = None
    """txt is one line of text for each image, an empty one for an image that cannot be read; the others have the
    fields id, text, score, truncated and error. As the name of --output ends, or else txt, if none."""
    num_beams: int = 1
    """Hypotheses that are followed at a time; 1 is greedy search."""
    max_new_tokens: int | None = None
    """Longest text in tokens, the end token counted; 64, or what the model can, if none."""
    batch_size: int | None = None
    """Images that are read at a time; 16 on a CPU and 64 elsewhere if none."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Type to compute in; float32 on a CPU and bfloat16 elsewhere if none."""


@dataclass(frozen=True, kw_only=True)
class Info:
    """Print what a model is: its configuration, parameters, image size, vocabulary and files."""

    model: tyro.conf.Positional[str]
    """A built-in model, a local folder, or a repository of the Hugging Face hub."""
    revision: str | None = None
    """Branch, tag or commit of the repository, such as refs/pr/3."""


_Command = Annotated[Transcribe, tyro.conf.subcommand("transcribe")] | Annotated[Info, tyro.conf.subcommand("info")]


def main(args: Sequence[str] | None = None) -> int:
    """Runs the program with `args` (the process's if none) and returns its exit status, which is 2 by SystemExit for
    arguments that cannot be parsed."""
    args = sys.argv[1:] if args is None else args
    if list(args) == ["--version"]:
        print(_version())
        return 0
    description = f"Reads images of text lines. trocr-jax {_version()}; --version prints that alone."
    command = tyro.cli(_Command, prog="trocr-jax", description=description, args=args)
    try:
        if isinstance(command, Transcribe):
            from trocr_jax.cli.transcribe import transcribe

            return transcribe(command)
        from trocr_jax.cli.info import info

        return info(command)
    except TrOCRError as error:
        print(f"trocr-jax: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        _end_by(signal.SIGINT)
    except BrokenPipeError:
        _end_by(signal.SIGPIPE)


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
