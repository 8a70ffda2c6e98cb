"""The measured side of `benchmarks.roofline`: what this machine's products and memory reach, and how long its programs
take."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import trocr_jax
from benchmarks.chips import Chip, chip_of
from benchmarks.engine import images
from benchmarks.roofline import PROGRAMS, Asked, bound, counted, line, programs
from trocr_jax.encoder import cached_micro_batch, in_micro_batches
from trocr_jax.generation_plan import plan

ROUNDS = 5


def this_machine() -> Chip:
    """The accelerator that jax has, by its maker's figures; a CPU by measurement."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        kinds = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "int8": jnp.int8}
        return Chip("cpu", (), {name: product_rate(kind) for name, kind in kinds.items()}, bandwidth())
    chip = chip_of(device.device_kind)
    if chip is None:
        raise SystemExit(f"{device.device_kind} is in no table: add it to benchmarks/chips.py")
    return chip


def product_rate(kind: Any, size: int = 2048) -> float:
    """Operations a second of a large product, the best of a few."""
    x = jnp.ones((size, size), kind)
    out = jnp.int32 if kind == jnp.int8 else jnp.float32
    product = jax.jit(lambda x, y: jnp.einsum("ij,jk->ik", x, y, preferred_element_type=out))
    return 2 * size**3 / min(seconds(lambda: product(x, x), rounds=10))


def bandwidth(megabytes: int = 512) -> float:
    """Bytes a second of reading what is far larger than any cache, the best of a few: numbers added up by numpy, a part
    of them on each core, or a product of a matrix with one row, whichever is faster."""
    numbers = np.ones((megabytes, 1 << 18), np.float32)
    parts = np.array_split(numbers, os.cpu_count() or 1)
    with ThreadPoolExecutor(len(parts)) as pool:
        added = min(seconds(lambda: list(pool.map(np.sum, parts)), rounds=10))
    matrix, row = jnp.asarray(numbers.reshape(1 << 14, -1)), jnp.ones((1, 1 << 14), jnp.float32)
    product = jax.jit(lambda row, matrix: row @ matrix)
    return numbers.nbytes / min(added, *seconds(lambda: product(row, matrix), rounds=10))


def seconds(function: Callable[[], Any], *, rounds: int = ROUNDS) -> list[float]:
    """Of each call but the first, which compiles."""
    taken = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        jax.block_until_ready(function())
        taken.append(time.perf_counter() - start)
    return taken[1:]


def measured(asked: Asked, platform: str) -> dict[str, float]:
    """Seconds of each program and of a whole batch from pixels to text, medians."""
    model, dtype = asked.model(platform), asked.compute(platform)
    made = programs(asked, platform)
    search = trocr_jax.DecodeConfig(num_beams=asked.num_beams, max_new_tokens=asked.tokens, min_new_tokens=asked.tokens)
    scores = plan(search, model.config)[0].scores_bytes
    size = cached_micro_batch(model.config.encoder, asked.batch, scores)
    encoder = jax.jit(lambda m, pixels: in_micro_batches(partial(m.encode, dtype=dtype), pixels, size))
    preparation, steps = jax.jit(made["preparation"]), jax.jit(made["step"], donate_argnums=2)
    pixels = jnp.asarray(images(model.config, asked.batch))
    memory = encoder(model, pixels)
    cross = preparation(model, memory)
    cache = model.init_cache(asked.batch, asked.num_beams, asked.tokens, dtype=dtype)
    tokens = jnp.full((asked.batch, asked.num_beams), 5, jnp.int32)

    def step() -> jax.Array:
        nonlocal cache
        logits, cache = steps(model, tokens, cache, jnp.int32(asked.tokens - 1), cross)
        return logits

    calls: dict[str, Callable[[], Any]] = {
        "encoder": lambda: encoder(model, pixels),
        "preparation": lambda: preparation(model, memory),
        "step": step,
        "line": lambda: trocr_jax.generate(model, pixels, search, dtype=dtype).token_ids,
    }
    return {name: statistics.median(seconds(call, rounds=3)) for name, call in calls.items()}


def measured_table(all_asked: list[Asked], here: Chip) -> list[str]:
    """Measured times, and the share of the bound in them: 100 % is as fast as this machine's rates allow."""
    rows = [
        "| shape | weights | beams | program | measured, ms | at least, ms | share | unfused, ms | share |",
        "|---" * 9 + "|",
    ]
    for asked in all_asked:
        taken = measured(asked, here.platform)
        bounds = {name: bound(work, here) for name, work in counted(asked, here.platform).items()}
        least = {name: (bounds[name].least, bounds[name].unfused) for name in PROGRAMS}
        for name, (most, unfused) in (least | {"line": line(bounds, asked.tokens)}).items():
            cells = [asked.shape, asked.dtype, str(asked.num_beams), name]
            cells += [f"{taken[name] * 1e3:,.1f}", f"{most * 1e3:,.1f}", f"{most / taken[name]:.0%}"]
            cells += [f"{unfused * 1e3:,.1f}", f"{unfused / taken[name]:.0%}"]
            rows.append("| " + " | ".join(cells) + " |")
    return rows
