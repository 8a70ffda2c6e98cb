"""How a process reads its tasks: how far ahead images are asked for, which lines share a batch, what becomes of a
death. No model is needed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.small_jobs import bare
from trocr_jax.jobs.attempts import Attempts
from trocr_jax.jobs.decode_pool import Images
from trocr_jax.jobs.decode_worker import Decoded
from trocr_jax.jobs.job import Job, Task
from trocr_jax.jobs.reader import AHEAD, Reader
from trocr_jax.jobs.sources import Input
from trocr_jax.recognizer_batches import Batch
from trocr_jax.recognizer_lanes import Work


class Pool:
    """Images that are never there, or whose pixels are expected to take as long as `expected` says."""

    def __init__(self, expected: list[int] | None = None) -> None:
        self.asked: list[Any] = []
        self.given_back: list[int] = []
        self._expected = expected

    def submit(self, inputs: list[Input], died: Any, known: Any) -> Images:
        self.asked.append(died)
        images = Images(inputs, known, died)
        if self._expected is not None:
            found = [Decoded(np.full((1, 1, 3), one, np.uint8), one) for one in self._expected[: len(inputs)]]
            images.settle(range(len(inputs)), found)
        return images

    def give_back(self, pixels: list[np.ndarray]) -> None:
        self.given_back += [int(one[0, 0, 0]) for one in pixels]


class Enough(Exception):
    """No more is looked at."""


def reader_of(job: Job, pool: Pool, seen: list[list[int]]) -> Reader:
    def read_batches(series: Iterator[Batch], *rest: Any) -> Iterator[Any]:
        seen.extend(np.asarray(batch.pixels)[:, 0, 0, 0].tolist() for batch in series if len(batch.pixels))
        yield from ()

    recognizer: Any = SimpleNamespace(devices=1, work=Work(), read_batches=read_batches)
    return Reader(job, recognizer, None, pool)  # type: ignore[arg-type]


def test_a_reader_asks_for_few_images_ahead(tmp_path):
    job, pool, until = bare(tmp_path, 400), Pool(), time.monotonic() + 0.5
    reader = reader_of(job, pool, [])

    def look() -> None:
        if time.monotonic() > until:
            raise Enough

    reader.look = look
    with pytest.raises(Enough):
        list(reader.read(job.whole(unit) for unit in range(100)))
    assert len(pool.asked) <= AHEAD + 2


def test_a_death_is_noted_of_the_line_of_the_unit(tmp_path):
    job, pool = bare(tmp_path), Pool([1, 1])
    list(reader_of(job, pool, []).read([Task(0, [1, 3])]))
    (died,) = pool.asked
    assert died(1, "it died") == 1
    assert Attempts(job, 0).image_died(3, "again") == 2


def test_lines_that_are_as_long_are_read_together_and_their_pixels_given_back(tmp_path):
    job, pool, seen = bare(tmp_path), Pool([9, 2, 8, 1]), list[list[int]]()
    list(reader_of(job, pool, seen).read([job.whole(0)]))
    assert seen == [[1, 2], [8, 9]]
    assert pool.given_back == [1, 2, 8, 9]
