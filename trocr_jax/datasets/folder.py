"""A folder of line pictures with a list of what they say: TSV, CSV or JSONL."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from trocr_jax.datasets.base import LOCAL, Bad, Dataset, Record, files_in, read_text, rows_of, split_name
from trocr_jax.errors import DataError

SUFFIXES = (".jsonl", ".tsv", ".csv")
_IMAGE = ("image", "file_name", "file", "path", "filename", "image_path")
_TEXT = ("text", "transcription", "label", "ground_truth", "sentence")
_SINGLE = ("manifest", "labels", "lines", "metadata", "gt", "all")  # lists that are no split: all of it is training


@dataclass(frozen=True, kw_only=True)
class Folder(Dataset):
    """Pictures and lists. Each list in the folder is a split with its name (train.tsv, validation.tsv, test.tsv);
    manifest, labels, lines, metadata, gt or all is the split train. Columns are found by their names, as in
    {"image": "1.png", "text": "…"}; a TSV or CSV without a header is picture and text. Paths count from the folder.
    """

    name: ClassVar[str] = "folder"
    where: ClassVar[str] = (
        "Put the pictures there and a list beside them: train.tsv (picture<tab>text a line), train.csv, or train.jsonl "
        '({"image": "1.png", "text": "what it says"} a line); validation.* and test.* are further splits.'
    )

    def missing(self) -> list[str]:
        return [] if self._lists() else ["a list: train.tsv, train.csv or train.jsonl"]

    def records(self) -> Mapping[str, Iterable[Record | Bad]]:
        return {split: self.read(path) for split, path in self._lists().items()}

    def _lists(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for path in (path for path in files_in(self.source, "*") if path.suffix.lower() in SUFFIXES):
            split = "train" if path.stem.lower() in _SINGLE else split_name(path.stem)
            if split in found:
                raise DataError(f"{path} and {found[split]} are both the split {split}; keep one of them")
            found[split] = path
        return found

    def read(self, path: Path) -> Iterator[Record | Bad]:
        """The rows of one list; its pictures are found from the source."""
        rows = _json_rows(path) if path.suffix.lower() == ".jsonl" else _table_rows(path)
        for found in rows:
            if isinstance(found, Bad):
                yield found
                continue
            number, row = found
            image, text = _value(row, _IMAGE), _value(row, _TEXT)
            if image is None or text is None:
                wanted = ("picture", _IMAGE) if image is None else ("text", _TEXT)
                yield Bad(f"{path.name}:{number}", _missing(row, *wanted))
                continue
            if "://" in image:
                yield Bad(f"{path.name}:{number}", f"the picture is {image}; {LOCAL}")
                continue
            fields = (row.get(key) for key in ("id", "writer", "page"))
            own, writer, page = ("" if value is None else str(value) for value in fields)
            yield Record(own or image, text, self.source / image, writer=writer, page=page)


def _value(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((row[name] for name in names if isinstance(row.get(name), str)), None)


def _missing(row: Mapping[str, Any], wanted: str, names: tuple[str, ...]) -> str:
    """Why a row has no picture or no text."""
    value = next((row[name] for name in names if row.get(name) is not None), None)
    if value is None:
        return f"no {wanted} in {sorted(map(str, row))}"
    written = json.dumps(value, ensure_ascii=False)
    if isinstance(value, int | float):
        return f'the {wanted} is {written} without quotation marks; write "{written}"'
    return f"the {wanted} is {written}; write it as one string in quotation marks"


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in enumerate(rows_of(read_text(path)), 1):
        if row.strip():
            try:
                value = json.loads(row)
            except (ValueError, RecursionError) as error:
                why = error.msg if isinstance(error, json.JSONDecodeError) else error
                raise DataError(f"{path}:{number}: not JSON ({why}); a line must be one object") from None
            if not isinstance(value, dict):
                raise DataError(f'{path}:{number}: not an object such as {{"image": "1.png", "text": "…"}}')
            if isinstance(value.get("id"), float):  # as it is written: of many digits a float keeps some
                value["id"] = json.loads(row, parse_float=str)["id"]
            yield number, value


def _table_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]] | Bad]:
    tabs = path.suffix.lower() == ".tsv"
    if tabs:  # a text may hold quotation marks
        rows = [row.split("\t") for row in rows_of(read_text(path))]
    else:
        try:
            rows = list(csv.reader(io.StringIO(read_text(path), newline=""), strict=True))
        except csv.Error as error:  # a quotation mark that is never closed would swallow rows
            advice = 'close quotation marks, and write "" for one in a text'
            raise DataError(f"{path}: cannot be divided into columns ({error}); {advice}") from None
    first = [name.strip().lower() for name in rows[0]] if rows else []
    header = first if set(first) & set(_IMAGE) and set(first) & set(_TEXT) else None
    for number, row in enumerate(rows, 1):
        if not any(row) or (header and number == 1):
            continue
        if not header and len(row) != 2:
            what = "a tab" if tabs else "a comma"
            raise DataError(
                f"{path}:{number}: {len(row)} columns instead of picture and text, divided by {what}; for other "
                "columns begin with a header that names them, image and text among them"
            )
        columns = header or ["image", "text"]
        if len(row) > len(columns):
            advice = "a text holds no tab" if tabs else "put a text with a comma into quotation marks"
            yield Bad(f"{path.name}:{number}", f"{len(row)} columns, and the header has {len(columns)}; {advice}")
        else:
            yield number, dict(zip(columns, row, strict=False))
