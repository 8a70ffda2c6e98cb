"""Devices that share out lines put them together by length too, each its own: nothing moves between them.

Eight devices have to exist before jax is first used: this file is run as a program.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import programs
from tests.test_render import create
from trocr_jax import recognizer_lanes


@given(shares=st.integers(1, 5), each=st.integers(1, 4), lines=st.lists(st.integers(1, 20), min_size=1, max_size=8))
def test_every_image_is_read_once_and_on_its_device(shares: int, each: int, lines: list[int]) -> None:
    size = shares * each
    rows = np.concatenate([i * size + np.arange(min(n, size)) for i, n in enumerate(lines)])
    order = np.random.default_rng(len(rows)).permutation(rows)
    batches = list(recognizer_lanes._batches(order, size, shares))
    assert sorted(np.concatenate([batch.rows for batch in batches])) == rows.tolist()
    if shares == 1:
        assert np.concatenate([batch.rows for batch in batches]).tolist() == order.tolist()
    for batch in batches:
        assert batch.filled.shape == (size,)
        assert batch.filled.max() < len(lines) * each
        # a share's images: of each batch of the window its own stretch
        local = batch.rows // size * each + batch.rows % each
        assert batch.filled[batch.places].tolist() == local.tolist()
        assert (batch.places // each).tolist() == (batch.rows % size // each).tolist()


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return json.loads(programs.run("-m", "tests.test_lanes_mesh").stdout.splitlines()[-1])


@pytest.mark.parametrize("beams", ["1", "3"])
def test_lines_are_read_to_the_bit_as_they_were(found, beams):
    assert found["data=8"][beams]["windows that were sorted"] > 0
    assert found["data=8"][beams]["sorted"] == found["data=8"][beams]["as they come"]
    assert len({text for text, *_ in found["data=8"][beams]["sorted"]}) > 20


def test_a_model_that_is_shared_out_reads_so_too(found):
    assert found["data=4,model=2"]["1"]["windows that were sorted"] > 0
    texts = [[text for text, *_ in one["1"]["sorted"]] for one in (found["data=4,model=2"], found["data=8"])]
    assert texts[0] == texts[1]


def test_no_program_has_a_collective(found):
    assert found["collectives"] == {"encode": [], "together": [], "decode": []}


def test_its_benchmark_counts_steps_both_ways() -> None:
    create("heldout")  # skipped without fonts
    done = programs.run("-m", "benchmarks.lengths_mesh", "--lines", "24", "--devices", "2", "--batch", "4")
    assert "sorted by each device" in done.stdout


def main() -> None:
    import jax

    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    import jax.numpy as jnp

    from tests.test_collectives import collectives
    from tests.tiny import ALPHABET, HEIGHT, WIDTH, line_image, tiny_model
    from trocr_jax import generation_stages, recognizer_lengths
    from trocr_jax.decoding.config import DecodeConfig
    from trocr_jax.generation_plan import placed_on, plan
    from trocr_jax.generation_slots import Flat
    from trocr_jax.image import ImageProcessor
    from trocr_jax.recognizer import Recognition, Recognizer
    from trocr_jax.recognizer_batches import Batch
    from trocr_jax.recognizer_lengths import LengthGuess
    from trocr_jax.sharding import make_mesh
    from trocr_jax.tokenizer import character_tokenizer

    recognizer_lengths.LEAST_LINES = 16
    recognizer_lanes.WINDOW_SECONDS = math.inf
    guess, moved = LengthGuess.guess, list[bool]()

    def watched(self: LengthGuess, means: np.ndarray) -> np.ndarray:
        lengths = guess(self, means)
        moved.append(bool((np.diff(lengths) < 0).any()))
        return lengths

    LengthGuess.guess = watched  # type: ignore[method-assign]
    processor = ImageProcessor(height=HEIGHT, width=WIDTH, keep_aspect_ratio=True)
    pixels = [processor.pixels(line_image(seed)) for seed in range(270)]  # the last batch is not full
    window = recognizer_lanes.WINDOW

    def batches(size: int) -> Iterator[Batch]:
        for start in range(0, len(pixels), size):
            yield Batch.of_pixels(pixels[start : start + size])

    def read(mesh: str, decode: DecodeConfig) -> list[tuple[Any, ...]]:
        recognizer = Recognizer(tiny_model(7), character_tokenizer(ALPHABET), processor, mesh=make_mesh(mesh))
        each = 16 // recognizer.devices
        found = [one for one in recognizer.read_batches(batches(16), decode, each) if isinstance(one, Recognition)]
        return [(one.text, one.score, one.token_log_probs) for one in found]

    result: dict[str, Any] = {}
    for mesh, searches in {"data=8": (1, 3), "data=4,model=2": (1,)}.items():
        result[mesh] = {}
        for beams in searches:
            decode, own = DecodeConfig(max_new_tokens=20, num_beams=beams), dict[str, Any]()
            moved.clear()
            own["sorted"] = read(mesh, decode)
            own["windows that were sorted"] = sum(moved)
            recognizer_lanes.WINDOW = 1
            own["as they come"] = read(mesh, decode)
            recognizer_lanes.WINDOW = window
            result[mesh][beams] = own
    recognizer = Recognizer(tiny_model(7), character_tokenizer(ALPHABET), processor, mesh=make_mesh("data=8"))
    split, flat = recognizer._on.split, Flat(recognizer.model)
    shape, numbers = plan(DecodeConfig(max_new_tokens=20), recognizer.model.config, placed=placed_on(split))
    given = jax.device_put(np.stack(pixels[:16]), recognizer._on.batch_sharding)
    options: dict[str, Any] = {"shape": shape, "dtype": jnp.dtype("float32"), "split": split}
    encode = partial(generation_stages.encode.lower, flat, given, numbers, image_processor=processor, **options)
    encoded = generation_stages.encode(flat, given, numbers, image_processor=processor, **options)
    rows = np.zeros(16, np.int32)
    lowered = {
        "encode": encode(),
        "together": generation_stages.together.lower((encoded, encoded), split=split),
        "decode": generation_stages.decode.lower(flat, encoded, rows, numbers, **options),
    }
    result["collectives"] = {name: collectives(one.compile().as_text()) for name, one in lowered.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
