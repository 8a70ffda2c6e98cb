"""`benchmarks.engine --only`, by which the memory of a side is measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import engine
from benchmarks.engine_sides import SIDES, Ours
from trocr_jax import checkpoint

CODE = """
import sys
from pathlib import Path
from types import SimpleNamespace
from benchmarks import engine

shapes = []
side = SimpleNamespace(put=lambda pixels: shapes.append(pixels.shape), read=lambda pixels: None)
engine.SIDES["transformers"] = lambda folder, **_: side
engine.main(batch=(1,), only="transformers", folder=Path(sys.argv[1]))
assert "jax" not in sys.modules
assert shapes == [(1, 40, 960, 3)]
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_a_side_is_measured_without_the_other() -> None:
    folder = str(checkpoint.resolve("tiny-printed"))
    finished = subprocess.run([sys.executable, "-c", CODE, folder], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert int(finished.stdout) > 0


def test_a_prefill_is_the_beginning_of_the_same_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU a search of many tokens primes keys and values, one of a token alone would not."""
    engine.write_weights("tiny", tmp_path)
    ours = Ours(tmp_path, tokens=64, num_beams=4, threads=1, dtype="float32")
    absorbed = list[bool]()

    def decode(model: Any, memory: Any, numbers: Any, shape: Any, dtype: Any) -> Any:
        absorbed.append(shape.absorbed)
        return SimpleNamespace(token_ids=memory)

    monkeypatch.setattr("trocr_jax.generation.decode", decode)
    for prefill in (True, False):
        with pytest.raises(TypeError):  # a namespace is no result of a jitted function
            ours.decode(np.zeros((1, 1)), prefill=prefill)
    assert absorbed == [False, False]


def test_memory_is_measured_when_the_files_of_a_side_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    monkeypatch.setitem(SIDES, "trocr_jax", lambda folder, **_: made.append(folder))
    monkeypatch.setitem(SIDES, "onnxruntime", lambda folder, **_: made.append(folder))
    monkeypatch.setattr(engine, "write_weights", lambda *_, **__: None)
    monkeypatch.setattr(engine, "compare", lambda *_, **__: {})
    monkeypatch.setattr(engine, "table", lambda result, names: None)
    found = []
    monkeypatch.setattr(engine, "peak_memory", lambda *_: found.append(len(made)))
    engine.main(against="onnxruntime", memory=True)
    assert found == [2, 2]


def test_a_side_that_ends_has_no_memory(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="status 1"):
        engine.peak_memory("trocr_jax", tmp_path, {"batch": 1})
    assert str(tmp_path) in capfd.readouterr().err


def test_figures_of_a_folder_carry_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    folder, shown = checkpoint.resolve("tiny-printed"), list[str]()
    monkeypatch.setitem(SIDES, "trocr_jax", lambda *_, **__: None)
    monkeypatch.setattr(engine, "compare", lambda *_, **__: {})
    monkeypatch.setattr(engine, "table", lambda result, names: shown.append(result["shape"]))
    engine.main(against="", folder=folder)
    assert shown == [str(folder)]
