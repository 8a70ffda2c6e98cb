"""Opening of Parquet files."""

from __future__ import annotations

from typing import Any

from trocr_jax.errors import SourceError


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
