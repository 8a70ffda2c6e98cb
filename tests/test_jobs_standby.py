"""Processes that decode images, started before a pool needs them."""

from __future__ import annotations

import subprocess
import threading
import time
from typing import Any

import pytest

from tests.decoders import SIZE, Numbers
from trocr_jax.errors import JobError
from trocr_jax.jobs.decode_pool import DecodePool
from trocr_jax.jobs.decode_standby import Standby
from trocr_jax.jobs.decode_worker import Decoded, Limits
from trocr_jax.jobs.sources import Input


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes to decode images that are started."""
    processes: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def noted(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        processes.append(popen(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr(subprocess, "Popen", noted)
    return processes


def ready(started: list[subprocess.Popen[bytes]], count: int) -> None:
    deadline = time.monotonic() + 60
    while len(started) < count or any(thread.name == "trocr-standby" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(started) == count


def numbers_of(pool: DecodePool, count: int) -> list[float]:
    found = pool.submit([Input(f"line-{number}", None) for number in range(count)]).result()
    assert all(isinstance(one, Decoded) for one in found)
    return [one.expected for one in found if isinstance(one, Decoded)]


def test_a_pool_takes_them_and_those_that_are_left_end(started):
    with Standby(3) as standby:
        ready(started, 3)
        with DecodePool(Numbers(), SIZE, workers=2, limits=Limits(), standby=standby) as pool:
            assert numbers_of(pool, 20) == list(range(20))
            left = [process for process in started if process.poll() is None]
            assert len(started) == len(left) == 3
        assert any(process.poll() is None for process in started), "what nobody has taken is there for the next pool"
    assert all(process.poll() is not None for process in started)


def test_one_that_was_killed_is_replaced(started):
    with Standby(1) as standby:
        ready(started, 1)
        started[0].kill()
        started[0].wait()
        with DecodePool(Numbers(), SIZE, workers=1, limits=Limits(), standby=standby) as pool:
            assert numbers_of(pool, 5) == list(range(5))
    assert len(started) == 2


def test_there_are_never_more_than_the_pool_wants(started):
    """Whoever comes before they are there starts one, and one less is started for him."""
    with (
        Standby(4) as standby,
        DecodePool(Numbers(seconds=0.02), SIZE, workers=4, limits=Limits(), standby=standby) as pool,
    ):
        assert sorted(numbers_of(pool, 200)) == list(range(200))
        ready(started, 4)


def test_no_process_is_left_if_nothing_becomes_of_the_job(started):
    with pytest.raises(RuntimeError, match="no model"), Standby(2):
        raise RuntimeError("no model")
    assert all(process.poll() is not None for process in started)
    with pytest.raises(JobError, match="decoders is 0"):
        Standby(0)
