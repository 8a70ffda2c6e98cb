"""What sources of several files have in common."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator

from trocr_jax.errors import SourceError
from trocr_jax.jobs import files


def shards(paths: tuple[str, ...], *suffixes: str) -> Iterator[str]:
    """The files that names, patterns, and folders (those that end in `suffixes`, at any depth) stand for, those of each
    in the order of names. Raises SourceError for one that stands for nothing."""
    for argument in paths:
        if files.is_url(argument):
            yield from files.images(argument, frozenset(suffixes))
            continue
        if os.path.isdir(argument):
            walk = (os.path.join(folder, name) for folder, _, names in os.walk(argument) for name in names)
            found = sorted(path for path in walk if path.lower().endswith(suffixes))
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            found = sorted(glob.glob(argument, recursive=True))
        else:
            found = [argument]
        if not found:
            raise SourceError(f"{argument}: no file there that ends in {' or '.join(suffixes)}")
        yield from found


def check_paths(paths: tuple[str, ...]) -> None:
    """Raises SourceError if one of them has gone; of a pattern, the folder that it begins in."""
    for argument in paths:
        root = argument
        while any(character in root for character in "*?["):
            root = files.parent(root)
        if root and not files.exists(root):
            raise SourceError(f"{root}: the source of this job has gone; bring it back and run the job again")
