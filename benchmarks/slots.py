"""Refilled slots beside plain batches of as many lines: decoder work a line, speed and equality.

    python -m benchmarks.slots [--lines 2915] [--slots 128] [--num-beams 1] [--mean 11 --deviation 4] [--json-file FILE]

A real model (`tiny-printed` unless told otherwise) reads rendered lines and is made to end each of them at a length
drawn for it: as IAM's test lines by default (2,915 lines of 11 tokens on average, deviation 4). Work a line: the steps
of the decoder times the lines in it, divided by the lines read; the least possible is the mean length. Both sides read
the same pixels, in turn; every program is compiled before.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import trocr_jax
from benchmarks.engine import JsonFile, check_json, machine, timed
from tests.compilations import count_compilations
from train.data.render import Renderer
from trocr_jax import generation, generation_plan
from trocr_jax.decoding.loop import last
from trocr_jax.decoding.pytree import pytree
from trocr_jax.decoding.types import Context, Decoded
from trocr_jax.generation_refill import Refill
from trocr_jax.model import TrOCR

KEYED = 3  # tokens that the length of a line is looked up by


@pytree
@dataclass(frozen=True)
class Lengths:
    """Ends every text at a length that belongs to it: lengths [N], end token counted, all above KEYED, looked up by a
    hash of its first tokens."""

    lengths: np.ndarray | jax.Array
    end: int

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        first = context.token_ids[..., 1 : 1 + KEYED].astype(jnp.uint32)
        primes = jnp.asarray([2654435761, 2246822519, 3266489917][:KEYED], jnp.uint32)[None, None, :]
        place = ((first * primes).sum(axis=-1, dtype=jnp.uint32) >> 8) % np.uint32(len(self.lengths))
        length = jnp.asarray(self.lengths)[place.astype(jnp.int32)]  # [B, K]
        ends = (context.position >= KEYED) & (context.position == length - 1)
        is_end = (jnp.arange(scores.shape[-1]) == self.end)[None, None, :]
        return jnp.where(is_end == ends[..., None], scores, -jnp.inf)


def drawn_lengths(mean: float, deviation: float, *, most: int) -> np.ndarray:
    """Lengths from a normal distribution, at least KEYED + 1 and at most `most`."""
    lengths = np.random.default_rng(0).normal(mean, deviation, 4096).round()
    return np.clip(lengths, KEYED + 1, most).astype(np.int32)


class Plain:
    """Batches of `batch` lines. steps: taken by all of them."""

    def __init__(self, recognizer: trocr_jax.Recognizer, decode: trocr_jax.DecodeConfig, batch: int) -> None:
        model, processor, dtype = recognizer.model, recognizer.image_processor, recognizer.dtype
        shape, self.numbers = generation_plan.plan(decode, model.config)
        self.model, self.batch, self.steps = model, batch, 0

        def read(model: TrOCR, pixels: jax.Array, numbers: generation_plan.Numbers) -> tuple[Decoded, jax.Array]:
            memory, keys = generation.read(model, pixels, numbers.seed, dtype, processor, shape=shape)
            search = generation.memory_search(model, memory, keys, numbers, shape, dtype)
            state = last(search)
            return search.finish(state), state.position

        self._read = jax.jit(read)

    def read(self, pixels: np.ndarray) -> Decoded:
        """What is found, in the order of the lines."""
        self.steps, running = 0, []
        for start in range(0, len(pixels), self.batch):
            part = pixels[start : start + self.batch]
            filled = np.concatenate([part, np.repeat(part[:1], self.batch - len(part), axis=0)])
            running.append((len(part), *self._read(self.model, filled, self.numbers)))
        self.steps = sum(int(steps) for _, _, steps in running)
        parts = [[np.asarray(array)[:count] for array in decoded] for count, decoded, _ in running]
        return Decoded._make(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def refilled(refill: Refill, pixels: np.ndarray) -> Decoded:
    """What slots find, in the order of the lines."""
    refill.steps = 0

    def groups() -> Iterator[tuple[list[Any], np.ndarray]]:
        for start in range(0, len(pixels), refill.group):
            part = pixels[start : start + refill.group]
            yield list(range(start, start + len(part))), part

    by_line = {found.label: found.decoded for found in refill.read(groups())}
    return Decoded._make(np.stack(arrays) for arrays in zip(*(by_line[i] for i in sorted(by_line)), strict=True))


def main(
    model: str = "tiny-printed",
    lines: int = 2915,
    slots: int = 128,
    group: int = 16,
    batch: int | None = None,
    num_beams: int = 1,
    max_new_tokens: int = 32,
    mean: float = 11.0,
    deviation: float = 4.0,
    rounds: int = 3,
    natural: bool = False,
    json_file: JsonFile = None,
) -> None:
    """Prints the figures.

    Args:
        model: built-in name or folder.
        lines: rendered.
        slots: lines that are decoded together.
        group: lines that are encoded together.
        batch: of the plain side; as many as slots if none.
        num_beams: hypotheses a line.
        max_new_tokens: at most.
        mean: tokens a line, the end token counted.
        deviation: of the length, in tokens.
        rounds: how often every side has its turn.
        natural: lines end where the model ends them.
        json_file: where the figures go too.
    """
    check_json(json_file)
    recognizer = trocr_jax.Recognizer.from_pretrained(model)
    renderer = Renderer.create(split="heldout", seed=0)
    pixels = np.stack([recognizer.image_processor.pixels(renderer.line(i, max_chars=64).image) for i in range(lines)])
    lengths = Lengths(drawn_lengths(mean, deviation, most=max_new_tokens), recognizer.model.config.eos_token_id)
    decode = trocr_jax.DecodeConfig(
        num_beams=num_beams, max_new_tokens=max_new_tokens, processors=() if natural else (lengths,)
    )
    sides: dict[str, Refill | Plain] = {
        "slots": Refill(recognizer.model, decode, slots=slots, group=group, image_processor=recognizer.image_processor),
        "plain batches": Plain(recognizer, decode, batch or slots),
    }
    result = compare(sides, pixels, rounds=rounds)
    result |= {
        "model": model,
        "slots": slots,
        "beams": num_beams,
        "machine": machine(),
        "versions": {"python": platform.python_version()} | {"jax": jax.__version__},
        "date": time.strftime("%Y-%m-%d"),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if json_file:
        json_file.write_text(text + "\n")


def compare(sides: dict[str, Refill | Plain], pixels: np.ndarray, *, rounds: int) -> dict[str, Any]:
    """Work, speed and equality. The first round compiles and is not counted."""
    found: dict[str, Decoded] = {}
    seconds: dict[str, list[float]] = {name: [] for name in sides}

    def turn() -> None:
        for name, side in sides.items():
            read = partial(refilled, side) if isinstance(side, Refill) else side.read
            taken, found[name] = timed(read, pixels)
            seconds[name].append(taken)

    turn()
    with count_compilations() as compiled:
        for _ in range(rounds):
            turn()
    slots, plain = found.values()
    work = {
        name: side.steps * (side.slots if isinstance(side, Refill) else side.batch) / len(pixels)
        for name, side in sides.items()
    }
    mean = float(slots.lengths[:, 0].mean())
    return {
        "lines": len(pixels),
        "tokens a line": {"mean": round(mean, 2), "deviation": round(float(slots.lengths[:, 0].std()), 2)},
        "work a line, steps": {name: round(steps, 2) for name, steps in work.items()},
        "work a line, of the mean length": {name: round(steps / mean, 3) for name, steps in work.items()},
        "equal texts": int((slots.token_ids[:, 0] == plain.token_ids[:, 0]).all(axis=-1).sum()),
        "largest difference of a score": float(np.abs(slots.scores - plain.scores).max()),
        "lines/s, median": {name: round(len(pixels) / statistics.median(t[1:]), 1) for name, t in seconds.items()},
        "ratio, median of the rounds": round(
            statistics.median(b / a for a, b in list(zip(*seconds.values(), strict=True))[1:]), 2
        ),
        "programs compiled after the first round": len(compiled),
    }


if __name__ == "__main__":
    tyro.cli(main)
