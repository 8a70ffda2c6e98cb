"""Lines without a text and units whose process dies: read again, halved, quarantined, put together."""

from __future__ import annotations

import queue
import re
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from PIL import Image

from tests.poison import Poison
from tests.small_jobs import DECODE, RESOURCES, plan, rows, run
from tests.small_jobs import lines as lines
from tests.small_jobs import recognizer as recognizer
from trocr_jax import jobs
from trocr_jax.errors import JobError
from trocr_jax.jobs.attempts import ATTEMPTS, Attempts
from trocr_jax.jobs.claims import Claims
from trocr_jax.jobs.decode_worker import Decoder
from trocr_jax.jobs.events import read_events
from trocr_jax.jobs.job import Job, Task
from trocr_jax.jobs.leases import Leases
from trocr_jax.jobs.sources import from_description
from trocr_jax.jobs.store import LocalStore
from trocr_jax.jobs.worker import open_worker
from trocr_jax.recognizer import Recognizer


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


def whole_and_halved(lines: Path, tmp_path: Path, recognizer: Recognizer, model: Path) -> tuple[Job, Job]:
    """A job that is complete, and one whose first unit has ended so many processes that it is read in halves."""
    first = plan(lines, tmp_path / "first", recognizer, model)
    run(first, recognizer)
    second = plan(lines, tmp_path / "second", recognizer, model)
    for _ in range(ATTEMPTS):
        Attempts(second, 0).process_died(second.whole(0), "it ended")
    return first, second


def test_pieces_of_a_unit_become_the_same_part(tmp_path, lines, recognizer, model):
    first, second = whole_and_halved(lines, tmp_path, recognizer, model)
    ok = [orjson.loads(line) for line in first.read_part(0).splitlines()]
    second.commit(Task(0, range(4, 8)), ok[4:8])  # by a process that died before it could say so:
    Attempts(second, 0).process_died(Task(0, range(4, 8)), "it ended")
    second.commit(Task(0, range(6, 8)), ok[6:8])  # then its halves are read as well
    run(second, recognizer)
    assert second.read_part(0) == first.read_part(0)
    assert second.store.names("partial") == []
    assert list(jobs.verify(second)) == []


def test_pieces_that_are_all_there_are_put_together_without_reading(tmp_path, lines, recognizer, model):
    first, second = whole_and_halved(lines, tmp_path, recognizer, model)
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


def test_what_somebody_else_has_committed_meanwhile_counts_once(tmp_path, lines, recognizer, model):
    """As for a process that was suspended for longer than its leases last."""
    whole = plan(lines, tmp_path / "whole", recognizer, model)
    run(whole, recognizer)
    job = plan(lines, tmp_path / "job", recognizer, model)
    done: list[int] = []
    with open_worker(job, recognizer, DECODE, RESOURCES, stop=jobs.Stop()) as worker:
        commit: Any = job.commit

        def late(task, rows):
            if task.unit == 0:
                job.store.create("parts/00000000.jsonl", whole.read_part(0))
            return commit(task, rows)

        job.commit = late  # type: ignore[method-assign]
        worker.on_done = done.append
        assert worker.work().lines == 12
    assert done == [0]
    assert sorted(e["unit"] for e in read_events(job.store) if e["event"] == "commit") == [1, 2]
    (piece, rows) = Task.stretch(1, 0, 2), [orjson.loads(line) for line in whole.read_part(1).splitlines()][:2]
    assert not commit(piece, rows)
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
