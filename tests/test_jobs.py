"""Jobs in one process: what is planned, read, committed and refused."""

from __future__ import annotations

import errno
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from PIL import Image

from tests.decoders import BrokenDecoder
from tests.poison import Poison
from tests.tiny import save_lines, save_tiny
from trocr_jax import jobs
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.errors import JobError, OutputError, SourceError
from trocr_jax.jobs.attempts import ATTEMPTS, Attempts
from trocr_jax.jobs.claims import Claims
from trocr_jax.jobs.decode_pool import DecodePool
from trocr_jax.jobs.decode_worker import Decoded, Decoder, Limits
from trocr_jax.jobs.job import Job, Task
from trocr_jax.jobs.leases import Dead, Leases, holders
from trocr_jax.jobs.owner import Owner, me
from trocr_jax.jobs.sources import Input, from_description
from trocr_jax.jobs.store import LocalStore
from trocr_jax.jobs.worker import open_worker
from trocr_jax.recognizer import Recognizer
from trocr_jax.recognizer_batches import Batch

DECODE = DecodeConfig(max_new_tokens=12)
CHOICES = jobs.Choices(unit_size=8, batch_size=4)
RESOURCES = jobs.Resources(decoders=2, limits=Limits(seconds=2.0, memory=400 << 20))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def recognizer(model: Path) -> Recognizer:
    return Recognizer.from_pretrained(model)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    save_lines(tmp_path / "lines", 20)
    return tmp_path / "lines"


def plan(lines: Path, folder: Path, recognizer: Recognizer, model: Path, **options: Any) -> Job:
    options = {"decode": DECODE, "choices": CHOICES, **options}
    return jobs.plan(jobs.open_source([str(lines)]), str(folder), recognizer, model, **options)


def run(job: Job, recognizer: Recognizer, **options: Any) -> Any:
    return jobs.run(job, recognizer, DECODE, **{"resources": RESOURCES, **options})


def rows(job: Job) -> list[dict[str, Any]]:
    return [orjson.loads(line) for unit in sorted(job.done()) for line in job.read_part(unit).splitlines()]


def test_every_line_is_read_as_a_recognizer_reads_it_alone(tmp_path, lines, recognizer, model):
    (lines / "line-005.png").write_bytes(b"no image")
    job = plan(lines, tmp_path / "job", recognizer, model)
    assert [unit.lines for unit in job.units] == [8, 8, 4]
    counts = run(job, recognizer)
    assert (counts.ok, counts.failed, counts.quarantined) == (19, 1, 0)
    found = rows(job)
    paths = sorted(str(path) for path in lines.iterdir())
    assert [row["id"] for row in found] == paths
    for row in found:
        if row["status"] == "failed":
            assert row["id"].endswith("005.png")
            assert row["text"] is None
            assert row["error"].startswith(f"{row['id']}: not an image")
        else:
            (alone,) = recognizer(row["id"], DECODE, batch_size=4)
            assert (row["text"], row["truncated"]) == (alone.text, alone.truncated)
            assert row["score"] == pytest.approx(alone.score, abs=1e-4)
    assert list(jobs.verify(job)) == []
    assert not (tmp_path / "job" / "tmp").exists()
    assert list((tmp_path / "job" / "leases").iterdir()) == []


def test_bytes_do_not_depend_on_how_it_was_read(tmp_path, lines, recognizer, model):
    first = plan(lines, tmp_path / "first", recognizer, model)
    run(first, recognizer)
    second = plan(lines, tmp_path / "second", recognizer, model)
    lease = orjson.dumps({"owner": "far-away.1.1", "beat": 1, "reading": [[0, 8]]})
    second.store.create("leases/00000001", lease)  # another host reads unit 1
    stop = jobs.Stop()

    def committed(task: Task, counts: Any) -> None:
        if second.done() == {0, 2}:
            stop.request()

    def prepare(worker: Any) -> None:
        worker.on_commit = committed

    assert run(second, recognizer, stop=stop, prepare=prepare) is None
    assert second.done() == {0, 2}
    second.store.remove("leases/00000001")
    run(second, recognizer)
    parts = [[job.read_part(unit) for unit in range(3)] for job in (first, second)]
    assert parts[0] == parts[1]


def test_another_configuration_is_refused_with_the_difference(tmp_path, lines, recognizer, model):
    plan(lines, tmp_path / "job", recognizer, model)
    with pytest.raises(JobError, match=r"decode\.num_beams: 1 in the plan, 3 now"):
        plan(lines, tmp_path / "job", recognizer, model, decode=DecodeConfig(max_new_tokens=12, num_beams=3))
    with pytest.raises(JobError, match=r"unit_size: 8 in the plan, 9 now"):
        plan(lines, tmp_path / "job", recognizer, model, choices=jobs.Choices(unit_size=9))
    other = save_tiny(tmp_path / "other")
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    with pytest.raises(JobError, match=r"model\.sha256"):
        plan(lines, tmp_path / "job", recognizer, other)
    again = plan(lines, tmp_path / "job", recognizer, model, choices=jobs.Choices())  # as planned
    assert [unit.lines for unit in again.units] == [8, 8, 4]


def test_the_plan_is_kept_when_the_source_changes(tmp_path, lines, recognizer, model):
    job = plan(lines, tmp_path / "job", recognizer, model)
    save_lines(lines, 3, first=50)
    (lines / "line-003.png").unlink()
    again = plan(lines, tmp_path / "job", recognizer, model)
    assert again.plan == job.plan
    counts = run(again, recognizer)
    assert (counts.ok, counts.failed) == (19, 1)
    assert "no such file" in rows(again)[3]["error"]


def test_a_source_that_vanishes_stops_the_job_and_costs_nothing(tmp_path, lines, recognizer, model):
    job = plan(lines, tmp_path / "job", recognizer, model)
    lines.rename(tmp_path / "elsewhere")
    with pytest.raises(SourceError, match="has gone"):
        run(job, recognizer)
    assert rows(job) == []
    (tmp_path / "elsewhere").rename(lines)
    assert run(job, recognizer).ok == 20


def test_a_full_disk_stops_the_job_and_it_goes_on_later(tmp_path, lines, recognizer, model, monkeypatch):
    job = plan(lines, tmp_path / "job", recognizer, model)
    create, written = LocalStore.create, []

    def full(self: LocalStore, name: str, content: bytes, **options: Any) -> bool:
        if name.startswith("parts/"):
            written.append(name)
            if len(written) == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return create(self, name, content, **options)

    monkeypatch.setattr(LocalStore, "create", full)
    with pytest.raises(OutputError, match=r"job: .*No space left on device.*run the same command again"):
        run(job, recognizer)
    assert len(job.done()) == 1
    assert job.store.names("leases") == []
    assert run(job, recognizer).ok == 20
    assert list(jobs.verify(job)) == []


def test_a_log_that_cannot_be_written_stops_no_job(tmp_path, lines, recognizer, model, monkeypatch, capsys):
    def full(self: LocalStore, name: str, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(LocalStore, "append", full)
    job = plan(lines, tmp_path / "job", recognizer, model)
    assert run(job, recognizer).ok == 20
    assert capsys.readouterr().err.count("the event log cannot be written (") == 1
    assert jobs.status(job).counts.ok == 20


def test_images_that_do_harm_are_quarantined_after_three_attempts(tmp_path, lines, recognizer, model):
    names = ["segfault", "hang", "hungry", "once"]
    for name in names:
        shutil.copy(lines / "line-000.png", lines / f"{name}.png")
    Image.fromarray(np.zeros((40_000, 40_000), bool)).save(lines / "vast.png")  # 1.6 gigapixels in 200 kB
    job = plan(lines, tmp_path / "job", recognizer, model)
    decoder = Decoder(from_description(job.plan.configuration["source"]), recognizer.image_processor)
    (tmp_path / "marks").mkdir()
    counts = run(job, recognizer, decoder=Poison(decoder, str(tmp_path / "marks")))
    assert (counts.ok, counts.failed, counts.quarantined) == (21, 0, 4)
    found = {Path(row["id"]).stem: row for row in rows(job)}
    assert found["once"]["text"] == found["line-000"]["text"]
    reasons = {
        "segfault": r"signal 11 \(SIGSEGV\); tried 3 times",
        "hang": "did not end within 2 s; tried 3 times",
        "hungry": "took more memory than --decode-memory allows",
        "vast": "40000|exceeds limit",
    }
    for name, reason in reasons.items():
        row = found[name]
        assert row["status"] == "quarantined"
        assert row["text"] is None
        assert re.search(reason, row["error"]), row["error"]
    innocent = plan(lines, tmp_path / "innocent", recognizer, model)
    for name in (*reasons, *names):
        (lines / f"{name}.png").unlink(missing_ok=True)
    run(innocent, recognizer)
    texts = {Path(row["id"]).stem: (row["text"], row["score"]) for row in rows(innocent) if row["status"] == "ok"}
    assert all((found[name]["text"], found[name]["score"]) == text for name, text in texts.items())


def test_pixels_that_were_given_back_are_written_over(lines):
    processor = Recognizer.from_pretrained("tiny-printed").image_processor
    decoder = Decoder(jobs.open_source([str(lines)]), processor)
    paths = sorted(map(str, lines.iterdir()))
    with DecodePool(decoder, processor.size, workers=1, limits=Limits()) as pool:

        def decoded(path: str) -> np.ndarray:
            (found,) = pool.submit([Input(path, path)]).result()
            assert isinstance(found, Decoded)
            return found.pixels

        first, second = (decoded(path) for path in paths[:2])
        pool.give_back([first])
        third = decoded(paths[2])
        assert third is first
        assert second is not first
        for found, path in ((second, paths[1]), (third, paths[2])):
            np.testing.assert_array_equal(found, processor.pixels(path))


def test_a_caller_may_write_over_the_pixels_of_a_batch(lines, recognizer):
    paths = sorted(lines.iterdir())
    expected = [one.text for one in recognizer(paths, DECODE)]
    pixels = [recognizer.image_processor.pixels(path) for path in paths]

    def batches() -> Iterator[Batch]:
        for start in range(0, len(pixels), 4):
            yield Batch.of_pixels(stretch := pixels[start : start + 4])
            for one in stretch:
                one[:] = 0

    found = [one.text for one in recognizer.read_batches(batches(), DECODE, 4)]
    assert len(set(expected)) > 1
    assert found == expected


def test_decoders_that_cannot_start_end_the_job_and_say_why(tmp_path, lines, recognizer, model):
    job = plan(lines, tmp_path / "job", recognizer, model)
    (started := tmp_path / "started").mkdir()
    one = jobs.Resources(decoders=1)
    with pytest.raises(JobError, match=r"does not start: .*status 1[\s\S]*No module named 'that_reads_images'"):
        run(job, recognizer, decoder=BrokenDecoder(started), resources=one)
    assert len([*started.iterdir()]) == 2, "one more try, for all 20 lines together"
    no_memory = jobs.Resources(decoders=1, limits=Limits(memory=0))
    with pytest.raises(JobError, match="no image can be decoded in 0 MiB; give more by --decode-memory"):
        run(job, recognizer, resources=no_memory)
    assert job.done() == set()
    assert run(job, recognizer).ok == 20


def test_lines_that_failed_are_read_once_more(tmp_path, lines, recognizer, model):
    image = (lines / "line-005.png").read_bytes()
    (lines / "line-005.png").write_bytes(b"")
    (lines / "line-011.png").write_bytes(b"")
    job = plan(lines, tmp_path / "job", recognizer, model)
    assert run(job, recognizer).failed == 2
    before = rows(job)
    (lines / "line-005.png").write_bytes(image)
    counts = jobs.retry_failed(job, recognizer, DECODE, resources=RESOURCES)
    assert counts is not None
    assert (counts.ok, counts.failed) == (19, 1)
    after = rows(job)
    assert [i for i in range(20) if before[i] != after[i]] == [5]
    assert after[5]["status"] == "ok"
    assert list(jobs.verify(job)) == []
    whole = plan(lines, tmp_path / "whole", recognizer, model)
    run(whole, recognizer)
    assert rows(whole) == after  # the same bytes as if nothing had happened


def test_without_hard_links_the_first_writer_stays(tmp_path, monkeypatch):
    def no_links(*paths: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    store = LocalStore(str(tmp_path))
    assert store.create("parts/1", b"first")
    assert not store.create("parts/1", b"second")
    assert store.read("parts/1") == b"first"
    assert store.names("tmp") == []


def test_too_many_failures_stop_a_job(tmp_path, recognizer, model):
    (tmp_path / "lines").mkdir()
    for number in range(200):
        (tmp_path / "lines" / f"{number:03}.png").write_bytes(b"")
    job = plan(tmp_path / "lines", tmp_path / "job", recognizer, model)
    resources = jobs.Resources(decoders=1, max_error_rate=0.5)
    with pytest.raises(JobError, match="no text, more than --max-error-rate"):
        run(job, recognizer, resources=resources)
    assert 100 <= sum(job.units[unit].lines for unit in job.done()) < 200


def test_too_many_failures_in_a_job_of_few_lines(tmp_path, recognizer, model):
    (tmp_path / "lines").mkdir()
    for number in range(5):
        (tmp_path / "lines" / f"{number:03}.png").write_bytes(b"")
    job = plan(tmp_path / "lines", tmp_path / "job", recognizer, model)
    with pytest.raises(JobError, match="5 of 5 lines have no text, more than --max-error-rate"):
        run(job, recognizer, resources=jobs.Resources(decoders=1, max_error_rate=0.5))


def test_retried_lines_may_all_fail_again(tmp_path, recognizer, model):
    """What a share of lines means for a job it does not for those that failed."""
    (tmp_path / "lines").mkdir()
    for number in range(120):
        (tmp_path / "lines" / f"{number:03}.png").write_bytes(b"")
    job = plan(tmp_path / "lines", tmp_path / "job", recognizer, model)
    run(job, recognizer)
    resources = jobs.Resources(decoders=1, max_error_rate=0.5)
    counts = jobs.retry_failed(job, recognizer, DECODE, resources=resources)
    assert counts is not None
    assert counts.failed == 120


def test_lines_that_ended_a_process_are_retried_last_and_alone(tmp_path, lines, recognizer, model):
    job = plan(lines, tmp_path / "job", recognizer, model)
    run(job, recognizer)
    names = [input.id for input in job.inputs(job.whole(0))][:3]
    contents = [Path(name).read_bytes() for name in names]
    for name in names:
        Path(name).write_bytes(b"")
    again = plan(lines, tmp_path / "again", recognizer, model)
    run(again, recognizer)
    attempts = Attempts(again, 0)
    for _ in range(ATTEMPTS):
        attempts.process_died(Task(0, range(1, 2)), "it ended")
    for name, content in zip(names, contents, strict=True):
        Path(name).write_bytes(content)
    seen = list[list[int]]()

    def prepare(worker: Any) -> None:
        worker.on_commit = lambda task, counts: seen.append(list(task.lines))

    counts = jobs.retry_failed(again, recognizer, DECODE, resources=RESOURCES, prepare=prepare)
    assert counts is not None
    assert counts.ok == 20
    assert seen == [[0, 2], [1]]
    assert rows(again) == rows(job)
    assert Attempts(again, 0).forgive() == {1}  # of what it did before it is known still


def test_a_stop_gives_units_back(tmp_path, lines, recognizer, model):
    job = plan(lines, tmp_path / "job", recognizer, model, choices=jobs.Choices(unit_size=1, batch_size=4))
    stop = jobs.Stop()

    def prepare(worker: Any) -> None:
        worker.on_commit = lambda task, counts: stop.request()

    assert run(job, recognizer, stop=stop, prepare=prepare) is None
    assert 1 <= len(job.done()) < 20
    assert job.store.names("leases") == []
    assert run(job, recognizer).ok == 20


def test_a_stop_ends_a_second_reading_before_the_next_unit(tmp_path, lines, recognizer, model):
    for number in range(20):
        (lines / f"line-{number:03}.png").write_bytes(b"")
    job = plan(lines, tmp_path / "job", recognizer, model, choices=jobs.Choices(unit_size=1, batch_size=4))
    run(job, recognizer)
    stop, seen = jobs.Stop(), list[Task]()
    stop.request()

    def prepare(worker: Any) -> None:
        worker.on_commit = lambda task, counts: seen.append(task)

    counts = jobs.retry_failed(job, recognizer, DECODE, resources=RESOURCES, stop=stop, prepare=prepare)
    assert counts is not None
    assert seen == []


def test_a_process_that_died_while_it_completed_the_job_is_replaced(tmp_path, lines, recognizer, model):
    job = plan(lines, tmp_path / "job", recognizer, model)
    run(job, recognizer)
    success = job.store.read("_SUCCESS")
    for beats, completes in (False, True), (True, False):
        job.store.remove("_SUCCESS")
        job.store.replace("leases/00000003", orjson.dumps({"owner": "far-away.1.1", "beat": 1, "reading": []}))
        lives = orjson.dumps({"owner": "far-away.1.1", "beat": 2, "reading": []})
        timer = threading.Timer(0.5, job.store.replace, ("leases/00000003", lives))
        if beats:
            timer.start()
        counts = run(job, recognizer, resources=jobs.Resources(decoders=1, lease_timeout=2.0))
        assert (counts is not None) is completes
        assert job.store.exists("_SUCCESS") is completes
        if completes:
            assert job.store.read("_SUCCESS") == success
            assert list(jobs.verify(job)) == []


def test_damage_is_found(tmp_path, lines, recognizer, model):
    job = plan(lines, tmp_path / "job", recognizer, model)
    run(job, recognizer)
    part = tmp_path / "job" / "parts" / "00000001.jsonl"
    good = part.read_bytes()
    part.write_bytes(good.replace(b'"truncated":', b'"truncated": ', 1))
    assert list(jobs.verify(job)) == ["parts/00000001.jsonl has changed since the job was completed"]
    part.write_bytes(b"".join(reversed(good.splitlines(keepends=True))))
    assert "each once and in order" in next(jobs.verify(job))
    part.unlink()
    assert "parts/00000001.jsonl is missing" in list(jobs.verify(job))
    part.write_bytes(good)
    (tmp_path / "job" / "tmp").mkdir()
    (tmp_path / "job" / "tmp" / "x").touch()
    assert list(jobs.verify(job)) == ["tmp/x was left behind"]
    inputs = tmp_path / "job" / job.plan.inputs
    inputs.write_bytes(inputs.read_bytes().replace(b"line-000", b"line-999"))
    assert any("missing or damaged" in fault for fault in jobs.verify(job))
    (tmp_path / "job" / job.plan.units).write_bytes(b'[0,1,1,""]\n')
    with pytest.raises(JobError, match="is damaged"):
        Job.open(str(tmp_path / "job"))


def test_status_counts_what_is_committed(tmp_path, lines, recognizer, model):
    (lines / "line-005.png").write_bytes(b"")
    job = plan(lines, tmp_path / "job", recognizer, model)
    empty = jobs.status(job)
    assert (empty.units, empty.units_done, empty.lines, empty.counts.lines) == (3, 0, 20, 0)
    run(job, recognizer)
    shutil.rmtree(tmp_path / "job" / "events")  # the parts know as well
    full = jobs.status(job)
    assert full.complete
    assert (full.units_done, full.counts.ok, full.counts.failed) == (3, 19, 1)


def test_status_counts_a_unit_that_was_read_again_as_it_is_now(tmp_path, lines, recognizer, model):
    job = plan(lines, tmp_path / "job", recognizer, model)
    run(job, recognizer)
    commit = {"time": 1.0, "event": "commit", "owner": "z.1.1", "unit": 0, "first": 0, "lines": 8}
    old = commit | {"ok": 0, "failed": 8, "quarantined": 0}  # in a log that is read behind that of the second reading
    job.store.append("events/z.1.1.jsonl", orjson.dumps(old, option=orjson.OPT_APPEND_NEWLINE))
    assert jobs.status(job).counts.failed == 0


def test_ids_that_are_not_unique_are_refused(tmp_path, lines, recognizer, model):
    with pytest.raises(SourceError, match=r"line-000\.png: is the id of inputs 1 and 21"):
        jobs.plan(jobs.open_source([str(lines), str(lines / "line-000.png")]), str(tmp_path / "job"), recognizer, model)
    assert not (tmp_path / "job" / "plan.json").exists()


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
    store, read, tries = LocalStore(str(tmp_path)), Path.read_bytes, list[int]()
    store.create("parts/a", b"1")
    most = 2

    def stale(path: Path) -> bytes:
        tries.append(1)
        if len(tries) <= most:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", stale)
    assert store.read("parts/a") == b"1"
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
        assert orjson.loads(job.store.read(names[2])) == {"owner": str(me()), "beat": 1, "reading": []}
        leases.give_back(0)
        assert leases.take(0) is False
        assert leases.take(1) is True
        leases.reading(job.whole(1))
        assert orjson.loads(job.store.read(names[1])) == {"owner": str(me()), "beat": 1, "reading": [[0, 8]]}
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


def rows_of(job: Job, unit: int) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in job.read_part(unit).splitlines()]


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
    store, real, swept = LocalStore(str(tmp_path)), getattr(os, place), list[int]()

    def late(old: Path, new: Path) -> None:
        if not swept:
            os.utime(old, (0, 0))  # hours ago, by the clock of that host
            swept.append(LocalStore(str(tmp_path)).sweep())
        real(old, new)

    monkeypatch.setattr(os, place, late)
    assert getattr(store, write)("parts/a", b"1") in (True, None)
    assert swept == [1]
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


@pytest.mark.parametrize(
    "values",
    [
        {"decoders": 0},
        {"limits": Limits(seconds=0.0)},
        {"lease_timeout": 0.0},
        {"grace": -1.0},
        {"hang": 0.0},
        {"max_error_rate": 1.5},
    ],
)
def test_resources_that_mean_nothing_are_refused(values):
    with pytest.raises(JobError, match="give"):
        jobs.Resources(**values)


def test_columns_without_which_a_job_cannot_end_are_asked_for():
    with pytest.raises(JobError, match="status: has to be a column"):
        jobs.Choices(columns=("id", "text"))


def test_a_unit_whose_process_dies_is_halved_until_one_line_is_left(tmp_path, lines, recognizer, model):
    job = plan(lines, tmp_path / "job", recognizer, model)
    poison, runs = 5, 0
    while True:
        attempts = Attempts(job, 0)
        if attempts.quarantined(poison):
            break
        task = next(task for task in attempts.tasks() if poison in task.lines)
        attempts.process_died(task, "it ended")
        runs += 1
    assert runs == ATTEMPTS + 2 + ATTEMPTS  # the unit, a half, a quarter and a line of eight
    assert [len(task.lines) for task in attempts.tasks()] == [4, 1, 1, 2]
    failure = attempts.quarantined(poison)
    assert failure is not None
    assert "tried 3 times" in failure.error


def test_a_death_that_several_processes_see_at_a_time_is_one(tmp_path, lines, recognizer, model):
    job = plan(lines, tmp_path / "job", recognizer, model)
    lease = orjson.dumps({"owner": "far-away.1.1", "beat": 1, "reading": [[0, 8]]})
    job.store.create("leases/00000000", lease)

    class Slow(LocalStore):
        """What another host has written a moment ago is not seen yet."""

        def read(self, name: str) -> bytes:
            return lease if name.startswith("leases/") else super().read(name)

    for _ in range(ATTEMPTS):
        blind = Job(Slow(job.store.root), job.plan)
        leases = Leases(blind, timeout=0.01)
        assert leases.take(0) is False
        time.sleep(0.02)
        assert next(Claims(blind, leases, threading.Event(), [0]).tasks()) == job.whole(0)
    assert list(Attempts(job, 0).tasks()) == [job.whole(0)]


def test_pieces_of_a_unit_become_the_same_part(tmp_path, lines, recognizer, model):
    first = plan(lines, tmp_path / "first", recognizer, model)
    run(first, recognizer)
    second = plan(lines, tmp_path / "second", recognizer, model)
    for _ in range(ATTEMPTS):
        Attempts(second, 0).process_died(second.whole(0), "it ended")
    ok = [orjson.loads(line) for line in first.read_part(0).splitlines()]
    second.commit(Task(0, range(4, 8)), ok[4:8])  # by a process that died before it could say so:
    Attempts(second, 0).process_died(Task(0, range(4, 8)), "it ended")
    second.commit(Task(0, range(6, 8)), ok[6:8])  # then its halves are read as well
    run(second, recognizer)
    assert second.read_part(0) == first.read_part(0)
    assert second.store.names("partial") == []
    assert list(jobs.verify(second)) == []


def test_pieces_that_are_all_there_are_put_together_without_reading(tmp_path, lines, recognizer, model):
    first = plan(lines, tmp_path / "first", recognizer, model)
    run(first, recognizer)
    second = plan(lines, tmp_path / "second", recognizer, model)
    for _ in range(ATTEMPTS):
        Attempts(second, 0).process_died(second.whole(0), "it ended")
    for unit in (1, 2):
        second.store.create(f"parts/{unit:08}.jsonl", first.read_part(unit))
    for start, part in (
        (0, first.read_part(0).splitlines(keepends=True)[:4]),
        (4, first.read_part(0).splitlines(True)[4:]),
    ):
        second.store.create(f"partial/00000000-{start:06}-000004.jsonl", b"".join(part))
    run(second, recognizer)
    assert second.read_part(0) == first.read_part(0)
    assert list(jobs.verify(second)) == []


def test_pieces_that_another_process_puts_together_meanwhile_are_no_loss(tmp_path, lines, recognizer, model):
    whole = plan(lines, tmp_path / "whole", recognizer, model)
    run(whole, recognizer)
    read = [orjson.loads(line) for line in whole.read_part(0).splitlines()]
    job = plan(lines, tmp_path / "job", recognizer, model)

    class Slow(LocalStore):
        """The other process is quicker between the list of pieces and the first of them."""

        def read(self, name: str) -> bytes:
            if name.startswith("partial/") and self.names("partial"):
                job.assemble(0)
            return super().read(name)

    slow = Job(Slow(job.store.root), job.plan)
    slow.commit(Task.stretch(0, 0, 4), read[:4])
    slow.commit(Task.stretch(0, 4, 4), read[4:])
    assert job.read_part(0) == whole.read_part(0)
    slow.commit(Task.stretch(0, 4, 4), read[4:])  # it had that piece from the process that is thought to be dead
    assert job.store.names("partial") == []


def test_units_may_be_given_one_after_the_other(tmp_path, lines, recognizer, model):
    job = plan(lines, tmp_path / "job", recognizer, model)
    told = []
    with open_worker(job, recognizer, DECODE, RESOURCES, stop=jobs.Stop()) as worker:
        worker.on_commit = lambda task, counts: told.append((task.unit, counts.lines))
        assert worker.work(iter([2, None])).lines == 4
        worker.on_done = lambda unit: told.append((unit, 0))
        assert worker.work(iter([2, 0])).lines == 8
    assert sorted(told) == [(0, 8), (2, 0), (2, 4)]
    assert job.done() == {0, 2}


def test_a_unit_of_one_line_whose_process_died_is_read_alone(tmp_path, lines, recognizer, model):
    choices = jobs.Choices(unit_size=1, batch_size=4)
    job = plan(lines, tmp_path / "job", recognizer, model, choices=choices)
    Attempts(job, 1).process_died(job.whole(1), "the process that read it ended")
    with Leases(job) as leases:
        claims = Claims(job, leases, threading.Event(), iter([0, 1, 2]))
        found: queue.Queue[Task] = queue.Queue()
        thread = threading.Thread(target=lambda: [*map(found.put, claims.tasks())])
        thread.start()
        for unit in (0, 1, 2):
            task = found.get(timeout=10)
            assert task == job.whole(unit)
            with pytest.raises(queue.Empty):  # 1 waits for 0, and 2 for 1
                found.get(timeout=0.1)
            claims.settle(task)
        thread.join()
