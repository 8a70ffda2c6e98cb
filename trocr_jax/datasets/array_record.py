"""Data sets of tensorflow-datasets in ArrayRecord files, such as `python -m train data build` writes: read by index,
without TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trocr_jax.datasets.base import Bad, Record
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


def open_split(folder: Path, split: str, *, encoded: str | None = None) -> Any:
    """The examples of a split by index; its `dataset_info` tells of the features. encoded: the feature whose pictures
    stay as they are in their files.

    Raises DataError naming what is missing or damaged: the package, the split, a file, or records in it.
    """
    try:
        import tensorflow_datasets as tfds
        from array_record.python.array_record_module import ArrayRecordReader
    except ImportError:
        raise DataError(f"{folder}: ArrayRecord files need an extra: pip install trocr-jax[train]") from None
    try:
        builder = tfds.builder_from_directory(str(folder))
    except Exception as error:  # noqa: BLE001  of many kinds
        raise DataError(f"{folder}: cannot be opened ({error}); copy or build the data set again") from None
    try:
        read = {each.filename for each in builder.info.splits[split].file_instructions}
    except Exception as error:  # noqa: BLE001  of many kinds
        raise DataError(f"{folder}: no split {split!r} ({error}); it has {', '.join(builder.info.splits)}") from None
    try:
        source = builder.as_data_source(split, decoders={encoded: tfds.decode.SkipDecoding()} if encoded else None)
        infos = builder.info.splits.values()
        files = [file for info in infos for file in zip(info.filepaths, info.shard_lengths, strict=True)]
    except Exception as error:  # noqa: BLE001  of many kinds
        raise DataError(f"{folder}: {split} cannot be opened ({error}); copy or build the data set again") from None
    for path, count in files:
        if str(path) not in read:
            continue
        try:
            reader = ArrayRecordReader(str(path))
            found = reader.num_records()  # 0 of a file that is missing or damaged
            reader.close()
            why = f"{found} of its {count} records are there" if found != count else ""
        except Exception as error:  # noqa: BLE001  array_record raises RuntimeError and ValueError
            why = str(error) or "it is cut off"
        if why:
            raise DataError(f"{path}: missing or damaged ({why}); copy or build the data set again")
    return source


def records(folder: Path, split: str) -> Iterator[Record | Bad]:
    """The records of a split with the features image (an encoded picture) and text, and perhaps id, writer and page.

    Raises DataError naming what is missing: the package, the split, a feature, files that do not hold all records.
    """
    source = open_split(folder, split, encoded="image")
    features = set(source.dataset_info.features)
    if not {"image", "text"} <= features:
        raise DataError(f"{folder}: its features are {', '.join(sorted(features))}; image and text are needed")
    for index in range(len(source)):
        name = f"{split}-{index:06}"
        try:
            fields = source[index]
            text, id_, writer, page = (_text(fields.get(key, "")) for key in ("text", "id", "writer", "page"))
        except UnicodeDecodeError as error:
            yield Bad(name, f"a text that is not UTF-8 ({error})")
        except Exception as error:  # noqa: BLE001  array_record raises RuntimeError and ValueError
            yield Bad(name, f"damaged ({error})")
        else:
            yield Record(id_ or name, text, fields["image"], writer, page, f"{folder}/{split}#{index}")


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
