"""The training step against transformers and torch: loss, every gradient, five AdamW steps; and its own options
(micro-batches, rematerialisation, averages, bf16) against the plain step."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from tests.small_models import FAMILIES, transformers_model
from train.input import IGNORED, Batch
from train.objective import Terms, count, counted, cross_entropy, ctc, decoder_input, normalized, shift_right
from train.optimizer import optimizer
from train.recipe import Lora, Optimizer, Recipe, Stage
from train.step import TrainState, _parts, init_ema, init_state, make_gradients, make_train_step, model_params, narrowed
from train.step import with_params as model_of
from trocr_jax.checkpoint.huggingface import from_tensors
from trocr_jax.checkpoint.names import canonical_key, stored_name
from trocr_jax.checkpoint.parameters import StoredTensor, parameters
from trocr_jax.config import DecoderConfig, EncoderConfig, TrOCRConfig
from trocr_jax.sharding import path_name

pytestmark = pytest.mark.usefixtures("promotion_of_optax")
TOY = TrOCRConfig(
    encoder=EncoderConfig(
        image_size=(8, 32), patch_size=(8, 4), hidden_size=16, num_layers=1, num_heads=2, intermediate_size=24
    ),
    decoder=DecoderConfig(
        vocab_size=24,
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
        cross_attention_hidden_size=16,
        dropout=0.0,
    ),
)
STAGE = Stage(steps=10, batch_size=4, width=32, max_chars=5, ctc_weight=0.3)
RECIPE = Recipe(
    name="toy",
    config=TOY,
    stages=(STAGE,),
    optimizer=Optimizer(learning_rate=1e-2, schedule="constant", warmup_steps=0),
    token_noise=0.2,
    label_smoothing=0.1,
    dtype="float32",
)


def batch_of(config: TrOCRConfig, *, seed: int, rows: int = 3, length: int = 9) -> Batch:
    """Colour pixels; labels that end in IGNORED at different places."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (rows, *config.encoder.image_size, config.encoder.num_channels)).astype(np.uint8)
    labels = rng.integers(4, config.decoder.vocab_size, (rows, length)).astype(np.int32)
    for row in range(rows):
        labels[row, 2 + row :] = config.eos_token_id
        labels[row, 3 + row :] = IGNORED
    return Batch(pixels, labels)


def torch_loss(model: Any, batch: Batch, config: TrOCRConfig, *, label_smoothing: float = 0.0) -> torch.Tensor:
    """What VisionEncoderDecoderModel returns for labels."""
    pixels = torch.from_numpy(batch.pixels.transpose(0, 3, 1, 2).astype(np.float32)) / 127.5 - 1
    labels = torch.from_numpy(batch.labels).long()
    out = model(pixel_values=pixels, labels=labels)
    if not label_smoothing:
        return out.loss
    flat = out.logits.reshape(-1, config.decoder.vocab_size)
    return torch.nn.functional.cross_entropy(flat, labels.reshape(-1), label_smoothing=label_smoothing)


def theirs_of(family: str) -> Any:
    """transformers' model of a family, its own copy. Each matrix keeps the size of what it multiplies: with larger ones
    softmax saturates, and gradients that are differences of nearly equal numbers show the rounding of both sides."""
    model = copy.deepcopy(transformers_model(family))
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2 or "embed" in name or "token" in name:
                parameter.copy_(0.1 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
            else:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
    return model


def ours_of(family: str) -> tuple[TrOCRConfig, dict[str, Any]]:
    """The configuration without dropout, and the parameters of transformers' model."""
    config = FAMILIES[family]
    config = replace(config, decoder=replace(config.decoder, dropout=0.0))
    return config, params_of(theirs_of(family), config)


def params_of(model: Any, config: TrOCRConfig) -> dict[str, Any]:
    tensors = {
        name: StoredTensor(tuple(x.shape), "float32", partial(np.array, x.detach().numpy()))
        for name, x in model.named_parameters()
    }
    return nnx.to_pure_dict(nnx.state(from_tensors(config, tensors, dtype=None, where="torch")))


def by_key(config: TrOCRConfig, params: Any) -> dict[str, np.ndarray]:
    """Parameters, or gradients, of the model under transformers' keys and in its layouts."""
    out = {}
    for path, array in parameters(model_of(config, params)).items():
        key, layout = stored_name(path)
        out[key] = np.asarray(layout.store(np.asarray(array)))
    return out


def recipe_of(config: TrOCRConfig, optimizer: Optimizer, *, label_smoothing: float = 0.0) -> Recipe:
    stage = Stage(steps=5, batch_size=3, width=config.encoder.image_size[1], max_chars=8)
    return Recipe(
        name="parity",
        config=config,
        stages=(stage,),
        optimizer=optimizer,
        label_smoothing=label_smoothing,
        dtype="float32",
    )


# The softmax does not see a key bias: its gradient is zero, and what stands there is rounding.
KEY_BIAS = re.compile(r"\.(key|k_proj)\.bias$")
PLAIN = Optimizer(learning_rate=1e-3, schedule="constant", warmup_steps=0)


@pytest.mark.parametrize("family", ["base", "base-stage1", "large", "small", "bridge"])
def test_loss_and_every_gradient_equal_transformers(family: str) -> None:
    config, params = ours_of(family)
    smoothing = 0.1 if family in ("large", "base-stage1") else 0.0
    batch = batch_of(config, seed=1)
    recipe = recipe_of(config, PLAIN, label_smoothing=smoothing)
    gradients, losses = jax.jit(make_gradients(recipe, recipe.stages[0]))({"model": params}, batch, jnp.int32(0))

    model = theirs_of(family)
    loss = torch_loss(model, batch, config, label_smoothing=smoothing)
    loss.backward()
    assert float(losses.total) == pytest.approx(loss.item(), rel=1e-5)
    found = by_key(config, gradients["model"])
    expected = {canonical_key(name): x.grad for name, x in model.named_parameters()}
    expected.pop(None, None)  # the pooler
    assert found.keys() == expected.keys()
    for name, ours in found.items():
        theirs = expected[name].numpy()
        scale = expected[name.replace("bias", "weight")].numpy() if KEY_BIAS.search(name) else theirs
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * float(np.abs(scale).max()), err_msg=name)


@pytest.mark.parametrize(("family", "clip_norm"), [("base", None), ("large-printed", 0.5)])
def test_five_adamw_steps_equal_torch(family: str, clip_norm: float | None) -> None:
    config, params = ours_of(family)
    o = replace(PLAIN, b1=0.8, b2=0.95, eps=1e-6, weight_decay=0.1, clip_norm=clip_norm)
    recipe = recipe_of(config, o)
    transformation = optimizer(recipe)
    state = TrainState(jnp.int32(0), {"model": params}, transformation.init({"model": params}), ())
    train_step = jax.jit(make_train_step(recipe, recipe.stages[0], transformation))

    model = theirs_of(family)
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
    for step in range(5):
        batch = batch_of(config, seed=step)
        state, losses = train_step(state, batch)
        adamw.zero_grad()
        torch_loss(model, batch, config).backward()
        if clip_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            assert norm > clip_norm
            assert float(losses.gradient_norm) == pytest.approx(norm.item(), rel=1e-4)
        adamw.step()
    assert int(state.step) == 5
    found, before = by_key(config, state.params["model"]), by_key(config, params)
    for name, parameter in model.named_parameters():
        key = canonical_key(name)
        if key is not None:
            np.testing.assert_allclose(found[key], parameter.detach().numpy(), rtol=0, atol=1e-4, err_msg=name)
            assert np.abs(found[key] - before[key]).max() > 1e-3 or KEY_BIAS.search(key)


def random_params(recipe: Recipe) -> Any:
    """Parameters of the structure that the recipe has. To compile the real initialisation takes seconds."""
    rng = np.random.default_rng(11)

    def draw(path: Any, x: Any) -> jax.Array:
        return jnp.asarray(rng.normal(float("scale" in path_name(path)), 0.2, x.shape), x.dtype)

    like = jax.eval_shape(lambda: init_state(recipe, optax.identity())).params
    return jax.tree_util.tree_map_with_path(draw, like)


@pytest.fixture(scope="module")
def toy() -> dict[str, Any]:
    """Parameters, a batch, and their gradients by the plain step."""
    params = random_params(RECIPE)
    batch = batch_of(TOY, seed=3, rows=4, length=6)
    gradients_of = jax.jit(make_gradients(RECIPE, STAGE))
    gradients, losses = gradients_of(params, batch, jnp.int32(5))
    return {
        "params": params,
        "batch": batch,
        "gradients_of": gradients_of,
        "gradients": gradients,
        "losses": losses,
    }


def near(a: Any, b: Any, tolerance: float) -> None:
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    ("recipe", "micro_batches"),
    [(RECIPE, 2), (replace(RECIPE, remat_encoder=True, remat_decoder=True), 1)],
    ids=["2 micro-batches", "remat"],
)
def test_parts_of_a_batch_and_rematerialisation_change_no_number(
    toy: dict[str, Any], recipe: Recipe, micro_batches: int
) -> None:
    gradients_of = jax.jit(make_gradients(recipe, replace(STAGE, micro_batches=micro_batches)))
    gradients, losses = gradients_of(toy["params"], toy["batch"], jnp.int32(5))
    near((gradients, losses), (toy["gradients"], toy["losses"]), 1e-6)


def test_rematerialisation_keeps_less_for_the_backward_pass(toy: dict[str, Any]) -> None:
    def products(recipe: Recipe) -> int:
        text = jax.jit(make_gradients(recipe, STAGE)).lower(toy["params"], toy["batch"], jnp.int32(5)).as_text()
        return text.count("stablehlo.dot_general")

    assert products(replace(RECIPE, remat_encoder=True)) > products(RECIPE)
    assert products(replace(RECIPE, remat_decoder=True)) > products(RECIPE)


def test_bf16_is_near_and_leaves_the_parameters_in_f32(toy: dict[str, Any]) -> None:
    recipe = replace(RECIPE, dtype="bfloat16")
    gradients, losses = jax.jit(make_gradients(recipe, STAGE))(toy["params"], toy["batch"], jnp.int32(5))
    assert {x.dtype for x in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}
    assert float(losses.total) == pytest.approx(float(toy["losses"].total), rel=0.02)
    assert float(losses.total) != float(toy["losses"].total)


def test_random_numbers_belong_to_the_step(toy: dict[str, Any]) -> None:
    gradients_of = toy["gradients_of"]
    again, _ = gradients_of(toy["params"], toy["batch"], jnp.int32(5))
    other, _ = gradients_of(toy["params"], toy["batch"], jnp.int32(6))
    for x, y in zip(jax.tree.leaves(again), jax.tree.leaves(toy["gradients"]), strict=True):
        np.testing.assert_array_equal(x, y)
    assert not np.array_equal(again["model"]["decoder"]["embed_tokens"], other["model"]["decoder"]["embed_tokens"])


@pytest.fixture(scope="module")
def averaged() -> tuple[Recipe, Any, TrainState]:
    recipe = replace(RECIPE, optimizer=replace(RECIPE.optimizer, ema_decay=0.9, weight_decay=0.1))
    transformation = optimizer(recipe)
    params = random_params(recipe)
    state = TrainState(jnp.int32(0), params, transformation.init(params), init_ema(recipe, params))
    return recipe, jax.jit(make_train_step(recipe, STAGE, transformation), donate_argnums=0), state


def test_the_average_follows_its_formula(averaged: tuple[Recipe, Any, TrainState], toy: dict[str, Any]) -> None:
    recipe, train_step, fresh = averaged
    state = jax.tree.map(jnp.copy, fresh)
    expected = np.asarray(state.params["model"]["decoder"]["embed_tokens"], np.float64)
    for step in range(3):
        state, _ = train_step(state, toy["batch"])
        rest = 1 - min(0.9, (1 + step) / (10 + step))
        expected += rest * (np.asarray(state.params["model"]["decoder"]["embed_tokens"]) - expected)
    found = model_params(recipe, state)["decoder"]["embed_tokens"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(expected - state.params["model"]["decoder"]["embed_tokens"]).max() > 1e-3
    assert init_ema(RECIPE, state.params) == ()


def test_a_step_that_is_not_finite_says_so_and_changes_nothing(
    averaged: tuple[Recipe, Any, TrainState], toy: dict[str, Any]
) -> None:
    _, train_step, fresh = averaged
    state, losses = train_step(jax.tree.map(jnp.copy, fresh), toy["batch"])
    assert bool(losses.finite)
    kernel = state.params["model"]["encoder"]["layers"][0]["fc1"]["kernel"]
    state.params["model"]["encoder"]["layers"][0]["fc1"]["kernel"] = kernel.at[0, 0].set(jnp.inf)
    before = jax.tree.map(np.array, state)
    state, losses = train_step(state, toy["batch"])
    assert not bool(losses.finite)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_batch_of_padding_alone_is_no_division_by_zero(averaged: tuple[Recipe, Any, TrainState]) -> None:
    _, train_step, fresh = averaged
    batch = batch_of(TOY, seed=0, rows=4, length=6)
    _, losses = train_step(jax.tree.map(jnp.copy, fresh), batch._replace(labels=np.full_like(batch.labels, IGNORED)))
    assert (float(losses.total), bool(losses.finite)) == (0, True)


def test_rows_of_padding_count_for_nothing(toy: dict[str, Any]) -> None:
    """An uneven last batch is filled up with lines whose labels are all IGNORED: two halves so filled up are, weighted
    by their tokens and lines, the batch."""
    sums, tokens, lines = np.zeros(2), 0.0, 0.0
    for rows in ([0, 1], [2, 3]):
        labels = np.full_like(toy["batch"].labels, IGNORED)
        labels[rows] = toy["batch"].labels[rows]
        _, losses = toy["gradients_of"](toy["params"], toy["batch"]._replace(labels=labels), jnp.int32(5))
        counts = count(jnp.asarray(labels), TOY)
        assert float(counts.lines) == 2
        sums += np.asarray([losses.cross_entropy * counts.tokens, losses.ctc * counts.lines])
        tokens, lines = tokens + float(counts.tokens), lines + float(counts.lines)
    whole = toy["losses"]
    np.testing.assert_allclose(sums, [whole.cross_entropy * tokens, whole.ctc * lines], rtol=1e-5)


def test_grey_pixels_are_equal_channels() -> None:
    grey = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4) * 10
    found = np.asarray(normalized(jnp.asarray(grey), 3, processor=None))
    colour = jnp.asarray(np.repeat(grey[..., None], 3, axis=-1))
    np.testing.assert_array_equal(found, normalized(colour, 3, processor=None))
    np.testing.assert_allclose(found[..., 1], grey / 127.5 - 1, atol=1e-6)


def test_a_head_for_ctc_exists_only_if_a_stage_uses_it() -> None:
    recipe = replace(RECIPE, stages=(replace(STAGE, ctc_weight=0.0),), lora=Lora(rank=1, alpha=1))
    assert set(jax.eval_shape(lambda: init_state(recipe, optimizer(recipe))).params) == {"model", "lora"}
    assert set(jax.eval_shape(lambda: init_state(RECIPE, optimizer(RECIPE))).params) == {"model", "ctc"}


def test_the_narrow_model_reads_the_first_columns(toy: dict[str, Any]) -> None:
    config, params = narrowed(TOY, toy["params"]["model"], width=16)
    model = model_of(config, params)
    table = toy["params"]["model"]["encoder"]["position_embeddings"]
    assert model.encode(jnp.ones((1, 8, 16, 3))).shape == (1, 5, 16)
    np.testing.assert_array_equal(model.encoder.position_embeddings[...], table[:, :5])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_and_shift_equal_torch(smoothing: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 5, 7)).astype(np.float32)
    labels = rng.integers(2, 7, (3, 5)).astype(np.int32)
    labels[0, 3:] = labels[2, 1:] = IGNORED
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits).reshape(-1, 7),
        torch.from_numpy(labels).long().reshape(-1),
        label_smoothing=smoothing,
        reduction="sum",
    )
    mask = counted(jnp.asarray(labels))
    assert int(mask.sum()) == 9
    found = cross_entropy(jnp.asarray(logits), jnp.asarray(labels), mask, label_smoothing=smoothing)
    assert float(found) == pytest.approx(expected.item(), rel=1e-6)
    shifted = shift_right(jnp.asarray(labels), start_token_id=2, pad_token_id=1)
    assert shifted[0].tolist() == [2, *labels[0, :3].tolist(), 1]


def test_a_model_whose_pad_token_ends_the_text_learns_to_end() -> None:
    labels = jnp.asarray([[5, 6, 2, IGNORED], [5, 2, IGNORED, IGNORED]], jnp.int32)
    for pad in (TOY.pad_token_id, TOY.eos_token_id):
        found = count(labels, replace(TOY, pad_token_id=pad))
        assert (int(found.tokens), int(found.lines)) == (5, 2)


def test_ctc_equals_torch_and_leaves_out_lines_that_cannot_fit() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(3, 6, 9)).astype(np.float32)
    labels = np.full((3, 8), IGNORED, np.int32)
    labels[0, :4] = [5, 5, 7, 2]
    labels[1, :3] = [4, 8, 2]
    labels[2, :8] = [4, 5, 6, 7, 8, 4, 5, 2]  # 7 characters in 6 columns
    log_probs = torch.from_numpy(logits).log_softmax(-1).transpose(0, 1)
    losses = []
    for row, characters in ((0, [5, 5, 7]), (1, [4, 8])):
        loss = torch.nn.functional.ctc_loss(
            log_probs[:, row : row + 1],
            torch.tensor([characters]),
            torch.tensor([6]),
            torch.tensor([len(characters)]),
            blank=1,
            reduction="sum",
        )
        losses.append(loss.item() / len(characters))
    found = ctc(jnp.asarray(logits), jnp.asarray(labels), TOY)
    assert float(found) == pytest.approx(sum(losses), abs=1e-4)


def test_noise_leaves_the_start_token_alone() -> None:
    labels = jnp.full((64, 4), 5, jnp.int32)
    found = np.asarray(decoder_input(labels, TOY, token_noise=0.5, key=jax.random.key(0)))
    assert (found[:, 0] == TOY.decoder_start_token_id).all()
    assert 0.3 < (found[:, 1:] != 5).mean() < 0.6


def test_a_line_as_long_as_columns_and_special_tokens_together_is_not_counted() -> None:
    columns = TOY.encoder.memory_length - TOY.encoder.num_special_tokens
    labels = np.full((2, columns + 2), IGNORED, np.int32)
    for row, length in enumerate((3, columns + 1)):
        labels[row, :length] = 4 + np.arange(length) % 3
        labels[row, length] = TOY.eos_token_id
    assert float(count(jnp.asarray(labels), TOY).lines) == 1
    labels[1] = IGNORED
    labels[1, : columns - 1] = 5  # fits, but for the blanks between equal characters
    assert float(count(jnp.asarray(labels), TOY).lines) == 1


def test_the_blank_is_no_character_of_ctc() -> None:
    labels = jnp.asarray([[5, TOY.eos_token_id], [TOY.pad_token_id, TOY.eos_token_id]], jnp.int32)
    assert float(count(labels, TOY).lines) == 1


def test_what_is_not_counted_may_be_anything() -> None:
    logits = jnp.zeros((1, 2, 5)).at[0, 1].set(jnp.nan)
    labels = jnp.asarray([[3, IGNORED]], jnp.int32)
    assert np.isfinite(float(cross_entropy(logits, labels, labels != IGNORED)))


@pytest.fixture(scope="module")
def params() -> Any:
    return random_params(RECIPE)


def drawn(monkeypatch: pytest.MonkeyPatch, params: Any, labels: np.ndarray | None = None, **changes: Any) -> Any:
    """The losses where the objective of a part is a random number of its key, its square, and the lines that count."""

    def objective(model: Any, head: Any, pixels: Any, tokens: Any, labels: Any, counts: Any, **more: Any) -> Terms:
        number = jax.random.uniform(more["key"])
        return Terms(number, number**2, counts.lines, number)

    monkeypatch.setattr("train.step.objective", objective)
    batch = batch_of(TOY, seed=3, rows=4, length=6)
    if labels is not None:
        batch = batch._replace(labels=labels)
    stage = replace(STAGE, **{name: changes.pop(name) for name in ("micro_batches", "width") if name in changes})
    return make_gradients(replace(RECIPE, **changes), stage)(params, batch, jnp.int32(0))[1]


def test_every_seed_and_every_part_of_a_batch_have_random_numbers_of_their_own(
    monkeypatch: pytest.MonkeyPatch, params: Any
) -> None:
    one, other = (float(drawn(monkeypatch, params, seed=seed).total) for seed in (0, 1))
    assert one != other
    parts = drawn(monkeypatch, params, micro_batches=2)
    assert float(parts.cross_entropy) != pytest.approx(float(parts.total) ** 2 / 2)  # as it is of two equal ones


def test_lines_that_ctc_can_read_are_counted_at_the_width_of_the_stage(
    monkeypatch: pytest.MonkeyPatch, params: Any
) -> None:
    labels = np.tile(np.array([4, 5, 6, 7, 8, 2], np.int32), (4, 1))  # five characters: in eight columns, not in four
    assert [float(drawn(monkeypatch, params, labels, width=width).ctc) for width in (32, 16)] == [4, 1]


def test_a_gradient_that_is_not_finite_is_told_though_the_loss_is(monkeypatch: pytest.MonkeyPatch, params: Any) -> None:
    def objective(model: Any, head: Any, *_: Any, **__: Any) -> Terms:
        x = head["bias"].sum() * 0
        return Terms(jnp.sqrt(x * x), *[jnp.float32(0)] * 3)  # 0, and its slope 0 / 0

    monkeypatch.setattr("train.step.objective", objective)
    losses = make_gradients(RECIPE, STAGE)(params, batch_of(TOY, seed=3, rows=4, length=6), jnp.int32(0))[1]
    assert float(losses.total) == 0
    assert not bool(losses.finite)


def test_parts_take_every_nth_row() -> None:
    assert _parts(jnp.arange(6), 2).tolist() == [[0, 2, 4], [1, 3, 5]]
