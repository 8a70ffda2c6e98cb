"""Writes a data set as ArrayRecord files through tensorflow-datasets, with what was left out and why beside them."""

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from train.data.checks import TextLimit, image_bytes, image_refusal, normal_text
from train.data.line import DataError
from train.data.records import BUILD
from trocr_jax.datasets.array_record import open_split
from trocr_jax.datasets.base import Bad, Dataset, Record
from trocr_jax.errors import TrOCRError
from trocr_jax.say import printable

VERSION = "1.0.0"
QUARANTINE = "quarantine.jsonl"


@dataclass(frozen=True)
class Built:
    """What a build left on disk: split -> records written, and split -> records left out (listed in `report`)."""

    folder: Path
    written: dict[str, int]
    quarantined: dict[str, int]

    @property
    def report(self) -> Path:
        return self.folder / QUARANTINE


def build(dataset: Dataset, output: Path, *, limit: TextLimit | None = None) -> Built:
    """Writes every split of `dataset` to OUTPUT/NAME/1.0.0: image (bytes as found), text, id, writer and page, in the
    order of the data set.

    Records whose picture cannot be decoded, whose text is empty or longer than `limit`, or whose id came before are
    left out and listed in quarantine.jsonl ({"split", "id", "reason"}). Counts on disk are checked against those
    written, and kept with the limit in build.json. Nothing is left of a build that fails.
    Raises DataError where files are missing, counts are not the published ones, a split ends up empty, or the data set
    was built before.
    """
    folder = output / dataset.name / VERSION
    if folder.exists():
        raise DataError(f"{folder}: was built before; remove it, or choose another --output")
    dataset.check()
    limit = limit or TextLimit()
    with tempfile.TemporaryDirectory() as scratch:
        with (Path(scratch) / QUARANTINE).open("w", encoding="utf-8") as report:
            splits = {name: _Split(name, records, limit, report) for name, records in dataset.records().items()}
            _write(dataset.name, splits, output, Path(scratch))
        with _whole(folder):
            shutil.move(Path(scratch) / QUARANTINE, folder / QUARANTINE)
            written = {name: split.written for name, split in splits.items()}
            if (on_disk := {name: len(open_split(folder, name)) for name in splits}) != written:
                raise DataError(f"{written} records were written and {on_disk} are on disk")
            details = {
                "name": dataset.name,
                "source": str(dataset.source),
                **dataset.note(),
                "max_length": limit.length,
                "tokenizer": limit.tokenizer_name or None,
                "splits": {name: split.summary() for name, split in splits.items()},
            }
            (folder / BUILD).write_text(json.dumps(details, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return Built(folder, written, quarantined={name: split.quarantined for name, split in splits.items()})


@contextlib.contextmanager
def _whole(folder: Path) -> Iterator[None]:
    """Or nothing is left of it."""
    try:
        yield
    except BaseException as error:  # a stop too
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError | DataError):
            raise DataError(f"{folder}: cannot be written ({error}); it was removed") from error
        raise


class _Split:
    """The records of one split on their way to disk: bad ones go to the report, the rest is counted and hashed."""

    def __init__(self, name: str, records: Iterable[Record | Bad], limit: TextLimit, report: io.TextIOBase) -> None:
        self.name, self.records, self.limit, self.report = name, records, limit, report
        self.written = self.quarantined = self.longest = 0
        self.reasons: Counter[str] = Counter()
        self.sha256 = hashlib.sha256()
        self.failure: TrOCRError | None = None  # tensorflow-datasets raises it again with other words

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        try:
            yield from self._examples()
        except TrOCRError as error:
            self.failure = error
            raise

    def _examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        seen: set[str] = set()
        for record in tqdm(self.records, desc=self.name, unit=" records", disable=None, mininterval=1.0):
            refusal, image, text = self._checked(record, seen)
            if refusal is not None:
                row = {"split": self.name, "id": printable(record.id), "reason": printable(refusal)}
                print(json.dumps(row, ensure_ascii=False), file=self.report)
                self.quarantined += 1
                self.reasons[refusal] += 1
                continue
            assert isinstance(record, Record)
            seen.add(record.id)
            fields = {"id": record.id, "text": text, "writer": record.writer, "page": record.page}
            for value in (*(field.encode() for field in fields.values()), image):
                self.sha256.update(len(value).to_bytes(8, "little") + value)
            self.longest = max(self.longest, self.limit.measure(text))
            yield self.written, {**fields, "image": image}
            self.written += 1
        if not self.written:
            why = "".join(f"\n  - {count} x {reason}" for reason, count in self.reasons.most_common(3))
            raise DataError(f"split {self.name}: no record can be used; {self.quarantined} were left out:{why}")

    def _checked(self, record: Record | Bad, seen: set[str]) -> tuple[str | None, bytes, str]:
        """Why a record is left out, its picture and its text."""
        if isinstance(record, Bad):
            return record.reason, b"", ""
        for name in ("id", "writer", "page"):
            try:
                getattr(record, name).encode()
            except UnicodeEncodeError:
                return f"its {name} is no valid Unicode", b"", ""
        if record.id in seen:
            return "its id came before", b"", ""
        text = normal_text(record.text)
        if (refusal := self.limit.refusal(text)) is not None:
            return refusal, b"", ""
        try:
            image = image_bytes(record.image)
        except TrOCRError as error:
            return str(error), b"", ""
        return image_refusal(image), image, text

    def summary(self) -> dict[str, Any]:
        return {
            "records": self.written,
            "quarantined": self.quarantined,
            "longest": self.longest,
            "sha256": self.sha256.hexdigest(),
        }


class _ArrayRecords(tfds.core.GeneratorBasedBuilder):
    """The writer: TensorFlow is not needed for it. Records keep the order in which they come."""

    VERSION = tfds.core.Version(VERSION)
    pkg_dir_path = None
    code_path = None  # where checksums of downloads would be looked for

    def __init__(self, name: str, splits: dict[str, _Split], output: Path) -> None:
        self.name = name
        self._splits = splits
        # never "parquet": tensorflow-datasets 4.9.10 drops rows of it silently
        super().__init__(data_dir=str(output), file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        features = {"image": tfds.features.Scalar(np.object_), "text": text, "id": text, "writer": text, "page": text}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, _Split]:
        return self._splits

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        raise NotImplementedError("the splits generate themselves")


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[None]:
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _write(name: str, splits: dict[str, _Split], output: Path, scratch: Path) -> None:
    """scratch: where tensorflow-datasets would put what it downloads."""
    settings = tfds.download.DownloadConfig(compute_stats=tfds.download.ComputeStatsMode.SKIP)
    tfds.disable_progress_bar()
    made = [folder for folder in (output / name, output) if not folder.exists()]
    try:
        # It tells of a download that does not happen, and leaves an empty folder among the temporary ones.
        with contextlib.redirect_stdout(io.StringIO()), _temporary(scratch):
            _ArrayRecords(name, splits, output).download_and_prepare(
                download_dir=str(scratch / "downloads"), download_config=settings
            )
    except BaseException as error:  # a stop too
        for empty in made:
            with contextlib.suppress(OSError):  # there is more in it
                empty.rmdir()
        if failure := next((split.failure for split in splits.values() if split.failure), None):
            raise failure from None
        full = os.strerror(errno.ENOSPC) in str(error)  # array_record raises RuntimeError
        if isinstance(error, OSError) or full:
            raise DataError(f"{output}: cannot be written ({error}){'; the disk is full' if full else ''}") from error
        raise
