"""Zip archives of images."""

from __future__ import annotations

import lzma
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from trocr_jax.errors import ImageError, SourceError
from trocr_jax.image_paths import SUFFIXES, hidden
from trocr_jax.jobs import files
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.sources.paths import check_paths, shards

_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError, NotImplementedError, KeyError)


@dataclass(frozen=True)
class Zip:
    """paths: archives, or patterns of them. The id of a line is the archive and the member; so is its place."""

    paths: tuple[str, ...]
    kind: ClassVar[str] = "zip"

    def inputs(self) -> Iterator[Input]:
        for archive in shards(self.paths, ".zip"):
            _open.cache_clear()  # the archive may be another one by now
            with files.listing(archive), _archive(archive) as file:
                names = file.namelist()
            for name in names:
                if os.path.splitext(name)[1].lower() in SUFFIXES and not hidden(name):
                    yield Input(f"{archive}/{name}", [archive, name])

    def read(self, place: tuple[str, str]) -> bytes:
        archive, name = place
        file = _open(archive)
        try:
            return file.read(name)
        except (OSError, EOFError, *_DAMAGED) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk's or the network's, not bzip2's
                raise
            raise ImageError(f"{archive}/{name}: cannot be unpacked ({error})") from error

    def check(self) -> None:
        check_paths(self.paths)


@lru_cache(4)
def _open(archive: str) -> zipfile.ZipFile:
    return _archive(archive)


def _archive(archive: str) -> zipfile.ZipFile:
    """Raises SourceError for what is no zip archive, as one that was cut off."""
    try:
        return zipfile.ZipFile(files.open_file(archive) if files.is_url(archive) else archive)
    except zipfile.BadZipFile as error:
        if isinstance(error.__context__, OSError):  # zipfile takes that for damage
            raise error.__context__ from None
        raise SourceError(f"{archive}: cannot be read as a zip archive ({error}); copy it again") from error
