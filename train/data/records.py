"""Built data sets, read by index."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from train.data.checks import TextLimit, is_grey
from train.data.line import DataError, Line
from trocr_jax.datasets.array_record import open_split
from trocr_jax.datasets.base import Record
from trocr_jax.errors import ImageError
from trocr_jax.image_file import open_rgb

BUILD = "build.json"


class Records:
    """One split of a data set that `python -m train data build` wrote: a `train.data.line.Source`, picklable."""

    def __init__(self, folder: Path, split: str, details: Mapping[str, Any], source: Any) -> None:
        self.folder, self.split = folder, split
        self._details = details
        self._source = source

    def __len__(self) -> int:
        count: int = self._details["splits"][self.split]["records"]
        return count

    def __getitem__(self, index: int) -> Line:
        record = self.record(index)
        assert isinstance(record.image, bytes)
        try:
            image = open_rgb(record.image)
        except ImageError as error:
            raise ImageError(f"{self.folder}: record {index} ({record.id}) of {self.split}: {error}") from None
        return Line(np.asarray(image.convert("L") if is_grey(record.image) else image), record.text)

    def built_within(self, limit: TextLimit) -> bool:
        """Whether the build has kept every text within `limit` already, by the same tokenizer."""
        longest, name = self._details.get("max_length"), self._details.get("tokenizer")
        fits = limit.length is None or (longest is not None and longest <= limit.length)
        return fits and name is not None and name == limit.tokenizer_name

    def record(self, index: int) -> Record:
        """The record as stored. Raises IndexError outside 0 to len - 1, DataError for one that is damaged."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.folder}: record {index} of {len(self)} of {self.split}")
        try:
            fields = self._source[index]
            id_, text, writer, page = (fields[name].decode() for name in ("id", "text", "writer", "page"))
        except Exception as error:  # noqa: BLE001  array_record raises RuntimeError and ValueError
            where = f"{self.folder}: record {index} of {self.split}"
            raise DataError(f"{where}: damaged ({error}); build the data set again") from None
        return Record(id_, text, fields["image"], writer=writer, page=page)

    def fingerprint(self) -> dict[str, Any]:
        summary = self._details["splits"][self.split]
        return {
            "kind": "records",
            "name": self._details["name"],
            "split": self.split,
            "records": summary["records"],
            "sha256": summary["sha256"],
        }


def open(folder: Path, split: str) -> Records:
    """A split of a built data set; `folder` is the one that was built, or an --output that holds just one data set.

    Raises DataError where there is none, the split is not in it, or its files do not hold the records that were built.
    """
    found = sorted(path for depth in ("", "*/", "*/*/") for path in folder.glob(depth + BUILD))
    if len(found) != 1:
        what = "no built data set" if not found else f"{len(found)} built data sets, name one of them"
        raise DataError(f"{folder}: {what}; build one with: python -m train data build NAME --source DIR --output DIR")
    folder = found[0].parent
    try:
        details = json.loads(found[0].read_text(encoding="utf-8"))
        counts = {name: summary["records"] for name, summary in details["splits"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{found[0]}: cannot be read ({error}); build the data set again") from None
    if split not in counts:
        raise DataError(f"{folder}: no split {split!r}; it has {', '.join(counts)}")
    source = open_split(folder, split)
    if len(source) != counts[split]:
        raise DataError(
            f"{folder}: {len(source)} records of {split} are on disk and {counts[split]} were built; build it again"
        )
    return Records(folder, split, details, source)
