"""Encoder, decoder and whole lines on the shapes of the published models: trocr_jax beside other programs.

    python -m benchmarks.engine --shape base --batch 4 --tokens 16 --num-beams 4 --against transformers [--json FILE]

Random weights, the same on every side, every line forced to the same number of tokens; with --natural rendered lines
that end where the model ends them, for which its weights have to be real: those of --shape tiny, or of --folder. The
sides take turns in one process (A B A B …) on the same device; printed are the medians of the rounds and the medians of
the rounds' ratios. "prefill" is from the encoder's output to the first token, keys and values of cross-attention
included; "decode step" is one of the steps behind it, as the difference to the whole decoder gives it.
Pixels are on the device before. With several batch sizes each side is also given its best one.
Peak memory is that of a process of its own for each side, which loads the weights and reads one batch twice.

On a GPU both sides share its memory, so that each needs a limit: XLA_PYTHON_CLIENT_MEM_FRACTION=.45 for XLA.
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
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

import trocr_jax
from benchmarks.engine_sides import SIDES, Engine
from trocr_jax.config import TrOCRConfig
from trocr_jax.errors import TrOCRError

PRESETS = {"small": "small-printed", "base": "base-handwritten", "large": "large-handwritten"}
JsonFile = Annotated[Path | None, tyro.conf.arg(aliases=["--json"])]
STAGES = ("encoder", "prefill", "decode step", "decoder", "whole line")


def write_weights(shape: str, folder: Path, *, trained: bool = False) -> None:
    """A folder with random weights of a published shape, as transformers' `from_pretrained` reads it; trained: with
    those of the built-in model, and what stands beside them."""
    import jax

    from trocr_jax import TrOCR
    from trocr_jax.checkpoint import save_huggingface

    with jax.default_device(jax.devices("cpu")[0]):
        if trained:
            built_in = trocr_jax.checkpoint.resolve("tiny-printed")
            save_huggingface(trocr_jax.checkpoint.load(built_in), folder)
            trocr_jax.checkpoint.copy_assets(built_in, folder)
        else:
            save_huggingface(TrOCR(config_of(shape)), folder)


def config_of(shape: str) -> TrOCRConfig:
    """tiny: the built-in model's."""
    if shape == "tiny":
        return trocr_jax.checkpoint.load("tiny-printed").config
    return TrOCRConfig.preset(PRESETS[shape])


def check(config: TrOCRConfig, batch: tuple[int, ...], tokens: int, num_beams: int) -> None:
    """Raises SystemExit for what the model cannot be asked for."""
    if not batch or min(batch) < 1:
        raise SystemExit(f"--batch {' '.join(map(str, batch))}: a batch has at least one line")
    from trocr_jax import generation_plan

    try:
        generation_plan.plan(trocr_jax.DecodeConfig(num_beams=num_beams, max_new_tokens=tokens), config)
    except TrOCRError as error:
        raise SystemExit(str(error)) from None


def check_json(file: Path | None) -> None:
    """Raises SystemExit before anything is measured that could not be written."""
    if file and not file.parent.is_dir():
        raise SystemExit(f"--json {file}: no such folder: {file.parent}")


def images(config: TrOCRConfig, batch: int, *, lines_for: Path | None = None) -> np.ndarray:
    """Noise, or rendered lines as the model in the folder `lines_for` wants them: pixels [batch, H, W, 3]."""
    if lines_for is not None:
        from train.data.render import Renderer
        from trocr_jax.image import ImageProcessor

        processor, renderer = ImageProcessor.from_folder(lines_for), Renderer.create(split="heldout", seed=0)
        pixels = [processor.pixels(renderer.line(number, max_chars=64).image) for number in range(batch)]
        return np.asarray(processor.normalize(np.stack(pixels)))
    height, width = config.encoder.image_size
    return np.random.default_rng(0).uniform(-1, 1, (batch, height, width, 3)).astype(np.float32)


def timed(function: Callable[[Any], Any], argument: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function(argument)
    return time.perf_counter() - start, result


def compare(
    engines: dict[str, Engine], pixels: np.ndarray, *, rounds: int, steps: int | None, pad: int
) -> dict[str, Any]:
    """Seconds of every stage, the sides in turn, and the time of the first call, which compiles. A side whose memory
    does not suffice is left out. steps: behind the prefill, None if lines end where they will. pad: fills up texts."""
    stages = tuple(stage for stage in STAGES if steps or stage != "decode step")
    seconds: dict[str, dict[str, list[float]]] = {stage: {name: [] for name in engines} for stage in stages}
    first: dict[str, float] = {}
    texts: dict[str, np.ndarray] = {}
    out_of_memory: list[str] = []
    ready = {name: engine.put(pixels) for name, engine in engines.items()}
    for number in range(rounds + 1):
        for name in [name for name in engines if name not in out_of_memory]:
            engine = engines[name]
            try:
                encoder, memory = timed(engine.encode, ready[name])
                prefill, _ = timed(partial(engine.decode, prefill=True), memory)
                decoder, _ = timed(engine.decode, memory)
                del memory
                whole, texts[name] = timed(engine.read, ready[name])
            except Exception as error:
                if "out of memory" not in str(error).lower():
                    raise
                out_of_memory.append(name)
                texts.pop(name, None)
                for by in seconds.values():
                    del by[name]
                continue
            if number == 0:
                first[name] = encoder + prefill + decoder + whole
                continue
            taken = {"encoder": encoder, "prefill": prefill, "decoder": decoder, "whole line": whole}
            if steps:
                taken["decode step"] = (decoder - prefill) / steps
            for stage in stages:
                seconds[stage][name].append(taken[stage])
    base, batch = next(iter(engines)), len(pixels)
    others = [name for name in texts if name != base and base in texts]
    return {
        "batch": batch,
        "out of memory": out_of_memory,
        "equal lines": {o: equal_lines(texts[base], texts[o], pad) for o in others},
        "first round, s": {name: round(s, 1) for name, s in first.items()},
        "lines/s": {s: {n: round(batch / statistics.median(t), 3) for n, t in by.items()} for s, by in seconds.items()},
        "ratio": {
            stage: {o: round(statistics.median(t / m for t, m in zip(by[o], by[base], strict=True)), 2) for o in others}
            for stage, by in seconds.items()
        },
        "seconds": seconds,
    }


def equal_lines(a: np.ndarray, b: np.ndarray, pad: int) -> int:
    """How many rows of token ids [B, T] are equal, the shorter array filled up."""
    width = max(a.shape[1], b.shape[1])
    a, b = (np.pad(ids, ((0, 0), (0, width - ids.shape[1])), constant_values=pad) for ids in (a, b))
    return int((a == b).all(axis=1).sum())


def peak_memory(side: str, folder: Path, arguments: dict[str, Any]) -> int:
    """MiB that a process of its own held at most."""
    command = [sys.executable, "-m", "benchmarks.engine", "--only", side, "--folder", str(folder)]
    for name, value in arguments.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: status {done.returncode}")
    return int(done.stdout.split()[-1])


def main(
    shape: Literal["tiny", "small", "base", "large"] = "base",
    batch: tuple[int, ...] = (4,),
    tokens: int = 16,
    num_beams: int = 4,
    side: str = "trocr_jax",
    against: str = "transformers",
    dtype: Literal["float32", "bfloat16"] = "float32",
    rounds: int = 5,
    threads: int = os.cpu_count() or 1,
    memory: bool = False,
    natural: bool = False,
    json_file: JsonFile = None,
    only: str | None = None,
    folder: Path | None = None,
) -> None:
    """Prints a table.

    Args:
        shape: of which published model; tiny: of the built-in one.
        batch: lines read at a time; with several, each side's best is compared too.
        tokens: written for every line, whatever the model thinks; with --natural, at most.
        num_beams: hypotheses a line.
        side: the one that ratios are taken of: trocr_jax, trocr_jax-int8, trocr_jax-float8 or trocr_jax-int8-cache.
        against: other sides, separated by commas: transformers, transformers-compiled, onnxruntime,
            onnxruntime-int8, and those four.
        dtype: of weights and arithmetic.
        rounds: how often every side has its turn.
        threads: of torch; XLA takes those of the process.
        memory: measure peak memory too, of the first batch size.
        natural: rendered lines that end where the model ends them.
        json_file: where the figures go too.
        only: run one side alone, twice, and print its peak memory in MiB.
        folder: the weights, if they are there already.
    """
    options: dict[str, Any] = {"tokens": tokens, "num_beams": num_beams, "threads": threads, "dtype": dtype}
    names = [side, *(name for name in against.split(",") if name)]
    if unknown := [name for name in (*names, *([only] if only else ())) if name not in SIDES]:
        raise SystemExit(f"no such side: {unknown[0]}; there are {', '.join(SIDES)}")
    check_json(json_file)
    if rounds < 1:
        raise SystemExit(f"--rounds {rounds}: every side needs a turn at least")
    if only is None:  # of which nothing of another side shall take memory
        config = config_of(shape) if folder is None else trocr_jax.checkpoint.load(folder).config
        check(config, batch, tokens, num_beams)
    if natural:
        if shape != "tiny" and folder is None:
            raise SystemExit("random weights end no line: with --natural give --shape tiny, or --folder with a model")
        if "onnxruntime" in side + against:
            raise SystemExit("onnxruntime is measured with forced lengths: leave it out of --against with --natural")
        options["natural"] = True
    if only is not None:
        if folder is None:
            raise SystemExit("--only needs --folder with the weights; --memory measures each side by itself")
        engine = SIDES[only](folder, **options)
        pixels = engine.put(images(TrOCRConfig.from_json(folder / "config.json"), batch[0]))
        for _ in range(2):
            engine.read(pixels)
        print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024)
        return
    result: dict[str, Any] = {"shape": str(folder or shape), "rounds": rounds, **options, "machine": machine()}
    with tempfile.TemporaryDirectory() as made:
        weights = folder or Path(made)
        if folder is None:
            write_weights(shape, weights, trained=natural)
        engines = {name: SIDES[name](weights, **options) for name in names}
        if memory:  # once there are ONNX files, whose making would count
            arguments = {"batch": batch[0], **options}
            arguments.pop("natural", None)
            result["peak memory, MiB"] = {name: peak_memory(name, weights, arguments) for name in names}
        steps = None if natural or tokens == 1 else tokens - 1
        result["batches"] = [
            compare(
                engines,
                images(config, size, lines_for=weights if natural else None),
                rounds=rounds,
                steps=steps,
                pad=config.pad_token_id,
            )
            for size in batch
        ]
    versions = {"python": platform.python_version()} | dict(installed("jax", "torch", "transformers", "onnxruntime"))
    result |= {"versions": versions, "date": time.strftime("%Y-%m-%d")}
    print(table(result, names))
    if json_file:
        json_file.write_text(json.dumps(result, indent=2) + "\n")


def installed(*packages: str) -> Iterator[tuple[str, str]]:
    """Those of the packages that are there, with their versions."""
    for name in packages:
        with suppress(PackageNotFoundError):
            yield name, version(name)


def machine() -> str:
    """What the sides ran on."""
    import jax

    device = jax.devices()[0]
    cores = f"{os.cpu_count()} cores, {platform.machine()}"
    return cores if device.platform == "cpu" else f"{device.device_kind}, {cores}"


def table(result: dict[str, Any], names: list[str]) -> str:
    """The figures as Markdown."""
    limit = "at most " if "natural" in result else ""
    rows = [
        f"{result['shape']}, {limit}{result['tokens']} tokens, {result['num_beams']} beams, {result['dtype']}; "
        f"{result['machine']}; {result['date']}",
        "",
        "| batch | lines/s | " + " | ".join(names) + " | " + " | ".join(f"ratio to {o}" for o in names[1:]) + " |",
        "|---" * (1 + len(names) + len(names)) + "|",
    ]
    for found in result["batches"]:
        for stage, by in found["lines/s"].items():
            ratios = [str(found["ratio"][stage].get(o, "")) for o in names[1:]]
            cells = [str(by.get(n, "out of memory")) for n in names]
            rows.append(f"| {found['batch']} | {stage} | " + " | ".join([*cells, *ratios]) + " |")
        cells = [str(found["first round, s"].get(n, "")) for n in names]
        rows.append(
            f"| {found['batch']} | first round (compiles), s | " + " | ".join([*cells, *("" for _ in names[1:])]) + " |"
        )
    if "peak memory, MiB" in result:
        memory = result["peak memory, MiB"]
        ratios = [f"{memory[o] / memory[names[0]]:.2f}" for o in names[1:]]
        rows.append("| | peak memory, MiB | " + " | ".join([*(str(memory[n]) for n in names), *ratios]) + " |")
    if len(result["batches"]) > 1:
        rows += ["", "Whole lines, each side at its best batch: " + best(result["batches"], names) + "."]
    equal = [
        f"{lines} of {found['batch']} with {other}"
        for found in result["batches"]
        for other, lines in found["equal lines"].items()
    ]
    return "\n".join([*rows, "", f"Equal lines: {'; '.join(equal) or 'nothing to compare with'}."])


def best(batches: list[dict[str, Any]], names: list[str]) -> str:
    """Lines/s of each side at the batch size that suits it, and what trocr_jax's are beside the others'."""
    speeds = {}
    for name in names:
        found = [(one["lines/s"]["whole line"].get(name, 0.0), one["batch"]) for one in batches]
        speeds[name] = max(found)
    own = speeds[names[0]][0]
    return ", ".join(
        f"{name} {speed} (batch {batch}{'' if name == names[0] else f', ratio {own / speed:.2f}' if speed else ''})"
        for name, (speed, batch) in speeds.items()
    )


if __name__ == "__main__":
    tyro.cli(main)
