"""From gradients to updates: AdamW (Loshchilov & Hutter 2019), or Muon (Jordan et al. 2024) for the matrices of the
layers with AdamW of Nesterov's momentum (Dozat 2016), as optax has it, for everything else; learning rate, weight decay
and their groups."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

from train.groups import assign, rate
from train.recipe import Optimizer, Recipe
from trocr_jax.sharding import path_name

# (path ending, dimension numbers): which axes of a matrix are its input and output. Paths without an entry take AdamW.
MATRICES = (
    ("query/kernel", MuonDimensionNumbers(reduction_axis=(0,), output_axis=(1, 2))),
    ("key/kernel", MuonDimensionNumbers(reduction_axis=(0,), output_axis=(1, 2))),
    ("value/kernel", MuonDimensionNumbers(reduction_axis=(0,), output_axis=(1, 2))),
    ("out/kernel", MuonDimensionNumbers(reduction_axis=(0, 1), output_axis=(2,))),
    ("fc1/kernel", MuonDimensionNumbers(reduction_axis=(0,), output_axis=(1,))),
    ("fc2/kernel", MuonDimensionNumbers(reduction_axis=(0,), output_axis=(1,))),
)


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """Gradients clipped by their global norm, a direction, weight decay, the learning rate of each group.

    It acts on the trained parameters (`groups.split`); what it keeps ends in their paths.
    """
    o = recipe.optimizer
    steps = [] if o.clip_norm is None else [optax.clip_by_global_norm(o.clip_norm)]
    steps.append(_direction(o))
    if o.weight_decay:
        steps.append(optax.add_decayed_weights(o.weight_decay, mask=lambda params: _decays(recipe, params)))
    steps.append(optax.stateless(lambda updates, _: _scaled(recipe, updates)))
    steps.append(optax.scale_by_learning_rate(schedule(recipe)))
    return optax.chain(*steps)


def schedule(recipe: Recipe) -> optax.Schedule:
    """Steps done -> learning rate: a linear warm-up, then

    - inverse_sqrt: rate · √(warm-up / step), fairseq's, with which TrOCR was fine-tuned (Li et al. 2023),
    - cosine, linear: to zero at the end of the run,
    - constant: with a linear decay to zero over the last `decay_steps`.
    """
    o, total = recipe.optimizer, recipe.total_steps
    warm, left = o.warmup_steps, max(total - o.warmup_steps, 1)

    def inverse_sqrt(step: jax.Array) -> jax.Array:  # of steps after the warm-up
        return o.learning_rate * jnp.sqrt(max(warm, 1) / (step + max(warm, 1)))

    if o.schedule == "inverse_sqrt":
        then = inverse_sqrt
    elif o.schedule == "cosine":
        then = optax.cosine_decay_schedule(o.learning_rate, left)
    elif o.schedule == "linear":
        then = optax.linear_schedule(o.learning_rate, 0.0, left)
    else:
        then = optax.constant_schedule(o.learning_rate)
        if o.decay_steps:
            down = optax.linear_schedule(o.learning_rate, 0.0, o.decay_steps)
            then = optax.join_schedules([then, down], [total - o.decay_steps - warm])
    if not warm:
        return then
    return optax.join_schedules([optax.linear_schedule(o.warmup_from, o.learning_rate, warm), then], [warm])


def dimension_numbers(params: Any) -> Any:
    """For each parameter its dimension numbers as a matrix, or none."""

    def of(path: tuple[Any, ...], _: Any) -> MuonDimensionNumbers | None:
        name = path_name(path)
        return next((numbers for ending, numbers in MATRICES if name.endswith(f"/{ending}")), None)

    return jax.tree_util.tree_map_with_path(of, params)


def _direction(o: Optimizer) -> optax.GradientTransformation:
    """An update against the loss but for its sign, before the learning rate."""
    if o.method == "adamw":
        return optax.scale_by_adam(b1=o.b1, b2=o.b2, eps=o.eps)
    # Muon with the update size of AdamW (RMS 0.2, Liu et al. 2025)
    both = muon(
        1.0,
        eps=o.eps,
        adam_b1=o.b1,
        adam_b2=o.b2,
        muon_weight_dimension_numbers=dimension_numbers,
        consistent_rms=0.2,
    )
    return optax.chain(both, optax.scale(-1.0))


def _decays(recipe: Recipe, params: Any) -> Any:
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    groups = assign(names, recipe.optimizer.groups)
    return jax.tree_util.tree_map_with_path(lambda path, _: groups[path_name(path)].weight_decay, params)


def _scaled(recipe: Recipe, updates: Any) -> Any:
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(updates)]
    groups = assign(names, recipe.optimizer.groups)

    def of(path: tuple[Any, ...], update: jax.Array) -> jax.Array:
        name = path_name(path)
        factor = rate(name, group=groups[name], config=recipe.config, layer_decay=recipe.optimizer.layer_decay)
        return update if factor == 1 else update * jnp.asarray(factor, update.dtype)

    return jax.tree_util.tree_map_with_path(of, updates)
