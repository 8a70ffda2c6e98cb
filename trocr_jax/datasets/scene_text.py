"""Scene text benchmarks, a split each: IIIT5K, SVT, IC03, IC13, IC15, SVTP, CUTE80, and training sets in their form.

Two layouts: the LMDB of github.com/clovaai/deep-text-recognition-benchmark (keys num-samples, image-000000001,
label-000000001), and a folder of pictures with gt.txt or labels.txt ("picture text", "picture<tab>text" or
'picture, "text"' a line).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from trocr_jax.datasets.base import Bad, Dataset, Record, read_text, rows_of, split_name
from trocr_jax.errors import DataError

# Words of the test sets as they are published, by the name of the split.
_COUNTS = {
    "iiit5k_3000": 3000, "svt": 647, "ic03_860": 860, "ic03_867": 867, "ic13_857": 857, "ic13_1015": 1015,
    "ic15_1811": 1811, "ic15_2077": 2077, "svtp": 645, "cute80": 288,
}  # fmt: skip
_LISTS = ("gt.txt", "labels.txt", "label.txt")
_ROW = re.compile(r"(?P<image>[^,]+?)(?:,\s*|\s+)(?P<text>.*?)\s*")  # a row without a tab


@dataclass(frozen=True, kw_only=True)
class SceneText(Dataset):
    """Scene text sets: every folder below the source that holds data.mdb or a list is a split with its name."""

    name: ClassVar[str] = "str"
    where: ClassVar[str] = (
        "Put each set into a folder with its name (IIIT5k_3000, SVT, IC03_860, IC13_857, IC15_1811, SVTP, CUTE80): "
        "either the LMDB of https://github.com/clovaai/deep-text-recognition-benchmark (data.mdb), or pictures with "
        "gt.txt (a picture and its text a line)."
    )

    def missing(self) -> list[str]:
        return [] if self._folders() else ["data.mdb or gt.txt in this folder or one below it"]

    def published(self) -> Mapping[str, tuple[int, int]]:
        known = {split: folder for split, folder in self._folders().items() if split in _COUNTS}
        return {f"words of {split}": (_count(folder), _COUNTS[split]) for split, folder in known.items()}

    def records(self) -> Mapping[str, Iterable[Record | Bad]]:
        read = {split: _lmdb if (folder / "data.mdb").is_file() else _list for split, folder in self._folders().items()}
        return {split: read[split](folder) for split, folder in self._folders().items()}

    def _folders(self) -> dict[str, Path]:
        """Split -> folder, in the order of paths."""
        marks = [p for name in ("data.mdb", *_LISTS) for p in self.source.rglob(name)]
        found: dict[str, Path] = {}
        for folder in sorted({path.parent for path in marks}):
            name = split_name("_".join(folder.relative_to(self.source).parts[-2:]) or folder.name)
            name = next((known for known in _COUNTS if split_name(folder.name) == known), name)
            if name in found:
                raise DataError(f"{folder} and {found[name]} would both be the split {name}; rename one")
            found[name] = folder
        return found


def _count(folder: Path) -> int:
    if (folder / "data.mdb").is_file():
        with _open(folder) as environment, environment.begin() as data:
            return _samples(folder, data)
    return sum(1 for row in rows_of(read_text(_list_file(folder))) if row.strip())


def _open(folder: Path) -> Any:
    try:
        import lmdb
    except ImportError:
        raise DataError(f"{folder}: reading an LMDB takes the package lmdb: pip install lmdb") from None
    try:
        return lmdb.open(str(folder), readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise DataError(f"{folder}: not an LMDB that can be read ({error}); download it again") from None


def _samples(folder: Path, data: Any) -> int:
    count = data.get(b"num-samples")
    if count is None or not count.isdigit():
        raise DataError(f"{folder}: the LMDB has no number of samples (key num-samples); download it again")
    return int(count)


def _lmdb(folder: Path) -> Iterator[Record | Bad]:
    with _open(folder) as environment, environment.begin() as data:
        for number in range(1, _samples(folder, data) + 1):
            name = f"{number:09}"
            image, label = data.get(f"image-{name}".encode()), data.get(f"label-{name}".encode())
            if image is None or label is None:
                yield Bad(name, f"{'image' if image is None else 'label'}-{name} is not in the LMDB")
                continue
            try:
                yield Record(name, label.decode("utf-8"), image)
            except UnicodeDecodeError:
                yield Bad(name, "its label is not UTF-8")


def _list_file(folder: Path) -> Path:
    return next(folder / name for name in _LISTS if (folder / name).is_file())


def _list(folder: Path) -> Iterator[Record | Bad]:
    path = _list_file(folder)
    for number, row in enumerate(rows_of(read_text(path)), 1):
        if not row.strip():
            continue
        image, text = _divided(row)
        if not image:
            yield Bad(f"{path.name}:{number}", f"not a picture and its text: {row!r}")
        else:
            yield Record(image, text, folder / image)


def _divided(row: str) -> tuple[str, str]:
    """Picture and text of a row; no picture where it cannot be divided."""
    if "\t" in row:
        image, _, text = row.partition("\t")
        return image.strip(), text
    match = _ROW.fullmatch(row)
    if match is None:
        return "", ""
    text = match["text"]
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].replace('\\"', '"')
    return match["image"], text
