"""What every data set says about itself: where its files are, what is missing, and its records, split by split."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from trocr_jax.errors import DataError
from trocr_jax.image_paths import hidden

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".jp2", ".avif")


LOCAL = "only `trocr-jax jobs run` reads URLs; copy the files here"


def of_url(path: Path) -> bool:
    """Whether a path was made of a URL, which loses one of its slashes."""
    return re.match(r"[a-z][a-z0-9+.-]+:/", str(path)) is not None


@dataclass(frozen=True)
class Record:
    """A line as found: `image` is the bytes of an encoded picture, or the file that holds them; `id` is unique in its
    split; `writer` and `page` are empty where nobody knows them; `row` is what rows of a job call a line that is no
    file of its own, as `Tfds` and `Pages` of `trocr_jax.jobs.sources` say, and may be empty."""

    id: str
    text: str
    image: bytes | Path
    writer: str = ""
    page: str = ""
    row: str = ""


@dataclass(frozen=True)
class Bad:
    """A record that cannot be made, and why."""

    id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Dataset(ABC):
    """One data set in the layout in which people have it.

    Attributes:
        source: the folder that holds its files.
        partial: build although the counts are not the published ones.
    """

    source: Path
    partial: bool = False

    name: ClassVar[str]
    where: ClassVar[str]
    """Where its files come from and how to lay them out, for messages."""

    @abstractmethod
    def missing(self) -> list[str]:
        """The files and folders, as messages, without which nothing can be built."""

    @abstractmethod
    def records(self) -> Mapping[str, Iterable[Record | Bad]]:
        """Split -> its records, lazily and in a fixed order. Called after `check`."""

    def published(self) -> Mapping[str, tuple[int, int]]:
        """What is counted -> (found, published), read from lists without touching images; empty where unknown."""
        return {}

    def check(self) -> None:
        """Raises DataError naming everything that is missing, or each count that is not the published one."""
        if not self.source.is_dir():
            do = f"put the files of {self.name} there. {self.where}"
            raise DataError(f"{self.source}: not a folder; {LOCAL if of_url(self.source) else do}")
        if missing := self.missing():
            listed = "".join(f"\n  - {line}" for line in missing)
            raise DataError(f"{self.source}: {self.name} is not complete; missing:{listed}\n{self.where}")
        wrong = [f"{what}: {have} instead of {want}" for what, (have, want) in self.published().items() if have != want]
        if wrong and not self.partial:
            raise DataError(
                f"{self.source}: not the published {self.name}: {'; '.join(wrong)}. "
                "Unpack the archives again, or pass --partial to build what is there"
            )

    def note(self) -> dict[str, str]:
        """What else decided the records, for build.json."""
        return {}


def chosen(only: Iterable[str], splits: Iterable[str]) -> list[str]:
    """The splits that are named, all if none is. Raises DataError for one that there is not."""
    only, known = set(only), list(splits)
    if unknown := sorted(only.difference(known)):
        raise DataError(f"--only {' '.join(unknown)}: no such split; there are {', '.join(known)}")
    return [split for split in known if not only or split in only]


def split_name(text: str) -> str:
    """Letters, digits and underscores of a folder or file name, lower case: what a split may be called."""
    return re.sub(r"\W+", "_", text.lower()).strip("_")


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark; every line ends in \\n. Raises DataError naming the file
    and the byte."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start} is not UTF-8; convert the file (for example with iconv)") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def rows_of(text: str) -> list[str]:
    """The rows of a text from `read_text`, divided at newlines alone: a row may hold what str.splitlines also takes for
    the end of a line, such as U+0085, U+2028 or a form feed."""
    rows = text.split("\n")
    return rows if rows[-1] else rows[:-1]


def files_in(folder: Path, pattern: str) -> list[Path]:
    """What a pattern finds in a folder, in the order of paths, but for what is `hidden`: macOS leaves a ._NAME beside
    each NAME, or in a folder of its own."""
    return sorted(path for path in folder.glob(pattern) if not hidden(path.relative_to(folder).as_posix()))


def images_in(folder: Path) -> dict[str, Path]:
    """Stem -> image file directly in a folder, in the order of names; empty where there is no such folder."""
    return {path.stem: path for path in files_in(folder, "*") if path.suffix.lower() in IMAGE_SUFFIXES}
