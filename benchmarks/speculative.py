"""Speculative search beside greedy search, one image at a time, and what a call of several tokens costs.

    python -m benchmarks.speculative [--lines 200] [--rounds 5] [--json FILE]

Lines: the built-in model reads rendered lines of sentences that it was not trained on. The drafts are n-grams of other
sentences (those of the training split, in their own languages) and n-grams of the lines read so far. Greedy and
speculative search take turns at every image. Compared are the texts, too.

Calls: base-handwritten with random weights, whose texts mean nothing: a call of T tokens beside a step of one, in turn,
and the share of right guesses from which T tokens at once are the faster way.

Byte pairs: what n-grams would guess of a line in tokens like those of the published models.

All times are processor seconds of the process: other work on the same cores does not count.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro

import trocr_jax
from train.data.corpus import load_corpus
from train.evaluate import rendered
from trocr_jax.decoding import sample
from trocr_jax.decoding.speculative import NGramDraft, Speculated, ngram_draft, speculative
from trocr_jax.decoding.types import Decoded, Special

LENGTH = 96
BLOCKS = (2, 3, 4, 6)


@jax.jit
def encode(model: trocr_jax.TrOCR, pixels: jax.Array) -> Any:
    """What both searches do before their first token."""
    return model.prime(model.encode(pixels))


@partial(jax.jit, static_argnames="special")
def greedily(model: trocr_jax.TrOCR, pixels: jax.Array, special: Special) -> Decoded:
    cross = encode(model, pixels)
    return sample(
        lambda tokens, cache, position: model.step(tokens, cache, position, cross),
        model.init_cache(1, 1, LENGTH),
        batch=1,
        max_new_tokens=LENGTH,
        special=special,
    )


@partial(jax.jit, static_argnames=("block", "special"))
def speculatively(
    model: trocr_jax.TrOCR, pixels: jax.Array, draft: NGramDraft, block: int, special: Special
) -> Speculated:
    cross = encode(model, pixels)
    return speculative(
        lambda tokens, cache, position: model.extend(tokens, cache, position, cross),
        model.init_cache(1, 1, LENGTH + block),
        draft=draft,
        block=block,
        max_new_tokens=LENGTH,
        special=special,
    )


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = jax.block_until_ready(run())
    return time.process_time() - start, result


def read_lines(count: int, order: int, sentences: int) -> dict[str, Any]:
    """Greedy and speculative search in turn over the same lines."""
    recognizer = trocr_jax.Recognizer.from_pretrained("tiny-printed")
    model, processor, tokenizer = recognizer.model, recognizer.image_processor, recognizer.tokenizer
    ids = model.config
    special = Special(start=ids.decoder_start_token_id, end=ids.eos_token_id, pad=ids.pad_token_id)
    known = [s for found in load_corpus("train").sentences.values() for s in found[:sentences]]
    others = ngram_draft(tokenizer(known).input_ids, special=special, order=order)

    times: dict[str, list[float]] = {}
    calls: dict[str, int] = {}
    written, equal, compared = 0, 0, 0
    texts: list[list[int]] = []
    earlier = ngram_draft(texts, special=special, order=order)
    images = [image for image, _ in rendered(count, max_chars=64, sentences=True)]
    for index in range(-1, count):  # the first compiles
        if index > 0 and index % 20 == 0:
            earlier = ngram_draft(texts, special=special, order=order)
        pixels = processor.normalize(processor.pixels(images[max(index, 0)])[None])
        runs: dict[str, Callable[[], Any]] = {
            "encoder alone": partial(encode, model, pixels),
            "greedy": partial(greedily, model, pixels, special),
        }
        for name, draft in (("other sentences", others), ("lines so far", earlier)):
            for block in BLOCKS:
                runs[f"{name}, T = {block}"] = partial(speculatively, model, pixels, draft, block, special)
        found = {name: seconds(run) for name, run in runs.items()}
        if index < 0:
            continue
        greedy: Decoded = found["greedy"][1]
        length = int(greedy.lengths[0, 0])
        written += length
        texts.append(greedy.token_ids[0, 0, :length].tolist())
        for name, (taken, result) in found.items():
            times.setdefault(name, []).append(taken)
            if isinstance(result, Speculated):
                calls[name] = calls.get(name, 0) + int(result.calls)
                compared += 1
                equal += bool((result.decoded.token_ids == greedy.token_ids).all())
    base, encoder = times["greedy"], statistics.median(times["encoder alone"])
    return {
        "lines": count,
        "tokens a line": round(written / count, 1),
        "sentences of the draft": len(known),
        "equal texts": f"{equal} of {compared}",
        "ms a line, median: encoder alone": round(1e3 * encoder, 2),
        "ms a line, median: greedy": round(1e3 * statistics.median(base), 2),
        "speculative": {
            name: {
                "tokens a call": round(written / calls[name], 2),
                "right guesses": round(right_guesses(written / calls[name], int(name.split()[-1])), 2),
                "ms a line, median": round(1e3 * statistics.median(taken), 2),
                "times greedy's speed, whole": round(
                    statistics.median(g / s for g, s in zip(base, taken, strict=True)), 2
                ),
                "times greedy's speed, decoding": round(
                    (statistics.median(base) - encoder) / (statistics.median(taken) - encoder), 2
                ),
            }
            for name, taken in times.items()
            if name in calls
        },
    }


def acceptance_of_byte_pairs(count: int, blocks: tuple[int, ...]) -> dict[str, Any]:
    """Tokens kept of a call if a model with a vocabulary like that of the published ones reads the same lines without
    a mistake: byte pairs are learnt, and n-grams of 4 counted, on all sentences of the training split."""
    from tokenizers import ByteLevelBPETokenizer

    known = [sentence for found in load_corpus("train").sentences.values() for sentence in found]
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(known, vocab_size=50265, show_progress=False)
    special = Special(50265, 50266, 50267)
    draft = ngram_draft(
        [[*e.ids, special.end] for e in tokenizer.encode_batch(known)], special=special, order=4, buckets=1 << 22
    )
    texts = [text for _, text in rendered(count, max_chars=64, sentences=True)]

    @partial(jax.jit, static_argnums=1)
    def calls(truth: jax.Array, block: int) -> jax.Array:
        def extend(tokens: jax.Array, cache: Any, position: jax.Array) -> tuple[jax.Array, Any]:
            next_tokens = jax.lax.dynamic_slice_in_dim(truth, position, block)
            return jax.nn.one_hot(next_tokens, 50268, dtype=jnp.float32)[None, None], cache

        return speculative(extend, (), draft=draft, block=block, max_new_tokens=LENGTH, special=special).calls

    rows = [[*tokenizer.encode(text).ids, special.end] for text in texts]
    padded = [jnp.asarray(row + [special.pad] * (2 * LENGTH - len(row)), jnp.int32) for row in rows]
    written = sum(map(len, rows))
    kept = {block: written / sum(int(calls(truth, block)) for truth in padded) for block in blocks}
    return {
        "lines": count,
        "tokens a line": round(written / count, 1),
        "sentences of the draft": len(known),
        "tokens a call": {f"T = {block}": round(tokens, 3) for block, tokens in kept.items()},
        "right guesses": {f"T = {block}": round(right_guesses(tokens, block), 2) for block, tokens in kept.items()},
    }


def expected_tokens(right: float, block: int) -> float:
    """Tokens kept of a call if every guess is right with probability `right`."""
    return sum(right**i for i in range(block))


def right_guesses(tokens: float, block: int) -> float:
    """The probability from which `tokens` are kept of a call: the other way round."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if expected_tokens(middle, block) < tokens else (low, middle)
    return low


def cost_of_calls(preset: str, rounds: int) -> dict[str, Any]:
    """A step of one token and calls of several, in turn, one image."""
    model = trocr_jax.TrOCR(trocr_jax.TrOCRConfig.preset(preset))
    config = model.config
    memory = jnp.zeros((1, config.encoder.memory_length, config.memory_width))
    cross = jax.jit(lambda model, memory: model.prime(memory))(model, memory)
    cache = model.init_cache(1, 1, 32)

    @partial(jax.jit, donate_argnums=2)
    def call(model: trocr_jax.TrOCR, tokens: jax.Array, cache: Any, cross: Any) -> Any:
        return model.extend(tokens, cache, jnp.int32(5), cross)

    times: dict[int, list[float]] = {block: [] for block in (1, *BLOCKS)}
    for number in range(rounds + 1):
        for block, taken in times.items():
            tokens = jnp.zeros((1, 1, block), jnp.int32)
            start = time.process_time()
            logits, cache = call(model, tokens, cache, cross)
            logits.block_until_ready()
            if number:  # the first compiles
                taken.append(time.process_time() - start)
    found: dict[str, Any] = {"preset": preset, "ms, one token": round(1e3 * statistics.median(times[1]), 1)}
    for block in BLOCKS:
        ratio = statistics.median(b / a for a, b in zip(times[1], times[block], strict=True))
        found[f"T = {block}"] = {"times the cost": round(ratio, 2), "right guesses needed": needed(ratio, block)}
    return found


def needed(ratio: float, block: int) -> float | None:
    return round(right_guesses(ratio, block), 2) if ratio < block else None


def main(
    lines: int = 200,
    rounds: int = 20,
    order: int = 6,
    sentences: int = 4_000,
    preset: str = "base-handwritten",
    json_file: Path | None = None,
) -> None:
    """sentences: of each language, for the draft. rounds: of the calls."""
    result = {
        "lines": read_lines(lines, order, sentences),
        "calls": cost_of_calls(preset, rounds),
        "byte pairs": acceptance_of_byte_pairs(lines, BLOCKS),
        "machine": f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "date": time.strftime("%Y-%m-%d"),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if json_file:
        json_file.write_text(text + "\n")


if __name__ == "__main__":
    tyro.cli(main)
