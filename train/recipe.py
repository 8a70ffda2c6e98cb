"""What a training run is: a model, stages of data, an optimiser. A recipe is a Python file with one `RECIPE`."""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from train.data.augment import Augmentation
from train.data.fonts import STYLES
from train.data.parts import Data, Rendered
from trocr_jax.config import TrOCRConfig
from trocr_jax.errors import ConfigError
from trocr_jax.image import ImageProcessor

METHODS = ("adamw", "muon")
SCHEDULES = ("inverse_sqrt", "cosine", "linear", "constant")
TYPES = ("float32", "bfloat16")
AUGMENTATIONS: tuple[str, ...] = get_args(Augmentation)
LEAST = {
    0: ("seed", "keep_best", "keep_every", "eval_every", "eval_beams", "eval_worst", "patience"),
    1: ("log_every", "save_every", "keep_last", "eval_lines"),
}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of training whose batches have one shape, so that it compiles once."""

    steps: int
    batch_size: int
    width: int  # of the canvas, pixels; the first columns of the position table are used
    max_chars: int
    cross_entropy_weight: float = 1.0
    ctc_weight: float = 0.0
    micro_batches: int = 1  # the batch is worked through in so many parts, whose gradients are added up


@dataclass(frozen=True)
class Group:
    """What the optimiser does to the parameters whose whole path, for example "model/encoder/layers/0/fc1/kernel",
    matches `pattern`."""

    pattern: str
    rate: float = 1.0  # times the learning rate
    weight_decay: bool = True
    frozen: bool = False  # left as it is: no gradient, no memory in the optimiser


# Weight decay for matrices and tables alone: not for biases, norms, and the tokens and scales of the encoder.
MATRICES_DECAY = (
    Group(r".*/(bias|scale|cls_token|distillation_token|position_embeddings|lambda_[12])", weight_decay=False),
    Group(r".*"),
)


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """How gradients change parameters. The defaults are the published fine-tuning's, but for its learning rate."""

    learning_rate: float
    method: str = "adamw"  # or muon: Muon for the matrices of the layers, AdamW with Nesterov momentum for all else
    schedule: str = "inverse_sqrt"  # or cosine, linear (both end at zero), constant
    warmup_steps: int = 500
    warmup_from: float = 1e-8
    decay_steps: int = 0  # of `constant`: linear to zero at the end of the run
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = None
    groups: tuple[Group, ...] = (Group(r".*"),)  # the first that matches counts; every parameter must match one
    layer_decay: float = 1.0  # learning rate of a layer over that of the layer above it
    ema_decay: float | None = None  # of a moving average of the parameters; none is kept without


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters (Hu et al. 2022) beside the matrices whose path within the model, for example
    "decoder/layers/0/fc1/kernel", matches `targets` as a whole; everything else of the model is frozen."""

    rank: int
    alpha: float  # an adapter counts alpha / rank
    targets: str = r".*/(self_attention|cross_attention|attention)/(query|value)/kernel"


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """Hugging Face folders that give the encoder (ViT, DeiT, BEiT) and the decoder (RoBERTa, XLM-R, BERT, MiniLM) their
    first weights: train.warm_start."""

    encoder: str | None = None
    decoder: str | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the parameters a run ends with, but for the data's version."""

    name: str
    config: TrOCRConfig
    stages: tuple[Stage, ...]
    optimizer: Optimizer
    label_smoothing: float = 0.0
    token_noise: float = 0.0  # share of decoder inputs replaced by random characters
    dtype: str = "bfloat16"  # of the arithmetic; parameters are f32
    remat_encoder: bool = False  # compute its layers again in the backward pass, which saves memory
    remat_decoder: bool = False
    lora: Lora | None = None
    # a model, name or folder, whose weights the run starts with, or parts of models; what they lack is new
    start_from: str | WarmStart | None = None
    tokenizer: str | None = None  # of a model, name or folder; none: the characters of train.data.text.ALPHABET
    processor: ImageProcessor | None = None  # of the model that the run starts with; none: train.input.Examples.of
    data: Data | None = None  # none: printed lines, drawn while the model trains
    seed: int = 0
    mesh: str = ""  # of devices: "data=4,fsdp=2,model=1"; all of them on data if empty
    log_every: int = 50
    save_every: int = 1000
    keep_last: int = 2  # checkpoints that stay: the newest, those with the lowest character error rate, and those of
    keep_best: int = 0  # every so many steps
    keep_every: int = 0
    eval_every: int = 0  # steps between readings of held-out lines, the last step is always one; 0: none
    eval_lines: int = 256
    eval_beams: int = 0  # read them by beam search too, with so many beams
    eval_worst: int = 16  # misread lines that are shown as pictures
    patience: int = 0  # the run ends after so many readings without a lower character error rate; 0: at its last step

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


def load_recipe(name: str, *, data: Path = Path("data"), **options: Any) -> Recipe:
    """The `RECIPE` of train/recipes/NAME.py, or what its function `recipe` makes of `options`, checked. An option that
    is None is left out; `data`, the folder of data sets, is for recipes that look into it.

    Raises ConfigError if there is none, for an option that it does not take, and listing every value that
    cannot be used.
    """
    module_name = f"train.recipes.{name.replace('-', '_')}"
    if not re.fullmatch(r"[\w-]+", name):
        raise ConfigError(f"no recipe {name!r} in train/recipes; there are {', '.join(_names())}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise
        raise ConfigError(f"no recipe {name!r} in train/recipes; there are {', '.join(_names())}") from None
    except TypeError as error:
        raise _misspelt(module_name, error) from error
    make = getattr(module, "recipe", None)
    if make is None and not hasattr(module, "RECIPE"):
        raise ConfigError(
            f"no recipe {name!r} in train/recipes: {module.__name__} is what others share; there are "
            + ", ".join(_names())
        )
    takes = inspect.signature(make).parameters if make else {}
    given = {option: value for option, value in options.items() if value is not None}
    if wrong := given.keys() - takes.keys():
        flags = ", ".join("--" + option.replace("_", "-") for option in sorted(wrong))
        raise ConfigError(
            f"recipe {name!r}: does not take {flags}; copy {module_name.replace('.', '/')}.py and change it there"
        )
    if "data" in takes:
        given["data"] = data
    try:
        recipe: Recipe = make(**given) if make else module.RECIPE
        check(recipe)
    except TypeError as error:
        raise _misspelt(module_name, error) from error
    return recipe


def _names() -> list[str]:
    """Of the recipes: of the files that define one."""
    files = sorted((Path(__file__).parent / "recipes").glob("[a-z]*.py"))
    defined = [path.stem for path in files if re.search(r"^(RECIPE\b|def recipe\()", path.read_text("utf-8"), re.M)]
    return [name.replace("_", "-") for name in defined]


def _misspelt(module_name: str, error: TypeError) -> ConfigError:
    """What a dataclass says of a field that it does not have or that is missing, and Python of one of another type."""
    return ConfigError(f"{module_name.replace('.', '/')}.py: {error}; the fields are in train/recipe.py")


def check(recipe: Recipe) -> None:
    """Raises ConfigError listing every value of a recipe that cannot be used."""
    problems = [*_problems(recipe), *_optimizer_problems(recipe)]
    for number, stage in enumerate(recipe.stages):
        problems += [f"stages[{number}].{problem}" for problem in _stage_problems(recipe, stage)]
    if problems:
        raise ConfigError(f"recipe {recipe.name!r}: " + "; ".join(problems))


def _problems(recipe: Recipe) -> Iterator[str]:
    if not recipe.stages:
        yield "stages is empty; give at least one"
    if recipe.dtype not in TYPES:
        yield f"dtype is {recipe.dtype!r}; supported: {', '.join(TYPES)}"
    for name in ("label_smoothing", "token_noise"):
        if not 0 <= getattr(recipe, name) < 1:
            yield f"{name} is {getattr(recipe, name)}; give a share in [0, 1)"
    if recipe.processor is not None and recipe.processor.size != recipe.config.encoder.image_size:
        yield (
            f"processor makes pictures of {recipe.processor.size} (height, width); the model takes "
            f"{recipe.config.encoder.image_size}"
        )
    for least, names in LEAST.items():
        yield from _number_problems(recipe, names, least)
    if recipe.data is not None:
        drawn = [part for part in (*recipe.data.train, *recipe.data.held_out) if isinstance(part, Rendered)]
        for kind, known in (*((part.style, STYLES) for part in drawn), (recipe.data.augmentation, AUGMENTATIONS)):
            if kind not in known:
                yield f"data names {kind!r}; supported: {', '.join(known)}"
    if recipe.patience and not (recipe.eval_every and recipe.keep_best):
        yield f"patience is {recipe.patience}; set eval_every and keep_best, which it counts by"
    if recipe.start_from == WarmStart():
        yield "start_from names neither an encoder nor a decoder"
    if recipe.lora is not None:
        if recipe.lora.rank < 1:
            yield f"lora.rank is {recipe.lora.rank}; give at least 1"
        if not 0 < recipe.lora.alpha < math.inf:
            yield f"lora.alpha is {recipe.lora.alpha}; give a positive number"
        if not isinstance(recipe.start_from, str):
            yield (
                "lora freezes the model, and start_from names no whole one: what is new would stay as it is drawn; "
                "start from a model, or leave lora out"
            )
        yield from _pattern_problems("lora.targets", recipe.lora.targets)


def _optimizer_problems(recipe: Recipe) -> Iterator[str]:
    o = recipe.optimizer
    for name, value, known in (("method", o.method, METHODS), ("schedule", o.schedule, SCHEDULES)):
        if value not in known:
            yield f"optimizer.{name} is {value!r}; supported: {', '.join(known)}"
    if o.decay_steps and o.schedule != "constant":
        yield f"optimizer.decay_steps is of the schedule constant; {o.schedule} decays by itself"
    if o.schedule != "inverse_sqrt" and o.warmup_steps + o.decay_steps > recipe.total_steps:
        yield (
            f"optimizer.warmup_steps {o.warmup_steps} and decay_steps {o.decay_steps} are more than the "
            f"{recipe.total_steps} steps of the stages"
        )
    for name in ("b1", "b2", "ema_decay"):
        value = getattr(o, name)
        if value is not None and not 0 <= value < 1:
            yield f"optimizer.{name} is {value}; give a number in [0, 1)"
    for name in ("warmup_steps", "warmup_from", "decay_steps", "eps", "weight_decay"):
        if not 0 <= getattr(o, name) < math.inf:
            yield f"optimizer.{name} is {getattr(o, name)}; give at least 0"
    for name in ("learning_rate", "layer_decay", "clip_norm"):
        value = getattr(o, name)
        if value is not None and not 0 < value < math.inf:
            yield f"optimizer.{name} is {value}; give a positive number"
    for group in o.groups:
        if not 0 <= group.rate < math.inf:
            yield f"optimizer.groups: rate of {group.pattern!r} is {group.rate}; give at least 0"
        yield from _pattern_problems("optimizer.groups", group.pattern)


def _stage_problems(recipe: Recipe, stage: Stage) -> Iterator[str]:
    encoder, decoder = recipe.config.encoder, recipe.config.decoder
    yield from _number_problems(stage, ("steps", "batch_size", "micro_batches", "max_chars", "width"), 1)
    weights = stage.cross_entropy_weight, stage.ctc_weight
    if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
        yield (
            f"cross_entropy_weight is {weights[0]} and ctc_weight {weights[1]}; give at least 0, and one of them more"
        )
    if stage.micro_batches > 0 and stage.batch_size % stage.micro_batches:
        yield f"batch_size {stage.batch_size} is not divisible by micro_batches {stage.micro_batches}"
    if stage.width % encoder.patch_size[1] or not 0 < stage.width <= encoder.image_size[1]:
        yield (
            f"width is {stage.width}; give a multiple of the patch width {encoder.patch_size[1]} up to "
            f"{encoder.image_size[1]}"
        )
    if stage.width != encoder.image_size[1] and (encoder.grid[0] > 1 or encoder.kind == "beit"):
        yield (
            f"width is {stage.width}; a model with several rows of patches, or a BEiT, is trained at "
            f"{encoder.image_size[1]} only"
        )
    if decoder.learned_positions and stage.max_chars + 1 > decoder.max_position_embeddings:
        yield (
            f"max_chars is {stage.max_chars}; with the end token that is more than the "
            f"{decoder.max_position_embeddings} positions of the decoder"
        )


def _number_problems(of: Recipe | Stage, names: tuple[str, ...], least: int) -> Iterator[str]:
    for name in names:
        if not isinstance(value := getattr(of, name), int):
            yield f"{name} is {value!r}; give a whole number"
        elif value < least:
            yield f"{name} is {value}; give at least {least}"


def _pattern_problems(name: str, pattern: str) -> Iterator[str]:
    try:
        re.compile(pattern)
    except re.error as error:
        yield f"{name}: {pattern!r} is no regular expression ({error})"
