"""A job whose processes are killed again and again comes out as if nothing had happened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import save_lines, save_tiny

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(("engine", "kills"), [("local", 8), ("ray", 6)])
def test_kills_change_nothing(tmp_path: Path, engine: str, kills: int):
    if engine == "ray":
        pytest.importorskip("ray", reason="needs Ray: pip install trocr-jax[ray]")
        if not os.environ.get("TROCR_JAX_RAY_TESTS"):
            pytest.skip("starts a Ray cluster: set TROCR_JAX_RAY_TESTS=1")
    model = save_tiny(tmp_path / "tiny")
    save_lines(tmp_path / "lines", 40)
    rows = [f'{{"id": "line-{i}", "path": "lines/line-{i % 40:03}.png"}}' for i in range(400)]
    (tmp_path / "lines.jsonl").write_text("\n".join(rows) + "\n")  # instead of drawing, which needs fonts
    options = {"engine": engine, "lines": 400, "kills": kills, "unit-size": 2, "decoders": 1}
    options |= {"max-new-tokens": 12, "model": model, "folder": tmp_path}
    command = [sys.executable, "-m", "scripts.kill_jobs"]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    log = tmp_path / "stderr"
    assert done.returncode == 0, done.stdout + done.stderr + (log.read_text() if log.exists() else "")
    assert "0 missing, 0 twice, the same bytes, nothing left behind" in done.stdout
    assert f"{kills} SIGKILL" in done.stdout
