"""From paths, folders and patterns to image files, lazily and in order."""

from __future__ import annotations

import codecs
import glob
import os
from collections.abc import Iterable, Iterator
from typing import IO, NamedTuple

# What a folder's image files end in: the usual names of the formats that image_file reads.
_NAMES = "apng avif avifs bmp gif j2c j2k jfif jp2 jpc jpe jpeg jpf jpg jpx pbm pgm png pnm ppm tif tiff webp"
SUFFIXES = frozenset(f".{name}" for name in _NAMES.split())

MACOS = "__MACOSX"
"""The folder in which macOS puts what belongs to the files of an archive, under their names."""
LOST = "lost+found"
"""The folder of root's in the root of many file systems, which nobody means who may not read it."""


class Input(NamedTuple):
    """A path as given or found, and why there is no image to read there, if that is known already."""

    path: str
    error: str | None = None


def hidden(name: str) -> bool:
    """Whether a part of a path begins with a dot, as folders leave out, or is MACOS."""
    return any(part == MACOS or (part[:1] == "." and part not in (".", "..")) for part in name.split("/"))


def expand(arguments: Iterable[str], stdin: IO[bytes]) -> Iterator[Input]:
    """Every argument as the files it stands for.

    A folder: the image files in it and in all folders below, by suffix, in the order of sorted paths; names that begin
    with a dot, folders `__MACOSX`, and links to folders, are left out. `-`: the lines of `stdin`, each the path of a
    file. A pattern (`*`, `?`, `[…]`, and `**` for any depth): what it matches, sorted, folders as above, each file
    once; a file whose name looks like a pattern is that file. Anything else: itself.
    An argument that stands for nothing is one Input with an error.
    """
    for argument in arguments:
        if argument == "-":
            nothing = Input("-", "no paths on stdin; give one a line")
            found = _listed(stdin)
        elif os.path.isdir(argument):
            nothing = Input(argument, f"{argument}: no image files in this folder or below ({_EXAMPLES})")
            found = _walk(argument)
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            do = "; only `trocr-jax jobs run` reads URLs" if "://" in argument else ""
            nothing = Input(argument, f"{argument}: no file matches this pattern{do}")
            found = _matches(argument)
        else:
            yield Input(argument)
            continue
        yield next(found, nothing)
        yield from found


_EXAMPLES = "names that end in .png, .jpg, .tif, .webp and the like"


def _listed(stdin: IO[bytes]) -> Iterator[Input]:
    try:
        for number, line in enumerate(stdin):
            if number == 0:
                line = line.removeprefix(codecs.BOM_UTF8)
            if b"\0" in line:
                yield Input("-", "-: stdin holds a NUL; give paths one a line (find without -print0), no image itself")
                return
            if path := line.rstrip(b"\r\n"):
                yield Input(os.fsdecode(path))
    except OSError as error:
        yield Input("-", f"-: stdin cannot be read ({error.strerror or error}); give paths on it, one a line")


def unlisted(pattern: str) -> Iterator[Input]:
    """The folders that a pattern looks into and that are closed, each once, with the error: `glob` is silent there."""
    parts = pattern.rstrip(os.sep).split(os.sep)
    parts += ["*"] * (parts[-1] == "**")
    told: set[str] = set()
    for place, part in enumerate(parts):
        before = os.sep.join([*parts[:place], ""]) if place else ""
        if not part or part == "**" or not glob.has_magic(before + part):
            continue  # the part behind ** looks into all that it finds
        lists, names = parts[place - 1] == "**" or glob.has_magic(part), not glob.has_magic(part)
        for folder in sorted(glob.iglob(before, recursive=True), key=_parts) if before else ("",):
            folder = folder.rstrip(os.sep) or folder or os.curdir
            try:
                if lists:
                    os.scandir(folder).close()
                if names:
                    os.lstat(os.path.join(folder, part))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                if folder not in told and os.path.basename(folder) != LOST:
                    told.add(folder)
                    yield _unlisted(folder, error)


def _unlisted(folder: str, error: OSError) -> Input:
    return Input(folder, f"{folder}: the folder cannot be read ({error.strerror}); check its permissions")


def _matches(pattern: str) -> Iterator[Input]:
    seen: set[str] = set()
    for closed in unlisted(pattern):
        seen.add(closed.path)
        yield closed
    for match in sorted(glob.iglob(pattern, recursive=True), key=_parts):
        for entry in _walk(match) if os.path.isdir(match) else (Input(match),):
            path = entry.path.rstrip(os.sep)  # of a folder that cannot be read, which may be told of already
            if path not in seen:
                seen.add(path)
                yield entry


def _parts(path: str) -> list[str]:
    return path.split(os.sep)


def _walk(folder: str) -> Iterator[Input]:
    """Depth first with a stack of our own: folders may be nested deeper than calls may be."""
    stack: list[Iterator[str | Input]] = [_entries(folder)]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
        elif isinstance(entry, Input):
            yield entry
        else:
            stack.append(_entries(entry))


def _entries(folder: str) -> Iterator[str | Input]:
    """The images of one folder as Input and the folders in it as str, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        if os.path.basename(folder) != LOST:
            yield _unlisted(folder, error)
        return
    for entry in found:
        if entry.name.startswith(".") or entry.name == MACOS:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield entry.path
        elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            yield Input(entry.path)
