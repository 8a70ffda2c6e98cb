"""Hosts that share a job folder: leases, clocks and file systems."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

import orjson
import pytest

from tests.small_jobs import CHOICES, DECODE, plan, rows_of, run
from tests.small_jobs import lines as lines
from tests.small_jobs import recognizer as recognizer
from trocr_jax import jobs
from trocr_jax.jobs.claims import Claims
from trocr_jax.jobs.job import Job, Task
from trocr_jax.jobs.leases import Dead, Leases, holders
from trocr_jax.jobs.owner import Owner, me
from trocr_jax.jobs.store import LocalStore


def test_without_hard_links_the_first_writer_stays(tmp_path, monkeypatch):
    def no_links(*paths: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    store = LocalStore(str(tmp_path))
    assert store.create("parts/1", b"first")
    assert not store.create("parts/1", b"second")
    assert store.read("parts/1") == b"first"
    assert store.names("tmp") == []


def test_a_lease_of_a_dead_process_is_taken_over_at_once_and_of_a_silent_one_later(tmp_path, lines, recognizer, model):
    job = plan(lines, tmp_path / "job", recognizer, model)
    dead = Owner(me().host, me().pid, me().started + 1)  # this number belonged to another process once
    elsewhere = Owner("far-away", 1, 1)
    for unit, owner in enumerate((dead, elsewhere)):
        job.store.create(f"leases/{unit:08}", orjson.dumps({"owner": str(owner), "beat": 1, "reading": [[0, 8]]}))
    with Leases(job, timeout=0.2) as leases:
        assert leases.take(0) == Dead(str(dead), [Task(0, range(8))])
        assert leases.take(1) is False
        job.store.replace("leases/00000001", orjson.dumps({"owner": str(elsewhere), "beat": 2, "reading": [[0, 8]]}))
        assert leases.take(1) is False
        threading.Event().wait(0.3)
        assert leases.take(1) == Dead(str(elsewhere), [Task(1, range(8))])
    assert job.store.names("leases") == []


def test_a_host_with_less_patience_leaves_a_unit_to_one_that_shows_itself_more_rarely(
    tmp_path, lines, recognizer, model, monkeypatch
):
    job = plan(lines, tmp_path / "job", recognizer, model)
    with monkeypatch.context() as patch:
        patch.setattr("trocr_jax.jobs.leases.me", lambda: Owner("far-away", 1, 1))
        assert Leases(job, timeout=0.8).take(0) is True  # which it would renew every 0.16 s
    with Leases(job, timeout=0.1) as leases:
        began = time.monotonic()
        while leases.take(0) is False:
            time.sleep(0.02)
        assert time.monotonic() - began > 0.8
        job.store.replace("leases/00000001", b'{"owner": "far-away.1.1", "timeout": "1 h"}')  # damaged
        assert leases.take(1) is False
        time.sleep(0.2)
        assert leases.take(1) == Dead("far-away.1.1", [])


class Stale(LocalStore):
    """Its `errors` come, one after another, when the lease of unit 1 is read."""

    errors: list[int]

    def read(self, name: str) -> bytes:
        if name == "leases/00000001" and self.errors:
            number = self.errors.pop(0)
            raise OSError(number, os.strerror(number))
        return super().read(name)


@pytest.fixture
def stale(tmp_path, lines, recognizer, model) -> Job:
    """A job whose unit 1 another host reads, in a store of that kind."""
    job = plan(lines, tmp_path / "job", recognizer, model)
    job.store.create("leases/00000001", orjson.dumps({"owner": "far-away.1.1", "beat": 1, "reading": []}))
    return Job(Stale(job.store.root), job.plan)


def test_a_dead_process_of_this_host_holds_nothing(tmp_path, lines, recognizer, model):
    job = plan(lines, tmp_path / "job", recognizer, model)
    gone = me()._replace(started=me().started + 1)  # another had this number
    job.store.create("leases/00000001", orjson.dumps({"owner": str(gone), "beat": 1, "reading": []}))
    job.store.create("leases/00000002", b"damaged")
    assert holders(job) == {2: "?"}
    start = {"time": time.time() - 60, "event": "start", "owner": str(gone)}
    commit = start | {"time": time.time() - 1, "event": "commit", "unit": 0, "ok": 8, "failed": 0, "quarantined": 0}
    for event in (start, commit):
        job.store.append(f"events/{gone}.jsonl", orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE))
    assert jobs.status(job).rate == 0
    job.store.replace("leases/00000001", orjson.dumps({"owner": str(me()), "beat": 1, "reading": []}))
    assert jobs.status(job).rate == 0  # somebody else's


def test_a_host_whose_clock_is_ahead_has_a_speed(tmp_path, lines, recognizer, model):
    job = plan(lines, tmp_path / "job", recognizer, model)
    job.store.create("leases/00000001", orjson.dumps({"owner": str(me()), "beat": 1, "reading": []}))
    ahead = time.time() + 1800
    values = {"event": "commit", "owner": str(me()), "ok": 8, "failed": 0, "quarantined": 0}
    for event in (
        {"time": ahead, "event": "start", "owner": str(me())},
        {"time": ahead + 2, "unit": 0, **values},
        {"time": ahead + 4, "unit": 1, **values},
    ):
        job.store.append(f"events/{me()}.jsonl", orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE))
    assert jobs.status(job).rate == 4


def test_a_clock_that_was_set_back_gives_no_speed(tmp_path, lines, recognizer, model):
    job = plan(lines, tmp_path / "job", recognizer, model)
    job.store.create("leases/00000001", orjson.dumps({"owner": str(me()), "beat": 1, "reading": []}))
    ahead = time.time() + 3600
    values = {"event": "commit", "owner": str(me()), "ok": 8, "failed": 0, "quarantined": 0}
    events = [
        {"time": ahead, "event": "start", "owner": str(me())},
        {"time": ahead + 4, "unit": 0, **values},
        {"time": ahead - 3599, "unit": 1, **values},
    ]
    for event in events:
        job.store.append(f"events/{me()}.jsonl", orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE))
    assert jobs.status(job).rate == 0


def test_a_lease_that_cannot_be_read_is_anothers_until_it_stays_so(stale):
    store, leases = stale.store, Leases(stale, timeout=0.3)  # without its thread
    store.errors = [errno.ESTALE, errno.EIO, errno.EIO]
    assert leases.take(1) is False
    assert leases.content(1) == b""
    assert holders(stale) == {}
    assert store.errors == []
    assert holders(stale) == {1: "far-away.1.1"}
    assert leases.take(1) is False
    store.errors = [errno.EIO] * 2
    assert leases.take(1) is False
    time.sleep(0.4)
    assert leases.take(1) == Dead("?", [])
    store.errors = [errno.EIO]  # of its own it knows nothing then, and keeps it
    with pytest.raises(OSError, match="Input/output error"):
        leases.reading(stale.whole(1))
    leases.reading(stale.whole(1))
    assert orjson.loads(store.read("leases/00000001"))["reading"] == [[0, 8]]


def test_a_job_goes_on_beside_a_lease_that_is_replaced_while_it_is_read(stale):
    stale.store.errors = [errno.ESTALE]
    with Leases(stale, timeout=0.3) as leases:
        claims = Claims(stale, leases, threading.Event(), [0, 1, 2])
        assert [task.unit for task in claims.tasks()] == [0, 2, 1]


def test_a_file_that_another_host_replaces_when_it_is_read_is_read_again(tmp_path, monkeypatch):
    store, tries = LocalStore(str(tmp_path)), list[int]()
    store.create("parts/a", b"123")
    most = 2

    def stale(path: Path, mode: str) -> IO[bytes]:
        tries.append(1)
        if len(tries) <= most:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return path.open(mode)

    monkeypatch.setattr("trocr_jax.jobs.store.open", stale, raising=False)
    assert store.read("parts/a") == b"123"
    tries.clear()
    assert store.read_range("parts/a", 1, 1) == b"2"
    most = 1000
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        store.read("parts/a")
    assert len(tries) < 10


@pytest.mark.parametrize("where", ["folder", "store"])
def test_a_lease_that_was_lost_while_its_holder_was_suspended_is_left_alone(
    tmp_path, lines, recognizer, model, monkeypatch, where
):
    pytest.importorskip("fsspec")
    folder = tmp_path / "job" if where == "folder" else f"memory://{tmp_path.name}"
    job = jobs.plan(jobs.open_source([str(lines)]), str(folder), recognizer, model, DECODE, choices=CHOICES)
    other, names = Owner("far-away", 1, 1), [f"leases/{unit:08}" for unit in range(3)]
    with Leases(job, timeout=1e6) as leases:  # its thread renews nothing meanwhile: the process is suspended
        leases._timeout = 0.01
        assert [leases.take(unit) for unit in range(3)] == [True] * 3
        with monkeypatch.context() as patch:
            patch.setattr("trocr_jax.jobs.leases.me", lambda: other)
            with_patience = Leases(job, timeout=0.01)
            assert with_patience.take(0) is False
            time.sleep(0.02)
            assert with_patience.take(0) == Dead(str(me()), [])
        job.store.remove(names[1])  # the other has committed unit 1
        taken = job.store.read(names[0])
        leases.reading(job.whole(0))
        leases.renew()
        assert job.store.read(names[0]) == taken
        assert not job.store.exists(names[1])
        assert orjson.loads(job.store.read(names[2])) == {"owner": str(me()), "beat": 1, "timeout": 0.01, "reading": []}
        leases.give_back(0)
        assert leases.take(0) is False
        assert leases.take(1) is True
        leases.reading(job.whole(1))
        assert orjson.loads(job.store.read(names[1]))["reading"] == [[0, 8]]
    assert job.store.names("leases") == ["00000000"]
    assert job.store.read(names[0]) == taken


def test_a_unit_that_was_lost_meanwhile_does_no_harm(tmp_path, lines, recognizer, model):
    job = plan(lines, tmp_path / "job", recognizer, model)
    want = plan(lines, tmp_path / "want", recognizer, model)
    run(want, recognizer)
    with Leases(job) as leases:
        claims = Claims(job, leases, threading.Event(), [0, 1])
        tasks = claims.tasks()
        first, second = next(tasks), next(tasks)
        for task, committed in (first, True), (second, False):  # the other has ended with one and reads the other
            job.store.replace(f"leases/{task.unit:08}", lease := b'{"owner":"far-away.1.1","beat":7,"reading":[[0,8]]}')
            if committed:
                job.commit(task, rows_of(want, task.unit))
                job.store.remove(f"leases/{task.unit:08}")
        for task in (first, second):
            job.commit(task, rows_of(want, task.unit))
            claims.settle(task)
        assert list(tasks) == []
    assert job.store.names("leases") == [f"{second.unit:08}"]
    assert job.store.read(f"leases/{second.unit:08}") == lease
    assert [job.read_part(unit) for unit in (0, 1)] == [want.read_part(unit) for unit in (0, 1)]


def test_a_folder_without_hard_links_is_a_job_folder(tmp_path, monkeypatch):
    def link(old: object, new: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")  # a bucket that is mounted

    monkeypatch.setattr(os, "link", link)
    store = LocalStore(str(tmp_path))
    assert store.create("parts/a", b"1") is True
    assert store.create("parts/a", b"2") is False
    assert store.read("parts/a") == b"1"
    assert store.names("tmp") == []


@pytest.mark.parametrize(("write", "place"), [("create", "link"), ("replace", "replace")])
def test_a_file_that_a_host_with_another_clock_sweeps_is_written_again(tmp_path, monkeypatch, write, place):
    store, real, swept = LocalStore(str(tmp_path)), getattr(os, place), list[bool]()

    def late(old: Path, new: Path) -> None:
        if not swept:
            os.utime(old, (0, 0))  # hours ago, by the clock of that host
            LocalStore(str(tmp_path)).sweep()
            swept.append(not old.exists())
        real(old, new)

    monkeypatch.setattr(os, place, late)
    assert getattr(store, write)("parts/a", b"1") in (True, None)
    assert swept == [True]
    assert store.read("parts/a") == b"1"
    assert store.names("tmp") == []


def test_containers_that_have_the_name_of_their_host_do_not_think_each_other_dead():
    alone = ["unshare", "--pid", "--fork", "--mount-proc"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("no namespaces of processes here")
    code = "import sys; from trocr_jax.jobs.owner import Owner, me; print(me(), Owner.parse(sys.argv[1]).has_died())"
    inside, died = subprocess.check_output([*alone, sys.executable, "-c", code, str(me())], text=True).split()
    assert died == "False"
    owner = Owner.parse(inside)
    assert owner is not None
    assert not owner.has_died()
