"""A bound on the time of each test on a Ray cluster: one that waits for ever fails."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import FrameType

import pytest

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
