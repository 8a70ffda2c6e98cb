"""Texts that were read before: the JSONL rows of `trocr-jax transcribe` or of a finished job, set beside references."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trocr_jax.confidence import Alternative
from trocr_jax.errors import DataError
from trocr_jax.evaluated import Outcome, Sample
from trocr_jax.evaluation.samples import listed


def open_results(path: Path, samples: Sequence[Sample]) -> list[Outcome]:
    """The row of each sample, in the order of the samples. A row belongs to a sample if its `id` is the sample's id or
    picture, as written or from the current folder, or else if their file names are equal and occur once on both sides.

    Raises DataError naming rows that are not such rows, and samples that have none.
    """
    rows = _rows(path)
    by_file = _once({name: Path(name).name for name in rows})
    alone = set(_once({s.id: _file(s) for s in samples}).values())
    found, missing = list[Outcome](), list[str]()
    for sample in samples:
        names = [sample.id, *([str(sample.image)] if isinstance(sample.image, Path) else [])]
        key = next((name for name in names if name in rows), None)
        if key is None and sample.id in alone:
            key = by_file.get(_file(sample))
        if key is None:
            missing.append(sample.id)
        else:
            found.append(_outcome(rows[key], path))
    if missing:
        raise DataError(
            f"{path}: {len(missing)} of {len(samples)} references have no row in it:{listed(missing)}\n"
            "a row belongs to a reference if its id is the picture of the reference, or has the same file name"
        )
    return found


def _file(sample: Sample) -> str:
    return (sample.image if isinstance(sample.image, Path) else Path(sample.id)).name


def _once(files: Mapping[str, str]) -> dict[str, str]:
    """File name -> the one that has it, for names that occur once."""
    found: dict[str, str | None] = {}
    for key, name in files.items():
        found[name] = None if name in found else key
    return {name: key for name, key in found.items() if key is not None}


def _rows(path: Path) -> dict[str, dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give the JSONL file of a finished run") from None
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name = row["id"]
        except (ValueError, KeyError, TypeError):
            raise DataError(f'{path}:{number}: not a row such as {{"id": "1.png", "text": "…"}}') from None
        if name in rows:
            raise DataError(f"{path}:{number}: the id {name!r} came before; every line is scored once")
        rows[name] = row
    return rows


def _outcome(row: dict[str, Any], path: Path) -> Outcome:
    text, error, confidence = row.get("text"), row.get("error"), row.get("confidence")
    if text is None:
        return Outcome("", error=str(error or "no text"))
    try:
        return Outcome(
            text=str(text),
            confidence=None if confidence is None else float(confidence),
            truncated=bool(row.get("truncated")),
            words=[(str(w["text"]), float(w["confidence"])) for w in row.get("words") or ()],
            characters=[(str(c["text"]), float(c["confidence"])) for c in row.get("characters") or ()],
            alternatives=[
                Alternative(str(a["text"]), float(a["score"]), float(a["probability"]))
                for a in row.get("alternatives") or ()
            ],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: the row {row['id']!r} cannot be used ({error}); write it again") from None
