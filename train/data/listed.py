"""The lists of a folder of pictures: which of their lines can be used, and why the others cannot."""

from functools import cache
from os.path import isfile  # which takes a name that is too long for one that is not there
from pathlib import Path

from train.data.checks import TextLimit, image_bytes, image_refusal, normal_text
from train.data.line import DataError
from trocr_jax.datasets.base import Bad, Record
from trocr_jax.datasets.folder import Folder
from trocr_jax.errors import ImageError


def splits_of(folder: Path) -> list[str]:
    """The splits that a folder has lists for. Raises DataError where it has none."""
    dataset = Folder(source=folder)
    dataset.check()
    return list(dataset.records())


def usable(folder: Path, split: str, *, limit: TextLimit | None = None) -> tuple[list[Record], list[Bad]]:
    """Records of a list whose text can be used and whose picture is there, and those that are left out. No picture is
    opened. Raises as `open_folder` does."""
    dataset, limit = Folder(source=folder), limit or TextLimit()
    dataset.check()
    lists = dataset.records()
    if split not in lists:
        raise DataError(f"{folder}: no list for the split {split!r}; it has {', '.join(lists)}")
    good: dict[str, Record] = {}
    bad: list[Bad] = []
    for record in lists[split]:
        if isinstance(record, Bad):
            bad.append(record)
            continue
        text = normal_text(record.text)
        refusal = "its id came before" if record.id in good else limit.refusal(text)
        if refusal is None and isinstance(record.image, Path) and not isfile(record.image):
            refusal = f"{record.image}: no such file"
        if refusal is None:
            good[record.id] = Record(record.id, text, record.image, record.writer, record.page)
        else:
            bad.append(Bad(record.id, refusal))
    if not good:
        raise DataError(nothing_left(folder, split, bad))
    return list(good.values()), bad


def picture_refusal(image: bytes | Path) -> str | None:
    """Why a picture cannot be trained on. A file is decoded again only after it has changed."""
    if isinstance(image, bytes):
        return image_refusal(image)
    try:
        found = image.stat()
    except OSError as error:
        return f"{image}: cannot be read ({error.strerror})"
    return _file_refusal(image, found.st_size, found.st_mtime_ns)


@cache
def _file_refusal(path: Path, size: int, changed: int) -> str | None:
    try:
        found = image_refusal(image_bytes(path))
    except ImageError as error:
        return str(error)
    return None if found is None else f"{path}: {found}"


def nothing_left(folder: Path, split: str, bad: list[Bad]) -> str:
    """Says so, for a DataError."""
    first = f"; the first: {bad[0].id}: {bad[0].reason}" if bad else ""
    return f"{folder}: no line of {split} can be used, {len(bad)} were left out{first}"
