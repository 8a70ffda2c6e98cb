"""Rows to a file or to stdout, in the formats of the command line."""

from __future__ import annotations

import csv
import io
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, NamedTuple

import orjson

from trocr_jax.errors import OutputError


class Row(NamedTuple):
    """One image: `error` says why nothing was read, and then text, score and truncated are None."""

    id: str
    text: str | None = None
    score: float | None = None
    truncated: bool | None = None
    error: str | None = None


Write = Callable[[Row], None]
SUFFIXES = {".txt": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}
PARQUET_ROWS = 4096  # a row group: what is held in memory before it is written


def format_of(output: str | None) -> str:
    """The format that a file name asks for; txt if it asks for none."""
    return SUFFIXES.get(os.path.splitext(output or "")[1].lower(), "txt")


@contextmanager
def open_rows(output: str | None, format: str) -> Iterator[Write]:
    """A function that writes a row to the file `output`, or to stdout if None or "-".

    A regular file appears, or replaces its predecessor, when the block ends without an exception. Paths that are not
    valid Unicode are written with escapes (`\\udce9`). Raises OutputError naming the file.
    """
    to_stdout = output is None or output == "-"
    if format == "parquet" and to_stdout:
        raise OutputError("parquet cannot be written to stdout; give --output FILE")
    name = "stdout" if output is None else output
    try:
        with _stdout() if to_stdout else _file(name) as file, _WRITERS[format](file) as write:
            yield lambda row: write(Row(*map(printable, row)))
    except (BrokenPipeError, OutputError):
        raise
    except OSError as error:
        raise OutputError(f"{name}: cannot be written ({error.strerror or error})") from error


@contextmanager
def _stdout() -> Iterator[IO[bytes]]:
    sys.stdout.flush()
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()


@contextmanager
def _file(name: str) -> Iterator[IO[bytes]]:
    path = os.path.realpath(name)  # a link stays a link
    if os.path.isdir(path):
        raise OutputError(f"{name}: is a folder; give a file name")
    mode = os.stat(path).st_mode if os.path.exists(path) else None
    if mode is not None and not stat.S_ISREG(mode):  # a pipe or device
        with open(path, "wb") as file:
            yield file
        return
    with tempfile.NamedTemporaryFile(
        dir=os.path.dirname(path), prefix=f".{os.path.basename(path)}.", suffix=".part", delete=False
    ) as file:
        try:
            yield file.file
            file.flush()
            os.fchmod(file.fileno(), stat.S_IMODE(mode) if mode is not None else 0o666 & ~_umask())
            os.fsync(file.fileno())
            os.replace(file.name, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(file.name)
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def _txt(file: IO[bytes]) -> Iterator[Write]:
    def write(row: Row) -> None:
        file.write(" ".join((row.text or "").splitlines()).encode() + b"\n")
        file.flush()

    yield write


@contextmanager
def _jsonl(file: IO[bytes]) -> Iterator[Write]:
    def write(row: Row) -> None:
        file.write(orjson.dumps(row._asdict(), option=orjson.OPT_APPEND_NEWLINE))
        file.flush()

    yield write


@contextmanager
def _csv(file: IO[bytes]) -> Iterator[Write]:
    line = io.StringIO()
    writer = csv.writer(
        line
    )  # it quotes the characters of its line end only: "\r\n" has both, whatever ends a line here

    def put(values: Any) -> None:
        writer.writerow(values)
        file.write(line.getvalue().removesuffix("\r\n").encode() + b"\n")
        file.flush()
        line.seek(0)
        line.truncate()

    put(Row._fields)
    yield lambda row: put(str(x).lower() if isinstance(x, bool) else x for x in row)


@contextmanager
def _parquet(file: IO[bytes]) -> Iterator[Write]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise OutputError("parquet needs pyarrow: pip install trocr-jax[parquet]") from None
    types = (pa.string(), pa.string(), pa.float64(), pa.bool_(), pa.string())
    schema = pa.schema(list(zip(Row._fields, types, strict=True)))
    rows: list[dict[str, Any]] = []
    with parquet.ParquetWriter(file, schema) as writer:

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist(rows, schema))
            rows.clear()

        def write(row: Row) -> None:
            rows.append(row._asdict())
            if len(rows) == PARQUET_ROWS:
                flush()

        yield write
        flush()


_WRITERS = {"txt": _txt, "jsonl": _jsonl, "csv": _csv, "parquet": _parquet}


def printable(value: Any) -> Any:
    """A string as valid Unicode: bytes of a file name that are not become escapes. Other values as they are."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
