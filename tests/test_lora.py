"""Adapters: nothing changes before the first step, only adapters train, and merging gives the adapted model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.test_step import RECIPE, STAGE, TOY, batch_of, random_params
from train.groups import split
from train.lora import init_adapters, merged
from train.optimizer import optimizer
from train.recipe import Group, Lora
from train.step import (
    TrainState,
    init_ema,
    init_state,
    make_train_step,
    model_params,
    with_params,
)
from trocr_jax import checkpoint
from trocr_jax.attention import einsum
from trocr_jax.errors import ConfigError

pytestmark = pytest.mark.usefixtures("promotion_of_optax")
LORA = Lora(rank=3, alpha=6.0, targets=r".*/(query|out|fc1|patch_embedding)/kernel|decoder/embed_tokens")
WITH_LORA = replace(RECIPE, lora=LORA, optimizer=replace(RECIPE.optimizer, ema_decay=0.9))


@pytest.fixture(scope="module")
def states() -> tuple[TrainState, TrainState]:
    """Before and after three steps."""
    transformation = optimizer(WITH_LORA)
    params = random_params(RECIPE)
    params["lora"] = init_adapters(LORA, params["model"], jax.random.key(0))
    opt_state = transformation.init(split(WITH_LORA, params)[0])
    before = TrainState(jnp.int32(0), params, opt_state, init_ema(WITH_LORA, params))
    train_step = jax.jit(make_train_step(WITH_LORA, STAGE, transformation))
    after = before
    for seed in range(3):
        after, _ = train_step(after, batch_of(TOY, seed=seed, rows=4, length=6))
    return before, after


def leaves_equal(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_only_the_adapters_train(states: tuple[TrainState, TrainState]) -> None:
    before, after = states
    assert leaves_equal(before.params["model"], after.params["model"])
    assert not leaves_equal(before.params["ctc"], after.params["ctc"])  # a head of its own, no part of the model
    for name, pair in after.params["lora"].items():
        for side in ("a", "b"):
            assert not np.array_equal(pair[side], before.params["lora"][name][side]), name
    trained = len(jax.tree.leaves(after.params["lora"])) + 2
    assert len(jax.tree.leaves(after.ema)) == trained
    moments = [x for x in jax.tree.leaves(after.opt_state) if x.ndim]
    assert len(moments) == 2 * trained


def test_at_first_nothing_is_changed(states: tuple[TrainState, TrainState]) -> None:
    before, _ = states
    assert leaves_equal(merged(LORA, before.params), before.params["model"])
    assert merged(None, before.params) is before.params["model"]


def test_the_merged_model_is_the_adapted_model(states: tuple[TrainState, TrainState], tmp_path: Path) -> None:
    """W + 2 a b as one matrix, against x W + 2 (x a) b computed beside it; then once through a model folder."""
    _, after = states
    params = after.params
    weights = merged(LORA, params)
    x = jax.random.normal(jax.random.key(0), (1, 5, 16))
    for side, part in (("encoder", "attention"), ("decoder", "cross_attention")):
        name = f"{side}/layers/0/{part}/query/kernel"
        pair, old = params["lora"][name], params["model"][side]["layers"][0][part]["query"]["kernel"]
        low = einsum("BTD,DR->BTR", x, pair["a"], dtype=jnp.float32)
        beside = 2 * einsum("BTR,RE->BTE", low, pair["b"], dtype=jnp.float32)
        expected = einsum("BTD,DE->BTE", x, old.reshape(16, 16), dtype=jnp.float32) + beside
        new = weights[side]["layers"][0][part]["query"]["kernel"].reshape(16, 16)
        np.testing.assert_allclose(einsum("BTD,DE->BTE", x, new, dtype=jnp.float32), expected, atol=1e-5)
        assert np.abs(beside).max() > 1e-3
    pixels, tokens = jnp.ones((1, 8, 32, 3)), jnp.asarray([[2, 5, 6]], jnp.int32)
    checkpoint.save_huggingface(with_params(TOY, weights), tmp_path)
    logits = with_params(TOY, weights)(pixels, tokens)
    np.testing.assert_allclose(checkpoint.load(tmp_path)(pixels, tokens), logits, atol=1e-5)
    assert np.abs(logits - with_params(TOY, params["model"])(pixels, tokens)).max() > 1e-3


def test_an_average_is_of_the_adapters(states: tuple[TrainState, TrainState]) -> None:
    _, after = states
    found = model_params(WITH_LORA, after)
    assert leaves_equal(found, merged(LORA, {"model": after.params["model"], "lora": after.ema["lora"]}))
    assert not leaves_equal(found, merged(LORA, after.params))


@pytest.mark.parametrize(
    ("targets", "named"), [(r"decoder/.*/biass", "matches no parameter"), (r"decoder/layers/0/.*", "norm/scale")]
)
def test_targets_that_cannot_be_adapted_are_refused(
    states: tuple[TrainState, TrainState], targets: str, named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        init_adapters(Lora(rank=1, alpha=1.0, targets=targets), states[0].params["model"], jax.random.key(0))


def test_the_default_targets_are_the_queries_and_values_of_every_layer() -> None:
    model = jax.eval_shape(lambda: init_state(RECIPE, optimizer(RECIPE))).params["model"]
    adapters = jax.eval_shape(lambda: init_adapters(Lora(rank=2, alpha=2.0), model, jax.random.key(0)))
    assert len(adapters) == 2 * 3
    assert {x.shape for x in jax.tree.leaves(adapters)} == {(16, 2), (2, 16)}


def test_adapters_are_drawn_apart_and_as_large_as_they_should_be() -> None:
    params = random_params(RECIPE)
    lora = Lora(rank=64, alpha=1.0, targets=r".*/(query|key)/kernel")
    adapters = init_adapters(lora, params["model"], jax.random.key(0))
    found = [pair["a"] for pair in adapters.values()]
    assert len({float(a[0, 0]) for a in found}) == len(found) > 1
    assert all(float(a.std()) == pytest.approx(len(a) ** -0.5, rel=0.15) for a in found)


def test_groups_freeze_beside_adapters_too() -> None:
    recipe = replace(
        RECIPE,
        lora=Lora(rank=1, alpha=1.0),
        optimizer=replace(RECIPE.optimizer, groups=(Group("ctc/.*", frozen=True), Group(".*"))),
    )
    params = {"model": {"x": jnp.zeros(1)}, "ctc": {"bias": jnp.zeros(1)}, "lora": {"x": {"a": jnp.zeros(1)}}}
    trained, _ = split(recipe, params)
    assert jax.tree.leaves(trained["ctc"]) == []
    assert len(jax.tree.leaves(trained)) == 1
