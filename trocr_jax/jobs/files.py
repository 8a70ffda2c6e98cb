"""Files by path or URL: what jobs need of a file system, the local one or any that fsspec knows."""

from __future__ import annotations

import errno
import inspect
import io
import logging
import os
import re
import stat
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from trocr_jax.errors import SourceError, TrOCRError
from trocr_jax.image_paths import SUFFIXES, expand, hidden
from trocr_jax.jobs import files_remote


def is_url(path: str) -> bool:
    """Whether a path names another file system: "s3://bucket/lines"."""
    return re.match(r"([a-z][a-z0-9+.-]+::)*[a-z][a-z0-9+.-]+://", path, re.IGNORECASE) is not None


def file_system(url: str) -> Any:
    """fsspec's file system for a URL. Raises SourceError if fsspec, or what it needs for the protocol, is missing;
    FileNotFoundError for a URL that is none, or is chained."""
    try:
        import fsspec
    except ImportError:
        raise SourceError(f"{url}: URLs need fsspec: pip install trocr-jax[fsspec]") from None
    if "::" in url.partition("[")[0]:  # in brackets stands an address of IPv6
        why = "chained URLs are not supported; give the last one, an archive by its own name"
        raise FileNotFoundError(errno.ENOENT, why, url)
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs the traceback of every error that it raises
    try:
        return fsspec.core.url_to_fs(url)[0]
    except ImportError as error:
        raise SourceError(f"{url}: {error}") from error
    except ValueError as error:
        raise FileNotFoundError(errno.ENOENT, str(error), url) from error


_OF_ALL = (401, 407, 408, 429)
"""Answers of the kind 4xx that are not of one file alone: who asks must prove who they are, or ask less often."""


@contextmanager
def network(path: str) -> Iterator[None]:
    """Around what reaches for a URL: makes OSError of what libraries of its protocol raise when there is no answer, or
    none that helps, which need not be one (botocore, aiohttp). A local path is left alone."""
    try:
        yield
    except OSError as error:
        if type(error) is OSError and error.errno is None and is_url(path):  # not of damage, as it would be of a file
            raise OSError(errno.EIO, str(error)) from error
        raise
    except (TrOCRError, ValueError, NotImplementedError):
        raise
    except Exception as error:
        if not is_url(path):
            raise
        status, message = getattr(error, "status", None), f"{type(error).__name__}: {error}"
        if isinstance(status, int) and 400 <= status < 500 and status not in _OF_ALL:
            raise PermissionError(errno.EACCES, message) from error
        raise OSError(errno.EIO, message) from error


def open_file(path: str) -> IO[bytes]:
    """Opened to be read. Raises OSError, also when it is read: with an errno, which errors of damage have not."""
    if is_url(path):
        with network(path):
            return io.BufferedReader(_Far(file_system(path).open(path, "rb"), path))
    return open(path, "rb")


class _Far(io.RawIOBase):
    """A file behind a URL. Whatever it raises goes through `network`."""

    def __init__(self, file: IO[bytes], path: str) -> None:
        self._file, self._path = file, path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable()

    def readinto(self, buffer: Any, /) -> int:
        with network(self._path):
            found = self._file.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        with network(self._path):
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        super().close()
        self._file.close()


def read(path: str) -> bytes:
    """The contents of a regular file. Raises OSError, also for a pipe or device, which could block or never end;
    SourceError if there is no file because its folder has gone, as `has_gone` says."""
    if path.startswith(("file://", "local://")):  # a pipe may have such a name too
        path = file_system(path)._strip_protocol(path)
    if is_url(path):
        with network(path):
            system = file_system(path)
            return cast(bytes, system.cat_file(path, **_in_one_request(system)))
    try:
        with open(path, "rb", buffering=0, opener=_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise PermissionError(errno.EACCES, "is not a regular file", path)
            return file.read()
    except (FileNotFoundError, PermissionError) as error:
        folder = os.path.dirname(path)
        while folder and not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        if has_gone(folder or os.curdir):
            raise SourceError(
                f"{path}: cannot be read ({error.strerror}), nor anything else in {folder or os.curdir}: it is empty "
                "or closed; bring it back, or delete it if its images are gone for good, and run the job again"
            ) from error
        if isinstance(error, FileNotFoundError) and (other := _spelt_otherwise(path)):
            raise FileNotFoundError(error.errno, f"no such file, but {other}: write it so", path) from error
        raise


def _spelt_otherwise(path: str) -> str:
    """What there is of the same name but for backslashes, or for how letters with marks are made; else nothing."""
    slashes = path.replace("\\", "/")
    for form in ("", "NFC", "NFD"):
        other = unicodedata.normalize(form, slashes) if form else slashes  # type: ignore[arg-type]  # plain str
        if other != path and os.path.isfile(other):
            return f"there is {other}" + f" (in Unicode's form {form})" * bool(form)
    return ""


def _in_one_request(system: Any) -> dict[str, int]:
    """Options of `cat_file`: that of S3 asks for the size first, to read a large file in parts."""
    ask = getattr(type(system), "_cat_file", None)  # of those that wait for a network
    return {"max_concurrency": 1} if ask and "max_concurrency" in inspect.signature(ask).parameters else {}


def _at_once(path: str, flags: int) -> int:
    """Opens a pipe without waiting for who writes into it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_range(path: str, start: int, length: int) -> bytes:
    """`length` bytes from `start` on. Raises OSError, also where the file is shorter; SourceError for a server that
    gives no parts of files."""
    if is_url(path):
        with network(path):
            found = cast(bytes, file_system(path).cat_file(path, start=start, end=start + length))
    else:
        with open(path, "rb") as file:
            file.seek(start)
            found = file.read(length)
    if len(found) > length:
        raise SourceError(f"{path}: {_NO_PARTS}")
    if len(found) != length:
        raise FileNotFoundError(errno.ENOENT, f"the archive ends before byte {start + length}", path)
    return found


def mark(file: IO[bytes]) -> int:
    """A checksum of the size of a file and the last 64 KiB of it, by which one that was written again is told: there
    stands what Parquet and ArrayRecord say of all that is before it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _END, 0))
    return zlib.crc32(file.read(_END), size & 0xFFFFFFFF)


_END = 1 << 16


def has_gone(path: str) -> bool:
    """Whether a file or folder is not there any more. So are those that cannot be read, and an empty folder, which is
    what a disk that is not mounted leaves. Raises SourceError if a URL cannot be reached."""
    if is_url(path):
        return not exists(path)
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is None or not os.access(path, os.X_OK)
    except NotADirectoryError:
        return not os.access(path, os.R_OK)
    except OSError:
        return True


def exists(path: str) -> bool:
    """Raises SourceError if a URL cannot be reached."""
    return bool(_ask(path, lambda: file_system(path).exists(path))) if is_url(path) else os.path.exists(path)


def is_folder(path: str) -> bool:
    """Raises SourceError if a URL cannot be reached."""
    if not is_url(path):
        return os.path.isdir(path)
    return bool(_ask(path, lambda: files_remote.is_folder(file_system(path), path)))


def _ask(url: str, question: Callable[[], Any]) -> Any:
    with listing(url):
        return question()


@contextmanager
def listing(path: str) -> Iterator[None]:
    """Around what finds the lines of a file or folder: whatever the disk or the network raises, at any moment, is a
    SourceError that names it."""
    try:
        with network(path):
            yield
    except TrOCRError:
        raise
    except (OSError, ValueError, NotImplementedError) as error:
        if re.search("support range requests|Cannot seek streaming", str(error)):  # of fsspec
            raise SourceError(f"{path}: {_NO_PARTS}") from error
        again = "correct the cause and run the same command again"
        raise SourceError(f"{path}: cannot be read ({_why(error, path)}); {again}") from error


_NO_PARTS = "its server gives whole files only, no parts of them (Range); copy it here"


def why(error: OSError) -> str:
    """In one line, without the name of the file, which stands before it. That of a file that is not there is all that
    file systems of URLs may say of it."""
    number = errno.ENOENT if error.errno is None and isinstance(error, FileNotFoundError) else error.errno
    of_system = os.strerror(number) if number else ""
    text = " ".join((error.strerror or of_system or str(error)).split()) or type(error).__name__
    return text[0].lower() + text[1:] if text == of_system else text


def _why(error: Exception, path: str) -> str:
    """In one line. Where a server does not answer, HTTP's file system finds no file, and says why only in the cause."""
    cause = error.__cause__ if str(error) == path and error.__cause__ is not None else error
    text = str(getattr(cause, "strerror", None) or cause) or type(cause).__name__
    return " ".join(text.split())


def with_name(error: OSError) -> str:
    """What the system says, and of which file."""
    said = error.strerror or str(error)
    return f"{said}: {error.filename}" if isinstance(error.filename, str) else said


def join(folder: str, path: str) -> str:
    """`path` as seen from `folder`; an absolute path or URL is itself."""
    if not folder or is_url(path) or os.path.isabs(path):
        return path
    return f"{folder.rstrip('/')}/{path}" if is_url(folder) else os.path.join(folder, path)


def parent(path: str) -> str:
    """Nothing of the first part of a URL: a bucket or host is in no folder."""
    if not is_url(path):
        return os.path.dirname(path)
    found = path.rpartition("/")[0]
    return found if is_url(found) else ""


def below(folder: str) -> Iterator[str]:
    """Every file in a local folder and those below, but hidden ones. Raises SourceError for a folder that cannot be
    read."""

    def refuse(error: OSError) -> None:
        raise error

    with listing(folder):
        for parent, folders, names in os.walk(folder, onerror=refuse):
            folders[:] = [name for name in folders if not hidden(name)]
            yield from (os.path.join(parent, name) for name in names if not hidden(name))


def images(argument: str, suffixes: frozenset[str] = SUFFIXES) -> Iterator[str]:
    """What a folder, pattern or file name stands for, as `trocr-jax transcribe` reads it, in the order of names.

    Raises SourceError for one that stands for nothing, or a folder that cannot be read.
    """
    if is_url(argument):
        yield from _remote(argument, suffixes)
        return
    for path, error in expand([argument], cast(Any, ())):
        if error is not None:
            raise SourceError(error)
        yield path


def _remote(url: str, suffixes: frozenset[str]) -> Iterator[str]:
    found = _ask(url, lambda: files_remote.find(file_system(url), url, suffixes))
    if not found:
        raise SourceError(f"{url}: no image files there; check the name and the permissions")
    protocol = url.partition("://")[0]
    for path in found:
        yield path if is_url(path) else f"{protocol}://{path.lstrip('/') if protocol != 'file' else path}"
