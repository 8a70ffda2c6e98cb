"""A job whose processes are killed again and again comes out as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import save_lines, save_tiny

SECONDS = {"local": 240.0, "ray": 900.0}  # on cores that were shared with much else 95 and 120 to 473 were seen
ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(("engine", "kills"), [("local", 8), ("ray", 6)])
def test_kills_change_nothing(tmp_path: Path, engine: str, kills: int):
    if engine == "ray":
        pytest.importorskip("ray", reason="needs Ray: pip install trocr-jax[ray]")
    model = save_tiny(tmp_path / "tiny")
    save_lines(tmp_path / "lines", 40)
    rows = [f'{{"id": "line-{i}", "path": "lines/line-{i % 40:03}.png"}}' for i in range(400)]
    (tmp_path / "lines.jsonl").write_text("\n".join(rows) + "\n")  # instead of drawing, which needs fonts
    options = {"engine": engine, "lines": 400, "kills": kills, "unit-size": 2, "decoders": 1}
    options |= {"max-new-tokens": 12, "model": model, "folder": tmp_path}
    command = [sys.executable, "-m", "scripts.kill_jobs"]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    status, printed = run_within(command, SECONDS[engine])
    log = tmp_path / "stderr"
    assert status == 0, printed + (log.read_text() if log.exists() else "")
    assert "0 missing, 0 twice, the same bytes, nothing left behind" in printed
    assert f"{kills} SIGKILL" in printed


def run_within(command: list[str], seconds: float) -> tuple[int, str]:
    """Exit status, and what was printed. After so many seconds it is interrupted, which ends what it has started."""
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            printed, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)
            try:
                printed, _ = process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                printed, _ = process.communicate()
            printed += f"\nit had not ended after {seconds:g} s"
    return process.returncode, printed
