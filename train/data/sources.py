"""Where lines come from while a model trains: a folder read as it is, the renderer, and streams of several sources.

Built data sets are in `train.data.records`. Everything here is a pure function of seeds and indices and can be pickled
for worker processes; nothing has a position that a checkpoint would have to keep.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain
import numpy as np

from train.data.augment import Augmentation, augment
from train.data.checks import TextLimit, image_bytes, is_grey
from train.data.line import ENDLESS, DataError, Line, Source
from train.data.listed import nothing_left, picture_refusal, usable
from train.data.order import in_order
from train.data.records import Records
from train.data.render import Renderer
from trocr_jax.datasets.base import Bad, Record
from trocr_jax.image_file import open_rgb


@dataclass(frozen=True)
class Pictures:
    """Picture files and their texts, read from the folder in which they are; `left_out` are those that cannot be
    used."""

    records: tuple[Record, ...]
    left_out: tuple[Bad, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Line:
        record = self.records[index]
        image = open_rgb(record.image)
        return Line(np.asarray(image.convert("L") if is_grey(image_bytes(record.image)) else image), record.text)

    def fingerprint(self) -> dict[str, Any]:
        """Names, texts and sizes of files are compared, not their contents."""
        rows = [(r.id, r.text, r.image.stat().st_size if isinstance(r.image, Path) else 0) for r in self.records]
        return {"kind": "folder", "records": len(self), "sha256": _sha256(rows)}


@dataclass(frozen=True)
class Synthetic:
    """Lines of a renderer, drawn when they are asked for: line i is a function of the renderer's seed and i."""

    renderer: Renderer
    max_chars: int
    limit: TextLimit | None = None  # of what reads them; a text beyond it is said anew

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Line:
        return self.renderer.line(int(index), max_chars=self.max_chars, limit=self.limit)

    def fingerprint(self) -> dict[str, Any]:
        """Lines are the same only with the same typefaces and texts installed."""
        faces = [(Path(face.path).name, face.weight, "".join(sorted(face.characters))) for face in self.renderer.faces]
        corpus = self.renderer.corpus
        limit = {} if self.limit is None else {"limit": [self.limit.length, self.limit.tokenizer_name]}
        # Lines of other styles than "printed" once said the texts of those.
        own = {} if self.renderer.style == "printed" else {"texts": "of the style"}
        return (
            limit
            | own
            | {
                "kind": "synthetic",
                "seed": self.renderer.seed,
                "split": self.renderer.split,
                "style": self.renderer.style,
                "max_chars": self.max_chars,
                "faces": _sha256(faces),
                "text": _sha256([corpus.sentences, corpus.words]),
            }
        )


@dataclass(frozen=True)
class Selected:
    """Some of the lines of a source."""

    source: Source
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Line:
        return self.source[int(self.indices[index])]

    def fingerprint(self) -> dict[str, Any]:
        chosen = hashlib.sha256(np.asarray(self.indices, "<i8").tobytes()).hexdigest()
        return {"kind": "selected", "records": len(self), "sha256": chosen, "of": self.source.fingerprint()}


class Stream:
    """Endless lines from one or more sources. Each finite source is shuffled anew every epoch; sources take turns in
    the proportion of their weights; line i is augmented with random numbers of (seed, i)."""

    def __init__(
        self, parts: Sequence[tuple[Source, float]], *, seed: int, augmentation: Augmentation = "none"
    ) -> None:
        """Raises DataError for no parts, an empty source, or a weight that is not positive."""
        if not parts:
            raise DataError("a stream needs at least one source of lines")
        for number, (source, weight) in enumerate(parts):
            positive = 0 < weight < math.inf
            if not positive or len(source) == 0:
                what = "has no lines" if positive else f"has the weight {weight}"
                raise DataError(f"source {number} of the stream {what}; leave it out")
        self.parts, self.seed, self.augmentation = tuple(parts), seed, augmentation
        ordered = [in_order(source, seed=(seed + number) % 2**32) for number, (source, _) in enumerate(parts)]
        weights = np.asarray([weight for _, weight in parts], np.float64)
        mixed = grain.MapDataset.mix(ordered, (weights / weights.sum()).tolist()) if len(parts) > 1 else ordered[0]
        self._lines: Sequence[Line] = mixed

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Line:
        line = self._lines[int(index)]
        if self.augmentation == "none":
            return line
        rng = np.random.default_rng((self.seed, int(index)))
        return Line(augment(line.image, rng, self.augmentation), line.text)

    def fingerprint(self) -> dict[str, Any]:
        return {
            "kind": "stream",
            "seed": self.seed,
            "augmentation": self.augmentation,
            "parts": [{"weight": float(weight), **source.fingerprint()} for source, weight in self.parts],
        }


def open_folder(folder: Path, split: str = "train", *, limit: TextLimit | None = None) -> Pictures:
    """Pictures with a list (see `trocr_jax.datasets.folder`), without building anything. Every picture is decoded once,
    since one that is damaged would end a run at the step that reads it. Raises DataError where there is no such list,
    or nothing in it can be used."""
    records, bad = usable(folder, split, limit=limit)
    with ThreadPoolExecutor() as threads:
        refusals = list(threads.map(picture_refusal, (record.image for record in records)))
    bad += [Bad(r.id, refusal) for r, refusal in zip(records, refusals, strict=True) if refusal is not None]
    good = tuple(record for record, refusal in zip(records, refusals, strict=True) if refusal is None)
    if not good:
        raise DataError(nothing_left(folder, split, bad))
    return Pictures(good, tuple(bad))


def within(source: Records, limit: TextLimit) -> tuple[Records | Selected, list[Bad]]:
    """The records whose text a run can use, and those left out. Reads every record unless the build already kept the
    limit. Raises DataError where none can be used."""
    if source.built_within(limit):
        return source, []
    good, bad = [], []
    for index in range(len(source)):
        record = source.record(index)
        if (refusal := limit.refusal(record.text)) is None:
            good.append(index)
        else:
            bad.append(Bad(record.id, refusal))
    if not good:
        raise DataError(f"{source.folder}: no record of {source.split} can be used; the first: {bad[0].reason}")
    return (Selected(source, np.asarray(good, np.int64)) if bad else source), bad


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
