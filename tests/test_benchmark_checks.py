"""Benchmarks: what is timed has been compiled before, what is printed is what was asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ahead, engine, jobs_beside, lengths, slots, training, transcribe
from scripts import constraint_check, parity_decoding
from scripts.served import served
from trocr_jax.errors import DecodeError


def test_too_few_tokens_are_told_of() -> None:
    command = ["benchmarks.constraints", "--tokens", "2", "--words", "100", "--batch", "1"]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "in 2 tokens" in done.stderr
    assert "Traceback" not in done.stderr
    with pytest.raises(DecodeError, match="in 2 tokens"):
        constraint_check.main(tokens=2, words=100)
    with pytest.raises(SystemExit, match="max_new_tokens allows 2"):
        parity_decoding.main("tiny-printed", tokens=2)


def test_texts_are_timed_in_batches_that_were_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    read: dict[str, list[int]] = {"ours": [], "theirs": []}

    def side(name: str) -> Callable[..., Callable[[Sequence[Path]], list[str]]]:
        def texts(paths: Sequence[Path]) -> list[str]:
            read[name].append(len(paths))
            return [""] * len(paths)

        return lambda *_, **__: texts

    for name in read:
        monkeypatch.setattr(transcribe, name, side(name))
    transcribe.compare("", [Path(str(i)) for i in range(10)], batch=4, rounds=1, threads=1)
    assert read == {"ours": [4, 2, 10], "theirs": [4, 2, 10]}


def test_lengths_are_judged_on_lines_that_nothing_has_learnt_from() -> None:
    with pytest.raises(SystemExit, match="--lines 1024"):
        lengths.main(lines=1024)


def test_a_recipe_is_compiled_again_for_other_lines_and_any_topology(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled: list[int] = []

    def compile_one(file: Path, recipe: str, topology: str, *, lines_per_device: int, **asked: Any) -> None:
        program = {"memory": 2**30, "compile_seconds": 1.0}
        row = {"recipe": recipe, "topology": topology, "slices": asked["slices"], "asked_mesh": asked["mesh"]}
        row |= {"devices": 4, "batch_size": 4 * lines_per_device, "mesh": {"data": 4}, "device_memory": 2**34}
        row |= {"step": program, "generation": program, "mfu_bound": None}
        compiled.append(lines_per_device)
        with file.open("a") as rows:
            rows.write(json.dumps(row) + "\n")

    monkeypatch.setattr(ahead, "compile_one", compile_one)
    for lines in (16, 16, 32):
        ahead.main(tmp_path / "a.jsonl", ("stage1-base",), ("v5e:2x2",), (1,), lines_per_device=lines)
    assert compiled == [16, 32]
    last = capsys.readouterr().out.rpartition("compiled, s")[2]
    assert "| v5e:2x2 | 16 |" in last
    assert "| v5e:2x2 | 32 |" in last


def test_lines_that_fill_the_last_batch_are_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constraint_check, "batches", lambda *_: iter([]))
    constraint_check.main(lines=3, batch=2, tokens=12, words=20)
    assert capsys.readouterr().out.startswith("4 lines,")


def test_a_compilation_that_gives_no_figures_ends_the_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1))
    with pytest.raises(SystemExit, match="status 1"):
        ahead.compile_one(tmp_path / "a", "stage1-base", "v5e:2x2", slices=1, mesh=None, lines_per_device=1)


@pytest.mark.parametrize("measures", [engine, jobs_beside, slots, training, transcribe], ids=lambda one: one.__name__)
def test_a_folder_that_is_missing_is_told_of_before_anything_is_measured(measures: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no such folder"):
        measures.main(json_file=tmp_path / "none" / "figures.json")


def test_a_server_that_does_not_start_is_told_of() -> None:
    command = ["-c", "import missing_server"]
    with pytest.raises(RuntimeError, match="import missing_server"), served(command, lambda url: {}):
        pass
