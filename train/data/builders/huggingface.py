"""Data sets of Hugging Face: Parquet files, or what `datasets` saved to disk. Read by pyarrow, without `datasets`."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from train.data.line import DataError
from trocr_jax.datasets.base import Bad, Dataset, Record, files_in, split_name
from trocr_jax.datasets.saved import arrow_files, check_whole

_TEXT = ("text", "transcription", "label", "ground_truth", "sentence", "words")
_IMAGE = ("image", "img", "picture", "line_image", "image_bytes")
_SHARD = re.compile(r"-(\d{5})-of-(\d{5}).*$")


@dataclass(frozen=True, kw_only=True)
class HuggingFace(Dataset):
    """Parquet files (train-00000-of-00002.parquet, also below data/ or in a folder of the split), or a folder of
    `save_to_disk`. The image column holds encoded bytes, {"bytes", "path"}, or paths from the folder.

    Attributes:
        image_column: the name of the column of images; one of the usual names where not given.
        text_column: the name of the column of texts; one of the usual names where not given.
    """

    image_column: str | None = None
    text_column: str | None = None

    name: ClassVar[str] = "hf"
    where: ClassVar[str] = (
        "Download the data set (hf download --repo-type dataset NAME --local-dir DIR), or write it with "
        "dataset.save_to_disk(DIR)."
    )

    def missing(self) -> list[str]:
        if not self._shards():
            return ["*.parquet, or data-*.arrow with state.json (of save_to_disk)"]
        return _missing_shards(files_in(self.source, "**/*.parquet"), partial=self.partial)

    def records(self) -> Mapping[str, Iterable[Record | Bad]]:
        return {split: self._split(split, paths) for split, paths in self._shards().items()}

    def _shards(self) -> dict[str, list[Path]]:
        """Split -> its files, in the order of names."""
        found: dict[str, list[Path]] = {}
        for path in files_in(self.source, "**/*.parquet"):
            stem = _SHARD.sub("", path.stem)
            inside = path.parent.relative_to(self.source).parts
            in_folder = bool(inside) and inside[-1] != "data" and re.fullmatch(r"\d*", stem) is not None
            found.setdefault(split_name(inside[-1] if in_folder else stem), []).append(path)
        for path in map(Path, arrow_files(str(self.source))):
            inside = path.parent.relative_to(self.source).parts
            found.setdefault(split_name(inside[-1]) if inside else "train", []).append(path)
        return found

    def _split(self, split: str, paths: list[Path]) -> Iterator[Record | Bad]:
        number = 0
        for path in paths:
            for batch in _batches(path):
                names = batch.schema.names
                image, text = self._column(path, names, "image"), self._column(path, names, "text")
                columns = [image, text, *(name for name in ("id", "writer", "page") if name in names)]
                for row in batch.select(dict.fromkeys(columns)).to_pylist():
                    name = f"{split}-{number:08}"
                    number += 1
                    found = _image(row[image], self.source)
                    if found is None or not isinstance(row[text], str):
                        what = f"no image in {image!r}" if found is None else f"no text in {text!r}"
                        yield Bad(name, f"{path.name}: {what}")
                        continue
                    fields = (row.get(key) for key in ("id", "writer", "page"))
                    own, writer, page = ("" if value is None else str(value) for value in fields)
                    yield Record(own or name, row[text], found, writer=writer, page=page)

    def _column(self, path: Path, names: list[str], kind: str) -> str:
        wanted = self.image_column if kind == "image" else self.text_column
        usual = (wanted,) if wanted else (_IMAGE if kind == "image" else _TEXT)
        found = next((name for name in usual if name in names), None)
        if found is None:
            raise DataError(
                f"{path}: no column {' or '.join(map(repr, usual))} among {names}; name it with --{kind}-column"
            )
        return found


def _missing_shards(paths: Iterable[Path], *, partial: bool) -> list[str]:
    """What lacks of the files that count themselves, train-00000-of-00002.parquet, and which of them are of two data
    sets, a line each. A file may have a hash behind its numbers."""
    found: dict[Path, dict[tuple[int, int], list[str]]] = {}  # what they count -> (total, number) -> names
    for path in paths:
        if number := _SHARD.search(path.stem):
            counted = found.setdefault(path.with_name(path.stem[: number.start()]), {})
            counted.setdefault((int(number[2]), int(number[1])), []).append(path.name)
    lacking = list[str]()
    for what, counted in found.items():
        totals, numbers = {total for total, _ in counted}, {number for _, number in counted}
        if len(totals) > 1 or any(len(names) > 1 for names in counted.values()):
            names = sorted(name for each in counted.values() for name in each)
            lacking.append(f"which of two data sets {what}* is, of {', '.join(names[:4])}: remove those of the other")
        elif not partial:
            (total,) = totals
            first = 0 if 0 in numbers or total not in numbers else 1
            absent = [n for n in range(first, first + total) if n not in numbers]
            lacking += [f"{what}-{n:05}-of-{total:05}.parquet, or --partial" for n in absent]
    return lacking


def _batches(path: Path) -> Iterator[Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError("reading Parquet and Arrow files takes pyarrow: pip install pyarrow") from None
    try:
        if path.suffix == ".parquet":
            with pyarrow.parquet.ParquetFile(path) as file:
                yield from file.iter_batches(batch_size=256)
        else:  # `datasets` writes the streaming format
            check_whole(str(path))
            with pyarrow.memory_map(str(path)) as file, pyarrow.ipc.open_stream(file) as reader:
                yield from reader
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read ({error}); download it again") from None


def _image(value: Any, folder: Path) -> bytes | Path | None:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str) and value:
        return folder / value
    return value if isinstance(value, bytes) and value else None
