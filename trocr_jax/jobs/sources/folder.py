"""Image files: folders, patterns and names, as `trocr-jax transcribe` takes them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trocr_jax.image_paths import SUFFIXES
from trocr_jax.jobs import files
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.sources.paths import check_folders, check_paths


@dataclass(frozen=True)
class Folder:
    """paths: folders (all image files in and below them), quoted patterns, files; URLs of them."""

    paths: tuple[str, ...]
    kind: ClassVar[str] = "folder"

    def inputs(self) -> Iterator[Input]:
        for argument in self.paths:
            for path in files.images(argument):
                yield Input(path, path)

    def read(self, place: str) -> bytes:
        return files.read(place)

    def check(self) -> None:
        # An image that is named is a line that may be missing; the source is the folder that it is in.
        check_paths(tuple(path for path in self.paths if not _is_image(path)))
        check_folders(files.parent(path) for path in self.paths if _is_image(path))


def _is_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in SUFFIXES
