"""Recipes compiled for pods: memory, collectives and compile times, one process a compilation, one after another.

    python -m benchmarks.ahead --file ahead.jsonl

What the file has already is not compiled again, so that the command goes on where it was stopped. Printed is a
Markdown table of what it has in the end. Needs the extra tpu.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import tyro

RECIPES = ("stage1-base", "stage1-large")
TOPOLOGIES = ("v5e:16x16", "v6e:16x16", "v5p:4x4x4")
GIB = 2**30


def main(
    file: Path,
    recipes: tuple[str, ...] = RECIPES,
    topologies: tuple[str, ...] = TOPOLOGIES,
    slices: tuple[int, ...] = (1, 2),
    mesh: str | None = None,
    lines_per_device: int = 16,
) -> None:
    """Compiles what is missing, prints everything.

    Args:
        file: JSONL of the figures.
        recipes: names of files in train/recipes.
        topologies: of pods.
        slices: how many of them.
        mesh: of the devices; the recipes' by default.
        lines_per_device: in a step.
    """
    done = [(row["recipe"], row["topology"], row["slices"], row["asked_mesh"], _lines(row)) for row in rows(file)]
    for count in slices:
        for topology in topologies:
            for recipe in recipes:
                if (recipe, topology, count, mesh, lines_per_device) not in done:
                    compile_one(file, recipe, topology, slices=count, mesh=mesh, lines_per_device=lines_per_device)
    print(table(rows(file)))


def compile_one(
    file: Path, recipe: str, topology: str, *, slices: int, mesh: str | None, lines_per_device: int
) -> None:
    """A row more in `file`."""
    command = [sys.executable, "-m", "train", "compile", recipe, "--topology", topology, "--slices", str(slices)]
    command += ["--lines-per-device", str(lines_per_device), "--json-file", str(file)]
    command += [] if mesh is None else ["--mesh", mesh]
    before = len(rows(file))
    status = subprocess.run(command, check=False, stdout=sys.stderr).returncode
    if len(rows(file)) == before:  # what does not fit, status 1 as that of a traceback, is a row too
        raise SystemExit(f"{' '.join(command)}: status {status}")


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: a row for each program of each compilation."""
    head = [
        "recipe",
        "devices",
        "lines of a device",
        "mesh",
        "program",
        "GiB of a device",
        "collectives of a device",
        "MFU bound",
        "compiled, s",
    ]
    out = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in sorted(found, key=lambda r: (r["recipe"], r["slices"])):
        for name in ("step", "generation"):
            program = row[name]
            cells = [row["recipe"], _devices(row), str(_lines(row)), _mesh(row["mesh"]), name]
            cells += [f"{program['memory'] / GIB:.2f} of {row['device_memory'] / GIB:.2f}", _collectives(program)]
            bound = row["mfu_bound"] if name == "step" else None
            cells += ["" if bound is None else f"{bound:.0%}", f"{program['compile_seconds']:.0f}"]
            out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)


def _devices(row: dict[str, Any]) -> str:
    return (f"{row['slices']} × " if row["slices"] > 1 else "") + row["topology"]


def _lines(row: dict[str, Any]) -> int:
    return int(row["batch_size"] // row["devices"])


def _mesh(mesh: dict[str, int]) -> str:
    return ",".join(f"{name}={size}" for name, size in mesh.items() if size > 1)


def _collectives(program: dict[str, Any]) -> str:
    """Those outside of loops whose turns are not known, and those of a turn of such a loop."""
    if "collectives" not in program:
        return "does not compile"
    parts = [_kinds(program["collectives"]), *(f"a token: {_kinds(turn['collectives'])}" for turn in program["loops"])]
    return "; ".join(parts)


def _kinds(collectives: dict[str, list[int]]) -> str:
    kinds = (f"{count} {kind} {size / 2**20:,.0f} MiB" for kind, (count, size) in sorted(collectives.items()))
    return ", ".join(kinds) or "none"


if __name__ == "__main__":
    tyro.cli(main)
