"""Tar archives of images, WebDataset shards among them."""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, ClassVar

from trocr_jax.errors import SourceError
from trocr_jax.image_paths import SUFFIXES, hidden
from trocr_jax.jobs import files
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.sources.paths import check_paths, shards


@dataclass(frozen=True)
class Tar:
    """paths: archives, or patterns of them. Members that are no images by their names (texts, JSON) are passed over.
    The id of a line is the archive and the member. A place is [archive, first byte, bytes, checksum of the header in
    front of them]: nothing is unpacked."""

    paths: tuple[str, ...]
    kind: ClassVar[str] = "tar"

    def inputs(self) -> Iterator[Input]:
        for archive in shards(self.paths, ".tar"):
            with files.listing(archive):
                yield from _members(archive)

    def read(self, place: tuple[Any, ...]) -> bytes:
        archive, start, length, *planned = place  # plans of before have no checksum
        found = files.read_range(archive, start - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE + length)
        if planned and planned != [zlib.crc32(found[: tarfile.BLOCKSIZE])]:
            raise SourceError(
                f"{archive}: is another archive than the job was planned with (at byte {start}); bring that back, or "
                "plan the job in another folder"
            )
        return found[tarfile.BLOCKSIZE :]

    def check(self) -> None:
        check_paths(self.paths)


def _check_end(archive: str, file: IO[bytes], offset: int) -> None:
    """Raises SourceError, or ReadError, unless there are blocks of zeros from `offset` on and nothing else: tarfile
    takes a damaged header for the end of the archive, and the end of the file, and does not look behind it."""
    file.seek(offset)
    end = file.read(tarfile.BLOCKSIZE)
    if len(end) < tarfile.BLOCKSIZE:
        raise SourceError(
            f"{archive}: ends at byte {offset + len(end)} without the blocks of zeros that are the end of an archive, "
            "as one that was cut off; copy it again, or, if it is whole, append 1024 bytes of zeros"
        )
    if any(end):
        raise tarfile.ReadError(f"no header at byte {offset}, and not the end")
    while block := file.read(1 << 20):
        if block.strip(b"\0"):
            raise SourceError(
                f"{archive}: goes on behind its end at byte {offset}, as archives that were put together with cat; "
                "give them one by one, or join them with tar --concatenate"
            )


def _members(archive: str) -> Iterator[Input]:
    try:
        with files.open_file(archive) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # it would keep every header
                if os.path.splitext(member.name)[1].lower() not in SUFFIXES or hidden(member.name):
                    continue
                if member.islnk() or member.issym():
                    raise SourceError(
                        f"{archive}: {member.name} is a link to {member.linkname}; write the archive with the files "
                        "themselves (tar --dereference --hard-dereference)"
                    )
                if member.issparse():
                    raise SourceError(f"{archive}: {member.name} is stored sparse; write the archive without --sparse")
                if member.isfile():
                    file.seek(member.offset_data - tarfile.BLOCKSIZE)
                    checksum = zlib.crc32(file.read(tarfile.BLOCKSIZE))
                    yield Input(f"{archive}/{member.name}", [archive, member.offset_data, member.size, checksum])
            _check_end(archive, file, tar.offset)
    except tarfile.TarError as error:
        raise SourceError(
            f"{archive}: cannot be read as an uncompressed tar archive ({error}); copy a damaged one again; a "
            "compressed one has to be unpacked first, since its members cannot be found without reading all before them"
        ) from error
