"""The names that a source is given: what they stand for, and whether it is still there."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence

from trocr_jax.errors import SourceError
from trocr_jax.image_paths import unlisted
from trocr_jax.jobs import files


def shards(paths: tuple[str, ...], *suffixes: str) -> Iterator[str]:
    """The files that names, patterns, and folders (those that end in `suffixes`, at any depth) stand for, those of each
    in the order of names. Raises SourceError for one that stands for nothing."""
    for argument in paths:
        if files.is_url(argument):
            yield from files.images(argument, frozenset(suffixes))
            continue
        if os.path.isdir(argument):
            found = sorted(path for path in files.below(argument) if path.lower().endswith(suffixes))
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            if (closed := next(unlisted(argument), None)) is not None:
                raise SourceError(f"{closed.error}")
            found = sorted(glob.glob(argument, recursive=True))
        else:
            found = [argument]
        if not found:
            raise SourceError(f"{argument}: no file there that ends in {' or '.join(suffixes)}")
        yield from found


def check_local(paths: Iterable[str], copy: str) -> None:
    """Raises SourceError for a URL. copy: what to do about it."""
    if (url := next(filter(files.is_url, paths), None)) is not None:
        raise SourceError(f"{url}: this kind of source is read from local folders only; {copy}")


def check_paths(paths: tuple[str, ...]) -> None:
    """Raises SourceError if one of them has gone; of a pattern, the folder that it begins in."""
    for argument in paths:
        root = argument
        while any(character in root for character in "*?["):
            root = files.parent(root)
        if root and files.has_gone(root):
            raise SourceError(f"{root}: the source of this job has gone; bring it back and run the job again")


def check_planned(path: str, mark: int, planned: Sequence[int]) -> None:
    """Raises SourceError if a file whose rows have numbers is not the one whose `mark` stands in the place of a line:
    it may hold another line at that number. Places of plans from before have none."""
    if planned and planned != [mark]:
        raise SourceError(
            f"{path}: was written again since the job was planned; bring back what was there, or plan the job in "
            "another folder"
        )


def check_folders(paths: Iterable[str]) -> None:
    """As `check_paths`, of folders that files are in. Those of HTTP, which need not tell of a folder, are left out: a
    server that does not answer is told of by what is read from it."""
    check_paths(tuple(dict.fromkeys(path for path in paths if not path.startswith(("http://", "https://")))))
