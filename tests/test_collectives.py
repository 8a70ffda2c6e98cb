"""Devices that share a batch do not talk to each other while they decode: seen in the compiled program.

Eight devices have to exist before jax is first used: this file is run as a program.
"""

from __future__ import annotations

import json
import re
from collections import deque

import pytest

from tests import programs

COLLECTIVE = re.compile(r"\b(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(-start)?\(")


def collectives(text: str | None) -> list[str]:
    """Lines of a compiled program that make devices wait for each other."""
    assert text is not None
    return [line.strip() for line in text.splitlines() if COLLECTIVE.search(line)]


def test_a_collective_would_be_seen():
    line = "  %all-reduce.3 = pred[] all-reduce(%x), replica_groups={{0,1}}, to_apply=%and"
    assert collectives(f"%x = f32[2] add(a, b)\n{line}") == [line.strip()]


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, object]]:
    return json.loads(programs.run("-m", "tests.test_collectives").stdout.splitlines()[-1])


@pytest.mark.parametrize("beams", ["1", "3"])
def test_the_decode_loop_has_no_collective(found, beams):
    assert found[beams]["split"] == []
    assert found[beams]["joined"], "left to the compiler, the loop asks all devices whether lines are left"


@pytest.mark.parametrize("beams", ["1", "3"])
def test_devices_find_what_one_finds(found, beams):
    assert found[beams]["equal"] is True


@pytest.mark.parametrize("beams", ["1", "3"])
@pytest.mark.parametrize("place", ["host", "all", "data"])
def test_a_mesh_may_have_explicit_axes(found, beams, place):
    assert found[beams]["explicit"][place] == [True, True]  # generate, and the last of stream


def main() -> None:
    import jax

    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from tests.tiny import HEIGHT, WIDTH, line_image, tiny_model
    from trocr_jax import generation, generation_plan
    from trocr_jax.decoding.config import DecodeConfig
    from trocr_jax.generation_split import split_of
    from trocr_jax.image import ImageProcessor

    processor = ImageProcessor(height=HEIGHT, width=WIDTH, keep_aspect_ratio=True)
    pixels = np.stack([processor.pixels(line_image(seed)) for seed in range(16)])
    mesh = Mesh(np.array(jax.devices()), ("data",))
    model = jax.device_put(tiny_model(), NamedSharding(mesh, PartitionSpec()))
    shared = jax.device_put(pixels, NamedSharding(mesh, PartitionSpec("data")))

    axes = jax.make_mesh((4, 2), ("data", "model"))  # Explicit, as it makes them
    spread = jax.device_put(tiny_model(), NamedSharding(axes, PartitionSpec()))
    explicit = {
        "host": pixels,
        "all": jax.device_put(pixels, NamedSharding(axes, PartitionSpec())),
        "data": jax.device_put(pixels, NamedSharding(axes, PartitionSpec("data"))),
    }

    def described(array: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)

    result = {}
    for beams in (1, 3):
        config = DecodeConfig(max_new_tokens=20, num_beams=beams)
        split = split_of(model, shared)
        shape, numbers = generation_plan.plan(config, model.config, placed=generation_plan.placed_as(shared, split))
        assert split is not None
        lowered = [  # from shapes, as for devices that are not there
            generation.lower(jax.tree.map(described, model), described(shared), config, image_processor=processor),
            generation._generate.lower(model, shared, numbers, shape, jnp.dtype(jnp.float32), processor),
        ]
        texts = [program.compile().as_text() for program in lowered]
        eight = generation.generate(model, shared, config, image_processor=processor)
        one = generation.generate(tiny_model(), jnp.asarray(pixels), config, image_processor=processor)
        result[str(beams)] = {
            "split": collectives(texts[0]),
            "joined": collectives(texts[1]),
            "equal": bool(np.array_equal(eight.token_ids, one.token_ids)),
            "explicit": {
                place: [
                    bool(np.array_equal(found.token_ids, one.token_ids))
                    for found in (
                        generation.generate(spread, images, config, image_processor=processor),
                        deque(generation.stream(spread, images, config, image_processor=processor), 1).pop(),
                    )
                ]
                for place, images in explicit.items()
            },
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
