"""A training run that takes seconds: a model of one layer each, lines of bars. What the tests and the scripts that
interrupt runs work on.

    python -m scripts.toy_training FOLDER [--mesh data=2,fsdp=2] [--until STEP] [--steps N] …
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from train.processes import Stop, together

LETTERS = "abcde"


@dataclass(frozen=True)
class Bars:
    """Draws lines whose every letter is a bar of its own height."""

    def line(self, index: int, *, max_chars: int) -> Any:
        from train.data.line import Line

        rng = np.random.default_rng(index)
        text = "".join(rng.choice(list(LETTERS), size=rng.integers(1, max_chars + 1)))
        image = np.full((8, 4 * len(text)), 255, np.uint8)
        for i, letter in enumerate(text):
            image[: 1 + LETTERS.index(letter), 4 * i : 4 * i + 3] = 0
        return Line(image, text)


@dataclass(frozen=True)
class FewBars:
    """A source of so many lines."""

    count: int
    max_chars: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return Bars().line(index, max_chars=self.max_chars)

    def fingerprint(self) -> dict[str, Any]:
        return {"bars": self.count}


def bars(stage: Any) -> FewBars:
    """Endless lines for a stage."""
    from train.data.line import ENDLESS

    return FewBars(ENDLESS, stage.max_chars)


def recipe(*, batch: int = 4, steps: int = 8, short: bool = False) -> Any:
    """Three eighths of the steps on narrow lines with CTC alone, the rest on whole ones; dropout and token noise on,
    so that every random number of a step counts. short: all steps on whole lines, without CTC, which takes long to
    compile."""
    from train.data.alphabet import ALPHABET
    from train.input import FIRST_CHARACTER_ID
    from train.recipe import Optimizer, Recipe, Stage
    from trocr_jax.config import DecoderConfig, EncoderConfig, TrOCRConfig

    size: dict[str, Any] = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 64}
    config = TrOCRConfig(
        encoder=EncoderConfig(image_size=(8, 64), patch_size=(8, 4), **size),
        decoder=DecoderConfig(
            vocab_size=FIRST_CHARACTER_ID + len(ALPHABET) + 1,  # even
            max_position_embeddings=16,
            cross_attention_hidden_size=32,
            dropout=0.1,
            **size,
        ),
    )
    first = 3 * steps // 8
    both = (
        Stage(steps=first, batch_size=batch, width=32, max_chars=4, cross_entropy_weight=0.0, ctc_weight=1.0),
        Stage(steps=steps - first, batch_size=batch, width=64, max_chars=8, ctc_weight=0.5),
    )
    return Recipe(
        name="toy",
        config=config,
        stages=(replace(both[1], steps=steps, ctc_weight=0.0),) if short else both,
        optimizer=Optimizer(
            learning_rate=3e-3,
            schedule="constant",
            warmup_steps=2,
            decay_steps=2,
            weight_decay=0.01,
            clip_norm=1.0,
            ema_decay=0.9,
        ),
        token_noise=0.1,
        dtype="float32",
        log_every=1,
        save_every=2,
    )


@dataclass(frozen=True, kw_only=True)
class Options:
    """One toy run, or one process of it."""

    folder: tyro.conf.Positional[Path]
    mesh: str = ""
    steps: int = 8
    batch: int = 4
    epoch: int = 0  # lines of an epoch; 0: endless
    until: int | None = None
    save_every: int = 2
    eval_every: int = 0
    workers: int = 0
    process: int | None = None
    processes: int | None = None
    coordinator: str | None = None
    log_samples: bool = False
    short: bool = False
    output: Path | None = None  # writes the model there, as all processes of a run do together
    state: Path | None = None  # writes the final parameters and optimiser state there, bit for bit


def main(options: Options) -> int:
    own = {"process": options.process, "processes": options.processes}
    with Stop() as stop, together(options.coordinator, **own, stop=stop):
        return train_toy(options, stop)


def train_toy(options: Options, stop: Stop) -> int:
    """The exit status of a run; `stop` listens already."""
    import jax

    jax.config.update("jax_compilation_cache_dir", os.environ.get("TOY_CACHE"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    from train.loop import train

    what = replace(
        recipe(batch=options.batch, steps=options.steps, short=options.short),
        save_every=options.save_every,
        eval_every=options.eval_every,
        eval_lines=6,
    )
    lines: Callable[[Any], Any] = (lambda s: FewBars(options.epoch, s.max_chars)) if options.epoch else bars
    outcome = train(
        what,
        options.folder,
        mesh=options.mesh,
        workers=options.workers,
        lines=lines,
        held_out=[Bars().line(10_000 + i, max_chars=8) for i in range(6)],
        until=options.until,
        stop=stop,
        log_samples=options.log_samples,
    )
    if options.output is not None and outcome.finished:
        from train.export import export

        export(what, options.folder, options.output)
    if options.state is not None and outcome.finished:
        options.state.write_text(json.dumps(digest(what, options.folder)), encoding="utf-8")
    sys.stderr.flush()
    if outcome.compiling:
        os._exit(0)
    return 0


def digest(what: Any, folder: Path) -> dict[str, str]:
    """Path of every array of the newest checkpoint -> SHA-256 of its bits."""
    import hashlib

    import jax

    from train.checkpoints import Checkpoints
    from train.optimizer import optimizer
    from train.step import init_state

    like = jax.eval_shape(lambda: init_state(what, optimizer(what)))
    with Checkpoints(folder / "checkpoints") as checkpoints:
        found = checkpoints.restore(like)
    assert found is not None
    leaves = jax.tree_util.tree_leaves_with_path(found[0])
    return {
        jax.tree_util.keystr(path): hashlib.sha256(np.ascontiguousarray(np.asarray(leaf)).tobytes()).hexdigest()
        for path, leaf in leaves
    }


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
