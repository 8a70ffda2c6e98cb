"""IAM lines: English handwriting, 13,353 lines of 657 writers.

Counts: the partition of RWTH Aachen has 6,161 / 966 / 2,915 lines in most copies and 6,482 / 976 / 2,915 in another
(github.com/shonenkov/IAM-Splitting, IAM-A and IAM-B); 2,915 test lines are the ones that TrOCR is scored on. The task
"large writer independent text line recognition" that comes with the database has 6,161 / 900 / 940 / 1,861.
"""

import html
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal
from xml.etree import ElementTree

from trocr_jax.datasets.base import Bad, Dataset, Record, chosen, files_in, read_text, rows_of
from trocr_jax.errors import DataError

# The files that each partition is published as: split -> names, the first that exists counts.
_LISTS: dict[str, dict[str, tuple[str, ...]]] = {
    "aachen": {
        "train": ("tr.lst", "train.txt", "train.uttlist"),
        "validation": ("va.lst", "valid.txt", "validation.txt", "validation.uttlist"),
        "test": ("te.lst", "test.txt", "test.uttlist"),
    },
    "large-writer-independent": {
        "train": ("trainset.txt",),
        "validation1": ("validationset1.txt",),
        "validation2": ("validationset2.txt",),
        "test": ("testset.txt",),
    },
}
_COUNTS: dict[str, tuple[tuple[int, ...], ...]] = {
    "aachen": ((6161, 966, 2915), (6482, 976, 2915)),
    "large-writer-independent": ((6161, 900, 940, 1861),),
}
_LINE_ID = re.compile(r"[a-z]\d\d-\d\d\d[a-z]?-\d\d")


@dataclass(frozen=True, kw_only=True)
class Iam(Dataset):
    """IAM lines.

    Attributes:
        partition: whose lists of lines; "aachen" is the one that results are published on.
        only: the splits that are needed; all if empty.
    """

    partition: Literal["aachen", "large-writer-independent"] = "aachen"
    only: tuple[str, ...] = ()

    name: ClassVar[str] = "iam"
    where: ClassVar[str] = (
        "Register at https://fki.tic.heia-fr.ch/databases/iam-handwriting-database and unpack lines.tgz as lines/, "
        "ascii.tgz as ascii/ (or xml.tgz as xml/, which wins where both are there). Put the lists of a partition into "
        "splits/: those of RWTH Aachen are at https://github.com/jpuigcerver/Laia (egs/iam/data/part/lines/aachen), "
        "the others come with the database (largeWriterIndependentTextLineRecognitionTask.zip)."
    )

    def missing(self) -> list[str]:
        found = [] if (self.source / "lines").is_dir() else ["lines/ (a01/a01-000u/a01-000u-00.png …)"]
        if not (self.source / "xml").is_dir() and self._ascii() is None:
            found.append("ascii/lines.txt, or xml/*.xml (what the lines say)")
        for split in self._splits():
            if self._list(split) is None:
                names = " or splits/".join(_LISTS[self.partition][split])
                found.append(f"splits/{names} (the lines of {split})")
        return found

    def published(self) -> Mapping[str, tuple[int, int]]:
        have = {split: len(self._ids(split)) for split in self._splits()}
        places = [list(_LISTS[self.partition]).index(split) for split in have]
        known = [tuple(counts[i] for i in places) for counts in _COUNTS[self.partition]]
        # of several published variants the one that agrees most is the one that is meant
        best = max(known, key=lambda counts: sum(a == b for a, b in zip(counts, have.values(), strict=True)))
        return {f"lines of {split}": (n, want) for (split, n), want in zip(have.items(), best, strict=True)}

    def records(self) -> Mapping[str, Iterable[Record | Bad]]:
        ids = {split: self._ids(split) for split in self._splits()}
        seen: dict[str, str] = {}
        for split, own in ids.items():
            for line in own:
                if seen.setdefault(line, split) != split:
                    raise DataError(f"{self.source}/splits: line {line} is in both {seen[line]} and {split}")
        texts, writers = self._texts()
        return {split: self._split(own, texts, writers) for split, own in ids.items()}

    def note(self) -> dict[str, str]:
        return {"partition": self.partition, "text": "xml" if (self.source / "xml").is_dir() else "lines.txt"}

    def _split(self, ids: list[str], texts: dict[str, str], writers: dict[str, str]) -> Iterator[Record | Bad]:
        for line in ids:
            form = line.rpartition("-")[0]
            if line not in texts:
                yield Bad(line, f"its text is not in {self.note()['text']}")
                continue
            image = self.source / "lines" / form.split("-")[0] / form / f"{line}.png"
            yield Record(line, texts[line], image, writer=writers.get(form, ""), page=form)

    def _splits(self) -> list[str]:
        return chosen(self.only, _LISTS[self.partition])

    def _ascii(self) -> Path | None:
        return _first(self.source, ("ascii/lines.txt", "lines.txt"))

    def _list(self, split: str) -> Path | None:
        return _first(self.source / "splits", _LISTS[self.partition][split])

    def _ids(self, split: str) -> list[str]:
        path = self._list(split)
        assert path is not None, "check was called"
        ids = read_text(path).split()
        if wrong := next((i for i in ids if not _LINE_ID.fullmatch(i)), None):
            raise DataError(f"{path}: {wrong!r} is not the id of a line such as a01-000u-00; lists of lines are needed")
        return ids

    def _texts(self) -> tuple[dict[str, str], dict[str, str]]:
        """Line -> text and form -> writer."""
        texts: dict[str, str] = {}
        writers: dict[str, str] = {}
        if (self.source / "xml").is_dir():
            for path in files_in(self.source / "xml", "*.xml"):
                try:
                    form = ElementTree.parse(path).getroot()
                except (ElementTree.ParseError, LookupError, ValueError) as error:  # or of an unknown encoding
                    raise DataError(f"{path}: not XML ({error}); unpack xml.tgz again") from None
                writers[form.get("id", path.stem)] = form.get("writer-id", "")
                # texts are escaped twice: &amp;quot;
                texts |= {line.get("id", ""): html.unescape(line.get("text", "")) for line in form.iter("line")}
            return texts, writers
        table = self._ascii()
        assert table is not None, "check was called"
        for number, row in enumerate(rows_of(read_text(table)), 1):
            if row.startswith("#") or not row.strip():
                continue
            fields = row.split(" ", 8)  # id, ok or err, grey level, components, x, y, w, h, words
            if len(fields) != 9:
                raise DataError(f"{table}:{number}: {len(fields)} fields instead of 9; unpack ascii.tgz again")
            texts[fields[0]] = fields[8].replace("|", " ")
        if forms := _first(self.source, ("ascii/forms.txt", "forms.txt")):
            rows = (row.split() for row in rows_of(read_text(forms)) if row.strip() and not row.startswith("#"))
            writers = {row[0]: row[1] for row in rows if len(row) > 1}
        return texts, writers


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)
