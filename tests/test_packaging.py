"""What is installed is the library and nothing else, and it stays small."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODELS_LIMIT = 10_000_000  # bytes: what a built-in model may add to the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of the tracked and new files, built in a copy: a build leaves folders behind."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in tree():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", target]
    done = subprocess.run([*map(str, command), str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = target.glob("*.whl")
    return zipfile.ZipFile(path)


def tree() -> list[Path]:
    """The files that packaging may see, without caches and builds."""
    names = [Path(name) for name in ("pyproject.toml", "README.md", "LICENSE")]
    for folder in ("trocr_jax", "train", "convert", "scripts", "benchmarks", "tests"):
        for parent, _, found in os.walk(ROOT / folder):
            if not parent.endswith("__pycache__"):
                names += [Path(parent, name).relative_to(ROOT) for name in found]
    return names


def test_top_level_is_the_library(wheel: zipfile.ZipFile):
    top = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"trocr_jax"}
    (info,) = top - {"trocr_jax"}
    assert any(name.startswith(f"{info}/licenses/") and name.endswith("LICENSE") for name in wheel.namelist())


def test_every_file_of_the_library_is_in_the_wheel(wheel: zipfile.ZipFile):
    ours = {path.as_posix() for path in tree() if path.parts[0] == "trocr_jax"}
    assert {name for name in wheel.namelist() if name.startswith("trocr_jax/")} == ours


def test_models_are_small(wheel: zipfile.ZipFile):
    for model in {name.split("/")[2] for name in wheel.namelist() if name.startswith("trocr_jax/models/")}:
        files = [entry for entry in wheel.infolist() if entry.filename.startswith(f"trocr_jax/models/{model}")]
        assert sum(entry.file_size for entry in files) <= MODELS_LIMIT, model


def test_runtime_needs_neither_torch_nor_tensorflow():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {requirement.split(">")[0].split("=")[0].strip() for requirement in project["dependencies"]}
    assert not names & {"torch", "torchvision", "tensorflow", "tensorflow-cpu"}
    assert "tensorflow" not in " ".join(project["optional-dependencies"]["train"]).replace("tensorflow-datasets", "")
