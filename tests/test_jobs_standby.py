"""Processes that decode images, started before a pool needs them."""

from __future__ import annotations

import errno
import subprocess
from typing import Any

import pytest

from tests.decoders import SIZE, Numbers
from tests.small_jobs import lines as lines
from trocr_jax.cli import main
from trocr_jax.cli.decode import load
from trocr_jax.errors import JobError
from trocr_jax.jobs.decode_pool import DecodePool
from trocr_jax.jobs.decode_standby import Standby
from trocr_jax.jobs.decode_worker import Decoded, Limits
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.stop import Stop
from trocr_jax.jobs.worker import Resources


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes to decode images that are started."""
    processes: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def noted(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        process = popen(*arguments, **options)
        if "trocr_jax.jobs.decode_worker" in arguments[0]:
            processes.append(process)
        return process

    monkeypatch.setattr(subprocess, "Popen", noted)
    return processes


def numbers_of(pool: DecodePool, count: int) -> list[float]:
    found = pool.submit([Input(f"line-{number}", None) for number in range(count)]).result()
    assert all(isinstance(one, Decoded) for one in found)
    return [one.expected for one in found if isinstance(one, Decoded)]


def test_a_pool_takes_them_and_those_that_are_left_end(started):
    with Standby(3) as standby:
        assert len(started) == 3
        with DecodePool(Numbers(), SIZE, workers=2, limits=Limits(), standby=standby) as pool:
            assert numbers_of(pool, 20) == list(range(20))
            assert [process.poll() for process in started] == [None] * 3
        assert [process.poll() for process in started].count(None) >= 1, "what nobody has taken is there for another"
    assert all(process.poll() is not None for process in started)
    assert len(started) == 3


def test_those_that_were_killed_count_for_nothing(started):
    with Standby(6) as standby:
        for process in started:
            process.kill()
            process.wait()
        with DecodePool(Numbers(), SIZE, workers=1, limits=Limits(), standby=standby) as pool:
            assert numbers_of(pool, 5) == list(range(5))
    assert len(started) == 7


def test_no_process_is_left_if_nothing_becomes_of_the_job(started):
    def fails() -> None:
        with Standby(2):
            raise RuntimeError("no model")

    with pytest.raises(RuntimeError, match="no model"):
        fails()
    assert [process.poll() for process in started] == [-9, -9]


def test_no_more_are_started_once_a_stop_is_requested(started):
    stop = Stop()
    stop.request()
    with Standby(3, stop) as standby:
        assert standby.take() is None
    assert started == []


def test_more_than_any_host_has_cores_are_refused():
    with pytest.raises(JobError, match="decoders is 100000: give at most 512"):
        Resources(decoders=100_000)


def test_if_one_cannot_be_started_the_pool_tells_of_it(monkeypatch):
    def none(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EAGAIN, "no process more")

    monkeypatch.setattr(subprocess, "Popen", none)
    with (
        Standby(2) as standby,
        DecodePool(Numbers(), SIZE, workers=1, limits=Limits(), standby=standby) as pool,
        pytest.raises(JobError, match="a process to decode images does not start: no process more"),
    ):
        numbers_of(pool, 1)


def test_a_process_that_cannot_be_told_what_to_do_is_ended(started, monkeypatch):
    monkeypatch.setattr("trocr_jax.jobs.decode_process.mmap.mmap", full)
    with DecodePool(Numbers(), SIZE, workers=1, limits=Limits()) as pool:
        with pytest.raises(OSError, match="no memory"):
            numbers_of(pool, 1)
        assert [process.poll() for process in started] == [-9]


def full(*arguments: Any) -> None:
    raise OSError(errno.ENOMEM, "no memory")


@pytest.mark.parametrize("command", ["run", "retry-failed"])
def test_a_command_has_them_before_it_loads_the_model(command, tmp_path, model, lines, started, monkeypatch):
    """And reads with them, and no others."""
    (lines / "line-003.png").write_bytes(b"no image")
    arguments = [str(lines), "--output", str(tmp_path / "job"), "--model", str(model), "--decoders", "1"]
    if command == "retry-failed":
        assert main(["jobs", "run", *arguments]) == 1
        started.clear()
    before: list[int] = []

    def loads(*arguments: Any, **options: Any) -> Any:
        before.append(len(started))
        return load(*arguments, **options)

    monkeypatch.setattr("trocr_jax.cli.jobs_run.load", loads)
    assert main(["jobs", command, *arguments]) == 1
    assert before == [1]
    assert len(started) == 1
    assert started[0].poll() is not None


def test_no_process_is_started_to_plan(tmp_path, model, lines, started):
    assert (
        main(["jobs", "run", str(lines), "--output", str(tmp_path / "job"), "--model", str(model), "--plan-only"]) == 0
    )
    assert started == []
