"""Rows to a file or to stdout, in the formats of the command line."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, NamedTuple

import orjson

from trocr_jax.cli.output_file import open_file
from trocr_jax.confidence import Alternative, Confidence
from trocr_jax.errors import OutputError
from trocr_jax.say import printable


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
        yield lambda row: write({name: printable_values(getattr(row, name)) for name in columns})


@contextmanager
def open_values(output: str | None, format: str, columns: Sequence[str]) -> Iterator[Values]:
    """As `open_rows`, for rows that are dicts of JSON values with these columns."""
    if format == "parquet" and (output is None or output == "-"):
        raise OutputError("parquet cannot be written to stdout; give --output FILE")
    with open_file(output, lambda file: _WRITERS[format](file, columns)) as write:
        yield write


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


def printable_values(value: Any) -> Any:
    """The strings in it as `printable`, named tuples as dicts, other values as they are."""
    if isinstance(value, str):
        return printable(value)
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {printable_values(name): printable_values(part) for name, part in value.items()}
    return [printable_values(item) for item in value] if isinstance(value, list | tuple) else value
