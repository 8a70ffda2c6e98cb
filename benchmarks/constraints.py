"""What constraints cost: decode time with each of them over decode time without, and the memory they take.

    python -m benchmarks.constraints [--shape tiny-printed] [--batch 32] [--num-beams 1] [--tokens 32] [--rounds 15]

Decoding alone, from the encoder's output (random numbers) to token ids; every line is made to write the same number of
tokens on every side. All sides take turns in one process (A B C D A B C D …); printed are medians of the rounds' ratios
of elapsed and of processor time, where the latter is steadier beside other work. `--shape tiny-printed` is the built-in
model with its tokenizer of 175 characters; `base` and `small` have random weights in the published shapes and a made-up
vocabulary of their size, whose tokens are bytes and frequent pieces of the words, with and without a space in front.
"""

from __future__ import annotations

import os
import platform
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from trocr_jax import DecodeConfig, TrOCR, TrOCRConfig, checkpoint, generation, generation_plan
from trocr_jax.decoding import constraints
from trocr_jax.errors import DecodeError
from trocr_jax.tokenizer import load_tokenizer
from trocr_jax.tokenizer_spelling import spellings

LETTERS = "etaoinshrdlcumwfgypbvkjxqz"


def random_words(count: int, *, seed: int = 0) -> list[str]:
    """Different words of 3 to 12 letters, the frequent letters more often: the hardest kind of list, for almost
    nothing of it is shared."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        letters = "".join(rng.choices(LETTERS, range(26, 0, -1), k=1 << 20))
        at = 0
        while at + 12 < len(letters) and len(found) < count:
            length = rng.randint(3, 12)
            found[letters[at : at + length]] = None
            at += length
    return sorted(found)


def vocabulary(size: int, words: list[str]) -> list[bytes | None]:
    """Spellings of a made-up byte-level vocabulary: 5 special tokens, all bytes, then the most frequent pieces."""
    pieces: Counter[str] = Counter()
    for word in random.Random(0).sample(words, min(len(words), 50_000)):
        pieces.update(" " + word[:length] for length in range(1, 9))
        pieces.update(word[at : at + length] for at in range(len(word)) for length in range(2, 7))
    frequent = [piece.encode() for piece, _ in pieces.most_common(size - 261)]
    filler = [b"\x00" + str(i).encode() for i in range(size - 261 - len(frequent))]
    return [None] * 5 + [bytes([byte]) for byte in range(256)] + frequent + filler


def main(
    shape: Literal["tiny-printed", "small", "base"] = "tiny-printed",
    batch: int = 32,
    num_beams: int = 1,
    tokens: int = 32,
    rounds: int = 15,
    words: int = 1_000_000,
) -> None:
    """Runs the comparison and prints a table."""
    listed = random_words(words)
    if shape == "tiny-printed":
        model = checkpoint.load(shape)
        known: list[bytes | None] = spellings(load_tokenizer(checkpoint.resolve(shape)))
    else:
        model = TrOCR(TrOCRConfig.preset(f"{shape}-printed"))
        known = vocabulary(model.config.decoder.vocab_size, listed)
    ids = model.config
    special = generation_plan.special_tokens(ids)
    specs: dict[str, constraints.Constraint] = {
        "digits": constraints.Characters("0123456789"),
        "regex ([A-Z]{2}-\\d{4} ?)+": constraints.Regex(r"([A-Z]{2}-\d{4} ?)+"),
        f"lexicon of {len(listed):,} words": constraints.Lexicon(listed),
    }
    sides: dict[str, generation_plan.Numbers] = {}
    notes: dict[str, str] = {"none": "| |"}
    for name, spec in {"none": None, **specs}.items():
        start = time.process_time()
        compiled = spec and constraints.compile(spec, known, special=special, max_new_tokens=tokens)
        if compiled:
            notes[name] = f"{time.process_time() - start:.1f} | {compiled.nbytes / 2**20:.2f} |"
        # One fewer than all: the last token of a text is its end.
        decode = DecodeConfig(
            num_beams=num_beams, max_new_tokens=tokens, min_new_tokens=tokens - 1, constraint=compiled
        )
        plan, sides[name] = generation_plan.plan(decode, model.config)
    run = jax.jit(lambda model, memory, numbers: generation.decode(model, memory, numbers, plan, jnp.float32))
    size = (batch, ids.encoder.memory_length, ids.memory_width)
    memory = jnp.asarray(np.random.default_rng(0).normal(size=size), jnp.float32)

    def seconds(action: Callable[[], np.ndarray]) -> tuple[float, float]:
        elapsed, used = time.perf_counter(), time.process_time()
        action()
        return time.perf_counter() - elapsed, time.process_time() - used

    def text(numbers: generation_plan.Numbers) -> np.ndarray:
        return np.asarray(run(model, memory, numbers).lengths)

    lengths = {name: text(numbers)[:, 0] for name, numbers in sides.items()}  # compiles
    if any((found < tokens - 1).any() for found in lengths.values()):
        sys.exit("some texts ended early: the sides did not do the same work")
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, numbers in sides.items():
            times[name].append(seconds(lambda numbers=numbers: text(numbers)))  # type: ignore[misc]

    print(f"`python -m benchmarks.constraints {' '.join(sys.argv[1:])}` · {shape}, vocabulary {len(known):,}, f32 ·")
    print(f"{os.cpu_count()} cores, {platform.machine()}, jax {jax.__version__} · {time.strftime('%Y-%m-%d')}\n")
    print("| constraint | ms a token | elapsed, ratio | processor time, ratio | compiled in, s | MiB |")
    print("|---|---|---|---|---|---|")
    for name, taken in times.items():
        ratios = [statistics.median(a[i] / b[i] for a, b in zip(taken, times["none"], strict=True)) for i in (0, 1)]
        each = statistics.median(elapsed for elapsed, _ in taken) / tokens * 1000
        print(f"| {name} | {each:.2f} | {ratios[0]:.2f} | {ratios[1]:.2f} | {notes[name]}")


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except DecodeError as error:  # --tokens that are too few for a constraint, for example
        sys.exit(str(error))
