"""MJSynth: 8.9 million rendered words (www.robots.ox.ac.uk/~vgg/data/text/).

Counts: 7,224,612 for training, 802,734 for validation and 891,927 for the test, 8,919,273 together; the lexicon has
88,172 words.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from trocr_jax.datasets.base import Bad, Dataset, Record, read_text

_FILES = {"train": "annotation_train.txt", "validation": "annotation_val.txt", "test": "annotation_test.txt"}
_COUNTS = {"train": 7_224_612, "validation": 802_734, "test": 891_927}
_INSIDE = ("", "mnt/ramdisk/max/90kDICT32px", "90kDICT32px")  # where the archive puts its files


@dataclass(frozen=True, kw_only=True)
class MjSynth(Dataset):
    """MJSynth. A word's case is that of the picture, which its file name has; the lexicon is checked against it."""

    name: ClassVar[str] = "mjsynth"
    where: ClassVar[str] = (
        "Download mjsynth.tar.gz from https://www.robots.ox.ac.uk/~vgg/data/text/ and unpack it there; "
        "annotation_train.txt, annotation_val.txt, annotation_test.txt and lexicon.txt stand beside the folders of "
        "pictures."
    )

    def missing(self) -> list[str]:
        return [name for name in (*_FILES.values(), "lexicon.txt") if not (self._root / name).is_file()]

    def published(self) -> Mapping[str, tuple[int, int]]:
        counts = {f"words of {split}": (_count_lines(self._root / _FILES[split]), _COUNTS[split]) for split in _FILES}
        return {**counts, "words of the lexicon": (_count_lines(self._root / "lexicon.txt"), 88_172)}

    def records(self) -> Mapping[str, Iterable[Record | Bad]]:
        lexicon = read_text(self._root / "lexicon.txt").split("\n")
        return {split: self._split(self._root / name, lexicon) for split, name in _FILES.items()}

    @property
    def _root(self) -> Path:
        return next((p for f in _INSIDE if ((p := self.source / f) / "lexicon.txt").is_file()), self.source)

    def _split(self, annotations: Path, lexicon: list[str]) -> Iterator[Record | Bad]:
        with annotations.open(encoding="utf-8") as file:
            for number, row in enumerate(file, 1):
                path, _, index = row.strip().rpartition(" ")
                name = path.removeprefix("./")
                text = name.rpartition("/")[2].partition("_")[2].rpartition("_")[0]  # 2425/1/115_Lube_45484.jpg
                if not path or not index.isdigit() or int(index) >= len(lexicon):
                    yield Bad(f"{annotations.name}:{number}", f"not a picture and a number of the lexicon: {row!r}")
                elif lexicon[int(index)].strip().lower() != text.lower():
                    yield Bad(name, f"its name says {text!r}, the lexicon {lexicon[int(index)].strip()!r}")
                else:
                    yield Record(name, text, self._root / name)


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for row in file if row.strip())
