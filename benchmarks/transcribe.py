"""Reading rendered lines with the built-in model: trocr_jax beside transformers (torch) with the same weights.

    python -m benchmarks.transcribe [--lines 2000] [--batch 32] [--rounds 3] [--int8] [--json FILE]

Both sides get the same images in the same batches, from file to text, in turn on the same cores: A B A B …, all images
in every round. Printed are the medians of the rounds, the median of the ratios, and how many texts are equal.
Compilation is timed apart. With `--int8` our side reads with int8 weights. With `--only-ours --lines 20000` the lines
go through `trocr-jax transcribe` and memory is watched.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from benchmarks.engine import JsonFile, check_json, machine, timed
from train.data.render import Renderer

MAX_NEW_TOKENS = 96


def draw(folder: Path, count: int, *, max_chars: int) -> list[Path]:
    """Lines of the held-out split as PNG files."""
    renderer = Renderer.create(split="heldout", seed=0)
    paths = []
    for index in range(count):
        paths.append(folder / f"{index:06d}.png")
        Image.fromarray(renderer.line(index, max_chars=max_chars).image).save(paths[-1])
    return paths


def ours(model: str, batch: int, *, int8: bool) -> Callable[[Sequence[Path]], list[str]]:
    """Paths to texts with trocr_jax."""
    import trocr_jax
    from trocr_jax.quantization import quantize

    recognizer = trocr_jax.Recognizer.from_pretrained(model)
    if int8:
        recognizer.model = quantize(recognizer.model)
    decode = trocr_jax.DecodeConfig(max_new_tokens=MAX_NEW_TOKENS)
    return lambda paths: [r.text for r in recognizer(paths, decode=decode, batch_size=batch)]


def theirs(model: str, batch: int, threads: int) -> Callable[[Sequence[Path]], list[str]]:
    """Paths to texts with transformers, greedy, key-value cache, inference mode."""
    import torch
    from transformers import VisionEncoderDecoderModel

    from trocr_jax.checkpoint import resolve
    from trocr_jax.image import ImageProcessor
    from trocr_jax.tokenizer import load_tokenizer

    torch.set_num_threads(threads)
    folder = resolve(model)
    network = VisionEncoderDecoderModel.from_pretrained(folder, dtype=torch.float32).eval()
    processor, tokenizer = ImageProcessor.from_folder(folder), load_tokenizer(folder)

    def read(paths: Sequence[Path]) -> list[str]:
        texts: list[str] = []
        for first in range(0, len(paths), batch):
            pixels = np.stack([processor.pixels(path) for path in paths[first : first + batch]])
            tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
            with torch.inference_mode():
                ids = network.generate(tensor, do_sample=False, num_beams=1, max_new_tokens=MAX_NEW_TOKENS)
            texts += tokenizer.batch_decode(ids, skip_special_tokens=True)
        return texts

    return read


def compare(
    model: str, paths: list[Path], *, batch: int, rounds: int, threads: int, int8: bool = False
) -> dict[str, object]:
    """Both sides in turn over the same lines."""
    sides = {"trocr_jax": ours(model, batch, int8=int8), "transformers": theirs(model, batch, threads)}
    first = {name: timed(read, paths[:batch])[0] for name, read in sides.items()}  # compiles
    for read in sides.values():
        read(paths[: len(paths) % batch])  # the last batch, whose size is compiled too
    times: dict[str, list[float]] = {name: [] for name in sides}
    texts: dict[str, list[str]] = {}
    for _ in range(rounds):
        for name, read in sides.items():
            taken, texts[name] = timed(read, paths)
            times[name].append(len(paths) / taken)
    return {
        "lines": len(paths),
        "batch": batch,
        "rounds": rounds,
        "equal texts": sum(a == b for a, b in zip(*texts.values(), strict=True)),
        "first batch, s": {name: round(s, 2) for name, s in first.items()},
        "lines/s, median of the rounds": {name: round(statistics.median(t), 1) for name, t in times.items()},
        "ratio, median of the rounds": round(statistics.median(a / b for a, b in zip(*times.values(), strict=True)), 2),
    }


def soak(model: str, folder: Path, *, batch: int) -> dict[str, object]:
    """`trocr-jax transcribe` over a folder: resident memory and programs compiled so far at every tenth of the rows."""
    total = sum(1 for _ in folder.iterdir())
    command = [sys.executable, "-m", "trocr_jax", "transcribe", str(folder), "--model", model, "--format", "jsonl"]
    with tempfile.TemporaryFile("w+") as log:
        start = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--batch-size", str(batch)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | {"JAX_LOG_COMPILES": "1"},
        )
        memory: list[int] = []
        compiled: list[int] = []
        rows = 0
        assert process.stdout is not None
        for rows, _ in enumerate(process.stdout, start=1):
            if rows % max(total // 10, 1) == 0:
                status = Path(f"/proc/{process.pid}/status").read_text()
                memory.append(int(status.split("VmRSS:")[1].split()[0]) // 1024)
                compiled.append(Path(f"/proc/self/fd/{log.fileno()}").read_text().count("Finished XLA compilation"))
        process.wait()
        taken = time.perf_counter() - start
    return {
        "lines": total,
        "rows": rows,
        "exit status": process.returncode,
        "lines/s, start and compilation included": round(total / taken, 1),
        "resident memory at each tenth, MiB": memory,
        "programs compiled by each tenth": compiled,
    }


def main(
    model: str = "tiny-printed",
    lines: int = 2000,
    batch: int = 32,
    rounds: int = 3,
    max_chars: int = 64,
    threads: int | None = None,
    int8: bool = False,
    only_ours: bool = False,
    json_file: JsonFile = None,
) -> None:
    """Runs the comparison, or with --only-ours the long run."""
    check_json(json_file)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = draw(folder, lines, max_chars=max_chars)
        if only_ours:
            result = soak(model, folder, batch=batch)
        else:
            cores = threads or os.cpu_count() or 1
            result = compare(model, paths, batch=batch, rounds=rounds, threads=cores, int8=int8)
    result |= {"machine": machine(), "date": time.strftime("%Y-%m-%d")}
    text = json.dumps(result, indent=2)
    print(text)
    if json_file:
        json_file.write_text(text + "\n")
    if status := result.get("exit status"):
        raise SystemExit(f"trocr-jax transcribe ended with status {status}")


if __name__ == "__main__":
    tyro.cli(main)
