"""One training step: a pure function of (state, batch), jitted once a stage, its state donated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from train.input import Batch
from train.objective import Losses, objective
from train.recipe import Recipe, Stage
from trocr_jax.checkpoint import load
from trocr_jax.config import TrOCRConfig
from trocr_jax.model import TrOCR

Params = dict[str, Any]


class TrainState(NamedTuple):
    """step int32 scalar (steps done), params {"model": …, "ctc": …} f32, opt_state."""

    step: jax.Array
    params: Params
    opt_state: optax.OptState


def init_state(recipe: Recipe, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step, from the recipe's seed."""
    key = jax.random.key(recipe.seed)
    model = TrOCR(recipe.config, rngs=nnx.Rngs(key))
    shape = (recipe.config.memory_width, recipe.config.decoder.vocab_size)
    kernel = jax.random.normal(jax.random.fold_in(key, 1), shape) * np.float32(0.02)
    params = {
        "model": nnx.to_pure_dict(nnx.state(model)),
        "ctc": {"kernel": kernel, "bias": jnp.zeros(shape[1:], jnp.float32)},
    }
    return TrainState(jnp.int32(0), params, optimizer.init(params))


def start_from(state: TrainState, recipe: Recipe) -> TrainState:
    """`state` with the weights of the model that the recipe starts from, in f32; the rest of it stays.

    Raises ValueError if that model is not of the recipe's architecture, CheckpointError if there is none.
    """
    model = load(recipe.start_from or "", dtype=jnp.float32)
    if (model.config.encoder, model.config.decoder) != (recipe.config.encoder, recipe.config.decoder):
        raise ValueError(
            f"{recipe.start_from}: has another architecture than the recipe {recipe.name!r}, which starts from it"
        )
    return state._replace(params=state.params | {"model": nnx.to_pure_dict(nnx.state(model))})


def with_params(config: TrOCRConfig, params: Params) -> TrOCR:
    """A model that holds `params` (pure nested dict)."""
    graph, state = nnx.split(nnx.eval_shape(lambda: TrOCR(config)))
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)


def narrowed(config: TrOCRConfig, params: Params, *, width: int) -> tuple[TrOCRConfig, Params]:
    """The same model for images of `width` pixels: the first columns of the position table, its other rows unread."""
    encoder = replace(config.encoder, image_size=(config.encoder.image_size[0], width))
    table = params["encoder"]["position_embeddings"][:, : encoder.memory_length]
    return replace(config, encoder=encoder), params | {"encoder": params["encoder"] | {"position_embeddings": table}}


def make_train_step(
    recipe: Recipe, stage: Stage, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, Batch], tuple[TrainState, Losses]]:
    """The jitted step of one stage."""

    def loss(params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, Losses]:
        model = with_params(*narrowed(recipe.config, params["model"], width=stage.width))
        losses = objective(
            model,
            params["ctc"],
            jnp.asarray(batch.pixels),
            jnp.asarray(batch.labels),
            key=key,
            cross_entropy_weight=stage.cross_entropy_weight,
            ctc_weight=stage.ctc_weight,
            token_noise=recipe.token_noise,
            dtype=jnp.dtype(recipe.dtype),
        )
        return losses.total, losses

    @partial(jax.jit, donate_argnums=0)
    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Losses]:
        key = jax.random.fold_in(jax.random.key(recipe.seed), state.step)
        gradients, losses = jax.grad(loss, has_aux=True)(state.params, batch, key)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, opt_state), losses

    return train_step
