"""Models with weights in int8 or float8, or an int8 cache, beside themselves in floats: texts, errors, memory, lines/s.

    python -m benchmarks.quantized --model tiny-printed --lines 300
    python -m benchmarks.quantized --shape base --lines 8

With --model: rendered lines of held-out sentences and typefaces, read from pixels to text; also by what the int8
weights stand for in f32, so that what comes of rounded weights and what of rounded activations (on a CPU) can be told
apart, and by products of two float8 factors in bf16, as GPUs with fp8 units make them. The sides take turns. With
--shape: random weights and pixels, the logits of the same tokens, and what a search keeps of a line. The cache
(`DecodeConfig.cache_dtype`) is memory or keys and values, and those of the texts. Resident memory is that of a process
of its own that loads a folder.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import tyro

from benchmarks.engine import config_of, images, machine
from trocr_jax import DecodeConfig

BOTH = "float8 by float8, bf16"
LOAD = """import sys, trocr_jax
def resident():
    return int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0])
model = trocr_jax.checkpoint.load("tiny-printed")  # what loading itself takes
before = resident()
model = trocr_jax.checkpoint.load(sys.argv[1])
print(resident() - before)"""


def main(
    model: str | None = None,
    shape: Literal["small", "base", "large"] = "base",
    lines: int = 300,
    rounds: int = 3,
    min_width: int | None = None,
    num_beams: int = 1,
    tokens: int = 128,
    max_chars: int = 64,
) -> None:
    """Prints a table.

    Args:
        model: any name or folder; with it, texts are compared on rendered lines.
        shape: without a model: of which published one.
        lines: read, or random images.
        rounds: of the timing.
        min_width: of the matrices that become int8, as of `python -m convert quantize`.
        num_beams: of the search, with a model.
        tokens: it may write. Few of them, and on a CPU cross-attention reads the memory instead of keys and values.
        max_chars: of a rendered line.
    """
    with tempfile.TemporaryDirectory() as folder:
        rows = [("machine", machine()), ("date", time.strftime("%Y-%m-%d"))]
        if model is None:
            rows += logits(shape, lines, min_width, Path(folder))
        else:
            search = DecodeConfig(num_beams=num_beams, max_new_tokens=tokens)
            rows += texts(model, lines, search, rounds=rounds, min_width=min_width, max_chars=max_chars)
        print("\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]))


def texts(
    name: str, count: int, search: DecodeConfig, *, rounds: int, min_width: int | None, max_chars: int
) -> list[tuple[str, str]]:
    """Error rates, agreement and speed on rendered lines."""
    import trocr_jax
    from train.evaluate import rendered
    from trocr_jax.metrics import cer
    from trocr_jax.quantization import dequantize, quantize

    drawn = list(rendered(count, max_chars=max_chars, sentences=True, seed=0))
    recognizer = trocr_jax.Recognizer.from_pretrained(name)
    small = quantize(recognizer.model, min_width=min_width)
    sides = {"floats": recognizer.model, "int8": small, "int8 weights widened": dequantize(small)}
    sides |= {"float8": quantize(recognizer.model, kind="float8", min_width=min_width), "int8 cache": recognizer.model}
    read: dict[str, list[str]] = {}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(rounds + 1):
        for side, weights in sides.items():
            recognizer.model = weights
            decode = replace(search, cache_dtype="int8") if side == "int8 cache" else search
            start = time.perf_counter()
            results = recognizer([image for image, _ in drawn], decode)
            if turn:
                seconds[side].append(time.perf_counter() - start)
            read[side] = [result.text for result in results]
    with float8_units():
        fast = trocr_jax.Recognizer.from_pretrained(name, dtype="bfloat16")
        for side, weights in (("bf16", fast.model), (BOTH, sides["float8"])):
            fast.model = weights
            read[side] = [result.text for result in fast([image for image, _ in drawn], search)]
    truth = [text for _, text in drawn]
    rows = [("parameters, bytes: floats (f32), int8", size(sides["floats"], sides["int8"]))]
    rows += [(f"CER, {side}", f"{cer(truth, found):.3%}") for side, found in read.items()]
    for side in list(read)[1:]:
        same = sum(a == b for a, b in zip(read["floats"], read[side], strict=True))
        rows.append((f"texts equal to those of floats, {side}", f"{same:,} of {count:,}"))
        rows.append((f"CER against the texts of floats, {side}", f"{cer(read['floats'], read[side]):.3%}"))
    for other in ("int8", "float8", "int8 cache"):
        pairs = list(zip(seconds["floats"], seconds[other], strict=True))
        speeds = ", ".join(f"{count / statistics.median(seconds[side]):.1f}" for side in ("floats", other))
        ratio = statistics.median(a / b for a, b in pairs)
        rows.append((f"lines/s, floats and {other}", f"{speeds}: ratio {ratio:.2f}"))
    rows.append(("kept of a line, bytes: floats (f32), int8", kept_beside(recognizer.model, search, "float32", "cpu")))
    return rows


def logits(shape: str, count: int, min_width: int | None, folder: Path) -> list[tuple[str, str]]:
    """Error of the logits with random weights, and the memory that the two models take."""
    import jax
    import jax.numpy as jnp

    from trocr_jax import TrOCR, checkpoint
    from trocr_jax.quantization import dequantize, quantize

    model = TrOCR(config_of(shape))
    small = quantize(model, min_width=min_width)
    rows = [("parameters, bytes: floats (f32), int8", size(model, small))]
    random = np.random.default_rng(0)
    pixels = jnp.asarray(images(model.config, count))
    ids = jnp.asarray(random.integers(3, model.config.decoder.vocab_size, (count, 20)), jnp.int32)
    apply = jax.jit(lambda m, pixels, ids: m(pixels, ids))

    def run(weights: Any) -> np.ndarray:
        return np.concatenate([np.asarray(apply(weights, pixels[i : i + 1], ids[i : i + 1])) for i in range(count)])

    exact, found = run(model), run(small)
    others = {"int8": found, "int8 weights widened": run(dequantize(small))}
    others["float8"] = run(quantize(model, kind="float8", min_width=min_width))
    with float8_units():
        in_bf16 = jax.jit(lambda m, pixels, ids: m(pixels, ids, dtype=jnp.bfloat16))
        for label, weights in (("bf16", model), (BOTH, quantize(model, kind="float8", min_width=min_width))):
            parts = [in_bf16(weights, pixels[i : i + 1], ids[i : i + 1]) for i in range(count)]
            others[label] = np.concatenate([np.asarray(part, np.float32) for part in parts])
    others["int8 cache: memory"] = step_by_step(model, pixels, ids, cache_dtype="int8", absorbed=True)
    others["int8 cache: keys and values"] = step_by_step(model, pixels, ids, cache_dtype="int8", absorbed=False)
    others["floats, step by step"] = step_by_step(model, pixels, ids, cache_dtype=None, absorbed=True)
    for label, other in others.items():
        off = np.sqrt(np.square(other - exact).mean()) / exact.std()
        agree = (other.argmax(-1) == exact.argmax(-1)).mean()
        rows.append((f"logits, root mean square error of their deviation, {label}", f"{off:.4f}"))
        rows.append((f"likeliest tokens equal, {label}", f"{agree:.1%}"))
    for num_beams in (1, 4):
        search = DecodeConfig(num_beams=num_beams, max_new_tokens=32)
        label = f"kept of a line, 32 tokens, {num_beams} hypotheses, bytes: bf16, int8"
        rows.append((label, kept_beside(model, search, "bfloat16", "tpu")))
    for label, weights in (("floats", model), ("int8", small)):
        checkpoint.save(weights, folder / label)
    del model, small
    kib = {label: resident(folder / label) for label in ("floats", "int8")}
    share = kib["int8"] / kib["floats"]
    rows.append(("resident memory of loading, MiB", f"{kib['floats'] >> 10:,}, {kib['int8'] >> 10:,}: {share:.1%}"))
    return rows


@contextmanager
def float8_units() -> Iterator[None]:
    """Here products are made as on a GPU that has them: both factors are float8, if the compute type is bf16."""
    with mock.patch("trocr_jax.attention_quantized.multiplies_float8", return_value=True):
        yield


def step_by_step(
    model: Any, pixels: Any, ids: Any, *, cache_dtype: Literal["int8"] | None, absorbed: bool
) -> np.ndarray:
    """The logits [B, T, V], a line at a time and token by token, as a search does it."""
    import jax
    import jax.numpy as jnp

    from trocr_jax import generation, generation_plan

    length = ids.shape[1]
    shape, _ = generation_plan.plan(DecodeConfig(max_new_tokens=length, cache_dtype=cache_dtype), model.config)
    shape = shape._replace(absorbed=absorbed)

    @jax.jit
    def line(model: Any, pixels: jax.Array, ids: jax.Array) -> jax.Array:
        cross = generation.cross_of(model, model.encode(pixels), shape, jnp.float32)

        def step(cache: Any, number: jax.Array) -> tuple[Any, jax.Array]:
            logits, cache = model.step(ids[:, number][:, None], cache, number, cross)
            return cache, logits[:, 0]

        cache = model.init_cache(1, 1, length, dtype=cache_dtype or jnp.float32)
        return jax.lax.scan(step, cache, jnp.arange(length, dtype=jnp.int32))[1].swapaxes(0, 1)

    return np.concatenate([np.asarray(line(model, pixels[i : i + 1], ids[i : i + 1])) for i in range(len(ids))])


def kept_beside(model: Any, search: DecodeConfig, dtype: str, platform: str) -> str:
    """What a search keeps of a line in floats and in int8, in the form that it takes on a platform."""
    wide, small = (kept(model, replace(search, cache_dtype=kind), dtype, platform) for kind in (None, "int8"))
    return f"{wide:,}, {small:,}: {small / wide:.1%}"


def kept(model: Any, search: DecodeConfig, dtype: str, platform: str) -> int:
    """Bytes of what cross-attention reads of a line, and of the keys and values of its texts."""
    import jax
    import jax.numpy as jnp

    from trocr_jax import generation, generation_plan
    from trocr_jax.attention_cross import KeyColumns

    config, placed = model.config, generation_plan.Placed(platform, "")
    shape, _ = generation_plan.plan(search, config, placed=placed)
    memory = jax.ShapeDtypeStruct((1, config.encoder.memory_length, config.encoder.hidden_size), dtype)

    def arrays(model: Any, memory: jax.Array) -> Any:
        cross = generation.cross_of(model, memory, shape, jnp.dtype(dtype))
        cache = model.init_cache(1, shape.hypotheses, shape.max_new_tokens, dtype=shape.cache_dtype or dtype)
        memories = [layer.memory for layer in cross if not isinstance(layer, KeyColumns)]
        return memories[:1] or cross, cache  # one memory for all layers

    found = jax.tree.leaves(jax.eval_shape(arrays, model, memory))
    return sum(array.size * array.dtype.itemsize for array in found)


def size(model: Any, small: Any) -> str:
    """Of the parameters of one in f32, whatever they are in, and of the other as they are."""
    from trocr_jax.checkpoint.parameters import parameters

    wide = sum(4 * array.size for array in parameters(model).values())
    found = sum(array.nbytes for array in parameters(small).values())
    return f"{wide:,}, {found:,}: {found / wide:.1%}"


def resident(folder: Path) -> int:
    """KiB that a process needs more after loading the folder."""
    done = subprocess.run([sys.executable, "-c", LOAD, str(folder)], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


if __name__ == "__main__":
    tyro.cli(main)
