"""Where a GPU's time goes: the kernels of encoder and decoder by name, as jax's profiler tells it.

    python -m benchmarks.gpu_kernels [--shape base] [--batch 256] [--tokens 20] [--num-beams 1] [--side trocr_jax]

Random weights, noise for images, every line forced to the same number of tokens, bf16, as `benchmarks.engine` has them.
Printed are a call by the clock, without the profiler; then how often each kernel runs in it and for how long.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax
import tyro

from benchmarks.engine import config_of, images, machine, write_weights
from benchmarks.engine_sides import SIDES
from benchmarks.roofline_measure import seconds


def kernels(call: Callable[[], object]) -> tuple[Counter[str], Counter[str]]:
    """How often kernels ran while it was called, and for how many nanoseconds."""
    times, nanoseconds = Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            call()
        (file,) = Path(folder).rglob("*.xplane.pb")
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            if "GPU" in plane.name:
                for event in (event for line in plane.lines if "Stream" in line.name for event in line.events):
                    times[event.name] += 1
                    nanoseconds[event.name] += event.duration_ns
    return times, nanoseconds


def show(name: str, call: Callable[[], object]) -> None:
    taken = seconds(call)
    times, nanoseconds = kernels(call)
    print(f"\n{name}: a call {1e3 * statistics.median(taken):.2f} ms, its {times.total()} kernels ", end="")
    print(f"{nanoseconds.total() / 1e6:.2f} ms\n\n| kernel | times | µs each | ms |\n|---|---|---|---|")
    for kernel, spent in nanoseconds.most_common(30):
        print(f"| {kernel} | {times[kernel]} | {spent / times[kernel] / 1e3:.2f} | {spent / 1e6:.3f} |")


def main(
    shape: Literal["tiny", "small", "base", "large"] = "base",
    batch: int = 256,
    tokens: int = 20,
    num_beams: int = 1,
    side: Literal["trocr_jax", "trocr_jax-int8", "trocr_jax-float8", "trocr_jax-int8-cache"] = "trocr_jax",
) -> None:
    """Prints a table of each.

    Args:
        shape: of which published model; tiny: of the built-in one.
        batch: lines.
        tokens: written for every line.
        num_beams: hypotheses a line.
        side: of `benchmarks.engine`.
    """
    if jax.default_backend() != "gpu":
        raise SystemExit(f"jax runs on a {jax.default_backend()}: this shows the kernels of a GPU")
    with tempfile.TemporaryDirectory() as folder:
        write_weights(shape, Path(folder))
        engine = SIDES[side](Path(folder), tokens=tokens, num_beams=num_beams, threads=1, dtype="bfloat16")
    pixels = engine.put(images(config_of(shape), batch))
    memory = engine.encode(pixels)
    print(
        f"{shape}, {batch} lines, {tokens} tokens, {num_beams} beams, {side}; {machine()}; {time.strftime('%Y-%m-%d')}"
    )
    show("encoder", lambda: engine.encode(pixels))
    show("decoder", lambda: engine.decode(memory))
    show("whole line", lambda: engine.read(pixels))


if __name__ == "__main__":
    tyro.cli(main)
