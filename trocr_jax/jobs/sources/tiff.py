"""TIFF files of several pages, each page a line."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, ClassVar

from PIL import Image, UnidentifiedImageError

from trocr_jax.errors import ImageError
from trocr_jax.image_file import decoding, without_pillow_warnings
from trocr_jax.jobs import files
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.sources.paths import check_paths, shards

_BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""TIFF 6.0 and BigTIFF, in both orders of bytes."""


@dataclass(frozen=True)
class Tiff:
    """paths: files, folders or patterns of them. The id of a line is the file and the number of its page, from 1. A
    file whose pages cannot be counted, because it is damaged or too large, is one line, which fails."""

    paths: tuple[str, ...]
    kind: ClassVar[str] = "tiff"

    def inputs(self) -> Iterator[Input]:
        for path in shards(self.paths, ".tif", ".tiff"):
            for page in range(_pages_of(path)):
                yield Input(f"{path}#{page + 1}", [path, page])

    def read(self, place: tuple[str, int]) -> Image.Image:
        path, page = place
        content, name = io.BytesIO(_content(path)), f"{path}#{page + 1}"
        with decoding(name):
            try:
                if page == 0:
                    _pages(content)  # the first page of a damaged file does not stand for all of it
                image = Image.open(content, formats=("TIFF",))
            except UnidentifiedImageError:
                if content.getvalue()[:4] in _BEGINNINGS:
                    why = "is damaged, or a TIFF of a kind that Pillow cannot read; copy it again, or save it as LZW"
                    raise ImageError(f"{name}: {why}") from None
                raise ImageError(f"{name}: is no TIFF file, or damaged; copy it again, or leave it out") from None
            image.seek(page)
            return image

    def check(self) -> None:
        check_paths(self.paths)


_kept = dict[str, bytes]()
"""The file that was read last: pages of a file come one after another."""


def _content(path: str) -> bytes:
    if path not in _kept:
        _kept.clear()  # there need not be room for two
        _kept[path] = files.read(path)
    return _kept[path]


def _pages_of(path: str) -> int:
    """1 of a file that is damaged. Raises SourceError if the disk or the network is to blame."""
    try:
        with files.open_file(path) as file:
            return _pages(file)
    except Exception:  # noqa: BLE001  Pillow raises nearly every one, and so do file systems of URLs
        with files.listing(path):
            content = files.read(path)
    try:
        return _pages(io.BytesIO(content))
    except Exception:  # noqa: BLE001
        return 1


def _pages(file: IO[bytes]) -> int:
    with without_pillow_warnings(), Image.open(file, formats=("TIFF",)) as image:
        return getattr(image, "n_frames", 1)
