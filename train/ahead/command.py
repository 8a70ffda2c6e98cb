"""`python -m train compile`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from train.ahead.hlo import Work
from train.ahead.programs import lower_generation, lower_step, state_bytes
from train.ahead.report import GIB, Compiled, advice, compile_program, lines, mfu_bound
from train.ahead.targets import Target, find_target
from train.flops import step_flops
from train.recipe import Recipe, Stage, check
from trocr_jax.errors import ConfigError
from trocr_jax.sharding import check_batch_size, make_mesh


def compile_ahead(
    recipe: Recipe,
    topology: str,
    *,
    slices: int = 1,
    stage: int = -1,
    mesh: str | None = None,
    lines_per_device: int | None = None,
    micro_batches: int | None = None,
    remat: bool | None = None,
    num_beams: int = 4,
    json_file: Path | None = None,
) -> bool:
    """Compiles step and generation of a stage for devices that need not be there, and prints what they need; whether
    both fit. Arguments as of the command.

    Raises ConfigError if the topology, the mesh, the batch or the file cannot be used.
    """
    if not -len(recipe.stages) <= stage < len(recipe.stages):
        raise ConfigError(f"stage is {stage}; recipe {recipe.name!r} has {len(recipe.stages)}, the first is 0")
    if json_file is not None and not json_file.absolute().parent.is_dir():  # before minutes of compilation
        raise ConfigError(f"json_file {json_file}: its folder is not there; make it, or name another file")
    if json_file is not None and json_file.is_dir():
        raise ConfigError(f"json_file {json_file}: is a folder; name a file in it")
    target = find_target(topology, slices=slices)
    if remat is not None:
        recipe = replace(recipe, remat_encoder=remat, remat_decoder=remat)
    chosen = recipe.stages[stage]
    if micro_batches is not None:
        chosen = replace(chosen, micro_batches=micro_batches)
    if lines_per_device is not None:
        chosen = replace(chosen, batch_size=lines_per_device * len(target.devices))
    recipe = replace(recipe, stages=tuple(chosen if s is recipe.stages[stage] else s for s in recipe.stages))
    check(recipe)
    devices = make_mesh(recipe.mesh if mesh is None else mesh, target.devices)
    check_batch_size(chosen.batch_size // chosen.micro_batches, devices)
    print(_heading(recipe, chosen, target, devices), flush=True)

    search = lower_generation(recipe, chosen, devices, num_beams=num_beams)  # refuses beams before the step is compiled
    step = compile_program(lower_step(recipe, chosen, devices))
    print("\n".join(lines("step", step, target)))
    bound = None
    if step.work is not None and step.work.cycles:
        bound = mfu_bound(step.work.cycles, step_flops(recipe, chosen), target)
    if bound is not None:
        print(f"  MFU                 at most {bound:.0%}, if the step takes no longer than the estimated cycles")
    sys.stdout.flush()

    generation = compile_program(search)
    beside = max(state_bytes(recipe, devices) - generation.arguments, 0)
    name = f"generation, {num_beams} beams, {chosen.max_chars + 1} tokens"
    print("\n".join(lines(name, generation, target, beside=beside)))

    need = {"step": step.memory, "generation": generation.memory + beside}
    excess = max(need.values()) - target.memory
    print("fits" if excess <= 0 else "does not fit: " + advice(recipe, chosen, devices, excess / GIB))
    if json_file is not None:
        row = _settings(recipe, chosen, target, devices) | {"asked_mesh": mesh, "num_beams": num_beams}
        row |= {"fits": excess <= 0}
        row |= {
            "step": _row(step, need["step"]),
            "generation": _row(generation, need["generation"]),
            "mfu_bound": bound,
        }
        try:
            with json_file.open("a", encoding="utf-8") as file:
                print(json.dumps(row), file=file)
        except OSError as error:
            raise ConfigError(f"--json-file {json_file}: cannot be written ({error.strerror})") from None
    return excess <= 0


def _heading(recipe: Recipe, stage: Stage, target: Target, mesh: Mesh) -> str:
    many = f"{target.slices} × " if target.slices > 1 else ""
    remat = [name for name in ("encoder", "decoder") if getattr(recipe, f"remat_{name}")]
    return (
        f"{recipe.name} for {many}{target.name}: {len(target.devices)} × {target.devices[0].device_kind}, mesh "
        + ",".join(f"{name}={size}" for name, size in mesh.shape.items())
        + f"; {stage.batch_size} lines a step in {stage.micro_batches} micro-batches, {recipe.dtype}, remat of "
        + (" and ".join(remat) or "nothing")
    )


def _settings(recipe: Recipe, stage: Stage, target: Target, mesh: Mesh) -> dict[str, Any]:
    return {
        "recipe": recipe.name,
        "topology": target.name,
        "slices": target.slices,
        "device": target.devices[0].device_kind,
        "devices": len(target.devices),
        "device_memory": target.memory,
        "mesh": dict(mesh.shape),
        "batch_size": stage.batch_size,
        "micro_batches": stage.micro_batches,
        "tokens": stage.max_chars + 1,
        "remat": [recipe.remat_encoder, recipe.remat_decoder],
        "jax": jax.__version__,
    }


def _row(compiled: Compiled, memory: int) -> dict[str, Any]:
    row: dict[str, Any] = {"memory": memory, "compile_seconds": round(compiled.seconds, 1)}
    if compiled.work is not None:
        row |= _figures(compiled.work) | {"loops": [_figures(turn) for turn in compiled.work.loops]}
    return row


def _figures(found: Work) -> dict[str, Any]:
    return {"cycles": found.cycles, "collectives": {kind: [n, found.bytes[kind]] for kind, n in found.count.items()}}
