"""Batches of rendered lines, read through Grain. Sample i of a run is a pure function of (seed, i)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import grain
import numpy as np
from absl import flags
from PIL import Image

from train.data.render import Line
from train.recipe import Recipe, StageSpan

IGNORED = -100  # label of a position that does not count
FIRST_CHARACTER_ID = 4  # behind <s>, <pad>, </s>, <unk>: trocr_jax.tokenizer.character_tokenizer


class Batch(NamedTuple):
    """pixels [B, H, W] uint8 grey, labels [B, T] int32: characters, end token, then IGNORED."""

    pixels: np.ndarray
    labels: np.ndarray


class Lines(Protocol):
    """Where lines come from: `train.data.render.Renderer`, or another drawer of lines. Picklable."""

    def line(self, index: int, *, max_chars: int) -> Line:
        """The line of this index, of 1 to `max_chars` characters; the same for every call and every process."""
        ...


@dataclass(frozen=True)
class Examples:
    """Index -> one example of a fixed shape; picklable for worker processes."""

    renderer: Lines
    ids: dict[str, int]
    height: int
    width: int
    max_chars: int
    eos_token_id: int

    def __call__(self, index: int) -> Batch:
        line = self.renderer.line(int(index), max_chars=self.max_chars)
        labels = np.full(self.max_chars + 1, IGNORED, np.int32)
        ids = [*(self.ids[c] for c in line.text), self.eos_token_id]
        labels[: len(ids)] = ids
        return Batch(fit(line.image, height=self.height, width=self.width), labels)


def character_ids(alphabet: str) -> dict[str, int]:
    """Character -> token id of the character tokenizer over `alphabet`."""
    return {character: FIRST_CHARACTER_ID + i for i, character in enumerate(alphabet)}


def fit(image: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """Grey [h, w] uint8 scaled to `height` with its aspect kept, squeezed to `width` if longer, white on the right:
    what the image processor of a model with `keep_aspect_ratio` does."""
    scaled = min(max(round(image.shape[1] * height / image.shape[0]), 1), width)
    canvas = np.full((height, width), 255, np.uint8)
    canvas[:, :scaled] = np.asarray(Image.fromarray(image).resize((scaled, height), Image.Resampling.BILINEAR))
    return canvas


def batches(recipe: Recipe, span: StageSpan, *, step: int, examples: Examples, workers: int) -> Iterator[Batch]:
    """The batches of a stage from `step` (of the whole run) on."""
    size = span.stage.batch_size
    first = span.first_sample + (step - span.first_step) * size
    last = span.first_sample + span.stage.steps * size
    dataset = grain.MapDataset.range(first, last).seed(recipe.seed).map(examples)
    batched = dataset.batch(size, drop_remainder=True)
    options = grain.ReadOptions(num_threads=1 if workers else 2, prefetch_buffer_size=4)
    iterable = batched.to_iter_dataset(options)
    if workers:
        flags.FLAGS.mark_as_parsed()  # grain reads its flags when it starts processes; there is no absl.app here
        iterable = iterable.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=4))
    return iter(iterable)
