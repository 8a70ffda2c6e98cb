"""The training application on a toy model and toy lines: it learns, it stops, and it goes on bit for bit."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from train.checkpoints import Checkpoints
from train.data.render import Line
from train.data.text import ALPHABET
from train.input import FIRST_CHARACTER_ID, IGNORED, Examples, batches, character_ids, fit
from train.loop import train
from train.objective import cross_entropy, ctc, shift_right
from train.optimizer import dimension_numbers, optimizer, schedule
from train.recipe import Recipe, Stage, load_recipe, spans
from train.step import TrainState, init_state, narrowed, with_params
from trocr_jax.config import DecoderConfig, EncoderConfig, TrOCRConfig
from trocr_jax.image import ImageProcessor
from trocr_jax.tokenizer import character_tokenizer

CONFIG = TrOCRConfig(
    encoder=EncoderConfig(
        image_size=(8, 64), patch_size=(8, 4), hidden_size=32, num_layers=1, num_heads=2, intermediate_size=64
    ),
    decoder=DecoderConfig(
        vocab_size=FIRST_CHARACTER_ID + len(ALPHABET),
        hidden_size=32,
        num_layers=1,
        num_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
        cross_attention_hidden_size=32,
        dropout=0.1,
    ),
)
RECIPE = Recipe(
    name="toy",
    config=CONFIG,
    stages=(
        Stage(steps=3, batch_size=4, width=32, max_chars=4, cross_entropy_weight=0.0, ctc_weight=1.0),
        Stage(steps=5, batch_size=4, width=64, max_chars=8, ctc_weight=0.5),
    ),
    learning_rate=3e-3,
    warmup_steps=2,
    decay_steps=2,
    token_noise=0.1,
    dtype="float32",
    log_every=1,
    save_every=2,
)


@dataclass(frozen=True)
class Bars:
    """Stands in for the renderer: each letter is a bar of its own height."""

    def line(self, index: int, *, max_chars: int) -> Line:
        rng = np.random.default_rng(index)
        text = "".join(rng.choice(list("abcde"), size=rng.integers(1, max_chars + 1)))
        image = np.full((8, 4 * len(text)), 255, np.uint8)
        for i, letter in enumerate(text):
            image[: 1 + "abcde".index(letter), 4 * i : 4 * i + 3] = 0
        return Line(image, text)


@pytest.fixture(autouse=True)
def promotion_of_optax() -> Iterator[None]:
    """optax's own arithmetic promotes types and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def leaves(folder: Path, recipe: Recipe) -> list[np.ndarray]:
    like = jax.jit(lambda: init_state(recipe, optimizer(recipe)))()
    with Checkpoints(folder / "checkpoints") as checkpoints:
        state = checkpoints.restore(like)
    return [np.asarray(x) for x in jax.tree.leaves(state)]


def test_a_run_stopped_anywhere_ends_with_the_same_bits(tmp_path: Path) -> None:
    train(RECIPE, tmp_path / "whole", workers=0, renderer=Bars())
    for stop in (2, 4):  # inside the first stage, inside the second
        cut = []
        for span in spans(RECIPE):
            steps = min(span.last_step, stop) - span.first_step
            if steps > 0:
                cut.append(replace(span.stage, steps=steps))
        # the schedule is the whole run's: only the stages end early
        folder = tmp_path / f"stopped-{stop}"
        decay = RECIPE.decay_steps - (RECIPE.total_steps - stop)
        train(replace(RECIPE, stages=tuple(cut), decay_steps=max(decay, 0)), folder, workers=0, renderer=Bars())
        train(RECIPE, folder, workers=0, renderer=Bars())
        for a, b in zip(leaves(tmp_path / "whole", RECIPE), leaves(folder, RECIPE), strict=True):
            np.testing.assert_array_equal(a, b)
    rows = [json.loads(row) for row in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 9))


def test_a_signal_saves_and_ends_the_run(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Killer(Bars):
        """Signals this process while the batch of the sixth step is drawn."""

        def line(self, index: int, *, max_chars: int) -> Line:
            if index == 5 * 4:
                signal.raise_signal(signal.SIGTERM)
            return super().line(index, max_chars=max_chars)

    before = signal.getsignal(signal.SIGTERM)
    train(RECIPE, tmp_path, workers=0, renderer=Killer())
    assert signal.getsignal(signal.SIGTERM) is before
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert 3 <= (checkpoints.latest_step or 0) < 8
    train(RECIPE, tmp_path, workers=0, renderer=Bars())
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest_step == 8


def test_the_loss_falls(tmp_path: Path) -> None:
    stage = Stage(steps=60, batch_size=16, width=64, max_chars=4, ctc_weight=0.2)
    train(replace(RECIPE, stages=(stage,), log_every=10), tmp_path, workers=0, renderer=Bars())
    rows = [json.loads(row) for row in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["cross_entropy"] < rows[0]["cross_entropy"] / 1.5


def test_batches_go_on_at_any_step() -> None:
    span = spans(RECIPE)[1]
    examples = Examples(Bars(), character_ids(ALPHABET), height=8, width=64, max_chars=8, eos_token_id=2)
    whole = list(batches(RECIPE, span, step=3, examples=examples, workers=0))
    rest = list(batches(RECIPE, span, step=6, examples=examples, workers=0))
    assert len(whole) == 5
    assert len(rest) == 2
    for a, b in zip(whole[3:], rest, strict=True):
        np.testing.assert_array_equal(a.pixels, b.pixels)
        np.testing.assert_array_equal(a.labels, b.labels)


def test_labels_are_the_tokenizers() -> None:
    tokenizer = character_tokenizer(ALPHABET)
    ids = character_ids(ALPHABET)
    text = "Fuchs „springt” für 12,5 % ¡olé!"
    assert [ids[c] for c in text] == tokenizer(text).input_ids[:-1]


@pytest.mark.parametrize("shape", [(30, 200), (50, 3000), (8, 8), (64, 1)])
def test_training_sees_the_pixels_that_the_image_processor_makes(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    processor = ImageProcessor(height=40, width=960, keep_aspect_ratio=True)
    np.testing.assert_array_equal(fit(image, height=40, width=960), processor.pixels(image)[..., 0])


def test_the_narrow_model_reads_the_first_columns() -> None:
    state = init_state(RECIPE, optimizer(RECIPE))
    config, params = narrowed(CONFIG, state.params["model"], width=32)
    model = with_params(config, params)
    table = state.params["model"]["encoder"]["position_embeddings"]
    assert model.encode(jnp.ones((1, 8, 32, 3))).shape == (1, 9, 32)
    np.testing.assert_array_equal(model.encoder.position_embeddings[...], table[:, :9])


def test_cross_entropy_and_shift_equal_torch() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 5, 7)).astype(np.float32)
    labels = rng.integers(0, 7, (3, 5)).astype(np.int32)
    labels[0, 3:] = labels[2, 1:] = IGNORED
    expected = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits).reshape(-1, 7), torch.from_numpy(labels).long().reshape(-1)
    )
    assert float(cross_entropy(jnp.asarray(logits), jnp.asarray(labels))) == pytest.approx(expected.item(), abs=1e-6)
    shifted = shift_right(jnp.asarray(labels), start_token_id=2, pad_token_id=1)
    assert shifted[0].tolist() == [2, *labels[0, :3].tolist(), 1]


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
    found = ctc(jnp.asarray(logits), jnp.asarray(labels), eos_token_id=2, blank_id=1)
    assert float(found) == pytest.approx(np.mean(losses), abs=1e-4)


def test_the_schedule_warms_up_holds_and_decays() -> None:
    rate = schedule(RECIPE)
    assert [float(rate(s)) for s in (0, 2, 5, 6, 8)] == pytest.approx([0, 3e-3, 3e-3, 3e-3, 0])


def test_muon_takes_every_matrix_of_the_layers() -> None:
    params = init_state(RECIPE, optax.identity()).params
    numbers = dimension_numbers(params)["model"]
    layer = numbers["encoder"]["layers"][0]
    assert layer["attention"]["query"]["kernel"].output_axis == (1, 2)
    assert layer["attention"]["out"]["kernel"].reduction_axis == (0, 1)
    assert layer["fc1"]["kernel"] is not None
    assert layer["fc1"]["bias"] is None
    assert numbers["decoder"]["embed_tokens"] is None


def test_an_unknown_recipe_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no-such"):
        load_recipe("no-such")


def test_states_survive_the_disk(tmp_path: Path) -> None:
    state = init_state(RECIPE, optimizer(RECIPE))
    state = TrainState(jnp.int32(7), state.params, state.opt_state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step == 7
        for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(checkpoints.restore(state)), strict=True):
            np.testing.assert_array_equal(a, b)
