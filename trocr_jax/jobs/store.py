"""The job folder as a store of small files that appear whole or not at all."""

from __future__ import annotations

import errno
import itertools
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from trocr_jax.errors import JobError
from trocr_jax.jobs.files import is_url
from trocr_jax.jobs.owner import Owner, me

TEMPORARY = "tmp"
OLD = 3600.0
"""Seconds after which a temporary file of another host counts as left behind."""
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)
"""What file systems without hard links say; ENOSYS those of FUSE, such as a bucket that is mounted."""


STALE = 3
"""Tries to read a file. NFS says ESTALE to a host that has opened one which another host replaces this moment."""


class Store(Protocol):
    """Files of a job by their names below its folder: "parts/00000001.jsonl". Failures of the disk or network are
    OSError. log_seconds: time between two additions to one file that the store should be given; 0 if it needs none."""

    root: str
    log_seconds: float

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""
        ...

    def read_range(self, name: str, start: int, length: int) -> bytes: ...

    def create(self, name: str, content: bytes, *, durable: bool = True) -> bool:
        """Writes a file that is not there yet and says whether it did: of several writers one does. durable: it is on
        the disk before its name appears."""
        ...

    def replace(self, name: str, content: bytes, *, durable: bool = False) -> None:
        """Writes a file, whether or not it is there."""
        ...

    def append(self, name: str, content: bytes) -> None:
        """Adds to a file that only this process writes, or to the last of several whose names begin with that."""
        ...

    def upload(self, name: str, file: Path) -> None:
        """Copies a large local file to a name that nobody else writes."""
        ...

    def remove(self, name: str) -> None:
        """A file that is not there is no error."""
        ...

    def exists(self, name: str) -> bool: ...

    def names(self, folder: str) -> list[str]:
        """The names, without the folder, of the files in it, sorted; of a folder that is not there, none."""
        ...

    def sweep(self, *, all_of_them: bool = False) -> None:
        """Removes temporary files that dead processes left behind, or all."""
        ...


def open_store(folder: str) -> Store:
    """The store at a path or URL. Raises JobError."""
    if folder.startswith("file://"):
        return LocalStore(folder.removeprefix("file://"))
    if is_url(folder):
        from trocr_jax.jobs.store_remote import RemoteStore

        return RemoteStore(folder)
    if not folder:
        raise JobError("the folder of the job has no name: give one")
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise JobError(f"{folder}: is a file; a job is a folder")
    return LocalStore(folder)


class LocalStore:
    """A folder of a file system that has rename and, if two writers are never to succeed, hard links."""

    log_seconds = 0.0
    _number = itertools.count()  # of all of a process, which may have several for one folder

    def __init__(self, root: str) -> None:
        self.root = root
        self._folder = Path(root)

    def read(self, name: str) -> bytes:
        return self.read_range(name, 0, -1)

    def read_range(self, name: str, start: int, length: int) -> bytes:
        for tries in range(1, STALE + 1):
            try:
                with open(self._folder / name, "rb") as file:
                    file.seek(start)
                    return file.read(length)
            except OSError as error:
                if error.errno != errno.ESTALE or tries == STALE:
                    raise
        raise AssertionError

    def create(self, name: str, content: bytes, *, durable: bool = True) -> bool:
        path = self._folder / name
        while not path.exists():
            temporary = self._write(content, durable=durable)
            try:
                placed = self._place(temporary, path)
                if placed and durable:
                    sync_folder(path.parent)
                return placed
            except FileNotFoundError:  # swept: the job is complete, or the clock of another host is hours ahead
                continue
            finally:
                with suppress(FileNotFoundError):
                    temporary.unlink()
        return False

    def replace(self, name: str, content: bytes, *, durable: bool = False) -> None:
        path = self._folder / name
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._write(content, durable=durable)
            try:
                os.replace(temporary, path)
                if durable:
                    sync_folder(path.parent)
                return
            except FileNotFoundError:  # swept, as in `create`
                continue
            except OSError:
                with suppress(FileNotFoundError):
                    temporary.unlink()
                raise

    def append(self, name: str, content: bytes) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab", buffering=0) as file:
            file.write(content)

    def upload(self, name: str, file: Path) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "rb") as content:
            os.fsync(content.fileno())
        os.replace(file, path)
        sync_folder(path.parent)

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            (self._folder / name).unlink()

    def exists(self, name: str) -> bool:
        return (self._folder / name).exists()

    def names(self, folder: str) -> list[str]:
        try:
            with os.scandir(self._folder / folder) as entries:
                return sorted(entry.name for entry in entries)
        except FileNotFoundError:
            return []

    def sweep(self, *, all_of_them: bool = False) -> None:
        for name in self.names(TEMPORARY):
            path, owner = self._folder / TEMPORARY / name, Owner.parse(name)
            if owner is None:  # not written by a job
                continue
            with suppress(FileNotFoundError):
                if all_of_them or owner.has_died() or time.time() - path.stat().st_mtime > OLD:
                    path.unlink()
        with suppress(OSError):
            (self._folder / TEMPORARY).rmdir()  # if it is empty

    def temporary(self) -> Path:
        """A name for a file that `sweep` removes should this process die."""
        folder = self._folder / TEMPORARY
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{me()}.{next(self._number)}"

    def _write(self, content: bytes, *, durable: bool) -> Path:
        while True:
            temporary = self.temporary()
            try:
                with open(temporary, "wb") as file:
                    file.write(content)
                    file.flush()
                    if durable:
                        os.fsync(file.fileno())
                return temporary
            except FileNotFoundError:  # another process has just swept the empty folder
                continue
            except OSError:
                with suppress(OSError):
                    temporary.unlink()
                raise

    def _place(self, temporary: Path, path: Path) -> bool:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            os.replace(temporary, path)  # no hard links here: a second writer of this moment puts the same rows there
        return True


def sync_folder(folder: Path) -> None:
    """The names in it are on the disk."""
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
