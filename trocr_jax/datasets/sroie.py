"""SROIE task 2: receipts cut into lines by the boxes of task 1 (ICDAR 2019, rrc.cvc.uab.es/?ch=13).

Counts: 626 receipts for training and 361 for the test of task 1 and 2. Copies with 347 test receipts hold those of
task 3.
"""

import codecs
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from trocr_jax.datasets.base import Bad, Dataset, Record, chosen, files_in, images_in
from trocr_jax.datasets.crop import coordinate, cut_word, png
from trocr_jax.errors import DataError, ImageError
from trocr_jax.image_file import open_rgb

_RECEIPTS = {"train": 626, "test": 361}
# Official folder names, and those of the copy that is passed round; images and boxes may also lie in the split itself.
_IMAGES = {
    "train": ("train/img", "train/images", "train", "0325updated.task1train(626p)"),
    "test": ("test/img", "test/images", "test", "task1&2_test(361p)", "task1_2_test(361p)"),
}
_BOXES = {
    "train": ("train/box", "train/boxes", "train", "0325updated.task1train(626p)"),
    "test": ("test/box", "test/boxes", "test", "text.task1&2-test(361p)", "text.task1_2-test(361p)"),
}


@dataclass(frozen=True, kw_only=True)
class Sroie(Dataset):
    """SROIE task 2: lines of receipts. The box files are "x1,y1,x2,y2,x3,y3,x4,y4,text", a line each.

    Attributes:
        only: the splits that are needed; both if empty.
    """

    only: tuple[str, ...] = ()

    name: ClassVar[str] = "sroie"
    where: ClassVar[str] = (
        "Register at https://rrc.cvc.uab.es/?ch=13, download the images and the text files of task 1 for training and "
        "test, and put them into train/img, train/box, test/img and test/box (or keep the official folder names)."
    )

    def missing(self) -> list[str]:
        found = []
        for split in self._splits():
            if not self._images(split):
                found.append(f"{split}/img/*.jpg (the receipts)")
            if not self._boxes(split):
                found.append(f"{split}/box/*.txt (boxes and texts of task 1)")
        return found or [
            f"{split}/box/{stem}.txt (the boxes of {image.name})"
            for split in self._splits()
            for stem, image in self._images(split).items()
            if stem not in self._boxes(split)
        ]

    def published(self) -> Mapping[str, tuple[int, int]]:
        return {
            f"receipts of {split}": (len(self._images(split)), count)
            for split, count in _RECEIPTS.items()
            if split in self._splits()
        }

    def records(self) -> Mapping[str, Iterable[Record | Bad]]:
        return {split: self._split(split) for split in self._splits()}

    def _split(self, split: str) -> Iterator[Record | Bad]:
        boxes = self._boxes(split)
        for stem, path in self._images(split).items():
            try:
                page, rows = open_rgb(path), _rows(boxes[stem])
            except (ImageError, OSError) as error:
                yield Bad(stem, f"{error} (all lines of the receipt)")
                continue
            for number, row in enumerate(rows, 1):
                name = f"{stem}-{number:03}"
                fields = row.split(",", 8)  # the text may hold commas
                try:
                    numbers = [coordinate(field) for field in fields[:8]]
                    if len(fields) != 9:
                        raise DataError("fields are missing")
                except DataError:
                    yield Bad(name, f"{boxes[stem].name}:{number}: not eight numbers and a text, divided by commas")
                    continue
                try:
                    image = png(cut_word(page, list(zip(numbers[::2], numbers[1::2], strict=True))))
                except DataError as error:
                    yield Bad(name, str(error))
                    continue
                yield Record(name, fields[8], image, page=stem)

    def _splits(self) -> list[str]:
        return chosen(self.only, _RECEIPTS)

    def _images(self, split: str) -> dict[str, Path]:
        folder = next((self.source / name for name in _IMAGES[split] if images_in(self.source / name)), None)
        return images_in(folder) if folder else {}

    def _boxes(self, split: str) -> dict[str, Path]:
        for name in _BOXES[split]:
            if found := files_in(self.source / name, "*.txt"):
                return {path.stem: path for path in found}
        return {}


def _rows(path: Path) -> list[str]:
    """The lines of a box file; some of the official files are Latin-1."""
    rows = path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines()  # of bytes: at \n, \r and \r\n alone
    try:
        found = [row.decode("utf-8") for row in rows]
    except UnicodeDecodeError:
        found = [row.decode("latin-1") for row in rows]
    return [row for row in found if row.strip()]
