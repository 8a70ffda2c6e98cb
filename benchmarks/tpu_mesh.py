"""Generation shared out by lines over TPUs that are not there: memory of a chip, and what chips say to each other.

    python -m benchmarks.tpu_mesh --topologies v5e:2x4 v6e:2x4 v5e:16x16

Every chip has the whole model, base in bf16, and its own part of the batch, as `generate` does it when pixels lie
shared out (docs/architecture.md). Status 1 if a program does not fit or its chips wait for each other. Needs the extra
tpu.
"""

from __future__ import annotations

import sys
from typing import Any

import tyro

GIB = 2**30


def main(
    topologies: tuple[str, ...] = ("v5e:2x4", "v6e:2x4"), batch: int = 512, tokens: int = 20, num_beams: int = 1
) -> int:
    """Prints a row of Markdown for each.

    Args:
        topologies: as of `python -m train compile`.
        batch: lines, on all chips together.
        tokens: at most.
        num_beams: 1 is greedy.
    """
    from train.ahead.environment import prepare

    prepare("tpu")
    from train.ahead.report import compile_program
    from train.ahead.targets import find_target

    print(
        "| chips | lines | GiB of a chip | collectives | collectives a token | compiled, s |\n|---|---|---|---|---|---|"
    )
    well = True
    for topology in topologies:
        target = find_target(topology)
        done = compile_program(lowered(target.devices, batch, tokens=tokens, num_beams=num_beams))
        cells = [topology, str(batch), f"{done.memory / GIB:.2f} of {target.memory / GIB:.2f}"]
        if done.work is None:
            cells += ["does not compile", ""]
            well = False
        else:
            (turn,) = done.work.loops  # the search's
            cells += [said(done.work.count), said(turn.count)]
            well &= not done.work.count and not turn.count
        print(f"| {' | '.join(cells)} | {done.seconds:.0f} |", flush=True)
    return 0 if well else 1


def said(count: dict[str, int]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in sorted(count.items())) or "none"


def lowered(devices: Any, batch: int, *, tokens: int, num_beams: int) -> Any:
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from benchmarks.tpu import SHAPE
    from trocr_jax import DecodeConfig, generation
    from trocr_jax.config import TrOCRConfig
    from trocr_jax.image import ImageProcessor
    from trocr_jax.model import TrOCR

    config, mesh = TrOCRConfig.preset(SHAPE), Mesh(np.array(devices), ("data",))
    every, own = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    shapes = jax.eval_shape(lambda: TrOCR(config, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16))
    model = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=every), shapes)
    height, width = config.encoder.image_size
    pixels = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.uint8, sharding=own)
    search = DecodeConfig(max_new_tokens=tokens, num_beams=num_beams)
    shape, numbers = generation.plan(search, config, placed=generation.Placed("tpu", devices[0].device_kind))
    processor, split = ImageProcessor(height=height, width=width), generation.Split(mesh, "data")
    return generation._generate.lower(model, pixels, numbers, shape, jnp.dtype(jnp.bfloat16), processor, split)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
