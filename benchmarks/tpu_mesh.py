"""Generation shared out over TPUs that are not there: memory of a chip, and what chips say to each other.

    python -m benchmarks.tpu_mesh --topologies v5e:2x4 v6e:2x4 v5e:16x16
    python -m benchmarks.tpu_mesh --topologies v5e:2x4 --shape large-handwritten --model 2

Lines are shared out over the axis `data` of a mesh, the model, in bf16, over `--model` chips, as `generate` does it
when pixels and parameters lie so (docs/architecture.md). Status 1 if a program does not fit, or if chips wait for
others that read other lines. Needs the extra tpu.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np
import tyro

GIB = 2**30


def main(
    topologies: tuple[str, ...] = ("v5e:2x4", "v6e:2x4"),
    shape: str = "base-handwritten",
    model: int = 1,
    batch: int = 512,
    tokens: int = 20,
    num_beams: int = 1,
) -> int:
    """Prints a row of Markdown for each.

    Args:
        topologies: as of `python -m train compile`.
        shape: a preset.
        model: chips that share a model; 1 is the whole model on each.
        batch: lines, on all chips together.
        tokens: at most.
        num_beams: 1 is greedy.
    """
    from train.ahead.environment import prepare

    prepare("tpu")
    from benchmarks.chips import target_of
    from train.ahead.report import compile_program

    print("| chips | model | mesh | lines | GiB of a chip | collectives | a token | KiB a token | compiled, s |")
    print("|---|---|---|---|---|---|---|---|---|")
    well = True
    for topology in topologies:
        target = target_of(topology)
        name = f"data={len(target.devices) // model},model={model}"
        done = compile_program(lowered(target.devices, name, shape, batch, tokens=tokens, num_beams=num_beams))
        cells = [topology, shape, name, str(batch), f"{done.memory / GIB:.2f} of {target.memory / GIB:.2f}"]
        if done.work is None:
            cells += ["does not compile", "", ""]
            well = False
        else:
            (turn,) = done.work.loops  # the search's
            cells += [said(done.work.count), said(turn.count), f"{sum(turn.bytes.values()) / 1024:.0f}"]
            apart = all(within(groups, model) for groups in done.work.groups | turn.groups)
            if not apart:
                cells[-3] += ", between lines"
            well &= apart
        print(f"| {' | '.join(cells)} | {done.seconds:.0f} |", flush=True)
    return 0 if well else 1


def said(count: dict[str, int]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in sorted(count.items())) or "none"


def within(groups: str, model: int) -> bool:
    """Whether chips of each of the groups of a collective share a model: chips go by number, `model` to each."""
    return all(len({chip // model for chip in group}) == 1 for group in listed(groups))


def listed(groups: str) -> list[list[int]]:
    """The chips of "{{0,1},{2,3}}" or "[2,2]<=[2,2]T(1,0)", XLA's two ways to write them."""
    if found := re.fullmatch(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", groups):
        shape, axes, order = ([int(n) for n in part.split(",")] if part else [] for part in found.groups())
        return np.arange(np.prod(axes)).reshape(axes).transpose(order or None).reshape(shape).tolist()
    if not re.fullmatch(r"\{(\{[\d,]+\},?)+\}", groups):
        raise ValueError(f"groups of devices {groups!r} are written in a way that is not known")
    return [[int(n) for n in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", groups)]


def lowered(devices: Any, name: str, shape: str, batch: int, *, tokens: int, num_beams: int) -> Any:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from trocr_jax import DecodeConfig, generation
    from trocr_jax.config import TrOCRConfig
    from trocr_jax.image import ImageProcessor
    from trocr_jax.model import TrOCR
    from trocr_jax.sharding import batch_sharding, generation_shardings, make_mesh

    config, mesh = TrOCRConfig.preset(shape), make_mesh(name, devices)
    shapes = jax.eval_shape(lambda: TrOCR(config, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16))
    model = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        shapes,
        generation_shardings(shapes, mesh),
    )
    height, width = config.encoder.image_size
    pixels = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.uint8, sharding=batch_sharding(mesh))
    search = DecodeConfig(max_new_tokens=tokens, num_beams=num_beams)
    processor = ImageProcessor(height=height, width=width)
    return generation.lower(model, pixels, search, dtype=jnp.bfloat16, image_processor=processor)


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
