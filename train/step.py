"""One training step: a pure function of (state, batch). Whoever calls it jits it, with shardings and donation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from train.groups import join, split
from train.input import Batch
from train.lora import init_adapters, merged
from train.objective import Losses, Terms, count, decoder_input, objective
from train.recipe import Recipe, Stage
from trocr_jax.config import TrOCRConfig
from trocr_jax.model import TrOCR

Params = dict[str, Any]


class TrainState(NamedTuple):
    """step int32 scalar (steps done), params f32 {"model": …, "ctc": … if a stage uses it, "lora": … if the recipe
    does}, opt_state, ema: moving average of the trained parameters (none for those left alone), or () if the recipe
    keeps none."""

    step: jax.Array
    params: Params
    opt_state: optax.OptState
    ema: Any


def init_state(recipe: Recipe, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step, from the recipe's seed. A pure function: it may be jitted, or evaluated for its
    shapes alone.

    Raises ConfigError if a parameter matches no group of the optimiser, or adapters have no target.
    """
    key = jax.random.key(recipe.seed)
    model = nnx.to_pure_dict(nnx.state(TrOCR(recipe.config, rngs=nnx.Rngs(key))))
    params: Params = {"model": model}
    if any(stage.ctc_weight for stage in recipe.stages):
        shape = (recipe.config.memory_width, recipe.config.decoder.vocab_size)
        kernel = jax.random.normal(jax.random.fold_in(key, 1), shape) * np.float32(0.02)
        params["ctc"] = {"kernel": kernel, "bias": jnp.zeros(shape[1:], jnp.float32)}
    if recipe.lora is not None:
        params["lora"] = init_adapters(recipe.lora, model, jax.random.fold_in(key, 2))
    trained, _ = split(recipe, params)
    return TrainState(jnp.int32(0), params, optimizer.init(trained), init_ema(recipe, params))


def init_ema(recipe: Recipe, params: Params) -> Any:
    """The moving average before the first step: a copy of the trained parameters, or ()."""
    if recipe.optimizer.ema_decay is None:
        return ()
    return jax.tree.map(jnp.copy, split(recipe, params)[0])


def make_train_step(
    recipe: Recipe, stage: Stage, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, Batch], tuple[TrainState, Losses]]:
    """The step of one stage. If the loss or a gradient is not finite, the state comes back as it was, its step number
    too, and the losses say so: the step can be repeated and looked at."""
    gradients_of = make_gradients(recipe, stage)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Losses]:
        gradients, losses = gradients_of(state.params, batch, state.step)
        trained, frozen = split(recipe, state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, trained)
        trained = optax.apply_updates(trained, updates)
        ema = _averaged(recipe, state.ema, trained, state.step)
        new = TrainState(state.step + 1, join(trained, frozen), opt_state, ema)
        return jax.tree.map(lambda a, b: jax.lax.select(losses.finite, a, b), new, state), losses

    return train_step


def make_gradients(recipe: Recipe, stage: Stage) -> Callable[[Params, Batch, jax.Array], tuple[Params, Losses]]:
    """(params, batch, step) -> (gradients of the trained parameters, losses). Random numbers are functions of the
    recipe's seed and the step; only dropout depends on the number of micro-batches."""

    def loss(
        trained: Params, frozen: Params, part: tuple[jax.Array, jax.Array, jax.Array], key: jax.Array, counts: Any
    ) -> tuple[jax.Array, Terms]:
        params = join(trained, frozen)
        model = with_params(*narrowed(recipe.config, merged(recipe.lora, params), width=stage.width))
        terms = objective(model, params.get("ctc"), *part, counts, recipe=recipe, stage=stage, key=key)
        return terms.total, terms

    def gradients_of(params: Params, batch: Batch, step: jax.Array) -> tuple[Params, Losses]:
        trained, frozen = split(recipe, params)
        noise_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(recipe.seed), step))
        pixels, labels = jnp.asarray(batch.pixels), jnp.asarray(batch.labels)
        counts = count(labels, _of_width(recipe.config, stage.width))
        tokens = decoder_input(labels, recipe.config, token_noise=recipe.token_noise, key=noise_key)
        grad = jax.grad(loss, has_aux=True)
        if stage.micro_batches == 1:
            gradients, terms = grad(trained, frozen, (pixels, tokens, labels), dropout_key, counts)
        else:

            def add(sums: Any, xs: Any) -> tuple[Any, None]:
                part, number = xs
                new = grad(trained, frozen, part, jax.random.fold_in(dropout_key, number), counts)
                return jax.tree.map(jnp.add, sums, new), None

            parts = tuple(_parts(x, stage.micro_batches) for x in (pixels, tokens, labels))
            zeros = (jax.tree.map(jnp.zeros_like, trained), Terms(*[jnp.float32(0)] * len(Terms._fields)))
            (gradients, terms), _ = jax.lax.scan(add, zeros, (parts, jnp.arange(stage.micro_batches)))
        norm = optax.tree.norm(gradients)
        finite = jnp.isfinite(terms.total) & jnp.isfinite(norm)
        return gradients, Losses(**terms._asdict(), gradient_norm=norm, finite=finite)

    return gradients_of


def model_params(recipe: Recipe, state: TrainState) -> Params:
    """The model that a state stands for, a pure dict: averaged if the recipe keeps an average, adapters merged in."""
    params = state.params
    if recipe.optimizer.ema_decay is not None:
        params = join(state.ema, split(recipe, params)[1])
    return merged(recipe.lora, params)


def with_params(config: TrOCRConfig, params: Params) -> TrOCR:
    """A model that holds `params`, a dict of dicts of arrays."""
    graph, state = nnx.split(nnx.eval_shape(lambda: TrOCR(config)))
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)


def narrowed(config: TrOCRConfig, params: Params, *, width: int) -> tuple[TrOCRConfig, Params]:
    """The same model for images of `width` pixels, by the first rows of the position table [1, S, D]. They belong to
    the first columns of patches if images are one row of patches high; `recipe.check` refuses others."""
    if width == config.encoder.image_size[1]:
        return config, params
    config = _of_width(config, width)
    table = params["encoder"]["position_embeddings"][:, : config.encoder.memory_length]
    return config, params | {"encoder": params["encoder"] | {"position_embeddings": table}}


def _of_width(config: TrOCRConfig, width: int) -> TrOCRConfig:
    return replace(config, encoder=replace(config.encoder, image_size=(config.encoder.image_size[0], width)))


def _parts(x: jax.Array, number: int) -> jax.Array:
    """[B, …] -> [number, B / number, …]. Part m takes the rows m, m + number, …, so that every device that holds a run
    of rows works on each part."""
    return jnp.moveaxis(x.reshape(-1, number, *x.shape[1:]), 1, 0)


def _averaged(recipe: Recipe, ema: Any, trained: Params, step: jax.Array) -> Any:
    """The average after one more step. It begins as a short one, so that the first steps do not stay in it: the decay
    is min(ema_decay, (1 + step) / (10 + step)), as TensorFlow's ExponentialMovingAverage has it."""
    if recipe.optimizer.ema_decay is None:
        return ()
    done = step.astype(jnp.float32)
    rest = np.float32(1) - jnp.minimum(np.float32(recipe.optimizer.ema_decay), (1 + done) / (10 + done))
    return jax.tree.map(lambda old, new: old + rest * (new - old), ema, trained)
