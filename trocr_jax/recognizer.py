"""Images in, texts out, in order: decoding on host threads, batches of a few fixed sizes, search on the device."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache, cached_property
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike

from trocr_jax import checkpoint
from trocr_jax.calibration import Calibration
from trocr_jax.config import EncoderConfig
from trocr_jax.decoding.checks import check_whole
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.decoding.types import Decoded
from trocr_jax.errors import ConfigError, DecodeError, ImageError, TokenizerError
from trocr_jax.generation import stream
from trocr_jax.generation_plan import CrossAttention, compute_dtype
from trocr_jax.image import ImageProcessor
from trocr_jax.image_file import ImageSource, describe
from trocr_jax.model import TrOCR
from trocr_jax.recognizer_attention import attentions
from trocr_jax.recognizer_batches import (
    Batch,
    batches,
    bucket_sizes,
    closing_pool,
    is_image,
    normalised,
    submit,
    then_raise,
    until_error,
)
from trocr_jax.recognizer_devices import Devices
from trocr_jax.recognizer_lanes import Lanes, Work
from trocr_jax.recognizer_lengths import LengthGuess
from trocr_jax.recognizer_result import Recognition as Recognition
from trocr_jax.recognizer_result import recognition
from trocr_jax.recognizer_search import Choose, Searches
from trocr_jax.say import say
from trocr_jax.tokenizer import decode as decode_text
from trocr_jax.tokenizer import load_tokenizer
from trocr_jax.tokenizer_spelling import Spellings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_BATCH_SIZE = {"cpu": 16}  # images for each copy of the model; elsewhere OTHER_BATCH_SIZE
OTHER_BATCH_SIZE = 64


class Recognizer:
    """A model with its tokenizer and image processor.

    Attributes: model, tokenizer, image_processor; dtype, the compute type; mesh; devices, how many shares a batch has;
    cross_attention, how a decoder step reads the memory; calibration, of the model's folder; work, what has been
    searched so far.
    """

    def __init__(
        self,
        model: TrOCR,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: ImageProcessor,
        *,
        dtype: DTypeLike | None = None,
        mesh: Mesh | None = None,
        calibration: Calibration | None = None,
        cross_attention: CrossAttention = "auto",
    ) -> None:
        """dtype: compute type; f32 on a CPU and bf16 elsewhere if none. mesh: devices that read together; one device if
        none. Batches are split over all axes of the mesh but `model`, over which the parameters are split, for a large
        model on small devices (`sharding.make_mesh("data=4,model=2")`); without that axis every device has them all.
        calibration: what confidences mean; the model's own if none. cross_attention: as for `generate`. Raises
        DecodeError if the devices or the model cannot do what is asked for."""
        self.dtype = compute_dtype(dtype)
        self._on = Devices(mesh, dtype=self.dtype, cross_attention=cross_attention)
        self.model = self._on.put(model)
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.mesh = mesh
        self.devices = self._on.shares
        self.cross_attention = cross_attention
        self.calibration = calibration
        self.work = Work()
        self._lengths = LengthGuess()
        self._searches = Searches(model.config, tokenizer, self._on)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        dtype: DTypeLike | None = None,
        mesh: Mesh | None = None,
        cross_attention: CrossAttention = "auto",
    ) -> Recognizer:
        """A built-in model, a local folder, or a repository of the Hugging Face hub, perhaps at a `revision`.

        dtype: compute type; f32 on a CPU and bf16 elsewhere if none. For f32, stored half-precision parameters are
        widened once here (exact) instead of in every step; otherwise they stay as stored. The settings of
        generation_config.json are not used: a search has those of its DecodeConfig. mesh, cross_attention: as above.
        Raises CheckpointError, ConfigError or TokenizerError naming the file and what to do.
        """
        dtype = compute_dtype(dtype)
        Devices(mesh, dtype=dtype, cross_attention=cross_attention)  # said before anything is fetched
        folder = checkpoint.resolve(name_or_path, revision=revision)
        # The model first, since loading it compares every file of a native folder with the manifest.
        model = checkpoint.load(folder, dtype=jnp.float32 if dtype == jnp.float32 else None)
        image_processor, tokenizer = ImageProcessor.from_folder(folder), load_tokenizer(folder)
        calibration = Calibration.from_folder(folder)
        _check_size(folder, image_processor.size, model.config.encoder)
        return cls(
            model,
            tokenizer,
            image_processor,
            dtype=dtype,
            mesh=mesh,
            calibration=calibration,
            cross_attention=cross_attention,
        )

    def __call__(
        self,
        images: ImageSource | Iterable[ImageSource],
        decode: DecodeConfig | None = None,
        batch_size: int | None = None,
        *,
        attention: bool = False,
    ) -> list[Recognition]:
        """Reads one image or many; results in order. Arguments as for `read`.

        Raises ImageError naming the first image that cannot be read; `read` goes on instead.
        """
        results = []
        with closing(self.read(images, decode, batch_size, attention=attention)) as outcomes:
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
        *,
        attention: bool = False,
    ) -> Generator[Recognition | ImageError, None, None]:
        """For each image in order its Recognition, or the ImageError that says why there is none.

        images: one image or a series, perhaps endless, of paths, file contents, PIL images and arrays; or normalised
            floats [B, 3, H, W] or [B, H, W, 3], such as transformers' TrOCRProcessor gives. An ImageError in the
            series comes out in its place. Memory does not grow with the number of images: a few batches are decoded
            ahead, or some 32 once it is known how long texts will be, as lines of one length are then read together
            (`recognizer_lanes`; at most some 30 seconds). What is not a path or bytes is decoded before the next image
            is asked for. What the series raises is raised behind the results of all that it gave before.
        decode: greedy search for at most 128 tokens (fewer if the model has fewer positions) if none. With several
            `num_return_sequences` a Recognition has alternatives; the text is that with the best score or, with
            choose="mbr", that of least Bayes risk. A `constraint` is compiled for the tokenizer; the last few are kept.
        batch_size: images a batch; 16 on a CPU and 64 elsewhere, for each copy of the model on a mesh, if none. A batch
            is filled up with copies to the next power of two or to `batch_size`, so few shapes are ever compiled.
        attention: whether a Recognition has an `attention`, and with it boxes of words and characters: a second pass of
            encoder and decoder over every batch.
        Raises at once: DecodeError for options that do not fit, ImageError for what is neither an image nor a series.
        """
        decode, choose = self._searches.plan(decode)
        each = self.default_batch_size
        sizes = bucket_sizes(self.devices * each if batch_size is None else _whole(batch_size), self.devices)
        pixels = normalised(images)
        if pixels is not None:
            if (size := pixels.shape[1:3]) != self.image_processor.size:
                _say_once(
                    "pixels are {} x {} (height x width) and the image processor makes {} x {}: positions are"
                    " interpolated, which costs accuracy".format(*size, *self.image_processor.size)
                )
            starts = range(0, len(pixels), sizes[-1])
            given = (Batch.of_pixels(list(pixels[start : start + sizes[-1]])) for start in starts)
            shape = (pixels.shape[2], pixels.shape[1])
            given_sizes = repeat(shape) if attention else None
            return self._recognitions(given, decode, choose, sizes, None, given_sizes)
        given_images: Any = [images] if is_image(images) else images
        if isinstance(images, Mapping):
            raise ImageError(
                'a mapping is no image: of what a processor of transformers returns, give ["pixel_values"]'
            )
        try:
            series: Iterable[ImageSource | ImageError] = iter(given_images)
        except TypeError:
            raise ImageError(
                f"{images!r} is no image: give a path, the bytes of a file, a PIL image or an array"
            ) from None
        opened: deque[tuple[int, int]] | None = None
        if attention:
            opened = deque()
            series = self._opened(series, opened)
        raised: list[Exception] = []
        found = self._recognitions(
            until_error(batches(series, self.image_processor, sizes[-1]), raised),
            decode,
            choose,
            sizes,
            self.image_processor,
            None if opened is None else iter(opened.popleft, None),  # for ever
        )
        return then_raise(found, raised)

    def _opened(
        self, series: Iterable[ImageSource | ImageError], sizes: deque[tuple[int, int]]
    ) -> Iterator[ImageSource | ImageError]:
        """The images, decoded, and (width, height) of each, zeros for one that could not be."""
        for image in series:
            try:
                if isinstance(image, ImageError):
                    raise image
                opened = self.image_processor.open(image)
                opened.filename = describe(image)  # type: ignore[attr-defined]  # for a size that does not fit
            except ImageError as error:
                sizes.append((0, 0))
                yield error
            else:
                sizes.append(opened.size)
                yield opened

    def read_batches(
        self, series: Iterable[Batch], decode: DecodeConfig | None = None, batch_size: int | None = None
    ) -> Generator[Recognition | ImageError, None, None]:
        """As `read`, for those who decode images themselves: each Batch, of at most `batch_size` times `devices` images
        as `image_processor.pixels` gives them, is read as it is, filled up with copies. Only one shape is compiled, so
        what comes out for a line does not depend on the others, to the last bit of its score. Pixels are copied before
        the next Batch is asked for, and may be written over then. Raises DecodeError for a larger Batch, when it comes,
        and at once what the series raises: results that have not come out yet are lost.
        """
        decode, choose = self._searches.plan(decode)
        size = self.devices * (self.default_batch_size if batch_size is None else _whole(batch_size))
        return self._recognitions(series, decode, choose, (size,), self.image_processor, None)

    @property
    def sharing(self) -> int:
        """How many devices share the model."""
        return self._on.sharing

    @property
    def default_batch_size(self) -> int:
        """Images a batch for each copy of the model, perhaps shared by devices: 16 on a CPU, 64 elsewhere."""
        return DEFAULT_BATCH_SIZE.get(jax.default_backend(), OTHER_BATCH_SIZE)

    def stream(self, image: ImageSource, decode: DecodeConfig | None = None) -> Iterator[str]:
        """The text of one image while it grows, each time that it has changed; the last is what `read` gives.

        With beams there is nothing to show until the first hypothesis has ended. Raises DecodeError or ImageError at
        once; `num_return_sequences` must be 1, and on a mesh `cross_attention` must not be "kernel".
        """
        decode, _ = self._searches.plan(decode)
        if decode.num_return_sequences > 1:
            raise DecodeError(f"num_return_sequences is {decode.num_return_sequences}: a stream shows one text")
        if self.mesh is not None and self.cross_attention == "kernel":
            raise DecodeError(
                f"cross_attention is {self.cross_attention!r}: a stream on a mesh reads by products; leave out the one "
                "or the other"
            )
        pixels = self.image_processor.pixels(image)[None]
        return self._stream(pixels, decode)

    def _stream(self, pixels: np.ndarray, decode: DecodeConfig) -> Iterator[str]:
        shown = None
        for found in stream(
            self._on.laid_out(self.model),
            jnp.asarray(pixels),
            decode,
            dtype=self.dtype,
            image_processor=self.image_processor,
            cross_attention=self.cross_attention if self.mesh is None else "products",
        ):
            (text,) = decode_text(self.tokenizer, found.token_ids[:, 0], found.lengths[:, 0])
            if text != shown:
                yield text
            shown = text

    @property
    def spellings(self) -> Spellings:
        """The bytes that each token of the model spells, None for one that spells nothing. Raises TokenizerError for a
        tokenizer of a kind whose spelling is not known."""
        return self._searches.spellings

    @cached_property
    def tokens(self) -> list[str | None]:
        """The string of each token of the model, for `NGram.from_arpa`: "</s>" for the end token, "<unk>" for the
        unknown one, None for what spells nothing."""
        strings = {i: token for token, i in self.tokenizer.get_vocab().items()}
        named = {self.model.config.eos_token_id: "</s>", self.tokenizer.unk_token_id: "<unk>"}
        known = enumerate(self.spellings)
        return [named.get(i, None if spelling is None else strings[i]) for i, spelling in known]

    def check(self, decode: DecodeConfig | None) -> None:
        """Raises DecodeError for a search that cannot be done with this model. Compiles its constraint."""
        self._searches.plan(decode)

    def _recognitions(
        self,
        series: Iterable[Batch],
        decode: DecodeConfig,
        choose: Choose,
        sizes: Sequence[int],
        image_processor: ImageProcessor | None,
        image_sizes: Iterator[tuple[int, int]] | None,
    ) -> Generator[Recognition | ImageError, None, None]:
        """image_sizes: (width, height) of each image if its attention is asked for."""
        drawn = decode.do_sample and decode.num_beams == 1
        # The spellings of a large vocabulary take a while: better before the first batch than beside it.
        _ = self._spellings_if_known
        on = self._on
        with on.watching() as watcher, closing_pool(on.lanes, "lane") as pool, on.sending() as send:
            lanes = Lanes(
                on.programs(self.model, decode, image_processor),
                pool,
                send,
                lanes=on.lanes,
                sizes=sizes,
                shares=self.devices,
                guess=self._lengths,
                work=self.work,
                watcher=watcher,
                keep_pixels=image_sizes is not None,
            )
            with closing(lanes.read(series)) as found:
                for one in found:
                    results = [] if one.decoded is None else self._found(one.decoded, drawn=drawn, choose=choose)
                    if image_sizes is not None:
                        looked = submit(  # where programs are started
                            pool,
                            attentions,
                            self.model,
                            one.pixels,
                            [result.token_ids for result in results],
                            [size for error, size in zip(one.errors, image_sizes, strict=False) if error is None],
                            dtype=self.dtype,
                            image_processor=image_processor,
                        ).result()
                        results = [replace(result, attention=own) for result, own in zip(results, looked, strict=True)]
                    of_images = iter(results)
                    for error in one.errors:
                        yield next(of_images) if error is None else error

    def _found(self, decoded: Decoded, *, drawn: bool, choose: Choose) -> list[Recognition]:
        texts = decode_text(self.tokenizer, decoded.token_ids, decoded.lengths)
        each = decoded.token_ids.shape[1]
        return [
            recognition(
                Decoded._make(array[i] for array in decoded),
                texts[i * each : (i + 1) * each],
                self._spellings_if_known,
                drawn=drawn,
                choose=choose,
                calibration=self.calibration,
            )
            for i in range(len(decoded.lengths))
        ]

    @cached_property
    def _spellings_if_known(self) -> Sequence[bytes | None] | None:
        try:
            return self.spellings
        except TokenizerError:  # it reads all the same
            return None


def _check_size(folder: Path, size: tuple[int, int], encoder: EncoderConfig) -> None:
    """Says so if images come in another size than that of the encoder's positions. Raises ConfigError for one that is
    not made of whole patches."""
    if size == encoder.image_size:
        return
    two = f"{folder}: images come as {size[0]} x {size[1]} (height x width; its image processor's configuration)"
    if any(side % patch for side, patch in zip(size, encoder.patch_size, strict=True)):
        raise ConfigError(
            f"{two}, which patches of {encoder.patch_size[0]} x {encoder.patch_size[1]} do not fill; set the size that "
            "the model was trained with"
        )
    say(
        f"{two} and the model's positions (config.json) are of {encoder.image_size[0]} x {encoder.image_size[1]}: they"
        " are interpolated, which costs accuracy; set one size if the files do not belong together"
    )


@cache
def _say_once(message: str) -> None:
    say(message)


def _whole(batch_size: Any) -> int:
    check_whole("batch_size", batch_size, 1)
    return int(batch_size)
