"""Lines with a known text, from wherever people keep them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TypeVar

from trocr_jax.datasets import Bad, Dataset, Folder, Pages, Record, array_record
from trocr_jax.datasets.base import LOCAL, of_url
from trocr_jax.errors import DataError, DecodeError
from trocr_jax.evaluated import Sample, Samples

LISTED = 20  # files that a message names; it counts the others
_T = TypeVar("_T")


def open_samples(source: Path, *, split: str | None = None, limit: int | None = None) -> Samples:
    """A folder of pictures with a list (tsv, csv, jsonl), a folder of PAGE or ALTO files with their pictures, or a data
    set of tensorflow-datasets in ArrayRecord files; or such a list itself.

    split: needed where there are several; a list has none. limit: only the first lines. Raises DataError saying what
    was looked for.
    """
    if source.is_file():
        if split is not None:
            raise DataError(f"{source}: a list has no splits; leave --split {split} out, or give the list's folder")
        return collect(str(source), Folder(source=source.parent).read(source), limit=limit)
    if not source.is_dir():
        do = LOCAL if of_url(source) else "give a folder of lines with a list of what they say"
        raise DataError(f"{source}: no such folder or file; {do}")
    if (built := array_record.find(source)) is not None:
        name = choose(source, {name: name for name in array_record.splits(built)}, split)[0]
        return collect(f"{source} ({name})", array_record.records(built, name), limit=limit)
    kinds: tuple[type[Dataset], ...] = (Folder, Pages)
    for kind in kinds:
        dataset = kind(source=source)
        if not dataset.missing():
            name, records = choose(source, dataset.records(), split)
            return collect(f"{source} ({name})", records, limit=limit)
    raise DataError(
        f"{source}: nothing to score in it; looked for a list of pictures and texts (*.tsv, *.csv, *.jsonl), for PAGE "
        "or ALTO files (*.xml), and for a data set in ArrayRecord files (dataset_info.json)"
    )


def collect(name: str, records: Iterable[Record | Bad], *, limit: int | None = None) -> Samples:
    """Records as samples. Raises DataError if there are none."""
    good, bad = list[Sample](), list[Bad]()
    for record in islice(once(records), limit):
        if isinstance(record, Bad):
            bad.append(record)
        else:
            good.append(Sample(record.id, record.text, record.image, row=record.row))
    if not good:
        first = f"; the first of {len(bad)} that cannot be used: {bad[0].id}: {bad[0].reason}" if bad else ""
        raise DataError(f"{name}: no lines to score{first}")
    return Samples(name, good, bad)


def once(records: Iterable[Record | Bad]) -> Iterator[Record | Bad]:
    """Every line is scored once: one whose id came before cannot be used."""
    seen = set[str]()
    for record in records:
        if isinstance(record, Record) and record.id in seen:
            yield Bad(record.id, "its id came before")
        else:
            seen.add(record.id)
            yield record


def choose(source: Path, splits: Mapping[str, _T], split: str | None) -> tuple[str, _T]:
    """The split that was asked for, or the only one, or that with the name test. Raises DataError naming them all."""
    if split is None and (len(splits) == 1 or "test" in splits):
        split = "test" if "test" in splits else next(iter(splits))
    if split is None or split not in splits:
        asked = "it has several splits" if split is None else f"no split {split!r}"
        raise DataError(f"{source}: {asked}; give --split with one of {', '.join(splits)}")
    return split, splits[split]


def check_limit(limit: int | None) -> None:
    """Raises DecodeError for what is no number of lines."""
    if limit is not None and limit < 1:
        raise DecodeError(f"--limit is {limit}: give a number of lines")


def listed(what: list[str]) -> str:
    """Names under each other, as many as a message can hold."""
    more = [f"… and {len(what) - LISTED} more"] if len(what) > LISTED else []
    return "".join(f"\n  - {name}" for name in [*what[:LISTED], *more])
