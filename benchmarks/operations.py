"""Where the time of a compiled program goes on a CPU: `python -m benchmarks.operations --stage encoder [--shape base]`.

XLA's profiler tells when each operation of the compiled program began and ended; those of one kind and shape are added
up. Operations that do not wait for each other run side by side (query, key and value), so that the sum may be larger
than the time elapsed, which is printed too. Random weights and pixels; what compiles is not counted.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_enable_xprof_traceme=true"

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.engine import config_of
from benchmarks.roofline_measure import seconds
from trocr_jax import DecodeConfig, generation, generation_plan
from trocr_jax.encoder import cached_micro_batch, in_micro_batches
from trocr_jax.model import TrOCR
from trocr_jax.model_layout import as_read_here
from trocr_jax.quantization import quantize

_DEFINED = re.compile(r"%([\w.\-]+) = \(?([a-z0-9]+\[[\d,]*\])\S* ([\w\-]+)\((.*)")


def main(
    stage: Literal["encoder", "decoder"] = "encoder",
    shape: Literal["small", "base", "large"] = "base",
    batch: int = 8,
    num_beams: int = 4,
    tokens: int = 16,
    dtype: Literal["float32", "bfloat16"] = "float32",
    int8: bool = False,
) -> None:
    """Prints ms a line of the encoder, or ms a step of the decoder.

    Args:
        stage: whose program.
        shape: of which published model.
        batch: images.
        num_beams: of the decoder's search.
        tokens: steps of it; what comes before the first is shared out among them.
        dtype: of weights and arithmetic.
        int8: int8 weights instead, as `python -m convert quantize` makes them.
    """
    config = config_of(shape)
    model = TrOCR(config, param_dtype=jnp.dtype(dtype))
    model = as_read_here(quantize(model) if int8 else model)
    random = np.random.default_rng(0)
    decode = DecodeConfig(num_beams=num_beams, max_new_tokens=tokens, min_new_tokens=tokens)
    search, numbers = generation_plan.plan(decode, config)
    arguments: tuple[Any, ...]
    if stage == "encoder":
        size = cached_micro_batch(config.encoder, batch, search.scores_bytes)
        program = jax.jit(
            lambda model, pixels: in_micro_batches(partial(model.encode, dtype=jnp.dtype(dtype)), pixels, size)
        )
        arguments, parts, unit = (model, _normal(random, batch, *config.encoder.image_size, 3)), batch, "line"
    else:
        program = jax.jit(
            lambda model, memory, numbers: generation.decode(model, memory, numbers, search, jnp.dtype(dtype))
        )
        memory = _normal(random, batch, config.encoder.memory_length, config.memory_width).astype(dtype)
        arguments, parts, unit = (model, memory, numbers), tokens, "step"
    compiled = program.lower(*arguments).compile()
    elapsed, spent, counts = _profiled(compiled, arguments, _described(compiled.as_text() or ""))
    print(f"{shape}, {stage}, batch {batch}, {dtype}{', int8 weights' if int8 else ''}; {time.strftime('%Y-%m-%d')}")
    print(f"{1e3 * elapsed / parts:.1f} ms a {unit} elapsed, {sum(spent.values()) / parts:.1f} ms of operations\n")
    print(f"| ms a {unit} | times a {unit} | operation |\n|---|---|---|")
    for name, milliseconds in spent.most_common(16):
        print(f"| {milliseconds / parts:.2f} | {counts[name] / parts:.1f} | {name} |")


def _normal(random: np.random.Generator, *shape: int) -> jax.Array:
    return jnp.asarray(random.standard_normal(shape, np.float32))


def _described(text: str) -> dict[str, str]:
    """Names of the operations of a compiled program to their kind and shapes."""
    defined = [match.groups() for match in map(_DEFINED.search, text.splitlines()) if match]
    shapes = {name: shape for name, shape, _, _ in defined}
    kinds = {}
    for name, shape, kind, rest in defined:
        operands = [shapes[one] for one in re.findall(r"%([\w.\-]+)", rest.split("), ")[0]) if one in shapes]
        label = "product or fused with one" if "__ynn_fusion" in rest else kind
        kinds[name] = f"{label}: {' · '.join(operands[:4])} → {shape}"
    return kinds


def _profiled(
    compiled: Callable[..., Any], arguments: tuple[Any, ...], described: dict[str, str]
) -> tuple[float, Counter[str], Counter[str]]:
    """Seconds elapsed in the best of three runs, and of another the ms and number of operations of each description."""
    elapsed = min(seconds(lambda: compiled(*arguments), rounds=3))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(compiled(*arguments))
        (trace,) = Path(folder).rglob("*.xplane.pb")
        found = jax.profiler.ProfileData.from_file(str(trace))
    spent, counts = Counter[str](), Counter[str]()
    for plane in found.planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in described and any(key == "hlo_op" for key, _ in event.stats):
                    spent[described[event.name]] += event.duration_ns / 1e6
                    counts[described[event.name]] += 1
    return elapsed, spent, counts


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
