"""Twenty steps of one toy run on many meshes, and how far their losses are from those on one device.

    python -m scripts.mesh_losses [--steps 20] [--output losses.json]

Meshes of 1, 2, 4 and 8 simulated devices of one process and of 2 processes of 4 devices each: the batch shared out
(data), the parameters too (fsdp), the arithmetic of a layer shared out (model: every axis of a matrix that the rules
name divides by 8), and mixtures. Dropout and random tokens are on. The steps are compiled as the training loop does.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

ROOT = Path(__file__).resolve().parent.parent
MESHES = (
    "",
    *("data=2", "fsdp=2", "model=2"),
    *("data=4", "fsdp=4", "model=4", "data=2,fsdp=2", "data=2,model=2", "fsdp=2,model=2"),
    *("data=8", "fsdp=8", "model=8", "data=4,model=2", "data=2,fsdp=2,model=2"),
)
Rows = list[list[float]]  # loss and norm of the gradients of each step


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which meshes; the last options are of the processes that the script starts."""

    steps: int = 20
    meshes: tuple[str, ...] = MESHES
    two: bool = True  # meshes of 8 devices also as two processes of 4
    output: Path | None = None  # all losses as JSON
    losses: Path | None = None
    coordinator: str | None = None
    process: int | None = None
    processes: int | None = None


def main(options: Options) -> int:
    """0 if no loss is further off than 1e-5 of its value."""
    if options.losses is not None:
        _measure(options)
        return 0
    options = replace(options, meshes=("", *filter(None, options.meshes)))  # one device is what all are held against
    print("| processes × devices | mesh | loss | gradient norm |\n|---|---|---|---|")
    found = {f"1 × {_devices(mesh)}: {mesh}": rows for mesh, rows in _start(options, processes=1).items()}
    worst = _table(found, found["1 × 1: "])
    if options.two:
        eight = tuple(mesh for mesh in options.meshes if _devices(mesh) == 8)
        two = {f"2 × 4: {mesh}": rows for mesh, rows in _start(replace(options, meshes=eight), processes=2).items()}
        worst = float(np.maximum(worst, _table(two, found["1 × 1: "])))
        found |= two
    if options.output is not None:
        options.output.write_text(json.dumps(found), encoding="utf-8")
    print(f"largest relative difference of a loss in {options.steps} steps: {worst:.1e}")
    return 0 if worst <= 1e-5 else 1


def _table(found: dict[str, Rows], expected: Rows) -> float:
    """Prints the largest relative differences of each mesh; that of all losses."""
    worst = 0.0
    for name, rows in found.items():
        off = (np.abs(np.asarray(rows) - np.asarray(expected)) / np.abs(np.asarray(expected))).max(axis=0)
        worst = float(np.maximum(worst, off[0]))  # NaN stays
        where, _, mesh = name.partition(": ")
        print(f"| {where} | {mesh or 'one device'} | {off[0]:.1e} | {off[1]:.1e} |", flush=True)
    return worst


def toy(steps: int) -> Any:
    """Two layers each, whose every axis that a rule shares out divides by 8."""
    from scripts.toy_training import recipe

    what = recipe(batch=16, steps=steps)
    size = {"hidden_size": 64, "num_layers": 2, "num_heads": 8, "intermediate_size": 64}
    decoder = replace(what.config.decoder, vocab_size=-(-what.config.decoder.vocab_size // 8) * 8, **size)
    decoder = replace(decoder, cross_attention_hidden_size=64)
    config = replace(what.config, encoder=replace(what.config.encoder, **size), decoder=decoder)
    stage = replace(what.stages[1], steps=steps, ctc_weight=0.0)
    return replace(what, config=config, stages=(stage,))


def _devices(mesh: str) -> int:
    return int(np.prod([int(part.split("=")[1]) for part in mesh.split(",") if part]))


def own_options(processes: int, port: int) -> list[list[str]]:
    """What each of so many processes is told, beside what all are told; one alone is no part of a run of several."""
    if processes == 1:
        return [[]]
    shared = ["--processes", str(processes), "--coordinator", f"localhost:{port}"]
    return [["--process", str(process), *shared] for process in range(processes)]


def _start(options: Options, *, processes: int) -> dict[str, Rows]:
    """The losses on every mesh, of processes that together have eight devices."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = [
        *os.environ.get("XLA_FLAGS", "").split(),
        f"--xla_force_host_platform_device_count={8 // processes}",
        "--xla_backend_optimization_level=0",
    ]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags), "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "scripts.mesh_losses", "--losses", f"{folder}/losses.json"]
        command += ["--steps", str(options.steps), "--meshes", *options.meshes]
        running = [subprocess.Popen([*command, *own], env=environment) for own in own_options(processes, port)]
        ended = [process.wait() for process in running]
        if any(ended):
            raise RuntimeError("a run failed; what it said stands above")
        found: dict[str, Rows] = json.loads((Path(folder) / "losses.json").read_text(encoding="utf-8"))
    return found


def _measure(options: Options) -> None:
    """What one of the started processes does."""
    from train.processes import together

    with together(options.coordinator, process=options.process, processes=options.processes):
        _measure_all(options)


def _measure_all(options: Options) -> None:
    import jax

    from trocr_jax.sharding import make_mesh

    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)  # where JAX_COMPILATION_CACHE_DIR says so
    found = {}
    for shape in options.meshes:
        found[shape] = _losses(options.steps, make_mesh(shape or "data=1", jax.devices()[: _devices(shape)]))
        if jax.process_index() == 0:
            print(f"{shape or 'one device'}: {found[shape][-1]}", file=sys.stderr, flush=True)
    if jax.process_index() == 0 and options.losses is not None:
        options.losses.write_text(json.dumps(found), encoding="utf-8")


def _losses(steps: int, mesh: Any) -> Rows:
    import jax

    from scripts.toy_training import bars
    from train.codec import codec
    from train.data.order import in_order
    from train.input import Examples, batches, rows_of
    from train.loop import lower, on_devices
    from train.optimizer import optimizer
    from train.recipe import spans
    from train.step import init_state, make_train_step
    from trocr_jax.sharding import batch_sharding, shardings

    what = toy(steps)
    stage, rule = what.stages[0], optimizer(what)
    examples = Examples.of(what.config, codec(what).encode, width=stage.width, max_tokens=stage.max_chars)
    rows = rows_of(batch_sharding(mesh), stage.batch_size)
    lines = in_order(bars(stage), seed=0)
    data = batches(spans(what)[0], step=0, lines=lines, examples=examples, rows=rows, workers=0)
    out = []
    with jax.set_mesh(mesh):
        abstract = jax.eval_shape(lambda: init_state(what, rule))
        where = shardings(abstract, mesh)
        abstract = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, where)
        step = lower(make_train_step(what, stage, rule), abstract, stage, examples, mesh).compile()
        state = jax.jit(lambda: init_state(what, rule), out_shardings=where)()
        for samples in data:
            state, losses = step(state, on_devices(samples.batch, stage, mesh))
            out.append([float(losses.total), float(losses.gradient_norm)])
    return out


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
