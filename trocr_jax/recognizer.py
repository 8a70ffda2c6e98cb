"""Images in, texts out, in order: decoding on host threads, batches of a few fixed sizes, search on the device."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
from PIL import Image

from trocr_jax import checkpoint
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.decoding.types import Decoded
from trocr_jax.errors import DecodeError, ImageError
from trocr_jax.generation import check, compute_dtype, generate
from trocr_jax.image import ImageProcessor, as_pixels
from trocr_jax.image_file import ImageSource
from trocr_jax.model import TrOCR
from trocr_jax.tokenizer import decode as decode_text
from trocr_jax.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_MAX_NEW_TOKENS = 128  # the built-in model writes a token a character; a search ends when its lines have ended
DEFAULT_BATCH_SIZE = {"cpu": 16}  # per device; elsewhere OTHER_BATCH_SIZE
OTHER_BATCH_SIZE = 64


@dataclass(frozen=True)
class Recognition:
    """What was read in one image.

    text: without special tokens. token_ids: the end token included, nothing behind it. token_log_probs: one for each
    of them. score: their sum for greedy search. truncated: the text met `max_new_tokens` before its end.
    """

    text: str
    score: float
    token_ids: list[int]
    token_log_probs: list[float]
    truncated: bool


class Recognizer:
    """A model with its tokenizer and image processor.

    Attributes: model, tokenizer, image_processor; dtype, the compute type; mesh.
    """

    def __init__(
        self,
        model: TrOCR,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: ImageProcessor,
        *,
        dtype: DTypeLike | None = None,
        mesh: Mesh | None = None,
    ) -> None:
        """dtype: compute type; f32 on a CPU and bf16 elsewhere if none. mesh: batches are split over its first axis,
        parameters are copied to every device."""
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.dtype = compute_dtype() if dtype is None else jnp.dtype(dtype)
        self.mesh = mesh
        self._devices, self._batch_sharding = 1, None
        if mesh is not None:
            # Automatic axes whatever the caller's mesh has: the compiler splits a search written for one device.
            auto = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))
            self._devices = mesh.shape[mesh.axis_names[0]]
            self._batch_sharding = NamedSharding(auto, PartitionSpec(mesh.axis_names[0]))
            graph, state = nnx.split(model)
            model = nnx.merge(graph, jax.device_put(state, NamedSharding(auto, PartitionSpec())))
        self.model = model

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        dtype: DTypeLike | None = None,
        mesh: Mesh | None = None,
    ) -> Recognizer:
        """A built-in model, a local folder, or a repository of the Hugging Face hub, perhaps at a `revision`.

        dtype: compute type; f32 on a CPU and bf16 elsewhere if none. For f32, stored half-precision parameters are
        widened once here (exact) instead of in every step; otherwise they stay as stored. The settings of
        generation_config.json are not used: a search has those of its DecodeConfig.
        Raises CheckpointError, ConfigError or TokenizerError naming the file and what to do.
        """
        folder = checkpoint.resolve(name_or_path, revision=revision)
        dtype = compute_dtype() if dtype is None else jnp.dtype(dtype)
        image_processor, tokenizer = ImageProcessor.from_folder(folder), load_tokenizer(folder)
        model = checkpoint.load(folder, dtype=jnp.float32 if dtype == jnp.float32 else None)
        return cls(model, tokenizer, image_processor, dtype=dtype, mesh=mesh)

    def __call__(
        self,
        images: ImageSource | Iterable[ImageSource],
        decode: DecodeConfig | None = None,
        batch_size: int | None = None,
    ) -> list[Recognition]:
        """Reads one image or many; results in order. Arguments as for `read`.

        Raises ImageError naming the first image that cannot be read; `read` goes on instead.
        """
        results = []
        with closing(self.read(images, decode, batch_size)) as outcomes:
            for outcome in outcomes:
                if isinstance(outcome, ImageError):
                    raise outcome
                results.append(outcome)
        return results

    def read(
        self,
        images: ImageSource | Iterable[ImageSource | ImageError],
        decode: DecodeConfig | None = None,
        batch_size: int | None = None,
    ) -> Generator[Recognition | ImageError, None, None]:
        """For each image in order its Recognition, or the ImageError that says why there is none.

        images: one image or a series, perhaps endless, of paths, file contents, PIL images and arrays; or normalised
            floats [B, 3, H, W] or [B, H, W, 3], such as transformers' TrOCRProcessor gives. An ImageError in the
            series comes out in its place. Memory does not grow with the number of images: a few batches are decoded
            ahead. What is not a path or bytes is decoded before the next image is asked for.
        decode: greedy search for at most 128 tokens (fewer if the model has fewer positions) if none.
        batch_size: images a batch; 16 on a CPU and 64 elsewhere, for each device of the mesh, if none. A batch is
            filled up with copies to the next power of two or to `batch_size`, so few shapes are ever compiled.
        Raises DecodeError at once for options that do not fit.
        """
        limit = self.model.config.decoder.max_position_embeddings
        decode = DecodeConfig(max_new_tokens=min(DEFAULT_MAX_NEW_TOKENS, limit)) if decode is None else decode
        check(decode, self.model.config)
        if batch_size is None:
            batch_size = self._devices * DEFAULT_BATCH_SIZE.get(jax.default_backend(), OTHER_BATCH_SIZE)
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise DecodeError(f"batch_size is {batch_size!r}: give a whole number of at least 1")
        sizes = bucket_sizes(batch_size, self._devices)
        pixels = _normalised(images)
        if pixels is not None:
            starts = range(0, len(pixels), sizes[-1])
            batches = (_Batch.of_pixels(list(pixels[start : start + sizes[-1]])) for start in starts)
            return self._recognitions(batches, decode, sizes, None)
        series = cast(Iterable[ImageSource | ImageError], [images] if _is_image(images) else images)
        return self._recognitions(self._batches(series, sizes[-1]), decode, sizes, self.image_processor)

    def _recognitions(
        self,
        batches: Iterable[_Batch],
        decode: DecodeConfig,
        sizes: Sequence[int],
        image_processor: ImageProcessor | None,
    ) -> Generator[Recognition | ImageError, None, None]:
        running: deque[tuple[_Batch, Decoded | None]] = deque()
        for batch in batches:
            decoded = None
            if batch.pixels:
                size = next(size for size in sizes if size >= len(batch.pixels))
                # Copies, because a blank image might be "read" up to the last token and hold up the others.
                filled = np.stack(batch.pixels + batch.pixels[:1] * (size - len(batch.pixels)))
                pixels = jax.device_put(filled, self._batch_sharding)
                decoded = generate(self.model, pixels, decode, dtype=self.dtype, image_processor=image_processor)
            running.append((batch, decoded))
            if len(running) > 1:  # the device has its next batch before this thread waits for the last one
                yield from self._finish(*running.popleft())
        while running:
            yield from self._finish(*running.popleft())

    def _finish(self, batch: _Batch, decoded: Decoded | None) -> Generator[Recognition | ImageError, None, None]:
        found = iter(self._texts(decoded, len(batch.pixels)) if decoded is not None else ())
        for error in batch.errors:
            yield next(found) if error is None else error

    def _texts(self, decoded: Decoded, count: int) -> list[Recognition]:
        best = jax.tree.map(lambda array: np.asarray(array)[:count, 0], jax.device_get(decoded))
        texts = decode_text(self.tokenizer, best.token_ids)
        return [
            Recognition(
                text=texts[i],
                score=float(best.scores[i]),
                token_ids=best.token_ids[i, :length].tolist(),
                token_log_probs=best.token_log_probs[i, :length].tolist(),
                truncated=bool(best.truncated[i]),
            )
            for i, length in enumerate(best.lengths.tolist())
        ]

    def _batches(self, images: Iterable[ImageSource | ImageError], size: int) -> Generator[_Batch, None, None]:
        batch = _Batch([], [])
        with closing(self._decoded(images, ahead=2 * size)) as decoded:
            for pixels in decoded:
                batch.add(pixels)
                # The second bound keeps one good image among endless bad ones from waiting for ever.
                if len(batch.pixels) == size or len(batch.errors) == 16 * size:
                    yield batch
                    batch = _Batch([], [])
        if batch.errors:
            yield batch

    def _decoded(
        self, images: Iterable[ImageSource | ImageError], *, ahead: int
    ) -> Generator[np.ndarray | ImageError, None, None]:
        """Pixels [H, W, 3] uint8 of each image in order, at most `ahead` images ahead of their use."""
        pool = ThreadPoolExecutor(_threads(), thread_name_prefix="trocr-image")
        pending: deque[Future[np.ndarray | ImageError]] = deque()
        try:
            for image in images:
                if isinstance(image, str | os.PathLike | bytes):
                    pending.append(pool.submit(self._pixels, image))
                else:  # may change when the next one is asked for: a frame of a file, a buffer used again
                    pending.append(Future())
                    pending[-1].set_result(self._pixels(image))
                if len(pending) >= ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _pixels(self, image: ImageSource | ImageError) -> np.ndarray | ImageError:
        if isinstance(image, ImageError):
            return image
        try:
            return self.image_processor.pixels(image)
        except ImageError as error:
            return error


def bucket_sizes(batch_size: int, devices: int = 1) -> tuple[int, ...]:
    """Batch sizes that are compiled: powers of two below `batch_size`, and it, in multiples of `devices`."""
    largest = -(-batch_size // devices)
    powers = [2**i for i in range(largest.bit_length()) if 2**i < largest]
    return tuple(devices * size for size in (*powers, largest))


class _Batch(NamedTuple):
    """A stretch of the series: an error or None for each image, and the pixels [H, W, 3] of those without one."""

    errors: list[ImageError | None]
    pixels: list[np.ndarray]

    @classmethod
    def of_pixels(cls, pixels: list[np.ndarray]) -> _Batch:
        return cls([None] * len(pixels), pixels)

    def add(self, outcome: np.ndarray | ImageError) -> None:
        if isinstance(outcome, ImageError):
            self.errors.append(outcome)
        else:
            self.errors.append(None)
            self.pixels.append(outcome)


def _ndim(images: Any) -> int | None:
    """Axes of an array; None for anything else."""
    return len(images.shape) if hasattr(images, "shape") and hasattr(images, "dtype") else None


def _normalised(images: Any) -> np.ndarray | None:
    """f32 [B, H, W, 3] if `images` is a batch of floats, channels first or last."""
    if _ndim(images) != 4:
        return None
    array = np.asarray(images)
    return np.asarray(as_pixels(array)) if jnp.issubdtype(array.dtype, jnp.floating) else None


def _is_image(images: Any) -> bool:
    single = str | os.PathLike | bytes | bytearray | memoryview | Image.Image | ImageError
    return isinstance(images, single) or hasattr(images, "read") or _ndim(images) in (2, 3)


def _threads() -> int:
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
