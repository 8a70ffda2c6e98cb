"""What stands in the folder of a job: when it is on the disk, what is swept, planned, completed, verified and
counted. No model is needed."""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from tests.small_jobs import bare, commit
from trocr_jax import jobs
from trocr_jax.cli import main
from trocr_jax.decoding.constraints import Lexicon
from trocr_jax.errors import JobError, SourceError
from trocr_jax.jobs import rows
from trocr_jax.jobs.events import Events, read_events
from trocr_jax.jobs.fingerprint import describe, differences, model_fingerprint
from trocr_jax.jobs.finish import finish, sweep
from trocr_jax.jobs.job import Job, Task
from trocr_jax.jobs.owner import me
from trocr_jax.jobs.planning import make_plan, read_plan
from trocr_jax.jobs.rows import Counts, Failure
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.store import OLD, LocalStore


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the disk, in order: the content of a file, its name, the folder that has the name."""
    found: list[str] = []
    fsync = os.fsync

    def synced(number: int) -> None:
        found.append("folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "content")
        fsync(number)

    def named(place: Any) -> Any:
        def put(old: Path, new: Path) -> None:
            found.append("name")
            place(old, new)

        return put

    monkeypatch.setattr(os, "fsync", synced)
    for name in ("link", "replace"):
        monkeypatch.setattr(os, name, named(getattr(os, name)))
    return found


def asked(done: list[str]) -> list[str]:
    found = done[:]
    done.clear()
    return found


@pytest.mark.skipif(os.name != "posix", reason="folders cannot be synced")
def test_rows_are_on_the_disk_before_their_name_and_the_name_before_they_count(tmp_path, done):
    store = LocalStore(str(tmp_path))
    store.create("parts/1", b"rows")
    assert asked(done) == ["content", "name", "folder"]
    store.create("leases/1", b"lease", durable=False)
    assert asked(done) == ["name"]
    (tmp_path / "large").write_bytes(b"inputs")
    store.upload("plan/inputs", tmp_path / "large")
    assert asked(done) == ["content", "name", "folder"]


def test_rows_that_are_read_again_are_on_the_disk_before_the_old_ones_go(tmp_path, done):
    store = LocalStore(str(tmp_path))
    job = Job(store, make_plan(store, {}, [Input(str(number), None) for number in range(4)], 2))
    rows = [{"id": str(number), "status": "ok"} for number in range(2)]
    asked(done)
    assert job.commit(job.whole(0), rows)
    assert asked(done) == ["content", "name", "folder"]
    job.commit(Task.stretch(1, 0, 1), rows[:1])
    assert asked(done) == ["content", "name", "folder"]
    job.amend(Task(0, [1]), [rows[1] | {"status": "failed"}])
    assert asked(done)[:2] == ["content", "name"]


def test_a_full_disk_leaves_no_temporary_file(tmp_path, monkeypatch):
    store = LocalStore(str(tmp_path))

    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("fsync", "link", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(OSError, match="No space left"):
                store.replace("leases/1", b"1", durable=True) if name == "replace" else store.create("parts/1", b"1")
        assert store.names("tmp") == []
        assert store.names("parts") == store.names("leases") == []


def test_what_dead_processes_left_is_swept_and_nothing_else(tmp_path):
    store = LocalStore(str(tmp_path))
    dead, far = me()._replace(started=me().started + 1), "far-away.1.1"
    (tmp_path / "tmp").mkdir()
    for name in (f"{me()}.0", f"{dead}.0", f"{far}.0", f"{far}.1"):
        (tmp_path / "tmp" / name).touch()
    long_ago = time.time() - OLD - 60
    os.utime(tmp_path / "tmp" / f"{far}.1", (long_ago, long_ago))
    store.sweep()
    assert store.names("tmp") == sorted([f"{me()}.0", f"{far}.0"])
    store.sweep(all_of_them=True)
    assert not (tmp_path / "tmp").exists()


def test_two_stores_of_a_folder_in_one_process_write_no_file_of_each_other(tmp_path):
    one, other = LocalStore(str(tmp_path)), LocalStore(str(tmp_path))
    assert one.temporary() != other.temporary()


def test_a_plan_of_another_version_or_damaged_is_refused(tmp_path):
    job = bare(tmp_path)
    plan = orjson.loads(job.store.read("plan.json"))
    for values, why in (
        (plan | {"version": 2}, "was not written by this version"),
        ([], "was not written by this version"),
        ({"version": 1}, "is damaged"),
    ):
        job.store.replace("plan.json", orjson.dumps(values))
        with pytest.raises(JobError, match=why):
            read_plan(job.store)
    job.store.replace("plan.json", b"{")
    with pytest.raises(JobError, match="is damaged"):
        read_plan(job.store)


def test_of_two_planners_the_second_takes_the_plan_of_the_first(tmp_path):
    one, other = (LocalStore(str(tmp_path)) for _ in range(2))
    first = bare(tmp_path).plan
    second = make_plan(other, {"another": 1}, [Input("a", None)], 1)
    assert second == first == read_plan(one)
    assert one.names("tmp") == []
    assert len(one.names("plan")) == 2  # of a list that nobody needs nothing is written


def test_a_job_in_a_folder_needs_no_other_place_to_write(tmp_path, monkeypatch):
    def nowhere() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", nowhere)  # a container whose file system is read-only
    assert len(bare(tmp_path).units) == 2


@pytest.mark.parametrize("ids", [[], ["a", "b", "a"]])
def test_a_source_that_cannot_be_planned_leaves_no_file(tmp_path, ids):

    store = LocalStore(str(tmp_path))
    with pytest.raises(SourceError):
        make_plan(store, {}, [Input(id, None) for id in ids], 2)
    assert store.names("tmp") == []
    assert not store.exists("plan.json")


def complete(folder: Path) -> Job:
    job = bare(folder)
    for unit in range(2):
        commit(job, job.whole(unit))
    assert finish(job) is not None
    return job


def test_the_end_of_a_job_sweeps_what_others_left(tmp_path):
    job = bare(tmp_path)
    names = ["plan/inputs-of-another.jsonl", "leases/00000001", "partial/00000001-000000-000002.jsonl", "tmp/far.1.1.0"]
    for name in names:
        job.store.create(name, b"x")
    for unit in range(2):
        commit(job, job.whole(unit))
    assert finish(job) is not None
    assert not any(map(job.store.exists, names))
    assert Job.open(str(tmp_path)).inputs(job.whole(0))


def test_files_of_others_in_a_folder_stay(tmp_path):
    """As of who gives a folder of their own for the job's, in which the images are."""
    names = [
        Path(name) for name in ("leases/1.png", "leases/a/1.png", "tmp/a.txt", "tmp/b/c", "plan/a.jsonl", "partial/a")
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    os.utime(tmp_path / "tmp/a.txt", (0, 0))
    sweep(complete(tmp_path))
    assert all((tmp_path / name).exists() for name in names)


def test_what_is_too_much_in_a_folder_is_found(tmp_path):
    job = complete(tmp_path)
    assert list(jobs.verify(job)) == []
    job.store.create("parts/00000009.jsonl", job.read_part(0))
    assert list(jobs.verify(job)) == ["parts/00000009.jsonl is of no unit"]
    job.store.remove("parts/00000009.jsonl")
    for name in ("leases/00000000", "partial/00000000-000000-000002.jsonl"):
        job.store.create(name, b"")
        assert list(jobs.verify(job)) == [f"{name} was left behind"]
        job.store.remove(name)
    success = orjson.loads(job.store.read("_SUCCESS"))
    job.store.replace("_SUCCESS", orjson.dumps(success | {"ok": 7, "failed": 1}))
    assert list(jobs.verify(job)) == [
        "_SUCCESS counts 7 lines ok, the parts have 8",
        "_SUCCESS counts 1 lines failed, the parts have 0",
    ]


def test_status_looks_into_a_part_of_which_a_log_knows_a_piece(tmp_path):
    job = bare(tmp_path)
    for piece in (Task.stretch(0, 0, 2), Task.stretch(0, 2, 2)):
        commit(job, piece)
    events = Events(job.store)
    events.write("commit", unit=0, first=0, lines=2, ok=2, failed=0, quarantined=0)  # then it was killed
    assert jobs.status(job).counts == Counts(4)


def test_lines_of_a_log_that_say_nothing_are_left_out(tmp_path):
    store = LocalStore(str(tmp_path))
    events = Events(store)
    events.write("begin", unit=0)
    for line in (b'{"time": 1.0, "ev\n', b"[1]\n", b'{"time": 1.0}\n'):
        store.append(f"events/{me()}.jsonl", line)
    events.write("begin", unit=1)
    assert [event["unit"] for event in read_events(store)] == [0, 1]


def test_how_long_a_job_takes_is_told_by_what_was_read_of_late(tmp_path):
    job = bare(tmp_path, 40)
    job.store.create("leases/00000009", orjson.dumps({"owner": "far.1.1", "beat": 1, "reading": []}))
    job.store.create("leases/00000010", orjson.dumps({"owner": "far.1.1", "beat": 1, "reading": []}))  # completes it
    now = time.time()
    common = {"owner": "far.1.1", "ok": 4, "failed": 0, "quarantined": 0}
    for event in (
        {"time": now - 10_000, "event": "start", "owner": "far.1.1"},
        {"time": now - 9_000, "event": "commit", "unit": 0, **common},
        {"time": now - 60, "event": "commit", "unit": 1, **common},
    ):
        job.store.append("events/far.1.1.jsonl", orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE))
    for unit in (0, 1):
        commit(job, job.whole(unit))
    found = jobs.status(job)
    assert found.hosts[0].reading == [9]
    assert found.rate == pytest.approx(4 / 540, abs=0.005)
    assert found.seconds_left == pytest.approx(32 / found.rate, rel=0.5)


@pytest.mark.parametrize(("last", "rate"), [(1_500, 0.02), (2_500, 0.0)])
def test_units_that_take_longer_than_what_is_of_late(tmp_path, last, rate):
    job, now = bare(tmp_path, 80, 20), time.time()
    job.store.create("leases/00000002", orjson.dumps({"owner": "far.1.1", "beat": 1, "reading": []}))
    for number, at in enumerate((now - last - 2_000, now - last - 1_000, now - last)):
        counts = {"unit": number - 1, "ok": 20, "failed": 0, "quarantined": 0} if number else {}
        event = {"time": at, "event": "commit" if number else "start", "owner": "far.1.1", **counts}
        job.store.append("events/far.1.1.jsonl", orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE))
    for unit in (0, 1):
        commit(job, job.whole(unit))
    found = jobs.status(job)
    assert found.rate == rate  # of one that has not been heard of for longer still nothing is known
    assert found.seconds_left == (40 / rate if rate else None)


def test_every_file_of_a_model_counts(tmp_path):
    names = ["config.json", "MANIFEST.json", "model.safetensors", "a.bin", "a.bin.index.json", "params/b/c", "params/d"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    found = [model_fingerprint(tmp_path)]
    for name in names:
        (tmp_path / name).write_bytes(b"2")
        found.append(model_fingerprint(tmp_path))
    (tmp_path / "params/d").rename(tmp_path / "params/e")
    found.append(model_fingerprint(tmp_path))
    assert len(set(found)) == len(names) + 2
    (tmp_path / "README.md").write_bytes(b"1")
    assert model_fingerprint(tmp_path) == found[-1]


def test_of_long_lists_the_first_difference_is_shown():
    """As of names that a shell has made of a pattern, where there are new files."""
    planned = [f"{number}.png" for number in range(30)]
    assert list(differences({"paths": planned}, {"paths": planned})) == []
    found = list(differences({"paths": planned}, {"paths": [*planned[:7], "new.png", *planned[7:]]}))
    assert found == ['paths[7]: "7.png" in the plan, "new.png" now']
    assert list(differences({"paths": planned}, {"paths": planned[:20]})) == [
        'paths[20]: "20.png" in the plan, nothing now'
    ]
    assert list(differences({"paths": ["a"]}, {"paths": ["b"]})) == ['paths: ["a"] in the plan, ["b"] now']


def test_configurations_that_differ_are_described_apart():
    for one, other in (
        (np.array([1.0, 2.0]), np.array([1.0, 3.0])),
        (np.zeros(2, np.float32), np.zeros(2, np.int32)),
        (np.zeros((1, 2)), np.zeros((2, 1))),
        ({"a": 1}, {"a": 2}),
        (Lexicon(("a",)), Lexicon(("b",))),
        (Lexicon(("a",)), Lexicon(("a",), separator=None)),
    ):
        assert describe(one) != describe(other)
    assert describe(frozenset([0, 8])) == describe(frozenset([8, 0]))


def test_rows_without_what_is_asked_for_are_refused(tmp_path, capsys):
    complete(tmp_path)
    assert main(["jobs", "merge", str(tmp_path), "--min-confidence", "0.5"]) == 2
    assert "its rows have no column confidence" in capsys.readouterr().err


def test_a_log_in_a_store_goes_on_behind_what_another_store_of_this_process_wrote():
    from trocr_jax.jobs.store_remote import RemoteStore

    for unit in range(2):
        with Events(store := RemoteStore("memory://job-with-two-stores")) as events:
            events.write("begin", unit=unit)
    assert [event["unit"] for event in read_events(store)] == [0, 1]


def test_a_job_is_not_merged_into_a_folder_that_is_called_as_a_url(tmp_path: Path, monkeypatch, capsys):
    complete(tmp_path / "job")
    monkeypatch.chdir(tmp_path)
    for options in ([], ["--format", "pages"]):
        assert main(["jobs", "merge", "job", "--output", "s3://bucket/filled", *options]) == 2
        assert "s3://bucket/filled: only paths of this machine can be written" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["job"]


def test_damage_is_noticed_where_another_part_was_deleted(tmp_path: Path, capsys):
    job = complete(tmp_path)
    job.store.remove("parts/00000000.jsonl")
    assert main(["jobs", "merge", str(tmp_path), "--incomplete"]) == 0
    job.store.replace("parts/00000001.jsonl", job.read_part(1).replace(b'"ok"', b'"OK"', 1))
    assert main(["jobs", "merge", str(tmp_path), "--incomplete"]) == 2
    assert "parts/00000001.jsonl: is damaged (it has changed since" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "root"), [(errno.EACCES, ""), (errno.EIO, "s3://bucket/job")])
def test_a_part_that_is_not_to_be_had_now_is_not_to_be_deleted(tmp_path: Path, monkeypatch, number, root):
    job = complete(tmp_path)

    def refused(job: Job, unit: int) -> bytes:
        raise OSError(number, os.strerror(number), f"parts/{unit}")

    monkeypatch.setattr(Job, "read_part", refused)
    job.store.root = root or job.store.root
    with pytest.raises(OSError, match=os.strerror(number)):
        job.part(1)


def test_a_job_that_is_read_and_not_confirmed_is_not_merged(tmp_path: Path, capfdbinary):
    job = bare(tmp_path)
    commit(job, job.whole(1))
    assert main(["jobs", "merge", str(tmp_path)]) == 2
    assert b"1 of 2 units are left" in capfdbinary.readouterr().err
    assert main(["jobs", "merge", str(tmp_path), "--incomplete"]) == 0
    found = [json.loads(line)["id"] for line in capfdbinary.readouterr().out.splitlines()]
    assert found == ["4", "5", "6", "7"]
    commit(job, job.whole(0))
    assert main(["jobs", "merge", str(tmp_path)]) == 2
    assert b"every unit is read, but not yet confirmed" in capfdbinary.readouterr().err
    assert main(["jobs", "merge", str(tmp_path), "--incomplete"]) == 0
    assert len(capfdbinary.readouterr().out.splitlines()) == 8


def test_names_that_are_no_unicode_become_rows():
    odd = "a\udcff.png"
    row = rows.row(odd, Failure("failed", f"{odd}: no"), model="m", configuration="c", columns=rows.COLUMNS)
    (found,) = rows.decode(rows.encode([row]))
    assert found["status"] == "failed"
    for part in (b"[1]\n", b'{"id": "a"}\n', b'{"status": "ok"}\n', b"1\n"):
        with pytest.raises(ValueError, match="no row"):
            rows.decode(part)
