"""A recognizer, a few lines, and jobs that read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.tiny import save_lines
from trocr_jax import jobs
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.jobs.decode_worker import Limits
from trocr_jax.jobs.job import Job, Task
from trocr_jax.jobs.planning import make_plan
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.store import LocalStore
from trocr_jax.recognizer import Recognizer

DECODE = DecodeConfig(max_new_tokens=12)
CHOICES = jobs.Choices(unit_size=8, batch_size=4)
RESOURCES = jobs.Resources(decoders=2, limits=Limits(seconds=2.0, memory=400 << 20))


@pytest.fixture(scope="module")
def recognizer(model: Path) -> Recognizer:
    return Recognizer.from_pretrained(model)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    save_lines(tmp_path / "lines", 20)
    return tmp_path / "lines"


def plan(lines: Path, folder: Path, recognizer: Recognizer, model: Path, **options: Any) -> Job:
    options = {"decode": DECODE, "choices": CHOICES, **options}
    return jobs.plan(jobs.open_source([str(lines)]), str(folder), recognizer, model, **options)


def run(job: Job, recognizer: Recognizer, **options: Any) -> Any:
    return jobs.run(job, recognizer, DECODE, **{"resources": RESOURCES, **options})


def rows(job: Job) -> list[dict[str, Any]]:
    return [orjson.loads(line) for unit in sorted(job.done()) for line in job.read_part(unit).splitlines()]


def rows_of(job: Job, unit: int) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in job.read_part(unit).splitlines()]


def bare(folder: Path, lines: int = 8, unit: int = 4) -> Job:
    """A job for which no model is needed: its lines are called "0", "1", ..."""
    store = LocalStore(str(folder))
    configuration = {"batch_size": 2, "columns": ["id", "status"], "model": {"sha256": ""}}
    return Job(store, make_plan(store, configuration, [Input(str(number), None) for number in range(lines)], unit))


def commit(job: Job, task: Task) -> None:
    """Every line of it is read."""
    assert job.commit(task, [{"id": input.id, "status": "ok"} for input in job.inputs(task)])
