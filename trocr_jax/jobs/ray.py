"""Reading lines inside somebody's own Ray Data pipeline. `jobs run --engine ray` is for those who have none."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, overload

import numpy as np
from jax.typing import DTypeLike

from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.errors import ImageError, JobError, SourceError
from trocr_jax.image_file import ImageSource
from trocr_jax.jobs import files
from trocr_jax.jobs.all_devices import load
from trocr_jax.jobs.decode_pool import DecodePool, Images
from trocr_jax.jobs.decode_worker import Decoded, Decoder, Limits
from trocr_jax.jobs.rows import Failure, Outcome, row
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.worker import Resources
from trocr_jax.recognizer import Recognition
from trocr_jax.recognizer_batches import Batch

if TYPE_CHECKING:
    import pyarrow

COLUMNS = {
    "text": "string",
    "score": "double",
    "confidence": "double",
    "truncated": "bool",
    "status": "string",
    "error": "string",
}
"""Of a result, and their types in Arrow."""


class TranscribeActor:
    """Reads the images of a batch; a class for `map_batches` of ray.data:

        lines.map_batches(
            TranscribeActor,
            fn_constructor_kwargs={"model": "tiny-printed"},
            batch_format="pyarrow",
            batch_size=256,
            concurrency=2,
            num_gpus=1,
        )

    A batch maps names of columns to numpy arrays, as Ray Data gives them; or is an Arrow table, with
    batch_format="pyarrow", and one comes out whose columns are of the same types in every block, as files that are
    read together need it (a numpy column of nothing but None is one of nulls to Ray). The image column holds file
    contents, paths or URLs, Hugging Face's {"bytes", "path"}, or arrays (uint8, [H, W] or [H, W, 3]). In its place come
    `text`, `score`, `confidence`, `truncated`, `status` and `error`, with the meaning that they have in a job; columns
    that had these names give way (`rename_columns` keeps a text that results are to be compared with). An image that
    cannot be read, also because nobody answers for its path or URL, or that ends the process that decodes it three
    times, is a row with an error and ends no pipeline.

    Within a call, images are decoded while the device reads, so a batch had better be a few times as large as
    `device_batch`. What kills the actor itself is retried as the pipeline's options say.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        decode: DecodeConfig | None = None,
        *,
        image_column: str = "image",
        keep_images: bool = False,
        device_batch: int | None = None,
        decoders: int | None = None,
        limits: Limits | None = None,
        revision: str | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        """model, revision, dtype: as for `Recognizer.from_pretrained`; all devices of the actor are used.
        keep_images: the image column comes out too. device_batch: images that each device reads at a time; 16 on a CPU
        and 64 elsewhere if None. decoders: processes that decode images; as many as there are cores, at most 8, if
        None. limits: of one image. Raises JobError for numbers that cannot be, as `Recognizer.from_pretrained` for the
        rest."""
        if device_batch is not None and not (isinstance(device_batch, int | np.integer) and device_batch >= 1):
            raise JobError(f"device_batch is {device_batch!r}: give a whole number of at least 1")
        resources = Resources(decoders=decoders, limits=Limits() if limits is None else limits)
        self._recognizer = load(model, revision=revision, dtype=dtype)
        self._decode, self._column, self._keep = decode, image_column, keep_images
        self._per_device = self._recognizer.default_batch_size if device_batch is None else device_batch
        decoder = _OfARow(_Given(), self._recognizer.image_processor)
        self._stack = ExitStack()
        self._pool = self._stack.enter_context(
            DecodePool(
                decoder,
                self._recognizer.image_processor.size,
                workers=resources.decoding_processes,
                limits=resources.limits,
            )
        )

    @overload
    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]: ...

    @overload
    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table: ...

    def __call__(self, batch: Any) -> Any:
        """Raises JobError for a batch without the image column, or of pandas; DecodeError for a search that the model
        cannot do."""
        if isinstance(batch, Mapping):
            found = self._read(batch.get(self._column), list(batch))
            kept = {name: values for name, values in batch.items() if self._keep or name != self._column}
            return kept | {name: _column(values) for name, values in found.items()}

        import pyarrow
        from ray.data.block import BlockAccessor

        if not isinstance(batch, pyarrow.Table):
            raise JobError(f'a batch is a {type(batch).__name__}: give map_batches batch_format="pyarrow" or "numpy"')
        there = self._column in batch.column_names
        images = BlockAccessor.for_block(batch.select([self._column])).to_numpy(self._column) if there else None
        found = self._read(images, batch.column_names)
        table = batch if self._keep else batch.drop_columns([self._column])
        for name, values in found.items():
            if name in table.column_names:
                table = table.drop_columns([name])
            table = table.append_column(name, pyarrow.array(values, pyarrow.type_for_alias(COLUMNS[name])))
        return table

    def _read(self, images: Any, present: list[str]) -> dict[str, list[Any]]:
        """The columns of the results."""
        if images is None:
            raise JobError(f"{self._column}: no such column in the batch, which has {', '.join(present)}; image_column")
        inputs = [Input(_name(image, number), _place(image)) for number, image in enumerate(images)]
        size = self._recognizer.devices * self._per_device
        pixels = [self._pool.submit(inputs[start : start + size]) for start in range(0, len(inputs), size)]
        outcomes: list[Outcome | None] = [None] * len(inputs)
        places: list[int] = []
        found = self._recognizer.read_batches(self._batches(pixels, places, outcomes), self._decode, self._per_device)
        for number, outcome in enumerate(found):
            assert isinstance(outcome, Recognition)
            outcomes[places[number]] = outcome
        rows = [
            row(input.id, outcome, model="", configuration="", columns=tuple(COLUMNS))
            for input, outcome in zip(inputs, outcomes, strict=True)
            if outcome is not None
        ]
        return {name: [found[name] for found in rows] for name in COLUMNS}

    def close(self) -> None:
        """Ends the processes that decode; those of an actor end with it."""
        self._stack.close()

    def _batches(self, images: list[Images], places: list[int], outcomes: list[Outcome | None]) -> Iterator[Batch]:
        """Batches of what can be read; `places` is told where it belongs, `outcomes` of what cannot."""
        size = self._recognizer.devices * self._per_device
        good: list[np.ndarray] = []
        for place, one in enumerate(chain.from_iterable(some.result() for some in images)):
            if isinstance(one, Failure):
                outcomes[place] = one
                continue
            good.append(one.pixels)
            places.append(place)
            if len(good) == size:
                yield Batch.of_pixels(good)
                self._pool.give_back(good)  # they have been copied
                good = []
        if good:
            yield Batch.of_pixels(good)
            self._pool.give_back(good)


@dataclass(frozen=True)
class _OfARow(Decoder):
    """Decodes the image of a row. There is no source of which more is known: if nothing answers for it, or its folder
    is empty, that is the row's error, and the pipeline goes on."""

    def __call__(self, id: str, place: Any) -> Decoded:
        """Raises ImageError; SourceError if what its URL needs is not installed, of which no row is to blame."""
        try:
            return super().__call__(id, place)
        except SourceError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError):
                raise
            raise ImageError(f"{id}: {files.why(cause)}") from error


@dataclass(frozen=True)
class _Given:
    """The source of images that are there already, or whose paths are."""

    kind: ClassVar[str] = "rows"

    def inputs(self) -> Iterator[Input]:
        return iter(())

    def read(self, place: Any) -> ImageSource:
        if place is None:
            raise ImageError("the row has no image")
        found: ImageSource = files.read(place) if isinstance(place, str) else place
        return found

    def check(self) -> None:
        pass


def _place(image: Any) -> Any:
    if isinstance(image, float | np.floating):  # NaN: how Ray gives a column of nulls
        return None
    if isinstance(image, Mapping):  # as Hugging Face's data sets keep images
        return image.get("path") if image.get("bytes") is None else image["bytes"]
    return str(image) if isinstance(image, str | os.PathLike) else image


def _name(image: Any, number: int) -> str:
    path = image.get("path") if isinstance(image, Mapping) else image
    return str(path) if isinstance(path, str | os.PathLike) else f"row {number} of the batch"


def _column(values: list[Any]) -> np.ndarray:
    """Texts and what may be missing as objects, with None."""
    found = np.empty(len(values), object)
    found[:] = values
    return found
