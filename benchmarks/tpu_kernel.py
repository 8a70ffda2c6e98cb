"""How long a TPU takes for an image in the kernel of cross-attention, by its compiler's final schedule, without a TPU.

    python -m benchmarks.tpu_kernel --chips v5e v6e --num-beams 1 4

One instruction word (bundle) a cycle; the next images' memory comes meanwhile, so that a turn of the grid takes the
longer of both. Waiting for anything else is not in it: no measurement of a chip. Needs the extra tpu.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.chips import CHIPS as BANDWIDTHS
from benchmarks.chips import target_of

IMAGES = 64  # of the call: more turns of its grid do not change one of them
TOTAL = re.compile(r"total scheduled bundles:\s+(\d+)")


@dataclass(frozen=True)
class Schedule:
    """Seconds of an image: the instructions, and the memory's way from HBM."""

    instructions: float
    memory: float

    @property
    def seconds(self) -> float:
        return max(self.instructions, self.memory)


def main(chips: tuple[str, ...] = ("v5e", "v6e"), num_beams: tuple[int, ...] = (1, 4)) -> None:
    """Prints a row for each.

    Args:
        chips: v5e, v6e. (A v5p is two cores that share the grid.)
        num_beams: hypotheses of an image.
    """
    for chip in chips:
        for beams in num_beams:
            found = schedule(chip, beams)
            print(
                f"{chip}, {beams} hypotheses: instructions {found.instructions * 1e6:.2f} µs an image, memory "
                f"{found.memory * 1e6:.2f}: {found.seconds / found.memory:.2f} times its memory's time",
                flush=True,
            )


def schedule(chip: str, beams: int) -> Schedule:
    """Of base shapes in bf16. The compiler writes its schedule to a folder, asked by the environment when libtpu is
    loaded: hence a process of its own."""
    from train.ahead.environment import NO_MACHINE
    from train.ahead.targets import CHIPS
    from trocr_jax.config import TrOCRConfig
    from trocr_jax.kernels.cross_attention import group_size

    config = TrOCRConfig.preset("base-handwritten")
    with tempfile.TemporaryDirectory() as folder:
        asked = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        environment = os.environ | NO_MACHINE | {"JAX_PLATFORMS": "cpu", "LIBTPU_INIT_ARGS": asked}
        environment["JAX_COMPILATION_CACHE_DIR"] = ""
        command = [sys.executable, "-m", "benchmarks.tpu_kernel", "compile", chip, str(beams)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: status {done.returncode}\n{done.stderr[-2000:]}")
        bundles = bundles_of(Path(folder))
    size = config.encoder.memory_length * config.memory_width * 2
    return Schedule(bundles / group_size(beams) / CHIPS[chip].clock, size / BANDWIDTHS[chip].bandwidth)


def bundles_of(folder: Path) -> int:
    """Of a turn of the grid: the one schedule in a folder of dumps that is a kernel's and not the program's around it.

    Raises RuntimeError if there is not one."""
    files = (file for file in folder.glob("*schedule-analysis_final_bundles.txt") if "-TLP-" not in file.name)
    texts = [text for text in (file.read_text(encoding="utf-8") for file in files) if "tpu_custom_call" in text]
    found = [int(total[1]) for text in texts if (total := TOTAL.search(text))]
    if len(found) != 1:
        raise RuntimeError(f"{folder}: {len(found)} schedules of kernels where one was expected; another libtpu's?")
    return found[0]


def compile_kernel(chip: str, beams: int) -> None:
    import jax
    from jax.sharding import SingleDeviceSharding

    from benchmarks.tpu import TOPOLOGY
    from trocr_jax.config import TrOCRConfig
    from trocr_jax.kernels.cross_attention import read_memory

    config = TrOCRConfig.preset("base-handwritten")
    placed = SingleDeviceSharding(target_of(TOPOLOGY[chip]).devices[0])
    heads, width = config.decoder.num_heads, config.memory_width
    shapes = ((heads, IMAGES * beams, width), (IMAGES, config.encoder.memory_length, width))
    jax.jit(read_memory).lower(
        *(jax.ShapeDtypeStruct(shape, "bfloat16", sharding=placed) for shape in shapes)
    ).compile()


if __name__ == "__main__":
    if sys.argv[1:2] == ["compile"]:
        compile_kernel(sys.argv[2], int(sys.argv[3]))
    else:
        tyro.cli(main)
