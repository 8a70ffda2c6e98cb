"""`trocr-jax transcribe`: rows stream from the inputs through a Recognizer to the output; nothing is kept."""

from __future__ import annotations

import io
import os
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from trocr_jax.cli import Transcribe
from trocr_jax.cli.decode import check_options, decode_config, load
from trocr_jax.cli.options import check_share
from trocr_jax.cli.output import COLUMNS, Row, format_of, needs_review, open_rows
from trocr_jax.cli.progress import Progress
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.errors import DecodeError, ImageError, OutputError
from trocr_jax.image_paths import Input, expand
from trocr_jax.recognizer import Recognizer
from trocr_jax.say import on_terminal, say

_OWN = ("id", "error", "review")  # columns that are no part of a Recognition


def transcribe(command: Transcribe) -> int:
    """Returns the exit status. Raises TrOCRError for a model, option or output that cannot be used."""
    if not command.inputs:
        raise DecodeError("no inputs: give image files, folders or patterns, or - for a list on stdin (see --help)")
    stdin = sys.stdin.buffer if sys.stdin is not None else io.BytesIO()  # it may have been closed
    inputs = _spared(expand(command.inputs, stdin), command.output)
    total = None
    if "-" not in command.inputs:  # a list on stdin may be endless; files are counted for the bar
        listed = list(inputs)
        inputs, total = iter(listed), len(listed)
    check_options(command)  # before anything is loaded
    check_share("min_confidence", command.min_confidence)
    columns = [*COLUMNS, *(["alternatives"] if command.search.n_best is not None else [])]
    columns += ["words", "characters"] if command.score.confidences else []
    columns += ["review"] if command.min_confidence is not None else []
    format = command.format or format_of(command.output)
    output = Path(command.output or "")
    if command.format is None and format == "txt" and output.suffix.lower() not in ("", ".txt") and _is_file(output):
        say(f"{command.output}: written as txt, the text alone, since its name is of no format; else give --format")
    with open_rows(command.output, format, columns) as write:
        recognizer = load(command)
        decode = decode_config(command, recognizer)
        rows = _rows(recognizer, inputs, decode, command.batch_size, columns)
        truncated = marked = 0
        shown = command.output is None and sys.stdout.isatty()  # then the rows themselves show progress
        with Progress(total, bar=on_terminal() and not shown) as progress:
            for row in rows:
                if command.min_confidence is not None:
                    row = row._replace(review=needs_review(row.confidence, command.min_confidence))
                    marked += bool(row.review)
                write(row)
                if row.error is not None:
                    progress.say(row.error)
                truncated += bool(row.truncated)
                progress.update(failed=row.error is not None)
            if truncated:
                progress.say(
                    f"texts cut off after {decode.max_new_tokens} tokens: {truncated} (--max-new-tokens sets the limit)"
                )
            if command.min_confidence is not None:
                progress.say(f"for review, below {command.min_confidence:g} or not read: {marked} of {progress.done}")
            if progress.failed:
                progress.say(f"could not be read: {progress.failed} of {progress.done}")
    return 1 if progress.failed else 0


def _is_file(path: Path) -> bool:
    """Whether a regular file is there, or nothing: names of pipes and devices say nothing."""
    return path.is_file() or not path.exists()


def _spared(inputs: Iterator[Input], output: str | None) -> Iterator[Input]:
    """Raises OutputError for an output that is one of the inputs."""
    written = None if output is None else os.path.realpath(output)
    for one in inputs:
        if written is not None and os.path.realpath(one.path) == written:
            raise OutputError(f"{output}: is one of the inputs; give another name to --output")
        yield one


def _rows(
    recognizer: Recognizer, inputs: Iterator[Input], decode: DecodeConfig, batch_size: int | None, columns: list[str]
) -> Iterator[Row]:
    paths: deque[str] = deque()  # of the images that were asked for and have not come out

    def images() -> Iterator[str | ImageError]:
        for path, error in inputs:
            paths.append(path)
            yield path if error is None else ImageError(error)

    for outcome in recognizer.read(images(), decode, batch_size):
        path = paths.popleft()
        if isinstance(outcome, ImageError):
            yield Row(path, error=str(outcome))
        else:
            yield Row(path, **{name: getattr(outcome, name) for name in columns if name not in _OWN})
