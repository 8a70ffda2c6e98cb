"""Published test sets by name: which files they are, that all of them are there, and the score that is published.

iam: the 2,915 test lines of the Aachen partition, CER. sroie: the lines of the 361 test receipts, word F1. str: the
eight scene text sets of Li et al. 2023, word accuracy of digits and letters.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from trocr_jax.datasets import Bad, Iam, Record, SceneText, Sroie
from trocr_jax.datasets.base import Dataset
from trocr_jax.errors import DataError
from trocr_jax.evaluated import Sample, Samples
from trocr_jax.evaluation.samples import listed, once

Protocol = Literal["iam", "sroie", "str"]
HEADLINE = {"iam": "cer", "sroie": "word_f1", "str": "scene_text_accuracy"}
STR_SETS = ("iiit5k_3000", "svt", "ic13_857", "ic13_1015", "ic15_1811", "ic15_2077", "svtp", "cute80")


def open_protocol(name: Protocol, source: Path, *, partial: bool = False) -> Samples:
    """The test lines of a published data set, in the layout in which it is published (docs/data.md).

    partial: other numbers of lines than the published ones, and missing sets of `str`, are no error. Files that the
    data set itself names are always needed. Raises DataError naming everything that is missing.
    """
    if name == "iam":
        return _test(Iam(source=source, only=("test",), partial=partial))
    if name == "sroie":
        return _test(Sroie(source=source, only=("test",), partial=partial))
    return _scene_text(SceneText(source=source, partial=partial))


def _test(dataset: Dataset) -> Samples:
    dataset.check()
    return _complete(dataset, {"test": dataset.records()["test"]}, group=False)


def _scene_text(dataset: SceneText) -> Samples:
    dataset.check()
    records = dataset.records()
    lacking = [name for name in STR_SETS if name not in records]
    if lacking and (not dataset.partial or len(lacking) == len(STR_SETS)):
        raise DataError(
            f"{dataset.source}: {len(lacking)} of the {len(STR_SETS)} sets are missing:{listed(lacking)}\n"
            f"{dataset.where} --partial scores the sets that are there"
        )
    return _complete(dataset, {name: records[name] for name in STR_SETS if name in records}, group=True)


def _complete(dataset: Dataset, splits: dict[str, Iterable[Record | Bad]], *, group: bool) -> Samples:
    good, bad = list[Sample](), list[Bad]()
    for split, records in splits.items():
        for record in once(records):
            if isinstance(record, Bad):
                bad.append(record)
            else:
                own = f"{split}/{record.id}" if group else record.id
                good.append(Sample(own, record.text, record.image, split if group else ""))
    wrong = [f"{b.id}: {b.reason}" for b in bad]
    wrong += [str(s.image) for s in good if isinstance(s.image, Path) and not s.image.is_file()]
    if wrong:
        raise DataError(f"{dataset.source}: {dataset.name} is not complete; missing:{listed(wrong)}\n{dataset.where}")
    return Samples(f"{dataset.name}, {', '.join(splits)}", good)
