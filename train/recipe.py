"""What a training run is: a model, stages of data, an optimiser. A recipe is a Python file with one `RECIPE`."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from trocr_jax.config import TrOCRConfig


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of training whose batches have one shape, so that it compiles once."""

    steps: int
    batch_size: int
    width: int  # of the canvas, pixels; the first columns of the position table are used
    max_chars: int
    cross_entropy_weight: float = 1.0
    ctc_weight: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the parameters a run ends with, but for the data's version."""

    name: str
    config: TrOCRConfig
    stages: tuple[Stage, ...]
    learning_rate: float
    warmup_steps: int
    decay_steps: int  # linear, at the end
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    token_noise: float = 0.0  # share of decoder inputs replaced by random characters
    dtype: str = "bfloat16"
    start_from: str | None = None  # a model, name or folder, whose weights the run starts with; the CTC head is new
    seed: int = 0
    log_every: int = 50
    save_every: int = 1000

    @property
    def total_steps(self) -> int:
        return sum(stage.steps for stage in self.stages)


@dataclass(frozen=True, kw_only=True)
class StageSpan:
    """A stage and where it lies in the run: steps [first_step, last_step), samples from `first_sample`."""

    stage: Stage
    first_step: int
    last_step: int
    first_sample: int


def spans(recipe: Recipe) -> list[StageSpan]:
    """The stages of a recipe in order, with their places."""
    out, step, sample = [], 0, 0
    for stage in recipe.stages:
        out.append(StageSpan(stage=stage, first_step=step, last_step=step + stage.steps, first_sample=sample))
        step += stage.steps
        sample += stage.steps * stage.batch_size
    return out


def load_recipe(name: str) -> Recipe:
    """The `RECIPE` of train/recipes/NAME.py. Raises ValueError if there is none."""
    try:
        module = importlib.import_module(f"train.recipes.{name.replace('-', '_')}")
    except ModuleNotFoundError as error:
        raise ValueError(f"no recipe {name!r} in train/recipes") from error
    recipe: Recipe = module.RECIPE
    return recipe
