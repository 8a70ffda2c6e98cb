"""A model with int8 weights beside the one that it was made from: texts, error rates, logits, memory, lines/s.

    python -m benchmarks.quantized --model tiny-printed --lines 300
    python -m benchmarks.quantized --shape base --lines 8

With --model: rendered lines of held-out sentences and typefaces, read greedily from pixels to text; also by what the
int8 weights stand for in f32, so that what comes of rounded weights and what of rounded activations (on a CPU) can be
told apart. The sides take turns. With --shape: random weights and pixels, the logits of the same tokens.
Resident memory is that of a process of its own that loads a folder.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from benchmarks.engine import config_of, images, machine

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
    max_chars: int = 64,
    seed: int = 0,
) -> None:
    """Prints a table.

    Args:
        model: any name or folder; with it, texts are compared on rendered lines.
        shape: without a model: of which published one.
        lines: read, or random images.
        rounds: of the timing.
        min_width: of the matrices that become int8, as of `python -m convert quantize`.
        max_chars: of a rendered line.
        seed: of the lines.
    """
    with tempfile.TemporaryDirectory() as folder:
        rows = [("machine", machine()), ("date", time.strftime("%Y-%m-%d"))]
        if model is None:
            rows += logits(shape, lines, min_width, Path(folder))
        else:
            rows += texts(model, lines, rounds=rounds, min_width=min_width, max_chars=max_chars, seed=seed)
        print("\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]))


def texts(
    name: str, count: int, *, rounds: int, min_width: int | None, max_chars: int, seed: int
) -> list[tuple[str, str]]:
    """Error rates, agreement and speed on rendered lines."""
    import trocr_jax
    from train.evaluate import rendered
    from trocr_jax.metrics import cer
    from trocr_jax.quantization import dequantize, quantize

    drawn = list(rendered(count, max_chars=max_chars, sentences=True, seed=seed))
    recognizer = trocr_jax.Recognizer.from_pretrained(name)
    small = quantize(recognizer.model, min_width=min_width)
    sides = {"floats": recognizer.model, "int8": small, "int8 weights widened": dequantize(small)}
    read: dict[str, list[str]] = {}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(rounds + 1):
        for side, weights in sides.items():
            recognizer.model = weights
            start = time.perf_counter()
            results = recognizer([image for image, _ in drawn], trocr_jax.DecodeConfig(max_new_tokens=128))
            if turn:
                seconds[side].append(time.perf_counter() - start)
            read[side] = [result.text for result in results]
    truth = [text for _, text in drawn]
    rows = [("parameters, bytes: floats (f32), int8", f"{size(recognizer_bytes(sides['floats']), sides['int8'])}")]
    rows += [(f"CER, {side}", f"{cer(truth, found):.3%}") for side, found in read.items()]
    for side in list(sides)[1:]:
        same = sum(a == b for a, b in zip(read["floats"], read[side], strict=True))
        rows.append((f"texts equal to those of floats, {side}", f"{same:,} of {count:,}"))
        rows.append((f"CER against the texts of floats, {side}", f"{cer(read['floats'], read[side]):.3%}"))
    pairs = list(zip(seconds["floats"], seconds["int8"], strict=True))
    speeds = ", ".join(f"{count / statistics.median(seconds[side]):.1f}" for side in ("floats", "int8"))
    rows.append(("lines/s, floats and int8", f"{speeds}: ratio {statistics.median(a / b for a, b in pairs):.2f}"))
    return rows


def logits(shape: str, count: int, min_width: int | None, folder: Path) -> list[tuple[str, str]]:
    """Error of the logits with random weights, and the memory that the two models take."""
    import jax
    import jax.numpy as jnp

    from trocr_jax import TrOCR, checkpoint
    from trocr_jax.quantization import dequantize, quantize

    model = TrOCR(config_of(shape))
    small = quantize(model, min_width=min_width)
    rows = [("parameters, bytes: floats (f32), int8", size(recognizer_bytes(model), small))]
    random = np.random.default_rng(0)
    pixels = jnp.asarray(images(model.config, count))
    ids = jnp.asarray(random.integers(3, model.config.decoder.vocab_size, (count, 20)), jnp.int32)
    apply = jax.jit(lambda m, pixels, ids: m(pixels, ids))

    def run(weights: Any) -> np.ndarray:
        return np.concatenate([np.asarray(apply(weights, pixels[i : i + 1], ids[i : i + 1])) for i in range(count)])

    exact, found = run(model), run(small)
    for label, other in (("int8", found), ("int8 weights widened", run(dequantize(small)))):
        off = np.sqrt(np.square(other - exact).mean()) / exact.std()
        agree = (other.argmax(-1) == exact.argmax(-1)).mean()
        rows.append((f"logits, root mean square error of their deviation, {label}", f"{off:.4f}"))
        rows.append((f"likeliest tokens equal, {label}", f"{agree:.1%}"))
    for label, weights in (("floats", model), ("int8", small)):
        checkpoint.save(weights, folder / label)
    del model, small
    kib = {label: resident(folder / label) for label in ("floats", "int8")}
    share = kib["int8"] / kib["floats"]
    rows.append(("resident memory of loading, MiB", f"{kib['floats'] >> 10:,}, {kib['int8'] >> 10:,}: {share:.1%}"))
    return rows


def recognizer_bytes(model: Any) -> int:
    """Of the parameters in f32, whatever they are in."""
    from trocr_jax.checkpoint.parameters import parameters

    return sum(4 * array.size for array in parameters(model).values())


def size(wide: int, small: Any) -> str:
    from trocr_jax.checkpoint.parameters import parameters

    found = sum(array.nbytes for array in parameters(small).values())
    return f"{wide:,}, {found:,}: {found / wide:.1%}"


def resident(folder: Path) -> int:
    """KiB that a process needs more after loading the folder."""
    done = subprocess.run([sys.executable, "-c", LOAD, str(folder)], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


if __name__ == "__main__":
    tyro.cli(main)
