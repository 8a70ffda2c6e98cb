"""Images to batches of pixels: decoded on host threads, a few batches ahead, in order."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from trocr_jax.errors import ImageError
from trocr_jax.image import ImageProcessor, as_pixels
from trocr_jax.image_file import ImageSource, as_array

Item = TypeVar("Item")


class Batch(NamedTuple):
    """A stretch of the series: an error or None for each image, and the pixels [H, W, 3] of those without one."""

    errors: list[ImageError | None]
    pixels: list[np.ndarray]

    @classmethod
    def of_pixels(cls, pixels: list[np.ndarray]) -> Batch:
        return cls([None] * len(pixels), pixels)

    def add(self, outcome: np.ndarray | ImageError) -> None:
        if isinstance(outcome, ImageError):
            self.errors.append(outcome)
        else:
            self.errors.append(None)
            self.pixels.append(outcome)


def batches(
    images: Iterable[ImageSource | ImageError], processor: ImageProcessor, size: int
) -> Generator[Batch, None, None]:
    """Batches of at most `size` images, in order, each with the errors that stood between them."""
    batch, raised = Batch([], []), list[Exception]()
    with closing(_decoded(images, processor, ahead=2 * size)) as decoded:
        for pixels in until_error(decoded, raised):
            batch.add(pixels)
            # The second bound keeps one good image among endless bad ones from waiting for ever.
            if len(batch.pixels) == size or len(batch.errors) == 16 * size:
                yield batch
                batch = Batch([], [])
    if batch.errors:
        yield batch
    for error in raised:
        raise error


def until_error(series: Iterable[Item], raised: list[Exception]) -> Iterator[Item]:
    """The series up to what it raises, which is put into `raised`: for `then_raise`, when what came before is used."""
    try:
        yield from series
    except Exception as error:  # noqa: BLE001
        raised.append(error)


def then_raise(series: Generator[Item, None, None], raised: list[Exception]) -> Generator[Item, None, None]:
    """The series, and what has been raised meanwhile."""
    yield from series
    for error in raised:
        raise error


def _decoded(
    images: Iterable[ImageSource | ImageError], processor: ImageProcessor, *, ahead: int
) -> Generator[np.ndarray | ImageError, None, None]:
    """Pixels [H, W, 3] uint8 of each image in order, at most `ahead` images ahead of their use."""
    pool = ThreadPoolExecutor(threads(), thread_name_prefix="trocr-image")
    pending: deque[Future[np.ndarray | ImageError]] = deque()
    raised: list[Exception] = []
    finalizing = sys.is_finalizing  # at the end of the interpreter threads have ended, and modules are empty
    try:
        for image in until_error(images, raised):
            if isinstance(image, str | os.PathLike | bytes):
                pending.append(submit(pool, _pixels, image, processor))
            else:  # may change when the next one is asked for: a frame of a file, a buffer used again
                pending.append(Future())
                pending[-1].set_result(_pixels(image, processor))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
        for error in raised:
            raise error
    finally:
        if not finalizing():
            _close(pool)


def submit(pool: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any, **named: Any) -> Future[Any]:
    """To the pool; done here if it takes no more, as none does once the main thread has ended."""
    try:
        return pool.submit(function, *arguments, **named)
    except RuntimeError:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments, **named))
        except Exception as error:  # noqa: BLE001  it is raised where the result is asked for
            future.set_exception(error)
        return future


def _close(pool: ThreadPoolExecutor) -> None:
    with suppress(RuntimeError):  # this may be one of its threads, in which an iterator that was left is collected
        pool.shutdown(cancel_futures=True)


def _pixels(image: ImageSource | ImageError, processor: ImageProcessor) -> np.ndarray | ImageError:
    if isinstance(image, ImageError):
        return image
    try:
        return processor.pixels(image)
    except ImageError as error:
        return error


def normalised(images: Any) -> np.ndarray | None:
    """f32 [B, H, W, 3] if `images` is a batch of floats, channels first or last."""
    if _ndim(images) != 4:
        return None
    array = as_array(images)
    return np.asarray(as_pixels(array)) if jnp.issubdtype(array.dtype, jnp.floating) else None


def is_image(images: Any) -> bool:
    single = str | os.PathLike | bytes | bytearray | memoryview | Image.Image | ImageError
    return isinstance(images, single) or hasattr(images, "read") or _ndim(images) in (2, 3)


def bucket_sizes(batch_size: int, devices: int = 1) -> tuple[int, ...]:
    """Batch sizes that are compiled: powers of two below `batch_size`, and it, in multiples of `devices`."""
    largest = -(-batch_size // devices)
    powers = [2**i for i in range(largest.bit_length()) if 2**i < largest]
    return tuple(devices * size for size in (*powers, largest))


@contextmanager
def closing_pool(threads: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """A pool that is left as soon as its threads have ended what they are at. They have the default device of the
    thread that makes them."""
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    keep = jax.default_device(device).__enter__
    pool = ThreadPoolExecutor(threads, thread_name_prefix=f"trocr-{name}", initializer=keep)
    finalizing = sys.is_finalizing  # as above
    try:
        yield pool
    finally:
        if not finalizing():
            _close(pool)


def _ndim(images: Any) -> int | None:
    """Axes of an array; None for anything else."""
    return len(images.shape) if hasattr(images, "shape") and hasattr(images, "dtype") else None


def threads() -> int:
    """How many images to decode at a time: as many as there are cores, at most 8."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
