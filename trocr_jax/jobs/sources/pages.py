"""Lines of pages: PAGE XML and ALTO, each line cut from the picture of its page by its outline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar
from xml.etree.ElementTree import ParseError

import orjson
from PIL import Image

from trocr_jax.datasets.crop import cut_line
from trocr_jax.datasets.pages import Line, Picture, find_picture, outline_of, parse_page
from trocr_jax.errors import DataError, ImageError, SourceError
from trocr_jax.image_file import open_rgb
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.sources.archives import check_paths, shards


@dataclass(frozen=True)
class Pages:
    """paths: XML files, folders or patterns of them, local; the picture stands beside its XML, one folder up, or in
    images/. The id of a line is the XML file, # and the id that it has there (its number, from 1, if none). A place is
    [XML file, number of the line from 0, checksum of its outline]."""

    paths: tuple[str, ...]
    kind: ClassVar[str] = "pages"

    def files(self) -> Iterator[str]:
        """The XML files, those without lines too. Raises SourceError."""
        for path in shards(self.paths, ".xml"):
            if Path(path).name.lower() not in ("mets.xml", "metadata.xml"):
                yield path

    def inputs(self) -> Iterator[Input]:
        for path in self.files():
            try:
                _, lines = parse_page(Path(path).read_bytes())
            except ParseError as error:
                raise SourceError(f"{path}: is no XML ({error}); correct it, or leave it out") from error
            except (ValueError, OSError) as error:
                raise SourceError(f"{path}: {error}; correct it, or leave it out") from error
            for number, line in enumerate(lines):
                yield Input(line_id(path, number, line), [path, number, _checksum(line)])

    def read(self, place: Sequence[Any]) -> Image.Image:
        path, number = place[:2]
        page, picture, lines = _page(path)
        try:
            if not is_there(place, lines):
                raise DataError("is not where it was when the job was planned; plan another job")
            picture.check(page)
            return cut_line(page, outline_of(lines)(lines[number])).image
        except DataError as error:
            raise ImageError(f"{path}: line {number + 1}: {error}") from error

    def check(self) -> None:
        check_paths(self.paths)


def line_id(path: str, number: int, line: Line) -> str:
    return f"{path}#{line.id or number + 1}"


def is_there(place: Sequence[Any], lines: list[Line]) -> bool:
    """Whether the line at a place is among the lines of its file, with the outline that it had. Jobs that were planned
    by earlier versions have places without a checksum."""
    _, number, *checksum = place
    return number < len(lines) and checksum in ([], [_checksum(lines[number])])


def _checksum(line: Line) -> str:
    return sha256(orjson.dumps([line.outline, line.baseline])).hexdigest()[:8]


@lru_cache(1)  # lines of a page come one after another
def _page(path: str) -> tuple[Image.Image, Picture, list[Line]]:
    try:
        picture, lines = parse_page(Path(path).read_bytes())
        return open_rgb(find_picture(Path(path), picture.name)), picture, lines
    except (DataError, ParseError) as error:
        raise ImageError(f"{path}: {error}") from error
