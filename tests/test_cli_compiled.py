"""Compiled programs that `trocr-jax transcribe` keeps for its next start."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from trocr_jax.cli.compiled import FOLDER, keep_programs

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
    keep_programs()
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
