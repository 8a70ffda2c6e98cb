"""Parquet files with a column of images, as data sets on the Hugging Face hub have them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from trocr_jax.errors import ImageError, SourceError
from trocr_jax.jobs import files
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.sources.parquet import open_parquet
from trocr_jax.jobs.sources.paths import check_paths, check_planned, shards

GROUP_BYTES = 512 << 20
"""Images of a row group at most: to read one of them, all are; two groups are kept while a third is read, within the
2 GiB that a process which decodes has by default."""
IMAGE_COLUMNS = ("image", "img", "picture", "image_bytes", "bytes")


@dataclass(frozen=True)
class ImagesInParquet:
    """paths: files, folders or patterns of them. image_column: of bytes, or of {"bytes", "path"}; the first of
    IMAGE_COLUMNS if None. The id of a line is the file and the number of its row, from 0. A place is [file, group of
    rows, row in it, mark of the file]."""

    paths: tuple[str, ...]
    image_column: str | None = None
    kind: ClassVar[str] = "parquet"

    def inputs(self) -> Iterator[Input]:
        for path in shards(self.paths, ".parquet"):
            _open.cache_clear()  # the file may be another one by now
            _group.cache_clear()
            with files.listing(path):
                table, mark = _open(path)
                column = image_column(path, table.schema_arrow.names, self.image_column)
                check_column(path, table.schema_arrow, column)
            number = 0
            for group in range(table.num_row_groups):
                found = table.metadata.row_group(group)
                _check_size(path, group, found, column)
                for row in range(found.num_rows):
                    yield Input(f"{path}#{number}", [path, group, row, mark])
                    number += 1

    def read(self, place: Sequence[Any]) -> bytes:
        path, group, row, *planned = place
        table, mark = _open(path)
        check_planned(path, mark, planned)
        column = image_column(path, table.schema_arrow.names, self.image_column)
        return encoded(_group(path, group, column)[row].as_py(), f"{path}: row {row} of group {group}")

    def check(self) -> None:
        check_paths(self.paths)


def _check_size(path: str, number: int, group: Any, column: str) -> None:
    """Raises SourceError for a group of rows whose images no process that decodes has room for."""
    chunks = (group.column(i) for i in range(group.num_columns))
    size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] == column)
    if size > GROUP_BYTES:
        raise SourceError(
            f"{path}: the images of its row group {number} are {size >> 20} MiB, and are read together; write it again "
            f"with groups of at most {GROUP_BYTES >> 20} MiB, such as parquet.write_table(table, path, "
            f"row_group_size={max(group.num_rows * GROUP_BYTES // size // 2, 1)})"
        )


def image_column(path: str, present: list[str], wanted: str | None) -> str:
    """The column of images. Raises SourceError."""
    names = IMAGE_COLUMNS if wanted is None else (wanted,)
    if (found := next((name for name in names if name in present), None)) is None:
        raise SourceError(f"{path}: no column {' or '.join(names)} among {present}; name it with --image-column")
    if present.count(found) > 1:
        raise SourceError(f"{path}: {present.count(found)} of its columns are called {found}; leave one of them out")
    return found


def check_column(path: str, schema: Any, column: str) -> None:
    """Raises SourceError for a column of a pyarrow.Schema that holds something else than images. Lines of a job that
    is planned fail one by one instead."""
    if not _holds_images(kind := schema.field(column).type):
        raise SourceError(
            f"{path}: its column {column} holds no images but {kind}; name another with --image-column, or, if these "
            "are paths of images, use --source manifest"
        )


def _holds_images(kind: Any) -> bool:
    from pyarrow import types

    if types.is_null(kind):  # all of them are missing
        return True
    if types.is_struct(kind):
        return any(kind.get_field_index(name) >= 0 for name in ("bytes", "path"))
    kind = kind.value_type if types.is_dictionary(kind) else kind
    binary = types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary
    return any(is_kind(kind) for is_kind in binary)


def encoded(value: Any, name: str) -> bytes:
    """The bytes of a picture in a cell: themselves, or those of {"bytes", "path"}. Raises ImageError."""
    if isinstance(value, dict):
        value = value.get("bytes") or (files.read(value["path"]) if value.get("path") else None)
    if not isinstance(value, bytes):
        raise ImageError(f"{name}: holds no image")
    return value


@lru_cache(4)
def _open(path: str) -> tuple[Any, int]:
    """And the mark of the file."""
    if files.is_url(path):
        file = files.open_file(path)
        return open_parquet(file, path), files.mark(file)
    with open(path, "rb") as file:
        return open_parquet(path, path), files.mark(file)


@lru_cache(2)
def _group(path: str, group: int, column: str) -> Any:
    return _open(path)[0].read_row_group(group, columns=[column]).column(0)
