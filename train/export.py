"""A finished or running training as a model folder that trocr_jax and transformers load."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp

from train.checkpoints import Checkpoints
from train.codec import codec, tokenizer_of
from train.input import Examples
from train.loop import describe_recipe
from train.optimizer import optimizer
from train.recipe import Recipe
from train.step import init_state, model_params, with_params
from trocr_jax.checkpoint import is_native, save_huggingface
from trocr_jax.checkpoint.assets import write_json
from trocr_jax.errors import CheckpointError
from trocr_jax.tokenizer import save_tokenizer


def check_output(output: Path) -> None:
    """Raises CheckpointError unless a model folder can be written there: before a training, not after it."""
    try:
        there = next(path for path in (output, *output.absolute().parents) if path.exists())
    except OSError as error:
        raise CheckpointError(f"{output}: cannot be made ({error.strerror})") from None
    if not there.is_dir():
        raise CheckpointError(f"{there}: is a file; name another folder for the model, or remove it")
    if not os.access(there, os.W_OK | os.X_OK):
        raise CheckpointError(f"{there}: nothing may be written there; name another folder for the model")
    if is_native(output):  # it would still be read as one, and its files are not those of its manifest any more
        raise CheckpointError(f"{output}: is a native folder; choose another name for the model, or remove it")


def export(recipe: Recipe, folder: Path, output: Path, *, step: int | None = None) -> int:
    """Writes the parameters of a run's checkpoint to `output` in bf16, with tokenizer, image processor and generation
    settings; returns the step. Raises CheckpointError if the run has no checkpoint, or another recipe's, and as
    `check_output` does.

    step: of the checkpoint; if none, that with the best score of a recipe with `patience`, which goes on behind it, and
    the newest of the others. In a run of several processes all of them have to call; the first writes.
    """
    check_output(output)
    if not (folder / "checkpoints").is_dir():
        raise CheckpointError(f"{folder}/checkpoints: no checkpoint of a training run; name its folder with --folder")
    like = jax.eval_shape(lambda: init_state(recipe, optimizer(recipe)))
    with Checkpoints(folder / "checkpoints", run=describe_recipe(recipe)) as checkpoints:
        found = checkpoints.restore(like, step=step, best=step is None and bool(recipe.patience))
    if found is None:
        raise CheckpointError(f"{folder}/checkpoints: no checkpoint of a training run; name its folder with --folder")
    state = found[0]
    if jax.process_index() > 0:
        return int(state.step)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), model_params(recipe, state))
    with tempfile.TemporaryDirectory() as assets:
        try:
            _write_assets(recipe, Path(assets))
        except OSError as error:
            raise CheckpointError(
                f"{assets}: the tokenizer cannot be written there ({error.strerror}); make room, or name another folder"
                " for temporary files in TMPDIR"
            ) from None
        # computed in f32 by default, by transformers too; only the file is bf16
        save_huggingface(with_params(recipe.config, params), output, assets=assets, torch_dtype="float32")
    return int(state.step)


def kept_step(recipe: Recipe, folder: Path) -> int | None:
    """Of the checkpoint that `export` writes unless another is asked for, if that is not the newest. All processes have
    to call."""
    if not recipe.patience:
        return None
    with Checkpoints(folder / "checkpoints", run=describe_recipe(recipe)) as checkpoints:
        return checkpoints.best_step()


def _write_assets(recipe: Recipe, folder: Path) -> None:
    """Tokenizer, image processor and generation settings."""
    save_tokenizer(tokenizer_of(recipe), folder)
    width, max_tokens = recipe.config.encoder.image_size[1], recipe.stages[-1].max_chars
    examples = Examples.of(
        recipe.config, codec(recipe).encode, width=width, max_tokens=max_tokens, processor=recipe.processor
    )
    write_json(folder / "preprocessor_config.json", examples.processor.to_dict())
    longest = max(stage.max_chars for stage in recipe.stages)  # the end token not counted
    settings = {
        "bos_token_id": recipe.config.bos_token_id,
        "decoder_start_token_id": recipe.config.decoder_start_token_id,
        "eos_token_id": recipe.config.eos_token_id,
        "pad_token_id": recipe.config.pad_token_id,
        "max_new_tokens": min(max(128, longest + 1), recipe.config.decoder.max_position_embeddings),
        "num_beams": 1,
    }
    write_json(folder / "generation_config.json", settings)
