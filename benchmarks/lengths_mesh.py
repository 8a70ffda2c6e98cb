"""Decoder steps that devices take for lines as they come, and for lines that each of them sorts by length.

    python -m benchmarks.lengths_mesh [--lines 6144] [--devices 8]

Rendered lines, the built-in model, devices that a CPU pretends to be: steps are counted, not timed. Devices do not wait
for each other while they search, so that the sum of steps of the busiest one counts. Texts and scores have to be the
same to the bit; status 1 if they are not.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import tyro

DEFAULT_LINES = 6144


def main(lines: int = DEFAULT_LINES, devices: int = 8, batch: int = 16) -> int:
    """Prints a table. batch: lines of a device."""
    jax.config.update("jax_num_cpu_devices", devices)
    from train.data.render import Renderer
    from trocr_jax import DecodeConfig, Recognition, Recognizer, recognizer_devices, recognizer_lanes
    from trocr_jax.recognizer_batches import Batch
    from trocr_jax.sharding import make_mesh

    recognizer_lanes.WINDOW_SECONDS = math.inf  # of devices that there are
    reader = Recognizer.from_pretrained("tiny-printed", mesh=make_mesh(f"data={devices}"))
    renderer = Renderer.create(split="heldout", seed=0)
    pixels = [reader.image_processor.pixels(renderer.line(i, max_chars=64).image) for i in range(lines)]
    taken = list[np.ndarray]()  # of each search, steps of each device

    def counted(search: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **options: Any) -> Any:
            found = search(*arguments, **options)
            taken.append(np.asarray(found.lengths).reshape(devices, -1).max(axis=1))
            return found

        return counting

    def batches() -> Iterator[Batch]:
        for start in range(0, lines, batch * devices):
            yield Batch.of_pixels(pixels[start : start + batch * devices])

    for search in ("generate", "decode_rows"):
        setattr(recognizer_devices, search, counted(getattr(recognizer_devices, search)))
    read = list[list[tuple[str, float]]]()
    print("| lines | steps a line, busiest device | mean device |\n|---|---|---|")
    for name, window in (("as they come", 1), ("sorted by each device", recognizer_lanes.WINDOW)):
        recognizer_lanes.WINDOW = window
        taken.clear()
        found = reader.read_batches(batches(), DecodeConfig(max_new_tokens=96), batch)
        read.append([(one.text, one.score) for one in found if isinstance(one, Recognition)])
        steps = np.sum(taken, axis=0) * batch * devices / lines
        print(f"| {name} | {steps.max():.1f} | {steps.mean():.1f} |", flush=True)
    same = read[0] == read[1]
    print(f"\ntexts and scores the same: {same}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(tyro.cli(main, description=__doc__))
