"""Reading of Parquet files, a few columns at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from trocr_jax.errors import SourceError
from trocr_jax.jobs import files

ROWS = 65_536
"""Rows held at a time."""


def open_parquet(file: Any, name: str) -> Any:
    """pyarrow's ParquetFile. Raises SourceError if there is no pyarrow, or no Parquet in the file."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise SourceError(f"{name}: Parquet needs pyarrow: pip install trocr-jax[parquet]") from None
    try:
        return parquet.ParquetFile(file)
    except pyarrow.ArrowInvalid as error:
        raise SourceError(f"{name}: cannot be read as Parquet ({error}); copy it again") from error


def read_columns(
    name: str, choose: Callable[[list[str]], tuple[str, str | None]]
) -> Iterator[tuple[list[Any], list[Any]]]:
    """Two columns, as lists of some rows each; the second is of None where `choose`, given the names that there are,
    names none."""
    with files.open_file(name) as file:
        table = open_parquet(file, name)
        first, second = choose(table.schema_arrow.names)
        for batch in table.iter_batches(ROWS, columns=[first] if second is None else [first, second]):
            values = batch.column(batch.schema.get_field_index(first)).to_pylist()
            other = None if second is None else batch.column(batch.schema.get_field_index(second)).to_pylist()
            yield values, [None] * len(values) if other is None else other
