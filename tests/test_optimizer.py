"""Schedules against transformers', groups of parameters, layer-wise decay, freezing, Muon's matrices; recipes that
cannot be used."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers

from tests.test_step import RECIPE, STAGE, TOY, random_params
from train.groups import join, rate, split
from train.optimizer import dimension_numbers, optimizer, schedule
from train.recipe import MATRICES_DECAY, Group, Lora, Optimizer, Recipe, WarmStart, check, load_recipe
from trocr_jax.errors import ConfigError
from trocr_jax.sharding import path_name

pytestmark = pytest.mark.usefixtures("promotion_of_optax")
STEPS = 40
RATES = Optimizer(learning_rate=2e-3, warmup_steps=10, warmup_from=0.0)


@pytest.fixture(scope="module")
def params() -> dict[str, Any]:
    return random_params(RECIPE)


def of(o: Optimizer, **changes: Any) -> Recipe:
    return replace(RECIPE, stages=(replace(STAGE, steps=STEPS),), optimizer=o, **changes)


def rates(o: Optimizer) -> list[float]:
    found = schedule(of(o))
    return [float(found(jnp.int32(step))) for step in range(STEPS + 1)]


@pytest.mark.parametrize("warmup", [0, 10])
@pytest.mark.parametrize("name", ["inverse_sqrt", "cosine", "linear", "constant"])
def test_schedules_equal_transformers(name: str, warmup: int) -> None:
    o = replace(RATES, schedule=name, warmup_steps=warmup)
    kind = {"constant": "constant_with_warmup"}.get(name, name)
    sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2e-3)
    options = {"scheduler_specific_kwargs": {"timescale": 1}} if name == "inverse_sqrt" and not warmup else {}
    theirs = transformers.get_scheduler(kind, sgd, num_warmup_steps=warmup, num_training_steps=STEPS, **options)
    expected = []
    for _ in range(STEPS + 1):
        expected.append(theirs.get_last_lr()[0])
        sgd.step()
        theirs.step()
    assert rates(o) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_the_published_schedule_begins_at_1e_8() -> None:
    """fairseq's inverse_sqrt: n / 500 of the way from 1e-8 to the rate, then rate · √(500 / n)."""
    found = schedule(of(Optimizer(learning_rate=2e-5)))
    for step in (0, 1, 250, 500, 501, 2000, 100_000):
        way = 1e-8 + step * (2e-5 - 1e-8) / 500
        expected = way if step < 500 else 2e-5 * 500**0.5 * step**-0.5
        assert float(found(jnp.int32(step))) == pytest.approx(expected, rel=1e-5, abs=2e-12)  # f32 beside 2e-5


def test_a_constant_rate_may_decay_at_the_end() -> None:
    found = rates(replace(RATES, schedule="constant", decay_steps=20))
    assert [found[step] for step in (0, 5, 10, 20, 30, 40)] == pytest.approx([0, 1e-3, 2e-3, 2e-3, 1e-3, 0])


def test_a_parameter_without_a_group_is_refused_by_name(params: dict[str, Any]) -> None:
    groups = (Group(r"model/encoder/.*"), Group(r"model/decoder/layers/.*"))
    with pytest.raises(ConfigError) as raised:
        split(of(replace(RATES, groups=groups)), params)
    for name in ("model/decoder/embed_tokens", "ctc/kernel", "model/decoder/embed_norm/bias"):
        assert name in str(raised.value)
    assert "model/encoder" not in str(raised.value)
    assert "model/decoder/layers" not in str(raised.value)


def test_a_group_without_a_parameter_and_a_training_of_nothing_are_refused(params: dict[str, Any]) -> None:
    for groups, why in (
        ((Group("encoder/.*", frozen=True), Group(".*")), "'encoder/.*' matches no parameter as a whole"),
        ((Group(".*", frozen=True),), "all parameters are frozen"),
    ):
        with pytest.raises(ConfigError, match=why):
            split(of(replace(RATES, groups=groups)), params)


def test_groups_set_the_rate_the_decay_and_what_is_frozen(params: dict[str, Any]) -> None:
    groups = (
        Group(r"model/encoder/.*", frozen=True),
        Group(r"ctc/.*", rate=10.0, weight_decay=False),
        Group(r".*/bias", weight_decay=False),
        Group(r".*", rate=0.5),
    )
    recipe = of(replace(RATES, schedule="constant", warmup_steps=0, weight_decay=0.1, groups=groups))
    trained, frozen = split(recipe, params)
    assert jax.tree.leaves(trained["model"]["encoder"]) == []
    assert jax.tree.leaves(frozen["ctc"]) == []
    joined = join(trained, frozen)
    assert jax.tree.all(jax.tree.map(lambda a, b: a is b, joined, params))
    o = optimizer(recipe)
    ones = jax.tree.map(jnp.ones_like, trained)
    state = o.init(trained)
    assert not any("encoder/layers" in path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(state))
    updates, _ = o.update(ones, state, trained)
    # the first step of Adam on a gradient of ones is the rate itself
    np.testing.assert_allclose(updates["ctc"]["kernel"], -2e-2, rtol=1e-4)
    layer, before = updates["model"]["decoder"]["layers"][0], trained["model"]["decoder"]["layers"][0]
    np.testing.assert_allclose(layer["fc1"]["bias"], -2e-3, rtol=1e-4)
    np.testing.assert_allclose(layer["fc1"]["kernel"], -1e-3 * (1 + 0.1 * before["fc1"]["kernel"]), rtol=1e-4)


def test_decay_of_matrices_alone_names_every_other_parameter(params: dict[str, Any]) -> None:
    recipe = of(replace(RATES, groups=MATRICES_DECAY))
    for path, x in jax.tree_util.tree_leaves_with_path(split(recipe, params)[0]):
        name = path_name(path)
        group = next(g for g in MATRICES_DECAY if re.fullmatch(g.pattern, name))
        matrix = name.endswith("kernel") or name.split("/")[-1] in ("embed_tokens", "embed_positions")
        assert group.weight_decay == matrix, (name, x.shape)


def test_layers_further_down_learn_more_slowly() -> None:
    config = replace(TOY, encoder=replace(TOY.encoder, num_layers=3), decoder=replace(TOY.decoder, num_layers=2))
    expected = {
        "model/encoder/position_embeddings": 4,
        "model/encoder/patch_embedding/kernel": 4,
        "model/encoder/layers/0/fc1/kernel": 3,
        "model/encoder/layers/2/norm_after/scale": 1,
        "model/encoder/norm/scale": 0,
        "model/decoder/embed_tokens": 3,
        "model/decoder/embed_norm/bias": 3,
        "model/decoder/layers/0/fc1/kernel": 2,
        "model/decoder/layers/1/fc1/kernel": 1,
        "model/decoder/output_projection": 0,
        "lora/decoder/layers/0/fc1/kernel/a": 2,
        "lora/decoder/embed_tokens/a": 3,
        "ctc/kernel": 0,
    }
    for path, above in expected.items():
        assert rate(path, group=Group(".*", rate=3.0), config=config, layer_decay=0.5) == 3 * 0.5**above, path


def test_muon_takes_every_matrix_of_the_layers(params: dict[str, Any]) -> None:
    numbers = dimension_numbers(params)["model"]
    layer = numbers["encoder"]["layers"][0]
    assert layer["attention"]["query"]["kernel"].output_axis == (1, 2)
    assert layer["attention"]["out"]["kernel"].reduction_axis == (0, 1)
    assert layer["fc1"]["kernel"] is not None
    assert layer["fc1"]["bias"] is None
    assert numbers["decoder"]["embed_tokens"] is None


def test_muon_steps_are_optaxs(params: dict[str, Any]) -> None:
    """Composed with groups of rate 1 and decay everywhere it is optax's own Muon; frozen parameters are not touched."""
    o = replace(RATES, method="muon", schedule="constant", warmup_steps=0, weight_decay=0.1, b2=0.99)
    frozen = of(replace(o, groups=(Group(r"model/encoder/.*", frozen=True), Group(r".*"))))
    trained, _ = split(frozen, params)
    expected = optax.contrib.muon(
        2e-3,
        weight_decay=0.1,
        adam_weight_decay=0.1,
        adam_b2=0.99,
        muon_weight_dimension_numbers=dimension_numbers,
        consistent_rms=0.2,
    )
    key = jax.random.key(0)
    gradients = jax.tree.map(lambda x: jax.random.normal(key, x.shape), trained)
    steps = [
        jax.jit(lambda g, p, t=transformation: t.update(g, t.init(p), p)[0])(gradients, trained)
        for transformation in (optimizer(frozen), expected)
    ]
    for a, b in zip(*map(jax.tree.leaves, steps), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_an_unknown_recipe_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no-such"):
        load_recipe("no-such")


def test_a_field_that_a_recipe_does_not_have_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import train.recipes

    text = "from train.recipe import Recipe\nRECIPE = Recipe(nmae='x')\n"
    (tmp_path / "misspelt_recipe.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(train.recipes, "__path__", [*train.recipes.__path__, str(tmp_path)])
    with pytest.raises(ConfigError, match=r"train/recipes/misspelt_recipe.py: .*'nmae'.*train/recipe.py"):
        load_recipe("misspelt-recipe")


@pytest.mark.parametrize(
    ("stages", "data", "message"),
    [
        ("STAGE", "DATA", "'Stage' object is not iterable; the fields are in train/recipe.py"),
        ("(STAGE,)", "Data(train=Pictures())", r"must be an iterable, not Pictures; the fields are"),
        (
            "(replace(STAGE, steps=1e3, width=40.0),)",
            "DATA",
            r"stages\[0\].steps is 1000.0; give a whole number; .*width",
        ),
        (
            "(STAGE,)",
            "replace(DATA, train=(Rendered(style='handwritten'),))",
            "'handwritten'; supported: printed, handwr",
        ),
        ("(STAGE,)", "replace(DATA, augmentation='randaug')", "data names 'randaug'; supported: none, paper, randaug"),
    ],
)
def test_what_is_easily_mistaken_in_a_recipe_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stages: str, data: str, message: str
) -> None:
    import train.recipes

    text = (
        "from dataclasses import replace\n"
        "from train.data.parts import Data, Pictures, Rendered\n"
        "from train.recipes.tiny_printed import RECIPE\n"
        "STAGE, DATA = RECIPE.stages[0], Data(train=(Pictures(),))\n"
        f"RECIPE = replace(RECIPE, stages={stages}, data={data})\n"
    )
    (tmp_path / "mistaken.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(train.recipes, "__path__", [*train.recipes.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "train.recipes.mistaken", raising=False)
    with pytest.raises(ConfigError, match=message):
        load_recipe("mistaken")


def test_counts_that_would_divide_by_zero_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"log_every is 0; give at least 1; save_every is 0; give at least 1"):
        check(replace(RECIPE, log_every=0, save_every=0))


@pytest.mark.parametrize("name", ["tiny-printed", "tiny-printed-further"])
def test_the_recipes_of_the_tree_can_be_used(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    rate_at = schedule(recipe)
    assert float(rate_at(jnp.int32(recipe.total_steps))) == 0
    assert float(rate_at(jnp.int32(recipe.total_steps // 2))) == pytest.approx(recipe.optimizer.learning_rate)


def test_everything_that_is_wrong_with_a_recipe_is_said_at_once() -> None:
    check(RECIPE)
    stage = replace(STAGE, batch_size=6, micro_batches=4, width=30, max_chars=99, steps=0)
    o = Optimizer(
        learning_rate=0.0,
        method="sgd",
        schedule="step",
        decay_steps=5,
        b1=1.0,
        layer_decay=-1.0,
        ema_decay=2.0,
        groups=(Group("("),),
    )
    wrong = replace(
        RECIPE, stages=(stage,), optimizer=o, dtype="float16", label_smoothing=1.0, lora=Lora(rank=0, alpha=1.0)
    )
    with pytest.raises(ConfigError) as raised:
        check(wrong)
    words = "stages[0].steps micro_batches width max_chars method schedule decay_steps b1 learning_rate layer_decay"
    for word in [*words.split(), "ema_decay", "regular expression", "dtype", "label_smoothing", "lora.rank"]:
        assert word in str(raised.value), word
    nan = float("nan")
    odd = replace(
        RECIPE,
        stages=(replace(STAGE, cross_entropy_weight=0.0, ctc_weight=0.0),),
        optimizer=replace(RECIPE.optimizer, weight_decay=nan, groups=(Group(".*", rate=nan), Group(".+", rate=-1.0))),
        lora=Lora(rank=1, alpha=0.0),
    )
    with pytest.raises(ConfigError) as raised:
        check(odd)
    for words in (
        "cross_entropy_weight is 0.0 and",
        "weight_decay",
        "'.*' is nan",
        "'.+' is -1.0",
        "lora.alpha is 0.0",
    ):
        assert words in str(raised.value), words
    with pytest.raises(ConfigError, match="stages is empty"):
        check(replace(RECIPE, stages=()))
    with pytest.raises(ConfigError, match="neither an encoder nor a decoder"):
        check(replace(RECIPE, start_from=WarmStart()))


@pytest.mark.parametrize(
    ("path", "above"),
    [("encoder/cls_token", 2), ("encoder/distillation_token", 2), ("decoder/embed_positions", 2)],
)
def test_embeddings_are_the_layer_under_the_first(path: str, above: int) -> None:
    assert rate(f"model/{path}", group=Group(".*"), config=TOY, layer_decay=0.5) == 0.5**above


def test_muon_takes_the_settings_of_adamw() -> None:
    """For what is no matrix of a layer, with Nesterov's momentum as optax has it; b1 cancels in a first step."""
    o = Optimizer(learning_rate=1e-2, method="muon", schedule="constant", warmup_steps=0, b1=0.5, b2=0.9, eps=0.1)
    o = replace(o, weight_decay=0.0, clip_norm=None)
    params = {"ctc": {"bias": jnp.zeros(3)}}
    both = optimizer(replace(RECIPE, optimizer=o)), optax.nadam(1e-2, b1=0.5, b2=0.9, eps=0.1)
    found = []
    for transformation in both:
        state = transformation.init(params)
        for gradient in (jnp.array([1.0, -2.0, 0.3]), jnp.array([-0.5, 0.1, 0.2])):
            updates, state = transformation.update({"ctc": {"bias": gradient}}, state, params)
        found.append(updates["ctc"]["bias"])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
