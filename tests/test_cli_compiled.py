"""Compiled programs that `trocr-jax transcribe` keeps for its next start."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import pytest
from jax._src import compilation_cache

from tests.tiny import save_lines, save_tiny
from trocr_jax.cli import main, parse
from trocr_jax.cli.compile import compile
from trocr_jax.cli.compiled import FOLDER, LEAST, _use, beside, keep_programs, use_programs
from trocr_jax.errors import DecodeError


def program(*arguments: str, warning: str = "", **environment: str) -> str:
    """What the program prints, with the environment of this process but for a folder of compiled programs."""
    inherited = {name: value for name, value in os.environ.items() if name != FOLDER}
    done = subprocess.run(
        [sys.executable, "-m", "trocr_jax", *arguments],
        env=inherited | environment,
        capture_output=True,
        check=True,
        text=True,
    )
    assert "cache" not in done.stderr  # progress may be there
    assert warning in done.stderr
    return done.stdout


def test_the_second_start_compiles_nothing_and_what_is_cut_off_is_made_anew(tmp_path: Path) -> None:
    (line,) = save_lines(tmp_path / "lines", 1)
    command = ["transcribe", str(line), "--model", str(save_tiny(tmp_path / "model"))]
    caches = {"XDG_CACHE_HOME": str(tmp_path)}
    every = caches | {LEAST: "0"}  # also what a quick machine compiles in less than a tenth of a second
    first = program(*command, **every)
    (folder,) = (tmp_path / "trocr_jax").iterdir()
    kept = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert kept
    assert program(*command, **every) == first
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == kept
    largest = max(folder.glob("*-cache"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:1000])
    assert program(*command, warning=") is damaged and made anew", **caches) == first
    assert largest.stat().st_size > 1000
    intact = {path: mtime for path, mtime in kept.items() if path != largest}
    assert {path: path.stat().st_mtime_ns for path in intact} == intact


@pytest.mark.parametrize("chosen", ["", "elsewhere"])
def test_another_folder_or_none(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is left to jax."""
    monkeypatch.setenv(FOLDER, chosen)
    before = dict(os.environ)
    keep_programs("tiny-printed")
    assert dict(os.environ) == before


def test_the_folder_is_below_the_home_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (FOLDER, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setenv(LEAST, "0.1")
    keep_programs("tiny-printed")
    assert Path(os.environ[FOLDER]).parent == tmp_path / ".cache" / "trocr_jax"
    monkeypatch.delenv(FOLDER)


def test_without_a_folder_that_can_be_made_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv(FOLDER, raising=False)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    keep_programs("tiny-printed")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    for model in ("tiny-printed", "~/model"):
        keep_programs(model)
        assert FOLDER not in os.environ
    assert main(["info", "~/model"]) == 2


def test_only_what_is_removed_is_said_to_be_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(warnings, "showwarning", lambda message, *where, **options: print(message))
    for name in (FOLDER, LEAST):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("trocr_jax.cli.compiled._keep_all", lambda: None)
    _use(tmp_path, least="1")
    said = UserWarning("Error reading persistent compilation cache entry for 'jit_f': PermissionError: denied")
    warnings.showwarning(said, UserWarning, "file", 1)
    assert "(jit_f) cannot be read (PermissionError: denied) and is compiled again" in capsys.readouterr().out
    (tmp_path / "jit_f-0-cache").touch()
    warnings.showwarning(said, UserWarning, "file", 1)
    assert "(jit_f) is damaged and made anew" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    for name, content in (("a", zlib.compress(b"whole")), ("b", zlib.compress(b"cut off" * 99)[:9]), ("c", b"")):
        (tmp_path / f"jit_f-{name}-cache").write_bytes(content)
    monkeypatch.setattr(compilation_cache, "decompress_executable", zlib.decompress)
    warnings.showwarning(said, UserWarning, "file", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["jit_f-a-cache"]  # its neighbour of the same name


def test_programs_of_another_processor_are_not_passed_over_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    other = tmp_path / "compiled-0123456789ab"
    other.mkdir()
    assert not use_programs(str(tmp_path))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{other}: compiled for another kind of processor, or number of cores, and not used here" in said


def test_a_refused_command_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "compiled"

    def refused(command: object) -> None:
        (folder / "jit_f-0-cache").touch()  # of the model, which was loaded
        raise DecodeError("no such file")

    monkeypatch.setattr("trocr_jax.cli.compile._compile", refused)
    command = parse(["compile", "--model", "tiny-printed"])
    with pytest.raises(DecodeError):
        compile(command, folder)  # type: ignore[arg-type]
    assert not folder.exists()
    folder.mkdir()
    (folder / "jit_g-0-cache").touch()
    with pytest.raises(DecodeError):
        compile(command, folder)  # type: ignore[arg-type]
    assert [path.name for path in folder.iterdir()] == ["jit_g-0-cache"]


def test_programs_beside_the_model(tmp_path: Path) -> None:
    """transcribe and jobs run compile nothing more, wherever the folder is then."""
    model, lines = save_tiny(tmp_path / "model"), save_lines(tmp_path / "lines", 3)
    environment = {"XDG_CACHE_HOME": str(tmp_path / "caches"), LEAST: "0"}
    options = ["--batch-size", "2", "--max-new-tokens", "12"]
    program("compile", "--model", str(model), *options)
    (folder,) = model.glob("compiled-*")
    kept = {path.name for path in folder.iterdir()}
    assert sum(name.startswith("jit_encode") for name in kept) == 1
    assert sum(name.startswith("jit__generate") for name in kept) == 1  # batches of one
    moved = model.rename(tmp_path / "elsewhere")
    program("transcribe", "--model", str(moved), *options, *map(str, lines), **environment)
    jobs = ["jobs", "run", str(tmp_path / "lines"), "--output", str(tmp_path / "job"), "--decoders", "1"]
    program(*jobs, "--model", str(moved), *options, **environment)
    own = {name for name in kept if not name.startswith("jit_stage")}
    assert {path.name for path in (moved / folder.name).iterdir() if not path.name.startswith("jit_stage")} == own
    assert not (tmp_path / "caches").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="no limit of sizes of files here")
def test_programs_that_cannot_be_kept_are_no_success(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model")
    limited = "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))"  # as on a full disk
    done = subprocess.run(
        [
            *(sys.executable, "-c", f"{limited}; runpy.run_module('trocr_jax', run_name='__main__')"),
            *("compile", "--model", str(model), "--batch-size", "1"),
        ],
        env={name: value for name, value in os.environ.items() if name != FOLDER},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert re.search(r"error: .*compiled-\w+: \d+ programs cannot be kept \(Error writing .*; make room", done.stderr)
    assert not list(model.glob("compiled-*"))


def test_programs_of_what_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model in ("tiny-printed", str(tmp_path)):
        assert main(["compile", "--model", model]) == 2
        assert f"{model}: no folder of a model, beside which" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_batch_size_of_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_tiny(tmp_path / "model")
    before = sorted(model.iterdir())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trocr_jax.cli.compiled.make_programs", beside)
        assert main(["compile", "--model", str(model), "--batch-size", "0"]) == 2
    assert "batch_size is 0" in capsys.readouterr().err
    assert sorted(model.iterdir()) == before


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
