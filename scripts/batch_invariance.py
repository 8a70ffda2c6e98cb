"""Counts the lines whose text or score depends on the batch they are read in, their place in it, or the devices.

    python -m scripts.batch_invariance [--lines 2000] [--devices 8] [--searches greedy beam sampling]

Rendered lines are read by the built-in model in order on one device; shuffled, in batches of an odd size with a padded
last one; and shuffled again over all (fake) devices. Ends with status 1 if a score differs by more than 1e-4 or a text
differs. A text may differ without a fault where two continuations are as good as equal: each is shown with its scores.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from random import Random
from typing import Literal

import jax
import numpy as np
import tyro

import trocr_jax
from train.data.render import Renderer

TOLERANCE = 1e-4
Search = Literal["greedy", "beam", "sampling"]
SEARCHES: dict[Search, trocr_jax.DecodeConfig] = {
    "greedy": trocr_jax.DecodeConfig(max_new_tokens=64),
    "beam": trocr_jax.DecodeConfig(max_new_tokens=64, num_beams=4),
    "sampling": trocr_jax.DecodeConfig(max_new_tokens=64, do_sample=True, seed=1),
}


@dataclass(frozen=True)
class Arrangement:
    """One way to read all lines."""

    name: str
    recognizer: trocr_jax.Recognizer
    batch_size: int
    shuffle: int | None  # seed

    def read(self, images: list[np.ndarray], decode: trocr_jax.DecodeConfig) -> list[trocr_jax.Recognition]:
        """In the order of `images`, whatever the order of reading."""
        order = list(range(len(images)))
        if self.shuffle is not None:
            Random(self.shuffle).shuffle(order)
        found = self.recognizer([images[i] for i in order], decode, self.batch_size)
        return [one for _, one in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]


def main(lines: int = 2000, devices: int = 8, searches: tuple[Search, ...] = tuple(SEARCHES)) -> int:
    """Prints a table; see the head of this file."""
    jax.config.update("jax_num_cpu_devices", devices)
    renderer = Renderer.create(split="heldout", seed=0)
    images = [renderer.line(i, max_chars=48).image for i in range(lines)]
    one = trocr_jax.Recognizer.from_pretrained("tiny-printed")
    mesh = jax.make_mesh((devices,), ("data",))
    all_devices = trocr_jax.Recognizer.from_pretrained("tiny-printed", mesh=mesh)
    reference = Arrangement("1 device, batches of 32, in order", one, 32, None)
    others = [
        Arrangement("1 device, batches of 13, shuffled", one, 13, 1),
        Arrangement(f"{devices} devices, batches of {4 * devices}, shuffled", all_devices, 4 * devices, 2),
    ]
    print(f"{lines} lines, held against {reference.name}\n")
    print("| search | read as | texts that differ | largest difference of a score of equal texts | s |")
    print("|---|---|---|---|---|", flush=True)
    failed, shown = False, []
    for search in searches:
        expected = reference.read(images, SEARCHES[search])
        for arrangement in others:
            start = time.perf_counter()
            pairs = list(zip(arrangement.read(images, SEARCHES[search]), expected, strict=True))
            differ = [i for i, (a, b) in enumerate(pairs) if a.token_ids != b.token_ids]
            gap = np.max([abs(a.score - b.score) for a, b in pairs if a.token_ids == b.token_ids], initial=0.0)
            failed |= bool(differ) or not gap <= TOLERANCE
            seconds = time.perf_counter() - start
            print(f"| {search} | {arrangement.name} | {len(differ)} | {gap:.1e} | {seconds:.0f} |", flush=True)
            for i in differ:
                a, b = pairs[i]
                shown.append(
                    f"{search}, {arrangement.name}, line {i}: {a.text!r} {a.score:.6f}, {b.text!r} {b.score:.6f}"
                )
    print("\n".join(["", *shown]))
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(tyro.cli(main))
