"""Rows to a file or to stdout, in the formats of the command line."""

from __future__ import annotations

import csv
import io
import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import orjson

from trocr_jax.cli.signals import half_written
from trocr_jax.confidence import Alternative, Confidence
from trocr_jax.errors import OutputError, TrOCRError

Value = TypeVar("Value")


class Row(NamedTuple):
    """One image: `error` says why nothing was read, and then all but it and the id are None.

    alternatives, words, characters, review: columns only where they were asked for. review: whether somebody should
    look at the line, its confidence being below a threshold or nothing having been read.
    """

    id: str
    text: str | None = None
    score: float | None = None
    truncated: bool | None = None
    error: str | None = None
    confidence: float | None = None
    alternatives: Sequence[Alternative] | None = None
    words: Sequence[Confidence] | None = None
    characters: Sequence[Confidence] | None = None
    review: bool | None = None


COLUMNS = Row._fields[:-4]
Write = Callable[[Row], None]
Values = Callable[[dict[str, Any]], None]
SUFFIXES = {".txt": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
PARQUET_ROWS = 4096  # a row group: what is held in memory before it is written


def format_of(output: str | None) -> str:
    """The format that a file name asks for; txt if it asks for none."""
    return SUFFIXES.get(os.path.splitext(output or "")[1].lower(), "txt")


@contextmanager
def open_rows(output: str | None, format: str, columns: Sequence[str] = COLUMNS) -> Iterator[Write]:
    """A function that writes the `columns` of a row to the file `output`, or to stdout if None or "-".

    Lists (alternatives, words, characters) are lists of objects in jsonl and parquet, and such a list as JSON in csv.

    A regular file appears, or replaces its predecessor, when the block ends without an exception. Paths that are not
    valid Unicode are written with escapes (`\\udce9`). Raises OutputError naming the file.
    """
    with open_values(output, format, columns) as write:
        yield lambda row: write({name: printable(getattr(row, name)) for name in columns})


@contextmanager
def open_values(output: str | None, format: str, columns: Sequence[str]) -> Iterator[Values]:
    """As `open_rows`, for rows that are dicts of JSON values with these columns."""
    if format == "parquet" and (output is None or output == "-"):
        raise OutputError("parquet cannot be written to stdout; give --output FILE")
    with _open(output, lambda file: _WRITERS[format](file, columns)) as write:
        yield write


@contextmanager
def open_bytes(output: str | None) -> Iterator[Callable[[bytes], Any]]:
    """As `open_rows`, for what is encoded already."""
    with _open(output, lambda file: nullcontext(file.write)) as write:
        yield write


def replace_file(path: Path, content: bytes) -> None:
    """Complete or not at all. A link is replaced, and what it points to left as it is: in the cache of the hub that is
    a file of other revisions too. Raises OutputError."""
    try:
        with _part(os.path.abspath(path), 0o644) as file:
            file.write(content)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error


def check_file(path: Path) -> None:
    """For what is written after long work: makes the file's folder, and a file in it that goes away again. Raises
    OutputError if it could not be written."""
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; remove it, or give another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); give another place") from None


@contextmanager
def _open(
    output: str | None, writer: Callable[[IO[bytes]], AbstractContextManager[Callable[[Value], Any]]]
) -> Iterator[Callable[[Value], None]]:
    """What `writer` makes of the file. Errors of the file name it; those of the block are others' and pass."""
    name = "stdout" if output is None else output
    stack = ExitStack()
    try:
        with _told(name):
            file = stack.enter_context(_stdout() if output is None or output == "-" else _file(name))
            write = stack.enter_context(writer(file))

        def told(value: Value) -> None:
            with _told(name):
                write(value)

        yield told
    except BaseException:
        with suppress(OSError):  # of what is thrown away
            stack.__exit__(*sys.exc_info())
        raise
    with _told(name):
        stack.close()


@contextmanager
def _told(name: str) -> Iterator[None]:
    try:
        yield
    except (BrokenPipeError, TrOCRError):
        raise
    except OSError as error:
        raise OutputError(f"{name}: cannot be written ({error.strerror or error})") from error


@contextmanager
def _stdout() -> Iterator[IO[bytes]]:
    if sys.stdout is None:
        raise OutputError("stdout is closed; give --output FILE")
    sys.stdout.flush()
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()


@contextmanager
def _file(name: str) -> Iterator[IO[bytes]]:
    mode = None
    with suppress(FileNotFoundError):
        mode = os.stat(name).st_mode
    if mode is not None and stat.S_ISDIR(mode):
        raise OutputError(f"{name}: is a folder; give a file name")
    if mode is not None and not stat.S_ISREG(mode):  # a pipe or device; of a pipe, the real path is no path
        with open(name, "wb") as file:
            yield file
        return
    path = os.path.realpath(name)  # a link stays a link
    with _part(path, stat.S_IMODE(mode) if mode is not None else 0o666 & ~_umask()) as file:
        yield file


@contextmanager
def _part(path: str, mode: int) -> Iterator[IO[bytes]]:
    """A file beside `path` that takes its place when the block ends without an exception."""
    folder, name = os.path.split(path)
    part = os.path.join(folder, f".{name}.{secrets.token_hex(4)}.part")
    with half_written(part):
        try:
            with open(part, "xb", opener=_for_its_owner) as file:
                yield file
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(part)
            raise


def _for_its_owner(path: str, flags: int) -> int:
    """Nobody else reads it before it has the permissions that it is to have."""
    return os.open(path, flags, 0o600)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def _txt(file: IO[bytes], columns: Sequence[str]) -> Iterator[Values]:
    def write(row: dict[str, Any]) -> None:
        file.write(" ".join((row["text"] or "").splitlines()).encode() + b"\n")
        file.flush()

    yield write


@contextmanager
def _jsonl(file: IO[bytes], columns: Sequence[str]) -> Iterator[Values]:
    def write(row: dict[str, Any]) -> None:
        file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        file.flush()

    yield write


@contextmanager
def _csv(file: IO[bytes], columns: Sequence[str]) -> Iterator[Values]:
    line = io.StringIO()
    # It quotes the characters of its line end only: "\r\n" has both, whatever ends a line here.
    writer = csv.writer(line)

    def put(values: Any) -> None:
        writer.writerow(values)
        file.write(line.getvalue().removesuffix("\r\n").encode() + b"\n")
        file.flush()
        line.seek(0)
        line.truncate()

    def plain(value: Any) -> Any:
        if isinstance(value, bool):
            return str(value).lower()
        return orjson.dumps(value).decode() if isinstance(value, list) else value

    put(columns)
    yield lambda row: put(map(plain, row.values()))


@contextmanager
def _parquet(file: IO[bytes], columns: Sequence[str]) -> Iterator[Values]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise OutputError("parquet needs pyarrow: pip install trocr-jax[parquet]") from None
    number = pa.float64()
    sure = pa.list_(pa.struct({"text": pa.string(), "confidence": number}))
    found = pa.list_(pa.struct({"text": pa.string(), "score": number, "probability": number}))
    types = {"score": number, "confidence": number, "truncated": pa.bool_(), "review": pa.bool_()}
    types |= {
        "alternatives": found,
        "words": sure,
        "characters": sure,
        "token_ids": pa.list_(pa.int32()),
        "token_log_probs": pa.list_(number),
    }
    schema = pa.schema([(name, types.get(name, pa.string())) for name in columns])
    rows: list[dict[str, Any]] = []
    with parquet.ParquetWriter(file, schema) as writer:

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(rows, schema))
            rows.clear()

        def write(row: dict[str, Any]) -> None:
            rows.append(row)
            if len(rows) == PARQUET_ROWS:
                flush()

        yield write
        flush()


_WRITERS = {"txt": _txt, "jsonl": _jsonl, "csv": _csv, "parquet": _parquet}


def needs_review(confidence: float | None, min_confidence: float) -> bool:
    """Whether a line is less sure than that, or could not be read."""
    return confidence is None or confidence < min_confidence


def printable(value: Any) -> Any:
    """A string as valid Unicode: bytes of a file name that are not become escapes. Those in lists and dicts too, and
    named tuples as dicts. Other values as they are."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {printable(name): printable(part) for name, part in value.items()}
    return [printable(item) for item in value] if isinstance(value, list | tuple) else value
