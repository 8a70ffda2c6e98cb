"""The job folder in an object store, through fsspec."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from trocr_jax.errors import JobError
from trocr_jax.jobs.files import file_system, network

PIECE = 1 << 16
"""Bytes of a log after which it goes on in another object, so that an event costs the same however long a job is."""

CONFLICTS = 5
"""Tries to create an object while others create or delete it, for which S3 asks (409 ConditionalRequestConflict)."""


class RemoteStore:
    """An object appears whole or not at all, so there are no temporary files. Of several that create one, one does if
    the store can put an object only where there is none (S3 and GCS can); elsewhere the last does, with equal bytes."""

    log_seconds = 1.0  # GCS lets an object be written about once a second (cloud.google.com/storage/quotas)

    def __init__(self, root: str) -> None:
        """Raises JobError for a URL that names no folder, or of an unknown protocol."""
        self.root = root.rstrip("/")
        if self.root.endswith(":"):
            raise JobError(f"{root}: names no bucket or folder behind ://; give the whole URL of the job")
        try:
            self._system = file_system(root)
        except FileNotFoundError as error:
            raise JobError(f"{root}: {error.strerror}") from None
        self._appended: dict[str, tuple[int, bytes]] = {}  # the last piece of a log: its number and what is in it

    def read(self, name: str) -> bytes:
        return cast(bytes, self._ask(self._system.cat_file, self._url(name)))

    def read_range(self, name: str, start: int, length: int) -> bytes:
        return cast(bytes, self._ask(self._system.cat_file, self._url(name), start=start, end=start + length))

    def create(self, name: str, content: bytes, *, durable: bool = True) -> bool:
        for conflicts in range(CONFLICTS):
            if self.exists(name):
                return False
            try:
                self._write(self._system.pipe_file, name, content, mode="create")
            except FileExistsError:
                return False
            except NotImplementedError:
                self._write(self._system.pipe_file, name, content)
            except OSError as error:
                if not _is_conflict(error) or conflicts == CONFLICTS - 1:
                    raise
                time.sleep(0.1 * 2**conflicts)
                continue
            break
        return True

    def replace(self, name: str, content: bytes, *, durable: bool = False) -> None:
        self._write(self._system.pipe_file, name, content)

    def append(self, name: str, content: bytes) -> None:
        # Objects do not grow: what this process has written of the piece so far is written again.
        if name not in self._appended:  # pieces of another store in this process may be there
            folder, _, first = name.rpartition("/")
            there = [piece for piece in self.names(folder) if piece == first or piece.startswith(f"{first}.")]
            self._appended[name] = len(there), b""
        number, before = self._appended[name]
        if len(before) >= PIECE:
            number, before = number + 1, b""
        self.replace(f"{name}.{number:06}" if number else name, before + content)
        self._appended[name] = number, before + content

    def upload(self, name: str, file: Path) -> None:
        self._write(lambda url: self._system.put_file(str(file), url), name)

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._ask(self._system.rm_file, self._url(name))

    def exists(self, name: str) -> bool:
        return bool(self._fresh(self._system.exists, self._url(name)))

    def names(self, folder: str) -> list[str]:
        try:
            found = self._fresh(self._system.ls, self._url(folder), detail=False)
        except FileNotFoundError:
            return []
        return sorted(name for path in found if (name := path.rstrip("/").rpartition("/")[2]) != folder)

    def sweep(self, *, all_of_them: bool = False) -> None:
        pass

    def _write(self, write: Callable[..., Any], name: str, *args: Any, **options: Any) -> None:
        """Makes the folder first where there is none, unless it is a bucket's, which has none."""
        url = self._url(name)
        try:
            self._ask(write, url, *args, **options)
        except FileNotFoundError:
            if not self._system._strip_protocol(url).startswith("/"):
                raise
            self._ask(self._system.makedirs, url.rpartition("/")[0], exist_ok=True)
            self._ask(write, url, *args, **options)

    def _fresh(self, ask: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """File systems remember listings; other hosts change them."""
        self._system.invalidate_cache()
        return self._ask(ask, *args, **options)

    def _ask(self, ask: Callable[..., Any], *args: Any, **options: Any) -> Any:
        with network(self.root):
            try:
                return ask(*args, **options)
            except FileNotFoundError as error:
                if error.errno is None:  # of GCS, whose message is the address that was asked
                    why = "there is no such bucket or object"
                    raise FileNotFoundError(errno.ENOENT, why, self.root) from error
                raise
            except ValueError as error:  # of GCS, for a request that it calls bad
                raise OSError(errno.EIO, str(error)) from error

    def _url(self, name: str) -> str:
        return f"{self.root}/{name}"


def _is_conflict(error: OSError) -> bool:
    """s3fs keeps botocore's error as the cause."""
    response = getattr(error.__cause__, "response", None) or {}
    return response.get("Error", {}).get("Code") == "ConditionalRequestConflict"
