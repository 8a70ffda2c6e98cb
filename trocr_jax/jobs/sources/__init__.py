"""Where the lines of a job come from: one file for each kind of source.

A source is listed once, when a job is planned, and the list is kept in the job folder. From then on it is only read, by
the workers that decode, each of which has a copy of it.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias, cast

from trocr_jax.errors import JobError, SourceError
from trocr_jax.image_file import ImageSource
from trocr_jax.image_paths import SUFFIXES
from trocr_jax.jobs import files


class Input(NamedTuple):
    """One line image. id: its name in the output. place: where the source finds it, as JSON values."""

    id: str
    place: Any


Read: TypeAlias = ImageSource | Callable[[], ImageSource]
"""An image: the bytes of a file, a PIL image or an array; or a function that makes it of what has been read, where that
takes its time. It raises OSError, or ImageError."""


class Source(Protocol):
    """A frozen dataclass of JSON values, picklable, so that another process or host can read the same lines.

    A new kind is a file beside this one with such a class, and an entry in KINDS.
    """

    kind: ClassVar[str]

    def inputs(self) -> Iterator[Input]:
        """Every line in a fixed order, without opening any image. Raises SourceError."""
        ...

    def read(self, place: Any) -> Read:
        """The image there. Raises OSError, or ImageError."""
        ...

    def check(self) -> None:
        """Raises SourceError if the source as a whole has gone: then nothing is wrong with an image that is missing."""
        ...


KINDS = {
    "folder": "trocr_jax.jobs.sources.folder:Folder",
    "manifest": "trocr_jax.jobs.sources.manifest:Manifest",
    "tar": "trocr_jax.jobs.sources.tar:Tar",
    "zip": "trocr_jax.jobs.sources.zip:Zip",
    "parquet": "trocr_jax.jobs.sources.images_in_parquet:ImagesInParquet",
    "huggingface": "trocr_jax.jobs.sources.arrow:Arrow",
    "tfds": "trocr_jax.jobs.sources.tfds:Tfds",
    "tiff": "trocr_jax.jobs.sources.tiff:Tiff",
    "pages": "trocr_jax.jobs.sources.pages:Pages",
}
_SUFFIXES = {".jsonl": "manifest", ".ndjson": "manifest", ".csv": "manifest", ".tsv": "manifest"}
_SUFFIXES |= {".tar": "tar", ".zip": "zip", ".parquet": "parquet", ".xml": "pages", ".array_record": "tfds"}
_FILES = {"state.json": "huggingface", "dataset_dict.json": "huggingface", "features.json": "tfds"}


def open_source(arguments: Sequence[str], kind: str | None = None, **options: Any) -> Source:
    """The source that the arguments of a command name. kind: a key of KINDS; told from the first name if None.

    options: fields of that kind's class, such as `path_column` of a manifest. Raises JobError for one that it lacks.
    """
    if not arguments:
        raise JobError("no source: give folders, patterns, a manifest or archives (see --help)")
    kind = _kind_of_all(arguments) if kind is None else kind
    given = {name: value for name, value in options.items() if value is not None}
    return _make({"kind": kind, "paths": tuple(arguments), **given})


def describe(source: Source) -> dict[str, Any]:
    """A source as JSON values."""
    return {"kind": source.kind, **dataclasses.asdict(cast(Any, source))}


def from_description(description: Mapping[str, Any]) -> Source:
    """The source that `describe` told of."""
    return _make({name: tuple(value) if isinstance(value, list) else value for name, value in description.items()})


def _make(fields: dict[str, Any]) -> Source:
    kind = fields.pop("kind")
    if kind not in KINDS:
        raise JobError(f"--source {kind}: no such kind; there are {', '.join(KINDS)}")
    module, _, name = KINDS[kind].partition(":")
    made = getattr(importlib.import_module(module), name)
    names = [field.name for field in dataclasses.fields(made)]
    if unknown := fields.keys() - set(names):
        options = [f"--{name.replace('_', '-')}" for name in names if name != "paths"]
        raise JobError(
            f"--{sorted(unknown)[0].replace('_', '-')}: no option of the source {kind}, which has "
            f"{', '.join(options) or 'none'}"
        )
    return cast(Source, made(**fields))


def _kind_of_all(arguments: Sequence[str]) -> str:
    """That of the first. Raises JobError for another one whose name says that it is of another kind."""
    kind = _kind(arguments[0])
    for argument in arguments[1:]:
        other = _SUFFIXES.get(os.path.splitext(argument)[1].lower(), kind)
        if other != kind and not files.is_folder(argument):
            raise JobError(
                f"{argument}: is of the kind {other} by its name, and {arguments[0]} of the kind {kind}; a job reads "
                "sources of one kind: leave one out, or say with --source what they are"
            )
    return kind


def _kind(argument: str) -> str:
    if files.is_folder(argument):
        return next((kind for name, kind in _FILES.items() if files.exists(files.join(argument, name))), "folder")
    if not any(character in argument for character in "*?[") and not files.exists(argument):
        raise SourceError(f"{argument}: no such file or folder; check the path")
    # A pattern counts by what it ends in; .parquet holds images, or paths with --source manifest; pages of a .tif are
    # lines with --source tiff.
    suffix = os.path.splitext(argument)[1].lower()
    if suffix in SUFFIXES or any(character in argument for character in "*?["):
        return _SUFFIXES.get(suffix, "folder")
    if suffix not in _SUFFIXES:
        raise SourceError(
            f"{argument}: its name does not say what it is; give --source: folder if it is an image, else one of "
            f"{', '.join(kind for kind in KINDS if kind != 'folder')}"
        )
    return _SUFFIXES[suffix]
