"""Muon (Jordan et al. 2024) for the matrices of the layers, AdamW for everything else."""

from __future__ import annotations

from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from train.recipe import Recipe

# (path ending, dimension numbers): which axes of a matrix are its input and output. Paths without an entry take AdamW.
MATRICES = (
    (("query", "kernel"), MuonDimensionNumbers(reduction_axis=(0,), output_axis=(1, 2))),
    (("key", "kernel"), MuonDimensionNumbers(reduction_axis=(0,), output_axis=(1, 2))),
    (("value", "kernel"), MuonDimensionNumbers(reduction_axis=(0,), output_axis=(1, 2))),
    (("out", "kernel"), MuonDimensionNumbers(reduction_axis=(0, 1), output_axis=(2,))),
    (("fc1", "kernel"), MuonDimensionNumbers(reduction_axis=(0,), output_axis=(1,))),
    (("fc2", "kernel"), MuonDimensionNumbers(reduction_axis=(0,), output_axis=(1,))),
)


def dimension_numbers(params: Any) -> Any:
    """For each parameter its dimension numbers as a matrix, or none."""

    def of(path: tuple[Any, ...], _: Any) -> MuonDimensionNumbers | None:
        names = tuple(str(getattr(k, "key", k)) for k in path)
        return next((numbers for ending, numbers in MATRICES if names[-len(ending) :] == ending), None)

    return jax.tree_util.tree_map_with_path(of, params)


def schedule(recipe: Recipe) -> optax.Schedule:
    """Linear warm-up, constant, linear decay to zero over the last `decay_steps`."""
    rate, total = recipe.learning_rate, recipe.total_steps
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, rate, recipe.warmup_steps),
            optax.constant_schedule(rate),
            optax.linear_schedule(rate, 0.0, recipe.decay_steps),
        ],
        [recipe.warmup_steps, total - recipe.decay_steps],
    )


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """Gradients clipped by their global norm, then Muon with the update size of AdamW (RMS 0.2, Liu et al. 2025)."""
    rate = schedule(recipe)
    return optax.chain(
        optax.clip_by_global_norm(recipe.clip_norm),
        muon(
            rate,
            weight_decay=recipe.weight_decay,
            adam_weight_decay=recipe.weight_decay,
            adam_b2=0.99,
            muon_weight_dimension_numbers=dimension_numbers,
            consistent_rms=0.2,
        ),
    )
