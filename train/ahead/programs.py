"""The two programs of a run, traced from shapes alone: its step, and the generation with which it is evaluated."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from train.input import Examples
from train.loop import abstract_state, lower, placed
from train.optimizer import optimizer as make_optimizer
from train.recipe import Recipe, Stage
from train.step import make_train_step, model_params, with_params
from trocr_jax import generation
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.sharding import batch_sharding


def lower_step(recipe: Recipe, stage: Stage, mesh: Mesh) -> jax.stages.Lowered:
    """`train.step` with the optimiser, the shardings and the donation that the loop gives it."""
    with jax.set_mesh(mesh):
        optimizer = make_optimizer(recipe)
        examples = Examples.of(
            recipe.config, _no_text, width=stage.width, max_tokens=stage.max_chars, processor=recipe.processor
        )
        state = abstract_state(recipe, optimizer, mesh)
        return lower(make_train_step(recipe, stage, optimizer), state, stage, examples, mesh)


def lower_generation(recipe: Recipe, stage: Stage, mesh: Mesh, *, num_beams: int) -> jax.stages.Lowered:
    """`trocr_jax.generate` with the parameters where training has them, on images of full width, as many as the
    evaluation takes at a time."""
    search = DecodeConfig(num_beams=num_beams, max_new_tokens=stage.max_chars + 1)
    batch = stage.batch_size // stage.micro_batches
    shape = (batch, *recipe.config.encoder.image_size, recipe.config.encoder.num_channels)

    with jax.set_mesh(mesh):
        state = abstract_state(recipe, make_optimizer(recipe), mesh)
        params = placed(jax.eval_shape(lambda s: model_params(recipe, s), state), mesh)
        pixels = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=batch_sharding(mesh))
        return generation.lower(with_params(recipe.config, params), pixels, search, dtype=recipe.dtype)


def state_bytes(recipe: Recipe, mesh: Mesh) -> int:
    """Of the training state, on each device."""
    state = abstract_state(recipe, make_optimizer(recipe), mesh)
    leaves = jax.tree.leaves(state)
    return sum(leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves)


def _no_text(text: str, /) -> list[int]:
    raise AssertionError("shapes have no text")
