"""Lines of pages: PAGE XML and ALTO, each line cut from the picture of its page by its outline."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote
from xml.etree.ElementTree import ParseError

import orjson
from PIL import Image

from trocr_jax.datasets.base import IMAGE_SUFFIXES
from trocr_jax.datasets.crop import cut_line
from trocr_jax.datasets.pages import (
    Line,
    Picture,
    find_picture,
    no_picture,
    outline_of,
    parse_page,
    picture_name,
    picture_path,
    scaled,
)
from trocr_jax.errors import DataError, ImageError
from trocr_jax.image_file import open_rgb
from trocr_jax.jobs import files
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.sources.paths import check_paths, shards

WHOLE = -1
CORRECTED = "has been corrected since the job was planned; plan another job for its lines"


@dataclass(frozen=True)
class Pages:
    """paths: XML files, folders or patterns of them; the picture stands where its page names it, seen from the XML or
    one folder up, else beside its XML, one folder up, or in images/. The id of a line is the XML file, # and the id
    that it has there (its number, from 1, if none). A place is [XML file, number of the line from 0, checksum of its
    outline]. A file that cannot be divided into lines is one line, which fails: its id is the file, its number -1."""

    paths: tuple[str, ...]
    kind: ClassVar[str] = "pages"

    def files(self) -> Iterator[str]:
        """The XML files, those without lines too. Raises SourceError."""
        for path in shards(self.paths, ".xml"):
            if path.rpartition("/")[2].lower() not in ("mets.xml", "metadata.xml"):
                yield path

    def inputs(self) -> Iterator[Input]:
        for path in self.files():
            with files.listing(path):
                content = files.read(path)
            try:
                _, lines = _parsed(path, content)
            except ImageError:
                yield Input(path, [path, WHOLE, ""])
                continue
            for number, line in enumerate(lines):
                yield Input(line_id(path, number, line), [path, number, _checksum(line)])

    def read(self, place: Sequence[Any]) -> Callable[[], Image.Image]:
        page = _page(place[0])
        if isinstance(page, str):
            raise ImageError(page)
        if place[1] == WHOLE:
            raise ImageError(f"{place[0]}: {CORRECTED}")
        return partial(page.cut, place)

    def check(self) -> None:
        check_paths(self.paths)


def _parsed(path: str, content: bytes) -> tuple[Picture, list[Line]]:
    try:
        return parse_page(content)
    except ParseError as error:
        raise ImageError(f"{path}: is no XML ({error}); correct it, or leave it out") from error
    except ValueError as error:  # DataError among them
        raise ImageError(f"{path}: {error}; correct it, or leave it out") from error


def line_id(path: str, number: int, line: Line) -> str:
    return f"{path}#{line.id or number + 1}"


def is_there(place: Sequence[Any], lines: list[Line]) -> bool:
    """Whether the line at a place is among the lines of its file, with the outline that it had. Jobs that were planned
    by earlier versions have places without a checksum."""
    _, number, *checksum = place
    return 0 <= number < len(lines) and checksum in ([], [_checksum(lines[number])])


def _checksum(line: Line) -> str:
    return sha256(orjson.dumps([line.outline, line.baseline])).hexdigest()[:8]


@dataclass(frozen=True)
class _Page:
    """A page that has been read, and not decoded. content: of the file of its picture, whose name is `name`."""

    path: str
    picture: Picture
    lines: list[Line]
    content: bytes
    name: str

    def cut(self, place: Sequence[Any]) -> Image.Image:
        number = place[1]
        try:
            if not is_there(place, self.lines):
                raise DataError("is not where it was when the job was planned; plan another job")
            scale = self.picture.pixels(self._image)
            return cut_line(self._image, scaled(outline_of(self.lines)(self.lines[number]), scale))
        except DataError as error:
            raise ImageError(f"{self.path}: line {number + 1}: {error}") from error

    @cached_property
    def _image(self) -> Image.Image:
        file = io.BytesIO(self.content)
        file.name = self.name
        return open_rgb(file)


@lru_cache(1)  # lines of a page come one after another
def _page(path: str) -> _Page | str:
    """Or why none of its lines can be read."""
    try:
        picture, lines = _parsed(path, files.read(path))
        return _Page(path, picture, lines, *_picture(path, picture.name))
    except ImageError as error:
        return str(error)
    except ValueError as error:  # DataError among them
        return f"{path}: {error}"


def _picture(xml: str, name: str) -> tuple[bytes, str]:
    """The contents and the name of the file of a page's picture."""
    if not files.is_url(xml):
        path = str(find_picture(Path(xml), name))
        return files.read(path), path
    refused: OSError | None = None
    for url in _urls(xml, name):
        try:
            return files.read(url), url
        except FileNotFoundError:
            continue
        except PermissionError as error:  # as some servers say of what is not there
            refused = refused or error
    if refused is not None:
        raise refused
    file = xml.rpartition("/")[2]
    raise no_picture(picture_name(name) or f"{file.rpartition('.')[0]}.*", file)


def _urls(xml: str, name: str) -> Iterator[str]:
    """Where the picture may be, as `find_picture` has it; the name of the XML counts if the page names no picture. No
    higher than what the protocol has for a root: a host, a bucket."""
    folder, _, file = xml.rpartition("/")
    above = folder.rpartition("/")[0]
    parents = [folder, above] if "://" in above else [folder]
    folders = [*parents, *(f"{parent}/images" for parent in parents)]
    wanted, given = picture_name(name), picture_path(name)
    if xml.startswith(("http://", "https://")):
        wanted, given = quote(wanted), quote(given)
    yield from (f"{parent}/{given}" for parent in parents if given)
    for one in [wanted] if wanted else [file.rpartition(".")[0] + suffix for suffix in IMAGE_SUFFIXES]:
        yield from (f"{folder}/{one}" for folder in folders)
