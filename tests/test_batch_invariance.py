"""Text and score of a line do not depend on what it is read with, where it stands, or over how many devices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import jax.numpy as jnp
import numpy as np
import pytest

from tests import programs
from tests.tiny import save_lines, save_tiny
from trocr_jax import DecodeConfig, Recognition, Recognizer, generate
from trocr_jax.generation_refill import Refill

SEARCHES = {
    "greedy": DecodeConfig(max_new_tokens=20),
    "beam": DecodeConfig(max_new_tokens=20, num_beams=4),
    "sampling": DecodeConfig(max_new_tokens=20, do_sample=True, seed=5),
    "greedy, int8 memory": DecodeConfig(max_new_tokens=8, cache_dtype="int8"),
    "beam, int8 keys and values": DecodeConfig(max_new_tokens=20, num_beams=4, cache_dtype="int8"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def recognizer(folder: Path) -> Recognizer:
    return Recognizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return save_lines(tmp_path_factory.mktemp("lines"), 11)


@pytest.fixture(scope="module")
def alone(recognizer: Recognizer, lines: list[Path]) -> dict[str, list[Recognition]]:
    """Every line read on its own, by every search."""
    found = {name: [recognizer(path, decode)[0] for path in lines] for name, decode in SEARCHES.items()}
    for read in found.values():
        assert len({one.text for one in read}) > 7, "texts must depend on the image, or these tests see nothing"
    return found


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("batch_size", [4, 8])  # 11 lines: two full batches and a padded one, or one of each
def test_a_line_reads_the_same_in_any_company(recognizer, lines, alone, search, batch_size):
    order = list(range(len(lines)))
    Random(batch_size).shuffle(order)
    found = recognizer([lines[i] for i in order], SEARCHES[search], batch_size)
    for i, one in zip(order, found, strict=True):
        assert one.token_ids == alone[search][i].token_ids
        assert one.score == pytest.approx(alone[search][i].score, abs=1e-4)
        np.testing.assert_allclose(one.token_log_probs, alone[search][i].token_log_probs, atol=1e-4)


EIGHT = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
import trocr_jax
from tests.test_batch_invariance import SEARCHES
folder, *lines = sys.argv[1:]
recognizer = trocr_jax.Recognizer.from_pretrained(folder, mesh=jax.make_mesh((8,), ("data",)))
read = {name: recognizer(lines, decode, batch_size=8) for name, decode in SEARCHES.items()}
print(json.dumps({name: [[one.token_ids, one.score] for one in found] for name, found in read.items()}))
"""


def test_a_line_reads_the_same_on_eight_devices(folder, lines, alone):
    found = json.loads(programs.run("-c", EIGHT, str(folder), *map(str, lines)).stdout)
    for search, read in found.items():
        for (token_ids, score), one in zip(read, alone[search], strict=True):
            assert token_ids == one.token_ids
            assert score == pytest.approx(one.score, abs=1e-4)


def test_several_samples_are_the_lines_own(recognizer, lines):
    pixels = np.stack([recognizer.image_processor.pixels(path) for path in lines[:4]])
    decode = DecodeConfig(max_new_tokens=12, do_sample=True, num_return_sequences=3, seed=2)

    def read(pixels: np.ndarray) -> np.ndarray:
        found = generate(recognizer.model, jnp.asarray(pixels), decode, image_processor=recognizer.image_processor)
        return np.asarray(found.token_ids)

    together = read(pixels)
    np.testing.assert_array_equal(read(pixels[::-1]), together[::-1])
    assert any(len({tuple(row) for row in image.tolist()}) == 3 for image in together)  # streams of their own
    same = np.stack([pixels[1]] * 4)
    assert (read(same) == together[1]).all()  # a line twice is the same line


def in_turn(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """The same numbers in an array that begins where a CPU takes it without a copy; grey as soon as it is asked on."""
    memory = np.empty(pixels.nbytes + 64, np.uint8)
    room = memory[-memory.ctypes.data % 64 :][: pixels.nbytes].view(pixels.dtype).reshape(pixels.shape)
    for _ in range(10):
        room[:] = pixels
        yield room
        room[:] = 128


def test_an_array_may_be_filled_again_at_once(recognizer, lines):
    model, config, processor = recognizer.model, DecodeConfig(max_new_tokens=20), recognizer.image_processor
    pixels = np.stack([processor.pixels(path) for path in lines[:8]])
    expected = np.asarray(generate(model, jnp.asarray(pixels), config, image_processor=processor).token_ids)
    for found in [generate(model, room, config, image_processor=processor) for room in in_turn(pixels)]:
        np.testing.assert_array_equal(found.token_ids, expected)
    refill = Refill(model, config, slots=8, group=8, image_processor=processor)
    for line in refill.read((list(range(8)), room) for room in in_turn(pixels)):
        np.testing.assert_array_equal(line.decoded.token_ids, expected[line.label])
