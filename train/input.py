"""Batches of lines, read through Grain.

Which line is sample i of a run, and what is done to it, is a pure function of (seed, i), and step k reads samples
first(k) … first(k) + batch - 1 of the whole run, whoever reads them. So the state of the input is the step number, and
a run may go on with any number of processes, devices and workers: as with Grain's ElasticIterator, whose state is one
global index too, but with nothing to save and nothing to restore.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, TypeVar

import grain
import jax
import numpy as np
from absl import flags
from grain._src.python.ipc.shared_memory_array import SharedMemoryArray
from PIL import Image

from train.data.encode import pixels
from train.data.line import DataError, Line
from train.recipe import StageSpan
from trocr_jax.config import TrOCRConfig
from trocr_jax.image import ImageProcessor

LAST_SECONDS = 60.0
"""That a worker process goes on after SIGTERM."""

IGNORED = -100  # label of a position that does not count
FIRST_CHARACTER_ID = 4  # behind <s>, <pad>, </s>, <unk>: trocr_jax.tokenizer.character_tokenizer
Item = TypeVar("Item")


class Batch(NamedTuple):
    """pixels uint8 [B, H, W, 3], or [B, H, W] for a model of one channel; labels [B, T] int32: tokens, end token, then
    IGNORED."""

    pixels: np.ndarray
    labels: np.ndarray


class Samples(NamedTuple):
    """numbers [B] int64: which samples of the run these are."""

    numbers: np.ndarray
    batch: Batch


class Encode(Protocol):
    """Text to token ids, without the end token. Picklable. Raises KeyError or DataError for a character without one."""

    def __call__(self, text: str, /) -> list[int]: ...


@dataclass(frozen=True)
class Characters:
    """The ids of the character tokenizer over an alphabet."""

    ids: dict[str, int]

    def __call__(self, text: str, /) -> list[int]:
        return [self.ids[c] for c in text]


@dataclass(frozen=True)
class Examples:
    """A line to one example of a fixed shape, its pixels those that inference sees; picklable for worker processes."""

    encode: Encode
    processor: ImageProcessor
    max_tokens: int  # the end token not counted
    eos_token_id: int
    colour: bool

    @classmethod
    def of(
        cls,
        config: TrOCRConfig,
        encode: Encode,
        *,
        width: int,
        max_tokens: int,
        processor: ImageProcessor | None = None,
    ) -> Examples:
        """For a model with an image processor: pictures as that makes them. Without one: with one row of patches a line
        of any length; with a grid of them a picture that fills the canvas, as for the published models. Pictures keep
        their colours, as when a model reads, but for a model of one channel."""
        if processor is None:
            row, height = config.encoder.grid[0] == 1, config.encoder.image_size[0]
            processor = ImageProcessor(height=height, width=width, keep_aspect_ratio=row)
        elif processor.size[1] != width:
            processor = replace(processor, width=width)
        colour = config.encoder.num_channels != 1
        return cls(encode, processor, max_tokens, config.eos_token_id, colour=colour)

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        return (*self.processor.size, *((3,) if self.colour else ()))

    def __call__(self, line: Line) -> Batch:
        """Raises DataError if the text has more tokens than fit, or a character that the tokenizer does not have."""
        labels = np.full(self.max_tokens + 1, IGNORED, np.int32)
        try:
            ids = [*self.encode(line.text), self.eos_token_id]
        except KeyError as error:
            raise DataError(f"{line.text!r}: {error.args[0]!r} is not in the tokenizer of the recipe") from None
        if len(ids) > len(labels):
            raise DataError(
                f"{line.text!r}: {len(ids) - 1} tokens, and the stage takes {self.max_tokens}: raise max_chars, or"
                " build the data set with that limit"
            )
        labels[: len(ids)] = ids
        image = line.image
        if image.ndim == 3 and not self.colour:
            image = np.asarray(Image.fromarray(image).convert("L"))
        found = pixels(self.processor, image)
        return Batch(found if self.colour else np.ascontiguousarray(found[..., 0]), labels)


@dataclass(frozen=True)
class _Read:
    """Sample index -> example."""

    lines: Sequence[Line]
    examples: Examples

    def __call__(self, index: int) -> Samples:
        return Samples(np.int64(index), self.examples(self.lines[int(index)]))  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Mine:
    """The sample indices that one process reads, in order."""

    first: int
    steps: int
    size: int  # of the global batch
    rows: np.ndarray  # of each batch

    def __len__(self) -> int:
        return self.steps * len(self.rows)

    def __getitem__(self, number: int) -> int:
        step, row = divmod(int(number), len(self.rows))
        return self.first + step * self.size + int(self.rows[row])


def character_ids(alphabet: str) -> dict[str, int]:
    """Character -> token id of the character tokenizer over `alphabet`."""
    return {character: FIRST_CHARACTER_ID + i for i, character in enumerate(alphabet)}


def samples_of(span: StageSpan, step: int) -> range:
    """The sample indices of the whole batch of step `step` (the first step is 0)."""
    size = span.stage.batch_size
    first = span.first_sample + (step - span.first_step) * size
    return range(first, first + size)


def rows_of(sharding: jax.sharding.Sharding, size: int) -> np.ndarray:
    """Which rows of a batch of `size` lie on the devices of this process, ascending."""
    shares = sharding.addressable_devices_indices_map((size,)).values()
    return np.unique(np.concatenate([np.arange(size)[index] for index in shares if index is not None]))


def batches(
    span: StageSpan,
    *,
    step: int,
    lines: Sequence[Line],
    examples: Examples,
    rows: np.ndarray,
    workers: int,
) -> grain.DatasetIterator[Samples]:
    """The `rows` of each batch of a stage, from step `step` (of the whole run) on. To be closed."""
    mine = _Mine(samples_of(span, step)[0], span.last_step - step, span.stage.batch_size, rows)
    dataset = grain.MapDataset.source(mine).map(_Read(lines, examples)).batch(len(rows))
    iterable = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1 if workers else 2, prefetch_buffer_size=4))
    if workers:
        flags.FLAGS.mark_as_parsed()  # grain reads its flags when it starts processes; there is no absl.app here
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=4)
        iterable = iterable.mp_prefetch(options, worker_init_fn=_end_with_parent)
    return iter(iterable)


def release(data: grain.DatasetIterator[Samples]) -> None:
    """Closes what `batches` gave, and frees what it had made ahead, which may lie in shared memory. The caller has let
    go of the last batch."""
    data.close()
    # Grain 0.2.18 keeps its last batch in a cycle of frames. If that is collected while its thread deletes arrays, both
    # close the same file, and what comes second fails before the memory is given back.
    pool, SharedMemoryArray._del_thread_pool = SharedMemoryArray._del_thread_pool, None
    if pool is not None:
        pool.close()
        pool.join()
    gc.collect()


def _end_with_parent(number: int, workers: int) -> None:
    """Ends this worker process soon after the one that started it, which has no last word if it was killed. A signal to
    the whole process group is the parent's to obey: it needs a batch or two more until all processes have agreed to
    stop, and then ends its workers."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end = threading.Timer(LAST_SECONDS, os._exit, [1])
    end.daemon = True  # a worker that is told to end before does not wait for it
    signal.signal(signal.SIGTERM, lambda *_: None if end.is_alive() else end.start())
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def padded(items: Sequence[Item], size: int) -> Iterator[tuple[list[Item], int]]:
    """Groups of exactly `size`, with how many of each are real: the last is filled with copies of its last item, to be
    cut off from the result, so that a set that does not divide by the devices is read to its last line."""
    for start in range(0, len(items), size):
        group = list(items[start : start + size])
        yield group + group[-1:] * (size - len(group)), len(group)
