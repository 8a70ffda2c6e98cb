"""Benchmarks and checks that are asked for what a search cannot do."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "command",
    [
        ["benchmarks.constraints", "--tokens", "2", "--words", "100", "--batch", "1"],
        ["scripts.parity_decoding", "--family", "tiny-printed", "--tokens", "2"],
    ],
    ids=lambda command: command[0],
)
def test_too_few_tokens_are_told_of(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "in 2 tokens" in done.stderr or "max_new_tokens allows 2" in done.stderr
    assert "Traceback" not in done.stderr
