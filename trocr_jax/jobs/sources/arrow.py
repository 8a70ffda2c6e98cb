"""Folders that `datasets` of Hugging Face saved to disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from trocr_jax.datasets.saved import arrow_files, check_whole
from trocr_jax.errors import DataError, SourceError
from trocr_jax.jobs import files
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.sources.images_in_parquet import check_column, encoded, image_column
from trocr_jax.jobs.sources.paths import check_local, check_paths, check_planned


@dataclass(frozen=True)
class Arrow:
    """paths: folders of `save_to_disk`, local. image_column: as for Parquet. The id of a line is the file and the
    number of its row, from 0. A place is [file, row, mark of the file]."""

    paths: tuple[str, ...]
    image_column: str | None = None
    kind: ClassVar[str] = "huggingface"

    def inputs(self) -> Iterator[Input]:
        check_local(self.paths, "copy it here, or save it as Parquet (Dataset.to_parquet), which is read by URL")
        for folder in self.paths:
            with files.listing(folder), _as_source():
                found = arrow_files(folder)
            if not found:
                raise SourceError(f"{folder}: no .arrow files; give a folder that save_to_disk wrote")
            for path in found:
                _open.cache_clear()  # the file may be another one by now
                with files.listing(path):
                    table, mark = _open(path)
                column = image_column(path, table.schema.names, self.image_column)
                check_column(path, table.schema, column)
                for row in range(table.num_rows):
                    yield Input(f"{path}#{row}", [path, row, mark])

    def read(self, place: Sequence[Any]) -> bytes:
        path, row, *planned = place
        table, mark = _open(path)
        check_planned(path, mark, planned)
        column = image_column(path, table.schema.names, self.image_column)
        return encoded(table.column(column)[row].as_py(), f"{path}: row {row}")

    def check(self) -> None:
        check_paths(self.paths)


@contextmanager
def _as_source() -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise SourceError(str(error)) from error


@lru_cache(4)
def _open(path: str) -> tuple[Any, int]:
    """And the mark of the file."""
    try:
        import pyarrow
    except ImportError:
        raise SourceError(f"{path}: Arrow files need pyarrow: pip install trocr-jax[parquet]") from None
    with _as_source():
        check_whole(path)
    try:
        with open(path, "rb") as file:
            return pyarrow.ipc.open_stream(pyarrow.memory_map(path)).read_all(), files.mark(file)  # mapped, not loaded
    except pyarrow.ArrowInvalid as error:
        raise SourceError(f"{path}: cannot be read as Arrow ({error}); save it again") from error
