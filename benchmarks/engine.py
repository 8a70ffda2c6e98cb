"""Encoder, decoder and whole lines on the shapes of the published models: trocr_jax beside other programs.

    python -m benchmarks.engine --shape base --batch 4 --tokens 16 --num-beams 4 --against transformers [--json FILE]

Random weights, the same on every side, every line forced to the same number of tokens. The sides take turns in one
process (A B A B …) on the same cores; printed are the medians of the rounds and the medians of the rounds' ratios.
Peak memory is that of a process of its own for each side, which loads the weights and reads one batch twice.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import tyro

PRESETS = {"small": "small-printed", "base": "base-handwritten", "large": "large-handwritten"}
STAGES = ("encoder", "decoder", "whole line")


class Engine(Protocol):
    """A program that reads. pixels [B, H, W, 3] f32; every method waits until its result is there."""

    def encode(self, pixels: np.ndarray) -> Any: ...

    def decode(self, memory: Any) -> np.ndarray:
        """From the encoder's output to token ids [B, tokens], keys and values of cross-attention included."""
        ...

    def read(self, pixels: np.ndarray) -> np.ndarray: ...


class Ours:
    """trocr_jax."""

    def __init__(self, folder: Path, *, tokens: int, num_beams: int, threads: int, dtype: str) -> None:
        import jax
        import jax.numpy as jnp

        import trocr_jax
        from trocr_jax import generation

        self.jax, self.model = jax, trocr_jax.checkpoint.load(folder, dtype=jnp.float32 if dtype == "float32" else None)
        self.dtype = jnp.dtype(dtype)
        self.config = trocr_jax.DecodeConfig(num_beams=num_beams, max_new_tokens=tokens, min_new_tokens=tokens)
        self.generate, self.array = trocr_jax.generate, jnp.asarray
        shape, self.numbers = generation.plan(self.config, self.model.config)
        self._encode = jax.jit(self._encoder)
        self._decode = jax.jit(lambda m, memory, n: generation.decode(m, memory, n, shape, self.dtype))

    def _encoder(self, model: Any, pixels: Any) -> Any:
        from trocr_jax.encoder import cached_micro_batch

        on_cpu = self.jax.default_backend() == "cpu"
        micro_batch = cached_micro_batch(model.config.encoder, len(pixels)) if on_cpu else None
        return model.encode(pixels, dtype=self.dtype, micro_batch=micro_batch)

    def encode(self, pixels: np.ndarray) -> Any:
        return self._encode(self.model, pixels).block_until_ready()

    def decode(self, memory: Any) -> np.ndarray:
        return np.asarray(self._decode(self.model, memory, self.numbers).token_ids[:, 0])

    def read(self, pixels: np.ndarray) -> np.ndarray:
        return np.asarray(self.generate(self.model, self.array(pixels), self.config, dtype=self.dtype).token_ids[:, 0])


class Transformers:
    """transformers on torch, eager, with its key-value cache."""

    def __init__(self, folder: Path, *, tokens: int, num_beams: int, threads: int, dtype: str) -> None:
        import torch
        from transformers import VisionEncoderDecoderModel

        torch.set_num_threads(threads)
        self.torch = torch
        self.dtype = getattr(torch, dtype)
        self.model = VisionEncoderDecoderModel.from_pretrained(folder, dtype=self.dtype).eval()
        config = self.model.config
        self.options = {
            "max_new_tokens": tokens,
            "min_new_tokens": tokens,
            "num_beams": num_beams,
            "do_sample": False,
            "decoder_start_token_id": config.decoder_start_token_id or config.decoder.decoder_start_token_id,
            "pad_token_id": config.pad_token_id if config.pad_token_id is not None else config.decoder.pad_token_id,
            "eos_token_id": config.eos_token_id if config.eos_token_id is not None else config.decoder.eos_token_id,
        }

    def _tensor(self, pixels: np.ndarray) -> Any:
        return self.torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).to(self.dtype)

    def encode(self, pixels: np.ndarray) -> Any:
        with self.torch.inference_mode():
            return self.model.encoder(self._tensor(pixels))

    def decode(self, memory: Any) -> np.ndarray:
        from transformers.modeling_outputs import BaseModelOutput

        with self.torch.inference_mode():
            outputs = BaseModelOutput(last_hidden_state=memory.last_hidden_state)
            ids: np.ndarray = self.model.generate(encoder_outputs=outputs, **self.options).numpy()[:, 1:]
        return ids

    def read(self, pixels: np.ndarray) -> np.ndarray:
        with self.torch.inference_mode():
            ids: np.ndarray = self.model.generate(self._tensor(pixels), **self.options).numpy()[:, 1:]
        return ids


SIDES: dict[str, Callable[..., Engine]] = {"trocr_jax": Ours, "transformers": Transformers}


def write_weights(shape: str, folder: Path) -> None:
    """A folder with random weights of a published shape, as transformers' `from_pretrained` reads it."""
    import jax

    import trocr_jax
    from trocr_jax.checkpoint import save_huggingface

    config = trocr_jax.TrOCRConfig.preset(PRESETS[shape])
    with jax.default_device(jax.devices("cpu")[0]):
        save_huggingface(trocr_jax.TrOCR(config), folder)


def images(shape: str, batch: int) -> np.ndarray:
    import trocr_jax

    height, width = trocr_jax.TrOCRConfig.preset(PRESETS[shape]).encoder.image_size
    return np.random.default_rng(0).uniform(-1, 1, (batch, height, width, 3)).astype(np.float32)


def timed(function: Callable[[Any], Any], argument: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function(argument)
    return time.perf_counter() - start, result


def compare(engines: dict[str, Engine], pixels: np.ndarray, *, rounds: int) -> dict[str, Any]:
    """Seconds of every stage, the sides in turn, and the time of the first call, which compiles."""
    seconds: dict[str, dict[str, list[float]]] = {stage: {name: [] for name in engines} for stage in STAGES}
    first: dict[str, float] = {}
    texts: dict[str, np.ndarray] = {}
    for number in range(rounds + 1):
        for name, engine in engines.items():
            encoder, memory = timed(engine.encode, pixels)
            decoder, _ = timed(engine.decode, memory)
            whole, texts[name] = timed(engine.read, pixels)
            if number == 0:
                first[name] = encoder + decoder + whole
                continue
            for stage, taken in zip(STAGES, (encoder, decoder, whole), strict=True):
                seconds[stage][name].append(taken)
    (base, *others), batch = list(engines), len(pixels)
    return {
        "equal lines": {o: int((texts[base] == texts[o]).all(axis=1).sum()) for o in others},
        "first round, s": {name: round(s, 1) for name, s in first.items()},
        "lines/s": {s: {n: round(batch / statistics.median(t), 3) for n, t in by.items()} for s, by in seconds.items()},
        "ratio": {
            stage: {o: round(statistics.median(t / m for t, m in zip(by[o], by[base], strict=True)), 2) for o in others}
            for stage, by in seconds.items()
        },
        "seconds": seconds,
    }


def peak_memory(side: str, folder: Path, arguments: dict[str, Any]) -> int:
    """MiB that a process of its own held at most."""
    command = [sys.executable, "-m", "benchmarks.engine", "--only", side, "--folder", str(folder)]
    for name, value in arguments.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main(
    shape: Literal["small", "base", "large"] = "base",
    batch: int = 4,
    tokens: int = 16,
    num_beams: int = 4,
    against: str = "transformers",
    dtype: Literal["float32", "bfloat16"] = "float32",
    rounds: int = 5,
    threads: int = os.cpu_count() or 1,
    memory: bool = False,
    json_file: Path | None = None,
    only: str | None = None,
    folder: Path | None = None,
) -> None:
    """Prints a table.

    Args:
        shape: of which published model.
        batch: lines read at a time.
        tokens: written for every line, whatever the model thinks.
        num_beams: hypotheses a line.
        against: other sides, separated by commas: transformers.
        dtype: of weights and arithmetic.
        rounds: how often every side has its turn.
        threads: of torch; XLA takes those of the process.
        memory: measure peak memory too.
        json_file: where the figures go too.
        only: run one side alone, twice, and print its peak memory in MiB.
        folder: the weights, if they are there already.
    """
    options: dict[str, Any] = {"tokens": tokens, "num_beams": num_beams, "threads": threads, "dtype": dtype}
    pixels = images(shape, batch)
    if only is not None:
        assert folder is not None
        engine = SIDES[only](folder, **options)
        for _ in range(2):
            engine.read(pixels)
        print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024)
        return
    names = ["trocr_jax", *(name for name in against.split(",") if name)]
    with tempfile.TemporaryDirectory() as made:
        weights = folder or Path(made)
        if folder is None:
            write_weights(shape, weights)
        result: dict[str, Any] = {"shape": shape, "batch": batch, "rounds": rounds, **options}
        if memory:
            arguments = {"shape": shape, "batch": batch, **options}
            result["peak memory, MiB"] = {name: peak_memory(name, weights, arguments) for name in names}
        result |= compare({name: SIDES[name](weights, **options) for name in names}, pixels, rounds=rounds)
    packages = ("jax", "torch", "transformers")
    result |= {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "date": time.strftime("%Y-%m-%d"),
    }
    print(table(result, names))
    if json_file:
        json_file.write_text(json.dumps(result, indent=2) + "\n")


def table(result: dict[str, Any], names: list[str]) -> str:
    """The figures as Markdown."""
    others = names[1:]
    rows = [
        f"{result['shape']}, batch {result['batch']}, {result['tokens']} tokens, {result['num_beams']} beams, "
        f"{result['dtype']}; {result['machine']}; {result['date']}",
        "",
        "| lines/s | " + " | ".join(names) + " | " + " | ".join(f"ratio to {o}" for o in others) + " |",
        "|---" * (1 + len(names) + len(others)) + "|",
    ]
    for stage, by in result["lines/s"].items():
        ratios = [str(result["ratio"][stage][o]) for o in others]
        rows.append(f"| {stage} | " + " | ".join([*(str(by[n]) for n in names), *ratios]) + " |")
    if "peak memory, MiB" in result:
        memory = result["peak memory, MiB"]
        ratios = [f"{memory[o] / memory[names[0]]:.2f}" for o in others]
        rows.append("| peak memory, MiB | " + " | ".join([*(str(memory[n]) for n in names), *ratios]) + " |")
    first = result["first round, s"]
    cells = [*(str(first[n]) for n in names), *("" for _ in others)]
    rows.append("| first round (compiles), s | " + " | ".join(cells) + " |")
    rows += ["", f"Equal lines: {result['equal lines']} of {result['batch']}."]
    return "\n".join(rows)


if __name__ == "__main__":
    tyro.cli(main)
