"""The training application on a toy model and toy lines: it learns, and it reads lines as inference does.

How it stops and goes on is in test_loop_training.py, meshes in test_sharding.py, processes in test_multiprocess.py.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from scripts.toy_training import bars, recipe
from train.data.alphabet import ALPHABET
from train.data.line import Line
from train.data.order import in_order
from train.input import IGNORED, Examples, batches, character_ids, rows_of, samples_of
from train.loop import train
from train.recipe import Stage, spans
from trocr_jax.config import TrOCRConfig
from trocr_jax.image import ImageProcessor
from trocr_jax.sharding import batch_sharding, make_mesh
from trocr_jax.tokenizer import character_tokenizer

pytestmark = pytest.mark.usefixtures("promotion_of_optax")
RECIPE = recipe()


def encode(text: str) -> list[int]:
    return [character_ids(ALPHABET)[c] for c in text]


def examples(config: TrOCRConfig = RECIPE.config, *, width: int = 64, max_tokens: int = 8) -> Examples:
    return Examples.of(config, encode, width=width, max_tokens=max_tokens)


def test_the_loss_falls(tmp_path: Path) -> None:
    stage = Stage(steps=60, batch_size=16, width=64, max_chars=4)
    train(replace(RECIPE, stages=(stage,), log_every=10, save_every=100), tmp_path, workers=0, lines=bars)
    rows = [json.loads(row) for row in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [row["cross_entropy"] for row in rows if "cross_entropy" in row]
    assert losses[-1] < losses[0] / 1.5


@pytest.mark.parametrize("rows", [np.arange(4), np.array([1, 3])])
def test_batches_go_on_at_any_step(rows: np.ndarray) -> None:
    span = spans(RECIPE)[1]

    def read(step: int, rows: np.ndarray) -> list:
        lines = in_order(bars(span.stage), seed=0)
        return list(batches(span, step=step, lines=lines, examples=examples(), rows=rows, workers=0))

    whole, rest = read(3, np.arange(4)), read(6, rows)
    assert len(whole) == 5
    assert len(rest) == 2
    for a, b, step in zip(whole[3:], rest, (6, 7), strict=True):
        assert b.numbers.tolist() == [samples_of(span, step)[row] for row in rows]
        np.testing.assert_array_equal(a.numbers[rows], b.numbers)
        np.testing.assert_array_equal(a.batch.pixels[rows], b.batch.pixels)
        np.testing.assert_array_equal(a.batch.labels[rows], b.batch.labels)


def test_a_process_reads_the_rows_that_its_devices_hold() -> None:
    mesh = make_mesh()
    assert rows_of(batch_sharding(mesh), 6).tolist() == list(range(6))
    assert rows_of(NamedSharding(mesh, PartitionSpec()), 3).tolist() == [0, 1, 2]


def test_labels_are_the_tokenizers() -> None:
    text = "Fuchs „springt” für 12,5 % ¡olé!"
    assert encode(text) == character_tokenizer(ALPHABET)(text).input_ids[:-1]
    labels = examples(max_tokens=40)(Line(np.zeros((4, 4), np.uint8), text)).labels
    assert labels.tolist() == [*encode(text), RECIPE.config.eos_token_id, *[IGNORED] * (40 - len(text))]


@pytest.mark.parametrize("shape", [(30, 200), (50, 3000), (8, 8), (64, 1), (20, 90, 3)])
def test_training_sees_the_pixels_that_the_image_processor_makes(shape: tuple[int, ...]) -> None:
    """Of lines for one row of patches and pictures for a grid of them, coloured ones in colour."""
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    line = Line(image, "a")
    grid = TrOCRConfig.preset("small-printed")
    expected = ImageProcessor(height=384, width=384).pixels(image)
    np.testing.assert_array_equal(examples(grid, width=384)(line).pixels, expected)
    expected = ImageProcessor(height=8, width=64, keep_aspect_ratio=True).pixels(image)
    np.testing.assert_array_equal(examples()(line).pixels, expected)
    assert examples()(line).pixels.shape == examples().pixel_shape == (8, 64, 3)
    grey = replace(RECIPE.config, encoder=replace(RECIPE.config.encoder, num_channels=1))
    assert examples(grey)(line).pixels.shape == examples(grey).pixel_shape == (8, 64)


def test_every_sample_of_a_run_is_of_one_step() -> None:
    whole = [
        n for span in spans(RECIPE) for step in range(span.first_step, span.last_step) for n in samples_of(span, step)
    ]
    assert len(spans(RECIPE)) > 1
    assert whole == list(range(len(whole)))
