"""`benchmarks.engine --only`, by which the memory of a side is measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
