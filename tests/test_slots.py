"""Refilled slots: every line reads as in a plain batch, with little more work than its own length, compiling once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.slots import Lengths, drawn_lengths, refilled
from tests.compilations import count_compilations
from tests.small_models import FAMILIES
from tests.tiny import ALPHABET, HEIGHT, WIDTH, line_image, tiny_config, tiny_model
from trocr_jax.decoding import Special, constraints
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.decoding.constraints import Regex
from trocr_jax.decoding.types import Context, Decoded
from trocr_jax.errors import DecodeError
from trocr_jax.generation import generate
from trocr_jax.generation_refill import Refill
from trocr_jax.image import ImageProcessor
from trocr_jax.model import TrOCR

PROCESSOR = ImageProcessor(height=HEIGHT, width=WIDTH, keep_aspect_ratio=True)
LINES = 23


@pytest.fixture(scope="module")
def model() -> TrOCR:
    return tiny_model()


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.stack([PROCESSOR.pixels(line_image(seed)) for seed in range(LINES)])


def plain(model: TrOCR, pixels: np.ndarray, config: DecodeConfig, processor: ImageProcessor | None) -> Decoded:
    return Decoded._make(map(np.asarray, generate(model, jnp.asarray(pixels), config, image_processor=processor)))


def check(model: TrOCR, pixels: np.ndarray, config: DecodeConfig, *, slots: int = 5, group: int = 3) -> Decoded:
    """Slots find what `generate` finds, in every field of Decoded."""
    processor = PROCESSOR if pixels.dtype == np.uint8 else None
    expected = plain(model, pixels, config, processor)
    found = refilled(Refill(model, config, slots=slots, group=group, image_processor=processor), pixels)
    for name in ("token_ids", "beam_indices", "lengths", "truncated"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    for name in ("token_log_probs", "model_log_probs", "scores"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=2e-4, err_msg=name)
    return found


def odd_tokens_late(scores: jax.Array, context: Context) -> jax.Array:
    """A processor of somebody else, who knows one position for all lines: odd tokens are bad from position 4 on."""
    odd = (jnp.arange(scores.shape[-1]) % 2 == 1)[None, None, :]
    here = jax.lax.dynamic_index_in_dim(context.token_ids, context.position, axis=-1, keepdims=False)
    return jnp.where(odd & (context.position >= 4) & (here != 7)[..., None], scores - 3, scores)


CONFIGS = {
    "greedy": DecodeConfig(max_new_tokens=24),
    "beams": DecodeConfig(max_new_tokens=24, num_beams=3, num_return_sequences=2),
    "beams, early stopping": DecodeConfig(max_new_tokens=24, num_beams=3, early_stopping=True, length_penalty=0.5),
    "diverse beams": DecodeConfig(max_new_tokens=16, num_beams=4, num_beam_groups=2, diversity_penalty=0.8),
    "samples": DecodeConfig(max_new_tokens=24, do_sample=True, num_return_sequences=2, seed=7, temperature=0.7),
    "drawn beams": DecodeConfig(max_new_tokens=16, do_sample=True, num_beams=3, seed=3),
    "penalties": DecodeConfig(
        max_new_tokens=24, repetition_penalty=1.3, no_repeat_ngram_size=2, min_new_tokens=5, forced_eos_token_id=2,
        processors=(odd_tokens_late,),
    ),
    "beams, penalties": DecodeConfig(
        max_new_tokens=16, num_beams=3, repetition_penalty=1.3, no_repeat_ngram_size=2, processors=(odd_tokens_late,)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_every_line_reads_as_in_a_plain_batch(model, pixels, name):
    found = check(model, pixels, CONFIGS[name])
    lengths = found.lengths[:, 0]
    assert lengths.max() - lengths.min() > 5, "lines that end together would show little"
    assert len({ids.tobytes() for ids in found.token_ids[:, 0]}) > LINES // 2


def test_constraints_belong_to_the_line(model, pixels):
    special = Special(start=2, end=2, pad=1)
    spellings = [None] * 4 + [letter.encode() for letter in ALPHABET]
    constraint = constraints.compile(Regex("[a-m]+( [n-z]+)?[0-9]{2}"), spellings, special=special, max_new_tokens=16)
    for beams in (1, 3):
        check(model, pixels, DecodeConfig(max_new_tokens=16, num_beams=beams, constraint=constraint))


@pytest.mark.parametrize("tokens", [32, 8])  # keys and values are read, and the memory itself
@pytest.mark.parametrize("family", ["base", "base-stage1"])  # learned positions and sines
def test_families_of_decoders(family, tokens):
    config = FAMILIES[family]
    model = TrOCR(config)
    graph_pixels = np.random.default_rng(1).normal(0, 1, (9, *config.encoder.image_size, 3)).astype(np.float32)
    for beams in (1, 2):
        check(model, graph_pixels, DecodeConfig(max_new_tokens=tokens, num_beams=beams), slots=4, group=2)


@pytest.mark.parametrize(("slots", "group", "lines"), [(1, 1, 3), (4, 8, 5), (16, 4, 10), (3, 2, 1)])
def test_any_number_of_slots_and_of_lines(model, pixels, slots, group, lines):
    check(model, pixels[:lines], DecodeConfig(max_new_tokens=20), slots=slots, group=group)


def test_no_lines_are_no_work(model):
    refill = Refill(model, DecodeConfig(max_new_tokens=8), slots=2, group=2)
    assert list(refill.read([])) == []
    assert refill.steps == refill.lines == 0


def test_work_is_near_the_mean_length(model):
    # More lines than slots by far, as in a long run: at the end of one slots run empty.
    images = np.stack([PROCESSOR.pixels(line_image(seed)) for seed in range(1500)])
    end = tiny_config().eos_token_id
    config = DecodeConfig(max_new_tokens=24, processors=(Lengths(drawn_lengths(11, 4, most=24), end),))
    refill = Refill(model, config, slots=64, group=16, image_processor=PROCESSOR)
    found = refilled(refill, images)
    lengths = found.lengths[:, 0]
    assert 9 < lengths.mean() < 13
    assert lengths.std() > 3
    work = refill.steps * refill.slots / refill.lines
    assert lengths.mean() <= work < 1.1 * lengths.mean()
    plain_work = sum(lengths[i : i + 64].max() * 64 for i in range(0, 1500, 64)) / 1500
    assert plain_work > 1.4 * lengths.mean()  # whom slots beat


@pytest.mark.parametrize("name", ["greedy", "beams"])
def test_nothing_is_compiled_after_the_first_lines(model, pixels, name):
    refill = Refill(model, CONFIGS[name], slots=4, group=3, image_processor=PROCESSOR)
    refilled(refill, pixels[:7])
    with count_compilations() as compiled:
        refilled(refill, pixels)
        refilled(refill, pixels[::-1][:11])
        refilled(Refill(model, CONFIGS[name], slots=4, group=3, image_processor=PROCESSOR), pixels[:2])
    assert compiled == []


def test_groups_are_asked_for_as_slots_fall_free(model, pixels):
    given = []

    def groups() -> Iterator[tuple[list[Any], np.ndarray]]:
        for i in range(100):
            given.append(i)
            yield [i], pixels[i % LINES][None]

    refill = Refill(model, DecodeConfig(max_new_tokens=12), slots=2, group=1, image_processor=PROCESSOR)
    out = 0
    for _ in refill.read(groups()):
        out += 1
        assert len(given) <= out + 2 + 2  # in slots, and waiting
    assert out == len(given) == 100


def test_impossible_options_are_refused(model):
    with pytest.raises(DecodeError, match="max_new_tokens"):
        Refill(model, DecodeConfig(max_new_tokens=1000), slots=2, group=2)
    with pytest.raises(DecodeError, match="slots"):
        Refill(model, DecodeConfig(max_new_tokens=8), slots=0, group=2)


def test_groups_may_be_empty_and_have_a_label_for_each_line(model, pixels):
    refill = Refill(model, DecodeConfig(max_new_tokens=8), slots=2, group=2, image_processor=PROCESSOR)
    groups = [([], pixels[:0]), (["a"], pixels[:1]), ([], pixels[:0]), (["b", "c"], pixels[1:3]), ([], pixels[:0])]
    assert sorted(found.label for found in refill.read(groups)) == ["a", "b", "c"]
    for labels, count in ((["a", "b", "c"], 3), (["a"], 2), ([], 1)):
        with pytest.raises(DecodeError, match=rf"{len(labels)} labels and the pixels of {count} lines: .*at most 2"):
            list(refill.read([(labels, pixels[:count])]))
