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
from benchmarks.engine_sides import Ours

CODE = """
import sys
from pathlib import Path
from types import SimpleNamespace
from benchmarks import engine

engine.SIDES["transformers"] = lambda folder, **_: SimpleNamespace(put=lambda pixels: pixels, read=lambda pixels: None)
engine.main(shape="small", batch=(1,), only="transformers", folder=Path("none"))
assert "jax" not in sys.modules
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_a_side_is_measured_without_the_other() -> None:
    finished = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
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
