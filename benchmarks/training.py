"""A training step on the shapes of the published models: trocr_jax beside the same step in PyTorch.

    python -m benchmarks.training --shape base --batch 16 --rounds 10 [--json-file FILE]

Both sides: random weights of their own, the same batch of 384 × 384 images and labels, AdamW, dropout 0.1, arithmetic
in bf16 (the other side under autocast, SDPA in the encoder, `torch.compile` where it works), with rematerialisation
(gradient checkpointing) off and on. They take turns in one process; printed are the medians of the rounds and of their
ratios. MFU comes from `train.flops`, the same count for both sides. Without an accelerator it runs on the CPU, and says
so.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import Any, Literal

import jax
import numpy as np
import tyro
from flax import nnx

from benchmarks.engine import PRESETS, JsonFile, check_json
from train.flops import peak, step_flops
from train.input import Batch
from train.optimizer import optimizer as make_optimizer
from train.recipe import Optimizer, Recipe, Stage
from train.step import init_state, make_train_step
from trocr_jax.config import TrOCRConfig
from trocr_jax.model import TrOCR

RATE = 1e-5
Step = Callable[[], float]  # trains once on the batch, waits, and returns the loss


def recipe_for(shape: str, *, batch: int, tokens: int, dtype: str, remat: bool) -> Recipe:
    """What is trained: `tokens` positions, the end token among them. tiny is small with a layer each, 32 × 128."""
    config = TrOCRConfig.preset(PRESETS.get(shape, "small-printed"))
    if shape == "tiny":
        encoder = replace(config.encoder, image_size=(32, 128), num_layers=1)
        config = replace(config, encoder=encoder, decoder=replace(config.decoder, num_layers=1, vocab_size=1000))
    stage = Stage(steps=1_000_000, batch_size=batch, width=config.encoder.image_size[1], max_chars=tokens - 1)
    optimizer = Optimizer(learning_rate=RATE, schedule="constant", warmup_steps=0)
    recipe = Recipe(name=shape, config=config, stages=(stage,), optimizer=optimizer, dtype=dtype)
    return replace(recipe, remat_encoder=remat, remat_decoder=remat)


def make_batch(recipe: Recipe) -> Batch:
    rng, stage, config = np.random.default_rng(0), recipe.stages[0], recipe.config
    pixels = rng.integers(0, 256, (stage.batch_size, *config.encoder.image_size, 3), dtype=np.uint8)
    labels = rng.integers(4, config.decoder.vocab_size, (stage.batch_size, stage.max_chars + 1)).astype(np.int32)
    labels[:, -1] = config.eos_token_id
    return Batch(pixels, labels)


def ours(recipe: Recipe, batch: Batch) -> Step:
    """`train.step`, compiled once, its state donated."""
    optimizer = make_optimizer(recipe)
    state = init_state(recipe, optimizer)  # not jitted: XLA's GPU backend takes minutes for so many random arrays
    step = jax.jit(make_train_step(recipe, recipe.stages[0], optimizer), donate_argnums=0)
    on_device = jax.device_put(batch)

    def run() -> float:
        nonlocal state
        state, losses = step(state, on_device)
        return float(losses.total)

    return run


def theirs(recipe: Recipe, batch: Batch, *, compiled: bool) -> Step:
    """transformers' VisionEncoderDecoderModel on torch, SDPA in the encoder, autocast to bf16, fused AdamW on a GPU."""
    import torch
    from transformers import VisionEncoderDecoderConfig, VisionEncoderDecoderModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = VisionEncoderDecoderConfig(**recipe.config.to_huggingface())
    config._attn_implementation = config.decoder._attn_implementation = "eager"  # its TrOCR decoder has no SDPA
    config.encoder._attn_implementation = "sdpa"
    model = VisionEncoderDecoderModel(config).to(device).train()
    if recipe.remat_encoder:
        model.gradient_checkpointing_enable()
        model.config.decoder.use_cache = False
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0, fused=device == "cuda")
    forward = torch.compile(model) if compiled else model
    pixels = torch.from_numpy(batch.pixels.transpose(0, 3, 1, 2).copy()).to(device)
    labels = torch.from_numpy(batch.labels).long().to(device)

    def run() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=recipe.dtype == "bfloat16"):
            loss = forward(pixel_values=pixels.float() / 127.5 - 1, labels=labels, use_cache=False).loss
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return run


def sides(recipe: Recipe, batch: Batch) -> dict[str, Step]:
    """Both, each after its first step, which compiles; torch eager where torch.compile does not work."""
    started = time.perf_counter()
    found = {"trocr_jax": ours(recipe, batch)}
    found["trocr_jax"]()
    print(f"trocr_jax ready in {time.perf_counter() - started:.0f} s", file=sys.stderr)
    try:
        started = time.perf_counter()
        found["torch, compiled"] = theirs(recipe, batch, compiled=True)
        found["torch, compiled"]()
        print(f"torch, compiled, ready in {time.perf_counter() - started:.0f} s", file=sys.stderr)
    except Exception as error:  # noqa: BLE001  whatever its compiler raises
        found.pop("torch, compiled", None)
        print(f"torch.compile does not work here: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
        found["torch, eager"] = theirs(recipe, batch, compiled=False)
        found["torch, eager"]()
    return found


def measure(recipe: Recipe, *, rounds: int) -> dict[str, Any]:
    """Seconds a step of both sides, in turn."""
    engines = sides(recipe, make_batch(recipe))
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, step in engines.items():
            started = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - started)
    mine, other = seconds
    ratio = statistics.median(b / a for a, b in zip(seconds[mine], seconds[other], strict=True))
    return {"remat": recipe.remat_encoder, "seconds": seconds, "ratio": ratio}


def main(
    shape: Literal["tiny", "small", "base", "large"] = "base",
    batch: int = 16,
    tokens: int = 64,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    rounds: int = 10,
    remat: Literal["off", "on", "both"] = "both",
    json_file: JsonFile = None,
) -> None:
    """Prints a table.

    Args:
        shape: of which published model; tiny: a layer of small each, to see that it runs.
        batch: lines a step.
        tokens: positions of the decoder.
        dtype: of the arithmetic; parameters are f32.
        rounds: how often every side has its turn.
        remat: rematerialisation of the layers in the backward pass (gradient checkpointing).
        json_file: where the figures go too.
    """
    import torch

    check_json(json_file)
    results = []
    for on in {"off": (False,), "on": (True,), "both": (False, True)}[remat]:
        recipe = recipe_for(shape, batch=batch, tokens=tokens, dtype=dtype, remat=on)
        results.append(measure(recipe, rounds=rounds))
        gc.collect()
    device = jax.devices()[0]
    flops = step_flops(recipe, recipe.stages[0])
    parameters = sum(x.size for x in jax.tree.leaves(nnx.state(nnx.eval_shape(lambda: TrOCR(recipe.config)))))
    print(
        f"{shape}, {parameters / 1e6:.1f} M parameters, batch {batch}, {tokens} tokens, {dtype}; jax on "
        f"{device.device_kind}, torch on {'cuda' if torch.cuda.is_available() else 'cpu'}, {os.cpu_count()} cores; "
        f"Python {platform.python_version()}, jax {jax.__version__}, torch {torch.__version__}, "
        f"transformers {version('transformers')}; {time.strftime('%Y-%m-%d')}\n"
    )
    print(table(results, batch=batch, flops=flops, device_peak=peak(device)))
    if device.platform == "cpu":
        print("\nNot measured on a GPU.")
    if json_file is not None:
        json_file.write_text(json.dumps({"shape": shape, "batch": batch, "tokens": tokens, "results": results}) + "\n")


def table(results: list[dict[str, Any]], *, batch: int, flops: float, device_peak: float | None) -> str:
    """Markdown; MFU where the peak of the device is known."""
    out = ["| remat | side | lines/s | TFLOP/s | MFU | ratio of trocr_jax |", "|---|---|---|---|---|---|"]
    for result in results:
        for name, seconds in result["seconds"].items():
            median = statistics.median(seconds)
            mfu = "" if device_peak is None else f"{flops / median / device_peak:.1%}"
            ratio = "" if name == "trocr_jax" else f"{result['ratio']:.2f}"
            remat = "on" if result["remat"] else "off"
            out.append(f"| {remat} | {name} | {batch / median:.3g} | {flops / median / 1e12:.3g} | {mfu} | {ratio} |")
    return "\n".join(out)


if __name__ == "__main__":
    tyro.cli(main)
