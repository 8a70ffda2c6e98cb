"""Runs of several processes on one machine: the same losses as one process, every sample once, one stop for all."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests import programs
from train import processes
from trocr_jax.errors import ConfigError, DataError
from trocr_jax.recognizer import Recognizer

ROOT = Path(__file__).resolve().parent.parent
LINES = 48  # of an epoch, which is three steps of 16
STEPS = 12


def start(folder: Path, *options: str, processes: int, devices: int) -> list[subprocess.Popen[bytes]]:
    """The processes of one toy run."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = programs.environment(devices=devices)
    environment["TOY_CACHE"] = environment.pop("JAX_COMPILATION_CACHE_DIR")
    command = [sys.executable, "-m", "scripts.toy_training", str(folder), "--batch", "16", "--epoch", str(LINES)]
    command += ["--log-samples", "--short", "--save-every", "100000", *options]
    group: Sequence[list[str]] = [[]]
    if processes > 1:
        group = [
            ["--coordinator", f"localhost:{port}", "--process", str(p), "--processes", str(processes)]
            for p in range(processes)
        ]
    return [subprocess.Popen([*command, *own], env=environment, cwd=ROOT, stderr=subprocess.PIPE) for own in group]


def finish(running: list[subprocess.Popen[bytes]]) -> None:
    errors = [process.communicate(timeout=600)[1].decode() for process in running]
    assert [process.returncode for process in running] == [0] * len(running), "\n".join(errors)


def losses(folder: Path) -> dict[int, float]:
    rows = [json.loads(row) for row in (folder / "log.jsonl").read_text().splitlines()]
    return {row["step"]: row["total"] for row in rows if "total" in row}


def error_rates(folder: Path) -> list[tuple[float, float]]:
    rows = [json.loads(row) for row in (folder / "log.jsonl").read_text().splitlines()]
    return [(row["cer"], row["wer"]) for row in rows if "cer" in row]


def samples(folder: Path) -> dict[int, list[int]]:
    """Step -> what all processes together took, as often as they took it."""
    taken: dict[int, list[int]] = {}
    for path in folder.glob("samples-*.jsonl"):
        for row in path.read_text().splitlines():
            fields = json.loads(row)
            taken.setdefault(fields["step"], []).extend(fields["samples"])
    return taken


def each_once(first: int) -> dict[int, list[int]]:
    """The samples of the steps from the first one on."""
    return {step: list(range(16 * (step - 1), 16 * step)) for step in range(first, STEPS + 1)}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    finish(start(folder, "--steps", str(STEPS), "--eval-every", str(STEPS), processes=1, devices=8))
    return folder


def test_two_processes_of_four_devices_are_one_of_eight(tmp_path: Path, alone: Path) -> None:
    options = ("--steps", str(STEPS), "--eval-every", str(STEPS), "--output", str(tmp_path / "model"))
    finish(start(tmp_path, *options, "--mesh", "data=2,fsdp=2,model=2", processes=2, devices=4))
    found, expected = losses(tmp_path), losses(alone)
    assert list(found) == list(range(1, STEPS + 1))
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-5, atol=0)
    assert {step: sorted(numbers) for step, numbers in samples(tmp_path).items()} == each_once(1)
    shared = [json.loads(row) for row in (tmp_path / "samples-1.jsonl").read_text().splitlines()]
    assert {len(row["samples"]) for row in shared} == {8}  # half of each batch is read here
    assert error_rates(tmp_path) == error_rates(alone)  # of six lines, which do not divide over the devices
    assert len(error_rates(alone)) == 1
    assert (tmp_path / "model" / "generation_config.json").exists()  # which is written last
    assert Recognizer.from_pretrained(tmp_path / "model").tokenizer is not None


def test_one_signalled_process_stops_all_after_the_same_step(tmp_path: Path) -> None:
    running = start(tmp_path, "--steps", "100000", processes=2, devices=1)
    began = time.monotonic()
    while len(samples(tmp_path)) < 3:
        assert time.monotonic() - began < 300
        assert all(process.poll() is None for process in running)
        time.sleep(0.05)
    running[1].send_signal(signal.SIGTERM)
    finish(running)
    last = max(samples(tmp_path))
    assert (tmp_path / "checkpoints" / f"{last:08d}" / "MANIFEST.json").exists()
    assert sorted(samples(tmp_path)[last]) == list(range(16 * (last - 1), 16 * last))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_the_death_or_an_error_of_one_process_ends_both_and_fewer_go_on(tmp_path: Path, alone: Path) -> None:
    options = ("--steps", str(STEPS), "--save-every", "4")
    killed = start(tmp_path, *options, processes=2, devices=1)
    while not (tmp_path / "checkpoints" / "00000004" / "MANIFEST.json").exists():
        assert all(process.poll() is None for process in killed)
        time.sleep(0.01)
    killed[0].kill()
    told = [process.communicate(timeout=200)[1].decode() for process in killed]
    assert all(process.returncode for process in killed), "\n".join(told)

    for path in tmp_path.glob("samples-*.jsonl"):
        path.unlink()
    (tmp_path / "samples-1.jsonl").symlink_to("/dev/full")
    failed = start(tmp_path, *options, processes=2, devices=1)
    told = [process.communicate(timeout=200)[1].decode() for process in failed]  # jax would wait 300 s
    assert [process.returncode for process in failed] == [1, 1], "\n".join(told)
    assert "No space left on device" in told[1]
    assert "Another process of the run has died or no longer answers" in told[0]
    (tmp_path / "samples-1.jsonl").unlink()
    (tmp_path / "samples-0.jsonl").unlink(missing_ok=True)

    finish(start(tmp_path, *options, processes=1, devices=2))
    taken = {step: sorted(numbers) for step, numbers in samples(tmp_path).items()}
    assert taken == each_once(min(taken))
    assert min(taken) in (5, 9)  # behind a checkpoint
    found, expected = losses(tmp_path), losses(alone)
    assert list(found) == list(range(1, STEPS + 1))
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-5, atol=0)


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_workers_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    (running,) = start(tmp_path, "--steps", "100000", "--workers", "1", processes=1, devices=1)
    began = time.monotonic()
    while not samples(tmp_path):
        assert time.monotonic() - began < 300
        assert running.poll() is None
        time.sleep(0.05)
    workers = children(running.pid)
    running.kill()
    running.communicate()
    assert workers
    began = time.monotonic()
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() - began < 60
        time.sleep(0.1)


def test_processes_that_are_no_one_run_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"without it every process would train a run of its own"):
        processes.initialize(None, process=1, processes=4)
    with pytest.raises(ConfigError, match="auto finds them by itself"):
        processes.initialize("auto", processes=4)
    for coordinator in ("nope", "host:", ":1234", "host:port"):
        with pytest.raises(ConfigError, match=f"--coordinator {coordinator}: give HOST:PORT"):
            processes.initialize(coordinator, process=0, processes=2)
    for process, count in ((None, 2), (0, None), (3, 2), (-1, 2)):
        with pytest.raises(ConfigError, match=f"with --process {process} of --processes {count}: give how many"):
            processes.initialize("localhost:1234", process=process, processes=count)


def test_processes_with_other_data_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = {"data": ["a"]}, {"data": ["b"]}
    gathered = [np.frombuffer(hashlib.sha256(json.dumps(d, sort_keys=True).encode()).digest(), np.uint8)
                for d in (one, one, other)]  # fmt: skip
    monkeypatch.setattr("jax.process_count", lambda: 3)
    monkeypatch.setattr("jax.experimental.multihost_utils.process_allgather", lambda mine: np.stack(gathered))
    with pytest.raises(DataError, match=r"processes \[2\] have another recipe or other data than process 0"):
        processes.check_same(one)


def test_a_signal_to_all_leaves_workers_to_the_one_that_started_them() -> None:
    """Which needs batches until all processes have agreed to stop."""
    code = """
import os, signal, sys, time
from train import input
input.LAST_SECONDS = float(sys.argv[1])
input._end_with_parent(0, 1)
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGTERM):
    os.kill(os.getpid(), number)
time.sleep(3)
"""
    for seconds, status in ("60", 0), ("0.2", 1):
        assert subprocess.run([sys.executable, "-c", code, seconds], cwd=ROOT, timeout=40).returncode == status


def children(pid: int) -> list[int]:
    """Process numbers of the worker processes of a run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            worker = b"spawn_main" in (path.parent / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if parent == pid and worker:
            found.append(int(path.parent.name))
    return found


def test_an_epoch_takes_every_line_once_and_the_next_in_another_order() -> None:
    from scripts.toy_training import FewBars
    from train.data.order import in_order

    lines = FewBars(LINES, 8)
    texts = sorted(lines[i].text for i in range(LINES))
    ordered = in_order(lines, seed=0)
    epochs = [[ordered[epoch * LINES + i].text for i in range(LINES)] for epoch in range(3)]
    assert all(sorted(epoch) == texts for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert [ordered[i].text for i in range(LINES)] == epochs[0]
