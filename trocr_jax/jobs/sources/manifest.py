"""Lists of image files: JSONL, CSV, TSV or Parquet with a column of paths."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, Literal, cast

import orjson

from trocr_jax.errors import SourceError
from trocr_jax.jobs import files
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.sources.parquet import open_parquet
from trocr_jax.jobs.sources.paths import check_folders

PATH_COLUMNS = ("path", "image", "file_name", "file", "image_path")
"""The column of paths, where none is named: the first of these that a manifest has."""
FIELD = 1 << 27
"""Characters that a field of a CSV or TSV manifest may have: behind a quotation mark that is not closed, all of the
file is one."""
_BUFFER = 1 << 16
_ROWS = 65_536  # of Parquet, held at a time
ID_COLUMN = "id"


@dataclass(frozen=True)
class Manifest:
    """paths: the manifests. Paths in a manifest are seen from its own folder, or from `root` where that is given.

    path_column: of PATH_COLUMNS the first if None. id_column: "id" if None; both in capitals or not. The path is the id
    of a row without one.
    """

    paths: tuple[str, ...]
    path_column: str | None = None
    id_column: str | None = None
    root: str | None = None
    kind: ClassVar[str] = "manifest"

    def inputs(self) -> Iterator[Input]:
        for name in self.paths:
            root = files.parent(name) if self.root is None else self.root
            read = _READERS.get(os.path.splitext(name)[1].lower())
            if read is None:
                raise SourceError(f"{name}: a manifest is a file that ends in {', '.join(_READERS)}")
            with files.listing(name):
                yield from self._rows(name, root, read(name, self))

    def read(self, place: str) -> bytes:
        return files.read(place)

    def check(self) -> None:
        check_folders(files.parent(name) if self.root is None else self.root for name in self.paths)

    def _rows(self, name: str, root: str, pairs: Iterator[tuple[Any, Any]]) -> Iterator[Input]:
        join = files.join
        for number, (path, own) in enumerate(pairs, 1):
            if not isinstance(path, str) or not path:
                raise SourceError(f"{name}: row {number} has no path; correct it, or leave the row out")
            if own is not None and not isinstance(own, str):
                if isinstance(own, bool) or not isinstance(own, int | float | Decimal):
                    raise SourceError(f"{name}: row {number} has an id that is neither text nor a number; correct it")
                own = str(own)
            yield Input(own or path, join(root, path))

    def columns(self, name: str, present: list[str]) -> tuple[str, str | None]:
        """The columns of paths and of ids of a manifest with the columns `present`. Raises SourceError."""
        spelt = {column.lower(): column for column in reversed(present) if isinstance(column, str)}
        wanted = PATH_COLUMNS if self.path_column is None else (self.path_column,)
        path = next((column for column in wanted if column in present), None)
        if path is None and self.path_column is None:  # FILE_NAME
            path = next((spelt[column] for column in PATH_COLUMNS if column in spelt), None)
        if path is None:
            raise SourceError(f"{name}: no column {' or '.join(wanted)} among {present}; name it with --path-column")
        if self.id_column is not None and self.id_column not in present:
            raise SourceError(f"{name}: no column {self.id_column} among {present}")
        own = self.id_column or (ID_COLUMN if ID_COLUMN in present else spelt.get(ID_COLUMN))
        for column in (path, own):
            if column is not None and present.count(column) > 1:
                raise SourceError(f"{name}: {present.count(column)} columns are called {column}; leave one of them out")
        return path, own


def _jsonl(name: str, manifest: Manifest) -> Iterator[tuple[Any, Any]]:
    loads = orjson.loads
    path, own = None, manifest.id_column or ID_COLUMN
    # A remote file finds the ends of lines forty times more slowly than a buffer does (s3fs).
    with files.open_file(name) as file, io.BufferedReader(cast(io.RawIOBase, file), _BUFFER) as buffered:
        if buffered.peek(3).startswith(codecs.BOM_UTF8):
            buffered.read(3)
        for number, line in enumerate(buffered, 1):
            try:
                row = loads(line)
            except orjson.JSONDecodeError as error:
                if line.strip():
                    raise SourceError(f"{name}: line {number} is no JSON ({error})") from None
                continue
            if not isinstance(row, dict):
                raise SourceError(f"{name}: line {number} is no JSON object")
            if path is None:  # the first row says which column of paths there is
                path, id_column = manifest.columns(name, list(row))
                own = id_column or own
            id = row.get(own)
            if isinstance(id, float):  # as it is written: of many digits a float keeps some
                id = json.loads(line, parse_float=str).get(own)
            yield row.get(path), id


def _delimited(delimiter: str, quoting: Literal[0, 3], advice: str) -> Any:
    def read(name: str, manifest: Manifest) -> Iterator[tuple[Any, Any]]:
        with files.open_file(name) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
            csv.field_size_limit(max(csv.field_size_limit(), FIELD))  # its own would end at a text of 128 KiB
            rows = csv.reader(text, delimiter=delimiter, quoting=quoting, strict=True)
            number = 0
            try:
                present = next(rows, [])
                if len(present) == 1 and present[0] != manifest.path_column:
                    other = next((mark for mark in ";\t,|" if mark in present[0]), None)
                    if other is not None:  # as Excel writes .csv where the comma divides decimals
                        asked = "commas" if delimiter == "," else "tabs"
                        raise SourceError(f"{name}: its columns are divided by {other!r}; divide them by {asked}")
                path, own = manifest.columns(name, present)
                at, id_at = present.index(path), None if own is None else present.index(own)
                for number, row in enumerate(filter(None, rows), 1):
                    if len(row) != len(present):
                        counts = f"{len(row)} columns, and the header {len(present)}"
                        raise SourceError(f"{name}: row {number} has {counts}; {advice}")
                    yield row[at], None if id_at is None else row[id_at]
            except UnicodeDecodeError:
                raise SourceError(f"{name}: is not UTF-8; save it so, or convert it (for example with iconv)") from None
            except csv.Error as error:
                raise SourceError(f"{name}: row {number + 1} cannot be divided ({error}); {advice}") from error

    return read


def _parquet(name: str, manifest: Manifest) -> Iterator[tuple[Any, Any]]:
    with files.open_file(name) as file:
        table = open_parquet(file, name)
        path, own = manifest.columns(name, table.schema_arrow.names)
        for rows in table.iter_batches(_ROWS, columns=[path] if own is None else [path, own]):
            paths = rows.column(path).to_pylist()
            ids = [None] * len(paths) if own is None else rows.column(own).to_pylist()
            yield from zip(paths, ids, strict=True)


_CSV = 'put a text that holds a comma into quotation marks, close them, and write "" for one inside'
_TSV = "divide columns by one tab; a text holds no tab and no line break"
_READERS = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".csv": _delimited(",", csv.QUOTE_MINIMAL, _CSV),
    # Quotation marks are part of a text, as in lists of lines (datasets/folder.py).
    ".tsv": _delimited("\t", csv.QUOTE_NONE, _TSV),
    ".parquet": _parquet,
}
