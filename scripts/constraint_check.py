"""Reads lines under constraints with every search and counts texts that break them.

    python -m scripts.constraint_check [--lines 2000] [--batch 100] [--tokens 24] [--words 1000000]

Digits alone, `[A-Z]{2}-\\d{4}` and a lexicon, each with greedy search, beam search (4) and sampling, with the built-in
model. One half of the lines is rendered text, most of which satisfies no constraint; the other half is noise. Every
text is checked by itself, with Python's `re` and a set of the words. The lexicon is made of the words of
/usr/share/dict that the tokenizer can spell, if there are any, and of made-up ones. Ends with status 1 if a text breaks
its constraint, or a line has none.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from PIL import Image

from benchmarks.constraints import random_words
from train.data.render import Renderer
from trocr_jax import TrOCR, checkpoint
from trocr_jax.decoding import Decoded, Processor, Special, beam_search, categorical, constraints, greedy, sample
from trocr_jax.errors import DecodeError
from trocr_jax.image import ImageProcessor
from trocr_jax.tokenizer import decode, load_tokenizer
from trocr_jax.tokenizer_spelling import spellings

MODEL = "tiny-printed"
DICTIONARIES = Path("/usr/share/dict")
SEARCHES = ("greedy", "beam 4", "sampling")


def lexicon(count: int, characters: set[str]) -> tuple[list[str], int]:
    """`count` words of these characters, and how many of them are of the system's dictionaries."""
    words: set[str] = set()
    for path in sorted(DICTIONARIES.glob("*")) if DICTIONARIES.is_dir() else []:
        if path.is_file() and not path.name.startswith("README"):
            words.update(path.read_text(encoding="utf-8", errors="ignore").split())
    real = [word for word in sorted(words) if characters.issuperset(word)][: count // 2]
    made_up = [word for word in random_words(count) if word not in words]
    return real + made_up[: count - len(real)], len(real)


def batches(processor: ImageProcessor, lines: int, batch: int) -> Iterator[np.ndarray]:
    """Pixels [batch, H, W, 3] uint8 of rendered lines and of noise in turn."""
    renderer = Renderer.create(split="heldout", seed=0)
    rng = np.random.default_rng(0)
    for first in range(0, lines, batch):
        images = [
            processor.pixels(Image.fromarray(renderer.line(i, max_chars=48).image))
            if i % 2
            else processor.pixels(Image.fromarray(rng.integers(0, 256, (40, 400, 3), np.uint8)))
            for i in range(first, first + batch)
        ]
        yield np.stack(images)


@partial(jax.jit, static_argnames=("name", "length"))
def search(model: TrOCR, cross: Any, keys: jax.Array, processor: Processor, name: str, length: int) -> Decoded:
    """One of SEARCHES over images whose cross-attention is primed."""
    ids, batch = model.config, len(keys)
    special = Special(start=ids.decoder_start_token_id, end=ids.eos_token_id, pad=ids.pad_token_id)
    hypotheses = 4 if name == "beam 4" else 1

    def step(tokens: jax.Array, cache: Any, position: jax.Array) -> tuple[jax.Array, Any]:
        return model.step(tokens, cache, position, cross)

    cache = model.init_cache(batch, hypotheses, length)
    if name == "beam 4":
        return beam_search(
            step,
            cache,
            batch=batch,
            num_beams=4,
            num_return_sequences=4,
            max_new_tokens=length,
            special=special,
            processor=processor,
        )
    choose = categorical(keys) if name == "sampling" else greedy
    return sample(step, cache, batch=batch, max_new_tokens=length, special=special, choose=choose, processor=processor)


@jax.jit
def prime(model: TrOCR, pixels: jax.Array) -> Any:
    return model.prime(model.encode(pixels))


def main(lines: int = 2000, batch: int = 100, tokens: int = 24, words: int = 1_000_000) -> None:
    """Reads the lines and prints a table. The last batch is filled up with further lines."""
    lines += -lines % batch
    model, folder = checkpoint.load(MODEL), checkpoint.resolve(MODEL)
    tokenizer, processor = load_tokenizer(folder), ImageProcessor.from_folder(folder)
    known = spellings(tokenizer)
    listed, real = lexicon(words, {spelling.decode() for spelling in known if spelling})
    entries = set(listed)
    cases: dict[str, tuple[constraints.Constraint, Callable[[str], object]]] = {
        "digits": (constraints.Characters("0123456789"), re.compile("[0-9]*").fullmatch),
        r"[A-Z]{2}-\d{4}": (constraints.Regex(r"[A-Z]{2}-\d{4}"), re.compile(r"[A-Z]{2}-\d{4}").fullmatch),
        f"lexicon, {len(listed):,} words": (
            constraints.Lexicon(listed),
            lambda text: entries.issuperset(text.split(" ")),
        ),
    }
    ids = model.config
    special = Special(start=ids.decoder_start_token_id, end=ids.eos_token_id, pad=ids.pad_token_id)
    compiled, taken = {}, {}
    for name, (spec, _) in cases.items():
        start = time.process_time()
        compiled[name] = constraints.compile(spec, known, special=special, max_new_tokens=tokens)
        taken[name] = time.process_time() - start
    broken = {(name, how): list[str]() for name in cases for how in SEARCHES}
    best: dict[tuple[str, str], set[str]] = {key: set() for key in broken}
    empty = dict.fromkeys(broken, 0)
    seconds = dict.fromkeys(broken, 0.0)
    for number, pixels in enumerate(batches(processor, lines, batch)):
        cross = prime(model, processor.normalize(jnp.asarray(pixels)))
        keys = jax.random.split(jax.random.key(number), batch)
        for name, how in broken:
            start = time.perf_counter()
            found = jax.block_until_ready(search(model, cross, keys, compiled[name], how, tokens))
            seconds[name, how] += time.perf_counter() - start if number else 0.0  # the first one compiles
            scores = np.asarray(found.scores)
            # With fewer texts than beams the other places hold nothing: their scores are transformers' constant, -1e9,
            # or a share of it.
            texts = np.array(decode(tokenizer, np.asarray(found.token_ids))).reshape(scores.shape)
            empty[name, how] += int((~(scores[:, 0] > -1e6)).sum())  # also NaN, whose text is not looked at
            best[name, how].update(texts[:, 0].tolist())
            broken[name, how] += [text for text in texts[scores > -1e6].tolist() if not cases[name][1](text)]
    print(
        f"{lines} lines, half rendered and half noise, {MODEL}, {tokens} tokens at most; {real:,} words of the lexicon"
    )
    print(f"from dictionaries; {time.strftime('%Y-%m-%d')}\n")
    print("| constraint | search | texts that break it | lines without | different texts | s | compiled in, s | MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for (name, how), wrong in broken.items():
        cost = f"{taken[name]:.1f} | {compiled[name].nbytes / 2**20:.2f}"
        print(
            f"| {name} | {how} | {len(wrong)} | {empty[name, how]} | {len(best[name, how])} | {seconds[name, how]:.0f} "
            f"| {cost} |"
        )
        if wrong:
            print(f"    {wrong[:5]}")
    if any(broken.values()) or any(empty.values()):
        sys.exit(1)


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except DecodeError as error:  # --tokens that are too few for a constraint, for example
        sys.exit(str(error))
