"""Folders that `datasets` of Hugging Face saved to disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, ClassVar

from trocr_jax.errors import SourceError
from trocr_jax.jobs import files
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.sources.images_in_parquet import check_column, encoded, image_column
from trocr_jax.jobs.sources.paths import check_local, check_paths


@dataclass(frozen=True)
class Arrow:
    """paths: folders of `save_to_disk`, local. image_column: as for Parquet. The id of a line is the file and the
    number of its row, from 0."""

    paths: tuple[str, ...]
    image_column: str | None = None
    kind: ClassVar[str] = "huggingface"

    def inputs(self) -> Iterator[Input]:
        check_local(self.paths, "copy it here, or save it as Parquet (Dataset.to_parquet), which is read by URL")
        for folder in self.paths:
            found = list[str]()
            of_splits = [path for split in _splits(folder) for path in _arrows(split)]
            for parent, paths in groupby(of_splits, os.path.dirname):
                names = _saved(parent)
                found += [path for path in paths if names is None or os.path.basename(path) in names]
            if not found:
                raise SourceError(f"{folder}: no .arrow files; give a folder that save_to_disk wrote")
            for path in found:
                _open.cache_clear()  # the file may be another one by now
                with files.listing(path):
                    table = _open(path)
                column = image_column(path, table.schema.names, self.image_column)
                check_column(path, table.schema, column)
                for row in range(table.num_rows):
                    yield Input(f"{path}#{row}", [path, row])

    def read(self, place: tuple[str, int]) -> bytes:
        path, row = place
        table = _open(path)
        column = image_column(path, table.schema.names, self.image_column)
        return encoded(table.column(column)[row].as_py(), f"{path}: row {row}")

    def check(self) -> None:
        check_paths(self.paths)


def _arrows(folder: str) -> list[str]:
    paths = (path for path in files.below(folder) if path.endswith(".arrow"))
    return sorted(path for path in paths if not os.path.basename(path).startswith("cache-"))


def _splits(folder: str) -> list[str]:
    """The folders of a data set's splits that its dataset_dict.json names, itself where there is none: others may have
    been left from before. Raises SourceError if one of them is missing."""
    listed = os.path.join(folder, "dataset_dict.json")
    try:
        with open(listed, encoding="utf-8") as file:
            splits = [os.path.join(folder, name) for name in json.load(file)["splits"]]
    except FileNotFoundError:
        return [folder]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{listed}: cannot be read ({error}); save the data set again") from error
    if missing := [split for split in splits if not os.path.isdir(split)]:
        raise SourceError(f"{missing[0]}: is missing, which dataset_dict.json names; save the data set again")
    return sorted(splits)


def _saved(folder: str) -> set[str] | None:
    """The names of a folder's files that its state.json names, None where it names none: a data set that was saved
    there before may have left others. Raises SourceError if one of them is missing."""
    try:
        with open(os.path.join(folder, "state.json"), encoding="utf-8") as file:
            if (listed := json.load(file).get("_data_files")) is None:
                return None
        names = {one["filename"] for one in listed}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{folder}/state.json: cannot be read ({error}); save the data set again") from error
    if missing := sorted(name for name in names if not os.path.exists(os.path.join(folder, name))):
        raise SourceError(f"{folder}/{missing[0]}: is missing, which state.json names; save the data set again")
    return names


@lru_cache(4)
def _open(path: str) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise SourceError(f"{path}: Arrow files need pyarrow: pip install trocr-jax[parquet]") from None
    try:
        return pyarrow.ipc.open_stream(pyarrow.memory_map(path)).read_all()  # mapped, not loaded
    except pyarrow.ArrowInvalid as error:
        raise SourceError(f"{path}: cannot be read as Arrow ({error}); save it again") from error
