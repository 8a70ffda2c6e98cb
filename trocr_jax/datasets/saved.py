"""Folders that `datasets` of Hugging Face saved to disk: which of the files in them belong to the data set."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

from trocr_jax.errors import DataError
from trocr_jax.image_paths import hidden

_FILE = b"ARROW1"  # how the other format of Arrow begins
_END = b"\xff\xff\xff\xff\0\0\0\0"  # of a stream of Arrow: a message without a length


def arrow_files(folder: str) -> list[str]:
    """The .arrow files of a data set or of all its splits, sorted by split and name. Others in the folder were left
    from a data set that was saved there before. Raises DataError if one that is named is missing, OSError."""
    found: list[str] = []
    for split in _splits(folder):
        for parent, there in sorted(_below(split)):
            names = _saved(parent)
            found += [os.path.join(parent, name) for name in sorted(there) if names is None or name in names]
    return found


def check_whole(path: str) -> None:
    """Raises DataError for a stream of Arrow without its end, as of a copy that was cut off between two batches."""
    with open(path, "rb") as file:
        begins = file.read(len(_FILE))
        file.seek(max(file.seek(0, os.SEEK_END) - len(_END), 0))
        if begins == _FILE:
            raise DataError(f"{path}: is in Arrow's file format; save it with save_to_disk, or as Parquet")
        if file.read() != _END:
            raise DataError(f"{path}: is cut off, its end is missing; copy or save it again")


def _below(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Every folder in it, itself too, and the names of its .arrow files."""

    def refuse(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not hidden(name)]
        arrows = (name for name in names if name.endswith(".arrow") and not name.startswith("cache-"))  # of map
        yield parent, [name for name in arrows if not hidden(name)]


def _splits(folder: str) -> list[str]:
    """The folders of a data set's splits that its dataset_dict.json names, itself where there is none."""
    listed = os.path.join(folder, "dataset_dict.json")
    try:
        with open(listed, encoding="utf-8") as file:
            splits = [os.path.join(folder, name) for name in json.load(file)["splits"]]
    except FileNotFoundError:
        return [folder]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{listed}: cannot be read ({error}); save the data set again") from error
    if missing := [split for split in splits if not os.path.isdir(split)]:
        raise DataError(f"{missing[0]}: is missing, which dataset_dict.json names; save the data set again")
    return sorted(splits)


def _saved(folder: str) -> set[str] | None:
    """The names of a folder's files that its state.json names, None where it names none."""
    try:
        with open(os.path.join(folder, "state.json"), encoding="utf-8") as file:
            if (listed := json.load(file).get("_data_files")) is None:
                return None
        names = {one["filename"] for one in listed}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder}/state.json: cannot be read ({error}); save the data set again") from error
    if missing := sorted(name for name in names if not os.path.exists(os.path.join(folder, name))):
        raise DataError(f"{folder}/{missing[0]}: is missing, which state.json names; save the data set again")
    return names
