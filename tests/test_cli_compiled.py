"""Compiled programs that `trocr-jax transcribe` keeps for its next start."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tests.tiny import save_lines, save_tiny
from trocr_jax.cli import main
from trocr_jax.cli.compiled import FOLDER, LEAST, beside, keep_programs, use_programs

SAMPLE = Path(__file__).parents[1] / "samples" / "line_1.png"


def start(tmp_path: Path, *, warning: str = "", **environment: str) -> str:
    """What `transcribe` prints, started where the user's caches are in `tmp_path`."""
    inherited = {name: value for name, value in os.environ.items() if name != FOLDER}
    done = subprocess.run(
        [sys.executable, "-m", "trocr_jax", "transcribe", str(SAMPLE)],
        env={**inherited, "XDG_CACHE_HOME": str(tmp_path), **environment},
        capture_output=True,
        check=True,
        text=True,
    )
    assert "cache" not in done.stderr  # progress may be there
    assert warning in done.stderr
    return done.stdout


def test_the_second_start_compiles_nothing(tmp_path: Path) -> None:
    first = start(tmp_path)
    (folder,) = (tmp_path / "trocr_jax").iterdir()
    kept = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert kept
    assert start(tmp_path) == first
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == kept


@pytest.mark.parametrize("chosen", ["", "elsewhere"])
def test_another_folder_or_none(chosen: str, tmp_path: Path) -> None:
    start(tmp_path / "caches", **{FOLDER: str(tmp_path / chosen) if chosen else ""})
    assert not (tmp_path / "caches").exists()
    assert (tmp_path / "elsewhere").exists() == bool(chosen)


def test_the_folder_is_below_the_home_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (FOLDER, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setenv(LEAST, "0.1")
    keep_programs("tiny-printed")
    assert Path(os.environ[FOLDER]).parent == tmp_path / ".cache" / "trocr_jax"
    monkeypatch.delenv(FOLDER)


def test_programs_that_are_cut_off_are_made_anew(tmp_path: Path) -> None:
    first = start(tmp_path)
    (folder,) = (tmp_path / "trocr_jax").iterdir()
    whole = {path: path.stat().st_size for path in folder.glob("*-cache")}
    largest = max(whole, key=lambda path: whole[path])
    largest.write_bytes(largest.read_bytes()[:1000])
    assert start(tmp_path, warning=") is damaged and made anew") == first
    assert largest.stat().st_size > 1000
    assert start(tmp_path) == first


def test_programs_beside_the_model(tmp_path: Path) -> None:
    """transcribe and jobs run compile nothing more, also where nothing can be written."""
    model, lines = save_tiny(tmp_path / "model"), save_lines(tmp_path / "lines", 13)
    environment = {name: value for name, value in os.environ.items() if name != FOLDER}
    environment |= {"XDG_CACHE_HOME": str(tmp_path / "caches"), LEAST: "0"}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "trocr_jax", *arguments, "--model", str(model), "--batch-size", "4"]
        done = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
        assert "cache" not in done.stderr
        return done.stdout

    run("compile")
    (folder,) = model.glob("compiled-*")
    kept = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert sum(name.startswith("jit_encode") for name in kept) == 1
    assert sum(name.startswith("jit__generate") for name in kept) == 2  # batches of 1 and 2
    for number in (13, 2, 1):
        run("transcribe", *map(str, lines[:number]))
    run("jobs", "run", str(tmp_path / "lines"), "--output", str(tmp_path / "job"))
    programs = [name for name in kept if not name.startswith("jit_stage")]
    assert sorted(p.name for p in folder.iterdir() if not p.name.startswith("jit_stage")) == sorted(programs)
    assert not (tmp_path / "caches").exists()


def test_programs_of_a_model_that_is_no_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "--model", "tiny-printed"]) == 2
    assert "programs are kept beside a model in a folder" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (FOLDER, LEAST):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    assert not use_programs(str(tmp_path))  # nothing there
    folder = beside(str(tmp_path))
    assert folder is not None
    folder.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder)
    assert use_programs(str(tmp_path))
    assert os.environ.pop(FOLDER) == str(folder)
    assert float(os.environ.pop(LEAST)) > 1e6  # jax would warn of each program that it cannot write
