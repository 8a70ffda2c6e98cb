"""Files that are replaced complete or not at all, and stdout: where the command line writes."""

from __future__ import annotations

import os
import secrets
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from trocr_jax.cli.signals import half_written
from trocr_jax.errors import OutputError, TrOCRError

Value = TypeVar("Value")


@contextmanager
def open_file(
    output: str | None, writer: Callable[[IO[bytes]], AbstractContextManager[Callable[[Value], Any]]]
) -> Iterator[Callable[[Value], None]]:
    """What `writer` makes of the file `output`, or of stdout if None or "-". A regular file appears, or replaces its
    predecessor, when the block ends without an exception. Raises OutputError naming the file; errors of the block are
    others' and pass."""
    name = "stdout" if output is None else output
    stack = ExitStack()
    try:
        with _told(name):
            file = stack.enter_context(_stdout() if output is None or output == "-" else _file(name))
            write = stack.enter_context(writer(file))

        def told(value: Value) -> None:
            with _told(name):
                write(value)

        yield told
    except BaseException:
        with suppress(OSError):  # of what is thrown away
            stack.__exit__(*sys.exc_info())
        raise
    with _told(name):
        stack.close()


@contextmanager
def open_bytes(output: str | None) -> Iterator[Callable[[bytes], Any]]:
    """As `open_file`, for what is encoded already."""
    with open_file(output, lambda file: nullcontext(file.write)) as write:
        yield write


def replace_file(path: Path, content: bytes) -> None:
    """Complete or not at all. A link is replaced, and what it points to left as it is: in the cache of the hub that is
    a file of other revisions too. Raises OutputError."""
    try:
        with _part(os.path.abspath(path), 0o644) as file:
            file.write(content)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error


def check_file(path: Path) -> None:
    """For what is written after long work: makes the file's folder, and a file in it that goes away again. Raises
    OutputError if it could not be written."""
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; remove it, or give another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); give another place") from None


@contextmanager
def _told(name: str) -> Iterator[None]:
    try:
        yield
    except (BrokenPipeError, TrOCRError):
        raise
    except OSError as error:
        raise OutputError(f"{name}: cannot be written ({error.strerror or error})") from error


@contextmanager
def _stdout() -> Iterator[IO[bytes]]:
    if sys.stdout is None:
        raise OutputError("stdout is closed; give --output FILE")
    sys.stdout.flush()
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()


@contextmanager
def _file(name: str) -> Iterator[IO[bytes]]:
    mode = None
    with suppress(FileNotFoundError):
        mode = os.stat(name).st_mode
    if mode is not None and stat.S_ISDIR(mode):
        raise OutputError(f"{name}: is a folder; give a file name")
    if mode is not None and not stat.S_ISREG(mode):  # a pipe or device; of a pipe, the real path is no path
        with open(name, "wb") as file:
            yield file
        return
    path = os.path.realpath(name)  # a link stays a link
    with _part(path, stat.S_IMODE(mode) if mode is not None else 0o666 & ~_umask()) as file:
        yield file


@contextmanager
def _part(path: str, mode: int) -> Iterator[IO[bytes]]:
    """A file beside `path` that takes its place when the block ends without an exception."""
    folder, name = os.path.split(path)
    part = os.path.join(folder, f".{name}.{secrets.token_hex(4)}.part")
    with half_written(part):
        try:
            with open(part, "xb", opener=_for_its_owner) as file:
                yield file
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(part)
            raise


def _for_its_owner(path: str, flags: int) -> int:
    """Nobody else reads it before it has the permissions that it is to have."""
    return os.open(path, flags, 0o600)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
