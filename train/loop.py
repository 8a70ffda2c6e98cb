"""The training loop: stages of fixed shape, one donated step, logs and checkpoints; stopped anywhere, it goes on."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import jax
import numpy as np

from train.checkpoints import Checkpoints
from train.data.render import Renderer
from train.data.text import ALPHABET
from train.input import Examples, Lines, batches, character_ids
from train.optimizer import optimizer as make_optimizer
from train.recipe import Recipe, spans
from train.step import init_state, make_train_step, start_from


def train(recipe: Recipe, folder: Path, *, workers: int = 1, renderer: Lines | None = None) -> None:
    """Runs `recipe` to its end in `folder` (log.jsonl, checkpoints/), from the latest checkpoint if there is one.

    SIGTERM and SIGINT save and return.
    """
    folder.mkdir(parents=True, exist_ok=True)
    renderer = renderer or Renderer.create(split="train", seed=recipe.seed)
    ids = character_ids(ALPHABET)
    optimizer = make_optimizer(recipe)
    with (
        Checkpoints(folder / "checkpoints") as checkpoints,
        (folder / "log.jsonl").open("a") as log,
        _stop_on_signals() as stop,
    ):
        # Resume order: 1. a fresh state gives structure and types,
        state = jax.jit(lambda: init_state(recipe, optimizer))()
        # 2. the latest checkpoint, or at first the model that the recipe starts from, replaces its values,
        if checkpoints.latest_step is not None:
            state = checkpoints.restore(state)
        elif recipe.start_from is not None:
            state = start_from(state, recipe)
        # 3. its step number says where in the stages the run is,
        step = int(state.step)
        for span in spans(recipe):
            if step >= span.last_step:
                continue
            examples = Examples(
                renderer=renderer,
                ids=ids,
                height=recipe.config.encoder.image_size[0],
                width=span.stage.width,
                max_chars=span.stage.max_chars,
                eos_token_id=recipe.config.eos_token_id,
            )
            train_step = make_train_step(recipe, span.stage, optimizer)
            # 4. and which sample comes next: the data is a function of the index.
            data = batches(recipe, span, step=step, examples=examples, workers=workers)
            since, started, waited = step, time.perf_counter(), 0.0
            while step < span.last_step and not stop:
                asked = time.perf_counter()
                batch = next(data)
                waited += time.perf_counter() - asked
                state, losses = train_step(state, batch)
                step += 1
                if step % recipe.log_every == 0 or step == span.last_step:
                    row = {name: round(float(np.asarray(x)), 5) for name, x in losses._asdict().items()}
                    seconds = time.perf_counter() - started
                    row |= {
                        "step": step,
                        "lines_per_second": round((step - since) * span.stage.batch_size / seconds, 1),
                        "input_wait": round(waited / seconds, 3),
                        "time": round(time.time()),
                    }
                    print(json.dumps(row), file=log, flush=True)
                    print(json.dumps(row), file=sys.stderr, flush=True)
                    if not np.isfinite(row["total"]):
                        raise FloatingPointError(f"the loss at step {step} is {row['total']}; see {folder}/log.jsonl")
                    since, started, waited = step, time.perf_counter(), 0.0
                if step % recipe.save_every == 0:
                    checkpoints.save(state)
            if stop:
                break
        checkpoints.save(state)


@contextmanager
def _stop_on_signals() -> Iterator[list[int]]:
    """A list that SIGTERM and SIGINT fill; the loop looks at it between steps."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
