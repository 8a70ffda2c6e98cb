"""What tests on a Ray cluster share: a tiny model, and a bound on the time of each: one that waits for ever fails."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from tests.tiny import save_tiny

SECONDS = 480  # on two cores with a load of 14 the longest took 151 s


@pytest.fixture(autouse=True)
def deadline() -> Iterator[None]:
    def late(number: int, frame: FrameType | None) -> None:
        pytest.fail(f"the test had not ended after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")
