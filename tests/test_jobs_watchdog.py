"""The end of a process that hangs, and not of one that was only suspended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trocr_jax.jobs.watchdog import STATUS, watchdog

ROOT = Path(__file__).resolve().parent.parent
HUNG = """
import time
from trocr_jax.jobs.watchdog import watchdog
began = time.monotonic()
with watchdog(lambda: began, {seconds}):
    print("watched", flush=True)
    while time.monotonic() < began + {sleep}:
        time.sleep(0.05)
print("done", flush=True)
"""


def start(*, seconds: float, sleep: float) -> subprocess.Popen[bytes]:
    code = HUNG.format(seconds=seconds, sleep=sleep)
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"watched\n"
    return process


def test_a_process_that_does_nothing_ends_itself():
    _, err = (process := start(seconds=1.0, sleep=60.0)).communicate(timeout=30)
    assert process.returncode == STATUS
    assert b"no line was read for 1 s" in err


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_a_process_that_was_suspended_goes_on():
    process = start(seconds=4.0, sleep=6.5)  # of which it is away for all but two
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(5.0)
    os.kill(process.pid, signal.SIGCONT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, b"done\n"), err


def test_a_process_that_reads_is_not_ended_however_long_it_does(monkeypatch: pytest.MonkeyPatch):
    ended = list[int]()
    monkeypatch.setattr(os, "_exit", ended.append)
    with watchdog(time.monotonic, 0.1):
        time.sleep(0.5)
    assert ended == []
    with watchdog(lambda: 0.0, 0.1):
        time.sleep(0.5)
    assert ended[0] == STATUS
