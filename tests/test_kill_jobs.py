"""A job whose processes are killed again and again comes out as if nothing had happened."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts import killed_job
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
    command = [sys.executable, str(ROOT / "scripts" / "kill_jobs.py")]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    status, printed = run_within(command, SECONDS[engine])
    log = tmp_path / "stderr"
    assert status == 0, printed + (log.read_text() if log.exists() else "")
    assert "0 missing, 0 twice, the same bytes, nothing left behind" in printed
    assert f"{kills} SIGKILL" in printed


def test_a_driver_of_ray_tells_of_its_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("ray", reason="needs Ray: pip install trocr-jax[ray]")
    from trocr_jax.jobs import ray_engine

    def run(*args: object, report, **options: object) -> None:
        for unit in range(3):
            report(SimpleNamespace(unit=unit))

    monkeypatch.setattr(ray_engine, "connected", nullcontext)
    monkeypatch.setattr(ray_engine, "plan", lambda found, actors: "a job")
    monkeypatch.setattr(ray_engine, "run", run)
    found = functools.partial(killed_job.prepare, killed_job.Options(), "lines.jsonl", "s3://jobs/cut-ray")
    target = killed_job.Target("s3://jobs/cut-ray", tmp_path / "cut-ray.committed")
    assert target.committed() == 0
    for _ in range(2):  # a driver that was killed is started again
        assert killed_job._drive_ray(killed_job.Options(engine="ray"), found, target, "127.0.0.1:6379") == 0
    assert target.committed() == 6


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
