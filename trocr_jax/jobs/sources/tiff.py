"""TIFF files of several pages, each page a line."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from PIL import Image

from trocr_jax.errors import SourceError
from trocr_jax.jobs import files
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.sources.archives import check_paths, shards


@dataclass(frozen=True)
class Tiff:
    """paths: files, folders or patterns of them. The id of a line is the file and the number of its page, from 1."""

    paths: tuple[str, ...]
    kind: ClassVar[str] = "tiff"

    def inputs(self) -> Iterator[Input]:
        for path in shards(self.paths, ".tif", ".tiff"):
            try:
                with files.open_file(path) as file, Image.open(file, formats=("TIFF",)) as image:
                    pages = getattr(image, "n_frames", 1)
            except Exception as error:
                raise SourceError(
                    f"{path}: cannot be read as TIFF ({error}); copy it again, or leave it out, and run the same "
                    "command again"
                ) from error
            for page in range(pages):
                yield Input(f"{path}#{page + 1}", [path, page])

    def read(self, place: tuple[str, int]) -> Image.Image:
        path, page = place
        image = Image.open(io.BytesIO(files.read(path)), formats=("TIFF",))
        image.seek(page)
        return image

    def check(self) -> None:
        check_paths(self.paths)
