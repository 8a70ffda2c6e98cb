"""Texts that were read before: rows of `trocr-jax transcribe` or of a finished job, set beside references."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from trocr_jax.confidence import Alternative
from trocr_jax.datasets.base import rows_of
from trocr_jax.errors import DataError
from trocr_jax.evaluated import Outcome, Sample
from trocr_jax.evaluation.samples import listed


def open_results(path: Path, samples: Sequence[Sample]) -> list[Outcome]:
    """The row of each sample, in the order of the samples, from JSONL. A row belongs to a sample if its `id` is the
    sample's id or picture, or its `row`, as written or from the current folder, or else if their file names (for lines
    of pages, those of the page and the line) are equal and occur once on both sides.

    Raises DataError naming rows that are not such rows, and samples that have none.
    """
    return match(_lines(path), samples, path)


def match(rows_of: Iterable[dict[str, Any]], samples: Sequence[Sample], path: Path) -> list[Outcome]:
    """The same from rows; path: where they come from, for messages."""
    rows = _by_id(rows_of, path)
    ways = [  # to a row from a name that occurs once among the samples
        (_once({s.id: of_sample(s) for s in samples}), _once({name: of_row(name) for name in rows}), of_sample)
        for of_sample, of_row in ((_file, _file_of_row), (_line_of_page, _line_of_row))
    ]
    absolute = _once({name: os.path.abspath(name) for name in rows if "://" not in name})
    found, missing = list[Outcome](), list[str]()
    for sample in samples:
        names = [sample.id, *([str(sample.image)] if isinstance(sample.image, Path) else [])]
        key = next((name for name in names if name in rows), None)
        if key is None and (name := sample.row or (str(sample.image) if isinstance(sample.image, Path) else "")):
            key = absolute.get(os.path.abspath(name))
        for samples_by, rows_by, name_of in ways:
            name = name_of(sample)
            key = rows_by.get(name) if key is None and name in samples_by else key
        if key is None:
            missing.append(sample.id)
        else:
            found.append(_outcome(rows[key], path))
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(samples)} references have no row in it:{listed(missing)}\n"
            "a row belongs to a reference if its id is the path of its picture, or that of its page or data set, # and"
            " its line; or has the same file name, and no other has"
        )
    return found


def _file(sample: Sample) -> str:
    return (sample.image if isinstance(sample.image, Path) else Path(sample.id)).name


def _file_of_row(name: str) -> str:
    return PurePath(name).name


def _line_of_page(sample: Sample) -> str:
    """A line of a page is folders/page/line in a data set and folders/page.xml#line in a job."""
    return "/".join(PurePath(sample.id).parts[-2:])


def _line_of_row(name: str) -> str:
    page, _, line = name.rpartition(".xml#")
    return f"{PurePath(page).name}/{line}"


def _once(files: Mapping[str, str]) -> dict[str, str]:
    """File name -> the one that has it, for names that occur once."""
    found: dict[str, str | None] = {}
    for key, name in files.items():
        found[name] = None if name in found else key
    return {name: key for name, key in found.items() if key is not None}


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    try:
        lines = rows_of(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); give the JSONL file or the job folder of a finished run"
        ) from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
                row["id"]
            except (ValueError, KeyError, TypeError, RecursionError):
                raise DataError(f'{path}:{number}: not a row such as {{"id": "1.png", "text": "…"}}') from None
            yield row


def _by_id(rows_of: Iterable[dict[str, Any]], path: Path) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows_of, 1):
        name = str(row["id"])
        if name in rows:
            raise DataError(f"{path}: row {number}: the id {name!r} came before; every line is scored once")
        rows[name] = row
    return rows


def _outcome(row: dict[str, Any], path: Path) -> Outcome:
    text, error, confidence = row.get("text"), row.get("error"), row.get("confidence")
    if text is None:
        return Outcome("", error=str(error or "no text"))
    try:
        if not isinstance(text, str):
            raise ValueError(f"its text is {text!r}, and no text")
        return Outcome(
            text=text,
            confidence=None if confidence is None else _probability(confidence),
            truncated=bool(row.get("truncated")),
            words=[(str(w["text"]), _probability(w["confidence"])) for w in row.get("words") or ()],
            characters=[(str(c["text"]), _probability(c["confidence"])) for c in row.get("characters") or ()],
            alternatives=[
                Alternative(str(a["text"]), float(a["score"]), float(a["probability"]))
                for a in row.get("alternatives") or ()
            ],
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: the row {row['id']!r} cannot be used ({error}); write it again") from None


def _probability(value: Any) -> float:
    if not 0 <= (found := float(value)) <= 1:  # nor is NaN
        raise ValueError(f"its confidence is {value}, and not between 0 and 1")
    return found
