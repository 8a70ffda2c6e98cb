"""The training loop: mesh, data, abstract state, shardings, jitted init, resume, then step, log, save and evaluate.
Stopped anywhere, by whatever means, it goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from train.checkpoints import Checkpoints, Keep
from train.codec import codec, vocabulary_sha256
from train.data.checks import TextLimit
from train.data.line import Line, Source
from train.data.order import in_order
from train.flight import Flight
from train.input import Batch, Examples, Samples, batches, release, rows_of
from train.objective import Losses
from train.optimizer import optimizer as make_optimizer
from train.processes import Stop, check_same, compile_unless
from train.progress import Progress
from train.recipe import Recipe, Stage, check, spans
from train.scoring import Evaluate, Scorer
from train.step import TrainState, init_state, make_train_step
from train.warm_start import start_from
from train.worst import Misread
from trocr_jax.errors import CheckpointError, ConfigError, DataError, TrOCRError
from trocr_jax.sharding import batch_sharding, check_batch_size, make_mesh, replicated, shardings

# fields of a recipe that decide what one sees and keeps, and not what parameters a run ends with
NOT_OF_THE_RESULT = {"name", "mesh", "log_every", "save_every", "keep_last", "keep_best", "keep_every"}
NOT_OF_THE_RESULT |= {"eval_every", "eval_lines", "eval_beams", "eval_worst", "patience"}


class Outcome(NamedTuple):
    """How a run ended. `step`: steps done. `finished`: it came to its end, with every reading of held-out lines that
    was due; otherwise it was stopped. `compiling`: a compilation that nobody waits for any more is still running in a
    thread."""

    step: int
    finished: bool
    compiling: bool


def train(
    recipe: Recipe,
    folder: Path,
    *,
    mesh: str | Mesh | None = None,
    workers: int = 1,
    lines: Callable[[Stage], Source] | None = None,
    held_out: Sequence[Line] | None = None,
    evaluate: Evaluate | None = None,
    until: int | None = None,
    stop: Stop | None = None,
    tensorboard: bool = False,
    profile: range = range(0),
    log_samples: bool = False,
) -> Outcome:
    """Runs `recipe` to its end in `folder` (log.jsonl, checkpoints/), from the newest whole checkpoint if there is one.

    mesh: as in `trocr_jax.sharding.make_mesh`; the recipe's if none. workers: processes that make examples; 0: threads.
    lines: stage -> source; those of the renderer if none. held_out: lines read every `recipe.eval_every` steps; drawn
    ones if none. evaluate: is called instead of reading them. until: ends the run, saved, after that many steps.
    tensorboard: writes the log for TensorBoard too. profile: steps that jax's profiler records. log_samples: writes
    which samples each step took to samples-PROCESS.jsonl.
    SIGTERM, SIGINT and SIGHUP save and end the run; several processes do so after the same step.
    Raises ConfigError or DataError before the first step where possible, CheckpointError for a checkpoint of another
    run or one that cannot be written, FloatingPointError for a loss that is not finite (kept in nonfinite.json).
    """
    mesh = check_options(recipe, mesh, workers=workers, until=until)
    _make(folder)
    lines, text = lines or rendered(recipe), codec(recipe)
    optimizer = make_optimizer(recipe)
    keep = Keep(last=recipe.keep_last, best=recipe.keep_best, every=recipe.keep_every)
    description = describe(recipe, lines)
    if held_out is not None:  # by which the best state is chosen: the first `recipe.eval_lines` of a data set
        description["eval_lines"] = len(held_out)
        description["held_out"] = sha256("\n".join(line.text for line in held_out).encode()).hexdigest()
    check_same(description)
    _make(states := folder / "checkpoints")
    with ExitStack() as stack:
        stop = stop or stack.enter_context(Stop())
        stack.enter_context(jax.set_mesh(mesh))
        checkpoints = stack.enter_context(Checkpoints(states, run=description, keep=keep))
        progress = stack.enter_context(Progress(recipe, folder, tensorboard=tensorboard, profile=profile))
        agreed = lambda: stop.agreed(mesh)  # noqa: E731
        if evaluate is None and recipe.eval_every:
            evaluate = _scorer(recipe, held_out, mesh, progress.misread)

        # Resume order: 1. structure, types and places of the state, nothing of it computed,
        abstract = abstract_state(recipe, optimizer, mesh)
        where = jax.tree.map(lambda x: x.sharding, abstract)
        # 2. its values from the newest whole checkpoint, or at first from the seed and the model that it starts from,
        owed = False  # an evaluation that was due at this step and not finished: the state may be the best one
        if (found := checkpoints.restore(abstract)) is not None:
            state, saved = found
            owed = evaluation_due(recipe, saved.step) and saved.metrics is None
        else:
            lowered = jax.jit(lambda: init_state(recipe, optimizer), out_shardings=where).lower()
            compiled = compile_unless(agreed, lowered)
            if compiled is None:
                return Outcome(0, finished=False, compiling=True)
            state = compiled()
            if recipe.start_from is not None:
                state = jax.device_put(start_from(state, recipe), where)
        # 3. the step, which says where in the stages the run is,
        step = int(np.asarray(state.step))
        last = recipe.total_steps if until is None else min(until, recipe.total_steps)
        progress.limits(step, last)

        def evaluated() -> bool:
            """Whether the reading came to its end; a signal ends it before."""
            if evaluate is None:
                return True
            if (metrics := evaluate(state, agreed)) is None:
                return False
            progress.evaluation(step, metrics)
            if step:
                checkpoints.score(step, metrics)
            return True

        if owed or (step == 0 and recipe.eval_every and recipe.start_from is not None):
            if not evaluated():  # what a run starts with is scored too, if it starts with something
                return Outcome(step, finished=False, compiling=False)
            owed = False
        ended = given_up(recipe, step, checkpoints)
        for span in spans(recipe):
            if ended or step >= min(span.last_step, last):
                continue
            if stop.seen and jax.process_count() == 1:  # several processes have not agreed yet
                break
            # 4. and which samples come next: the data is a function of their index.
            stage = span.stage
            examples = Examples.of(
                recipe.config, text.encode, width=stage.width, max_tokens=stage.max_chars, processor=recipe.processor
            )
            rows = rows_of(batch_sharding(mesh), stage.batch_size)
            source = in_order(lines(stage), seed=recipe.seed)
            data = batches(span, step=step, lines=source, examples=examples, rows=rows, workers=workers)
            stack.callback(release, data)
            lowered = lower(make_train_step(recipe, stage, optimizer), abstract, stage, examples, mesh)
            started = time.perf_counter()
            train_step = compile_unless(agreed, lowered)
            if train_step is None:
                checkpoints.save(state)
                return Outcome(step, finished=False, compiling=True)
            progress.compiled(step, time.perf_counter() - started)
            flight = Flight(folder, span)
            progress.begin(step)
            while step < min(span.last_step, last) and not agreed():
                progress.profile(step)
                asked = time.perf_counter()
                try:
                    samples = _next(data, stop)
                except TrOCRError:  # of a line that cannot be read, or a process that has died
                    flight.land()
                    if step and jax.process_count() == 1:
                        checkpoints.save(state)
                    raise
                progress.waited += time.perf_counter() - asked
                if samples is None:
                    break
                state, losses = train_step(state, on_devices(samples.batch, stage, mesh))
                flight.add(step, losses)
                step += 1
                if log_samples:
                    _log_samples(folder, step, samples)
                if step % recipe.log_every == 0 or step == span.last_step:
                    progress.steps(step, stage, flight.land())
                due = evaluation_due(recipe, step)
                if step % recipe.save_every == 0 or due:
                    flight.land()
                    checkpoints.save(state)
                if due:
                    owed = not evaluated()
                    progress.begin(step)
                    if ended := not owed and given_up(recipe, step, checkpoints):
                        break
            flight.land()
            samples = None
            release(data)
            if step < min(span.last_step, last):
                break
        if step:
            checkpoints.save(state)
        return Outcome(step, finished=not owed and (ended or step == recipe.total_steps), compiling=False)


def check_options(recipe: Recipe, mesh: str | Mesh | None, *, workers: int, until: int | None) -> Mesh:
    """The mesh of a run. Raises ConfigError for a recipe and arguments of `train` that cannot be."""
    check(recipe)
    mesh = mesh if isinstance(mesh, Mesh) else make_mesh(recipe.mesh if mesh is None else mesh)
    for stage in recipe.stages:
        check_batch_size(stage.batch_size // stage.micro_batches, mesh)
    if until is not None and until < 0:
        raise ConfigError(f"until is {until}: give the step to stop behind, or leave it out")
    if workers < 0:
        raise ConfigError(f"workers is {workers}: give how many processes are to make examples, or 0 for threads")
    return mesh


def _make(folder: Path) -> None:
    """Makes the folder. Raises CheckpointError if it cannot be written: before the first step, not at the first
    state."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be made ({error.strerror}); name another folder for the run") from None
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise CheckpointError(f"{folder}: may not be read and written; ask for the right, or name another folder")


def abstract_state(recipe: Recipe, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Structure, types and places of the state, of which nothing is computed."""
    state: TrainState = placed(jax.eval_shape(lambda: init_state(recipe, optimizer)), mesh)
    return state


def placed(abstract: Any, mesh: Mesh) -> Any:
    """ShapeDtypeStructs with the places that `trocr_jax.sharding.RULES` give them."""
    where = shardings(abstract, mesh)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, where)


def evaluation_due(recipe: Recipe, step: int) -> bool:
    """Whether held-out lines are read after `step` steps."""
    every = recipe.eval_every
    return bool(every) and step > 0 and (step % every == 0 or step == recipe.total_steps)


def given_up(recipe: Recipe, step: int, checkpoints: Checkpoints) -> bool:
    """Whether the last `recipe.patience` readings of held-out lines have been no better than the best before them."""
    best = checkpoints.best_step() if recipe.patience else None
    return best is not None and step - best >= recipe.patience * recipe.eval_every


def on_devices(batch: Batch, stage: Stage, mesh: Mesh) -> Batch:
    """The rows of a batch that this process has read, as its part of the whole batch."""

    def place(rows: np.ndarray) -> jax.Array:
        shape = (stage.batch_size, *rows.shape[1:])
        return jax.make_array_from_process_local_data(batch_sharding(mesh), rows, shape)

    return Batch(*(place(rows) for rows in batch))  # type: ignore[arg-type]


def lower(
    step: Callable[[TrainState, Batch], tuple[TrainState, Losses]],
    abstract: TrainState,
    stage: Stage,
    examples: Examples,
    mesh: Mesh,
) -> jax.stages.Lowered:
    """The step traced from shapes alone, its state donated."""
    shapes = (examples.pixel_shape, jnp.uint8), ((stage.max_chars + 1,), jnp.int32)
    batch: Any = [
        jax.ShapeDtypeStruct((stage.batch_size, *shape), dtype, sharding=batch_sharding(mesh))
        for shape, dtype in shapes
    ]
    where = jax.tree.map(lambda x: x.sharding, abstract)
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(where, replicated(mesh)))
    return jitted.lower(abstract, Batch(*batch))


def describe(recipe: Recipe, lines: Callable[[Stage], Source]) -> dict[str, Any]:
    """What decides the parameters that a run ends with, as JSON values: the recipe without NOT_OF_THE_RESULT, the
    tokens and the data."""
    data: list[Any] = json.loads(json.dumps([lines(stage).fingerprint() for stage in recipe.stages]))
    return {**describe_recipe(recipe), "data": data}


def describe_recipe(recipe: Recipe) -> dict[str, Any]:
    """`describe` without the data: what a model is exported with."""
    fields = {name: value for name, value in asdict(recipe).items() if name not in NOT_OF_THE_RESULT}
    described: dict[str, Any] = json.loads(json.dumps(fields))
    return {"recipe": described, "vocabulary": vocabulary_sha256(recipe)}


def rendered(recipe: Recipe) -> Callable[[Stage], Source]:
    """The renderer's lines, as long as a stage takes them; what its tokenizer makes too long is drawn anew."""
    from train.data.render import Renderer
    from train.data.sources import Synthetic

    renderer = Renderer.create(split="train", seed=recipe.seed)
    return lambda stage: Synthetic(renderer, stage.max_chars, _limit(recipe, stage))


def _limit(recipe: Recipe, stage: Stage) -> TextLimit | None:
    """None for the character tokenizer, which takes whatever is drawn for it."""
    from train.lines import text_limit

    return None if recipe.tokenizer is None else text_limit(recipe, stage)


def _next(data: Any, stop: Stop) -> Samples | None:
    """The samples of the next step; None if a signal has ended what makes them. Raises DataError if such a process has
    died otherwise."""
    try:
        samples: Samples = next(data)
    except Exception as error:
        # A signal to the whole process group ends the workers too: then the run is to be saved, not to fail.
        time.sleep(0.1)
        if stop.seen and jax.process_count() == 1:
            return None
        if "terminated unexpectedly" in str(error):  # by grain, which has no type of its own for it
            raise DataError(
                f"a process that makes examples has died, perhaps because memory was short ({error}). Start the run"
                " again, it goes on from its newest checkpoint; with --workers 0 threads make the examples"
            ) from None
        raise
    return samples


def _scorer(
    recipe: Recipe, lines: Sequence[Line] | None, mesh: Mesh, shown: Callable[[int, Sequence[Misread]], None]
) -> Evaluate:
    stage, text = recipe.stages[-1], codec(recipe)
    if lines is None:
        from train.data.render import Renderer

        renderer = Renderer.create(split="heldout", seed=recipe.seed)
        limit, count = _limit(recipe, stage), recipe.eval_lines
        lines = [renderer.line(index, max_chars=stage.max_chars, limit=limit) for index in range(count)]
    width = recipe.config.encoder.image_size[1]
    examples = Examples.of(
        recipe.config, text.encode, width=width, max_tokens=stage.max_chars, processor=recipe.processor
    )
    size = stage.batch_size // stage.micro_batches
    return Scorer(recipe, lines, examples=examples, decode=text.decode, mesh=mesh, batch_size=size, shown=shown)


def _log_samples(folder: Path, step: int, samples: Samples) -> None:
    with (folder / f"samples-{jax.process_index()}.jsonl").open("a", encoding="utf-8") as file:
        print(json.dumps({"step": step, "samples": samples.numbers.tolist()}), file=file)
