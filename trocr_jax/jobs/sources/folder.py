"""Image files: folders, patterns and names, as `trocr-jax transcribe` takes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trocr_jax.jobs import files
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.sources.archives import check_paths


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
        check_paths(self.paths)
