"""Benchmarks: what is timed has been compiled before, what is printed is what was asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from benchmarks import lengths, transcribe


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
