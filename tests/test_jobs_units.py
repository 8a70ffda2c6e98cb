"""Units of a job without a model: who holds them, what is left of them, what is put together."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from tests.small_jobs import bare, commit
from trocr_jax.jobs.attempts import ATTEMPTS, Attempts
from trocr_jax.jobs.claims import Claims
from trocr_jax.jobs.job import Task
from trocr_jax.jobs.leases import Leases
from trocr_jax.jobs.owner import Owner, me
from trocr_jax.jobs.store import LocalStore


@pytest.mark.parametrize("error", [OSError(errno.EIO, os.strerror(errno.EIO)), ValueError("429 rateLimitExceeded")])
def test_a_holder_shows_that_it_lives_though_the_disk_fails_for_a_while(tmp_path, monkeypatch, error):
    job = bare(tmp_path)
    replace, failed = LocalStore.replace, threading.Event()

    def fails(self: LocalStore, name: str, content: bytes, **options: Any) -> None:
        if not failed.is_set():
            failed.set()
            raise error
        replace(self, name, content, **options)

    with Leases(job, timeout=0.5) as leases:
        assert leases.take(0) is True
        monkeypatch.setattr(LocalStore, "replace", fails)
        before, until = leases.content(0), time.monotonic() + 5
        while leases.content(0) == before:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert failed.is_set()
        assert time.monotonic() < until - 4, "well within the time after which another takes it over"


def test_a_lease_is_kept_until_all_pieces_of_its_unit_are_there(tmp_path):
    job = bare(tmp_path)
    for _ in range(ATTEMPTS):
        Attempts(job, 0).process_died(job.whole(0), "it ended")
    with Leases(job) as leases:
        claims = Claims(job, leases, threading.Event(), [0])
        for piece in claims.tasks():
            assert job.store.names("leases") == ["00000000"], piece
            commit(job, piece)
            claims.settle(piece)
    assert job.done() == {0}


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="no /proc here")
def test_a_zombie_has_died():
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with open(f"/proc/{process.pid}/stat", "rb") as file:
        started = int(file.read().rpartition(b")")[2].split()[19])
    assert Owner(me().host, process.pid, started).has_died()
    process.wait()


def test_a_unit_that_is_held_is_not_taken_again_but_that_of_a_predecessor_is(tmp_path):
    job = bare(tmp_path)
    with Leases(job) as leases:
        assert leases.take(0) is True
        assert leases.take(0) is False
        assert Leases(job).take(0), "of one in this process that could not give it back"


def test_deaths_that_a_power_cut_left_unreadable_are_forgotten(tmp_path):
    job = bare(tmp_path)
    job.store.create("attempts/00000000.json", b"")
    assert list(Attempts(job, 0).tasks()) == [job.whole(0)]


def test_of_a_line_that_ended_processes_one_death_stays_noted(tmp_path):
    job = bare(tmp_path)
    attempts, line = Attempts(job, 0), Task.stretch(0, 1, 1)
    for number in range(ATTEMPTS):
        attempts.process_died(line, f"it ended {number}")
        attempts.image_died(2, "it ended")
    assert attempts.quarantined(1)
    assert attempts.quarantined(2)
    assert Attempts(job, 0).forgive() == {1}
    again = Attempts(job, 0)
    assert not again.quarantined(1)
    assert not again.quarantined(2)
    assert again.process_died(line, "it ended") == 2
    assert again.image_died(2, "it ended") == 1


def test_pieces_that_are_there_are_not_read_again(tmp_path):
    job = bare(tmp_path)
    for _ in range(ATTEMPTS):
        Attempts(job, 0).process_died(job.whole(0), "it ended")
    first, second = Task.stretch(0, 0, 2), Task.stretch(0, 2, 2)
    commit(job, first)
    with Leases(job) as leases:
        claims = Claims(job, leases, threading.Event(), [0])
        for piece in claims.tasks():
            assert piece == second
            commit(job, piece)
            claims.settle(piece)
    assert job.done() == {0}


def test_the_longest_of_pieces_that_begin_alike_counts(tmp_path):
    job = bare(tmp_path, 8, 8)
    rows = [{"id": str(number), "status": "ok"} for number in range(8)]
    for first, count in ((0, 4), (0, 2), (4, 4)):
        job.commit(Task.stretch(0, first, count), rows[first : first + count])
    assert [row["id"] for row in job.rows(0)] == [row["id"] for row in rows]
    assert job.store.names("partial") == []
