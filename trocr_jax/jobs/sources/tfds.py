"""Data sets of TensorFlow Datasets in ArrayRecord files, read without TensorFlow."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from trocr_jax.datasets.array_record import open_split
from trocr_jax.errors import DataError, SourceError
from trocr_jax.jobs import files
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.sources.images_in_parquet import image_column
from trocr_jax.jobs.sources.paths import check_local, check_paths, check_planned


@dataclass(frozen=True)
class Tfds:
    """paths: folders of a version, with features.json. split: which; image_column: the feature, as for Parquet. The id
    of a line is the folder, the split and the number of the example, from 0. A place is [folder, number, mark of the
    split's files]."""

    paths: tuple[str, ...]
    split: str = "train"
    image_column: str | None = None
    kind: ClassVar[str] = "tfds"

    def inputs(self) -> Iterator[Input]:
        check_local(self.paths, "copy it here")
        for folder in self.paths:
            _open.cache_clear()  # the data set may be another one by now
            source, mark = _open(folder, self.split)
            _check(folder, source, _feature(folder, source, self.image_column))
            for number in range(len(source)):
                yield Input(f"{folder}/{self.split}#{number}", [folder, number, mark])

    def read(self, place: Sequence[Any]) -> Any:
        folder, number, *planned = place
        source, mark = _open(folder, self.split)
        check_planned(f"{folder}: {self.split}", mark, planned)
        return source[number][_feature(folder, source, self.image_column)]

    def check(self) -> None:
        check_paths(self.paths)


def _feature(folder: str, source: Any, wanted: str | None) -> str:
    return image_column(folder, list(source.dataset_info.features), wanted)


def _check(folder: str, source: Any, name: str) -> None:
    """Raises SourceError for a feature of single numbers or classes. One of bytes may hold files of images."""
    feature = source.dataset_info.features[name]
    if feature.shape == () and np.issubdtype(feature.np_dtype, np.number):
        raise SourceError(
            f"{folder}: its feature {name} holds no images but {type(feature).__name__}; name another with "
            "--image-column"
        )


@lru_cache(4)
def _open(folder: str, split: str) -> tuple[Any, int]:
    """And the mark of its files."""
    if not os.path.isdir(folder):
        raise SourceError(f"{folder}: is no folder; give that of a version of a TFDS data set, with its features.json")
    try:
        source = open_split(Path(folder), split)
    except DataError as error:
        raise SourceError(str(error)) from error
    marks = list[int]()
    for part in source.dataset_info.splits[split].file_instructions:
        with files.listing(folder), files.open_file(str(part.filename)) as file:
            marks.append(files.mark(file))
    return source, zlib.crc32(repr(marks).encode())
