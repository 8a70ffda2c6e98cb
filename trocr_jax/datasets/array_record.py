"""Data sets of tensorflow-datasets in ArrayRecord files, such as `python -m train data build` writes: read by index,
without TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trocr_jax.datasets.base import Record
from trocr_jax.errors import DataError

_MARK = "dataset_info.json"


def find(folder: Path) -> Path | None:
    """The folder that holds the data set: this one or the only one below it, at most two deep; None for no such thing.
    Raises DataError where there are several."""
    found = sorted(path for depth in ("", "*/", "*/*/") for path in folder.glob(depth + _MARK))
    if len(found) > 1:
        raise DataError(f"{folder}: {len(found)} data sets of tensorflow-datasets are in it; name one of them")
    return found[0].parent if found else None


def splits(folder: Path) -> list[str]:
    """The names of the splits."""
    try:
        info = json.loads((folder / _MARK).read_text(encoding="utf-8"))
        return [str(split["name"]) for split in info["splits"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / _MARK}: cannot be read ({error}); build the data set again") from None


def records(folder: Path, split: str) -> Iterator[Record]:
    """The records of a split with the features image (an encoded picture) and text, and perhaps id, writer and page.

    Raises DataError naming what is missing: the package, the split, a feature, files that do not hold all records.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise DataError(f"{folder}: ArrayRecord files need an extra: pip install trocr-jax[train]") from None
    builder = tfds.builder_from_directory(str(folder))
    features = set(builder.info.features)
    if not {"image", "text"} <= features:
        raise DataError(f"{folder}: its features are {', '.join(sorted(features))}; image and text are needed")
    want = builder.info.splits[split].num_examples
    try:
        source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    except Exception as error:  # noqa: BLE001  array_record raises RuntimeError and ValueError
        raise DataError(f"{folder}: {split} cannot be opened ({error}); build the data set again") from None
    if len(source) != want:
        raise DataError(f"{folder}: {len(source)} records of {split} and {want} were built; build it again")
    for index in range(len(source)):
        fields = source[index]
        text, id_, writer, page = (_text(fields.get(name, "")) for name in ("text", "id", "writer", "page"))
        yield Record(id_ or f"{split}-{index:06}", text, fields["image"], writer, page, f"{folder}/{split}#{index}")


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
