"""Jobs in one process: what is planned, read, committed and refused."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import orjson
import pytest

from tests.decoders import BrokenDecoder
from tests.small_jobs import CHOICES, DECODE, RESOURCES, plan, rows, run
from tests.small_jobs import lines as lines
from tests.small_jobs import recognizer as recognizer
from tests.tiny import save_lines, save_tiny
from trocr_jax import jobs
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.errors import JobError, OutputError, SourceError
from trocr_jax.jobs.decode_pool import DecodePool
from trocr_jax.jobs.decode_worker import Decoded, Decoder, Limits
from trocr_jax.jobs.finish import finish
from trocr_jax.jobs.job import Job, Task
from trocr_jax.jobs.rows import COLUMNS, Failure, encode
from trocr_jax.jobs.rows import row as row_of
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.store import LocalStore
from trocr_jax.recognizer import Recognizer
from trocr_jax.recognizer_batches import Batch
from trocr_jax.say import printable


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


def test_a_job_that_another_process_completes_while_this_one_lists_it(tmp_path, lines, recognizer, model, monkeypatch):
    kind = type(jobs.open_source([str(lines)]))
    inputs = kind.inputs

    def slow(source):
        monkeypatch.setattr(kind, "inputs", inputs)  # of the other, which is quicker
        yield from inputs(source)
        run(plan(lines, tmp_path / "job", recognizer, model), recognizer)  # and sweeps what it finds

    monkeypatch.setattr(kind, "inputs", slow)
    job = plan(lines, tmp_path / "job", recognizer, model)
    assert job.done() == {0, 1, 2}
    assert run(job, recognizer).ok == 20


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


def test_a_part_of_another_unit_or_job_does_not_complete_a_job(tmp_path, lines, recognizer, model):
    job, other = (plan(lines, tmp_path / name, recognizer, model) for name in ("job", "other"))
    run(job, recognizer)
    decode = dataclasses.replace(DECODE, max_new_tokens=13)
    longer = plan(lines, tmp_path / "longer", recognizer, model, decode=decode)
    jobs.run(longer, recognizer, decode, resources=RESOURCES)
    good = [job.read_part(unit) for unit in range(len(job.units))]
    mixed = b"".join([*good[1].splitlines(keepends=True)[:-1], good[0].splitlines(keepends=True)[-1]])
    (tmp_path / "other" / "parts").mkdir(exist_ok=True)
    for part, why in (
        (good[0], "does not have the .*lines of its unit"),
        (mixed, "does not have the .*lines of its unit"),
        (good[1][:-1], "does not have the .*lines of its unit"),
        (longer.read_part(1), "was read with another configuration than this job's"),
    ):
        for unit, content in enumerate([good[0], part, *good[2:]]):
            (tmp_path / "other" / "parts" / f"{unit:08}.jsonl").write_bytes(content)
        with pytest.raises(JobError, match=f"other/parts/00000001.jsonl: {why}; delete it and run the job again"):
            finish(other)
        assert re.search(f"parts/00000001.jsonl {why}", " ".join(jobs.verify(other)))
    (tmp_path / "other" / "parts" / "00000001.jsonl").write_bytes(good[1])
    assert finish(other) == jobs.status(job).counts


def test_damage_is_not_taken_for_good_when_a_job_is_opened_again(tmp_path, lines, recognizer, model):
    job = plan(lines, tmp_path / "job", recognizer, model)
    run(job, recognizer)
    parts = sorted((tmp_path / "job" / "parts").iterdir())
    contents = [part.read_bytes() for part in parts]
    for part, content in zip(parts[:2], contents, strict=False):
        part.write_bytes(content.replace(b'"text":"', b'"text":"not ', 1))
    assert all(part.read_bytes() != content for part, content in zip(parts[:2], contents, strict=False))
    names = f"parts/{parts[0].name}, parts/{parts[1].name}: changed since the job was completed; delete"
    with pytest.raises(JobError, match=names):
        jobs.retry_failed(job, recognizer, DECODE, resources=RESOURCES)
    parts[0].unlink()
    with pytest.raises(JobError, match=f": parts/{parts[1].name}: changed since"):
        run(job, recognizer)
    stop = jobs.Stop()
    stop.request()
    assert run(job, recognizer, stop=stop) is None
    assert job.store.exists("_SUCCESS")
    assert f"parts/{parts[1].name} has changed since the job was completed" in list(jobs.verify(job))
    parts[1].unlink()
    run(job, recognizer)
    assert [part.read_bytes() for part in parts] == contents
    assert list(jobs.verify(job)) == []
    parts[0].unlink()
    parts[0].mkdir()
    assert f"parts/{parts[0].name} cannot be read (Is a directory)" in list(jobs.verify(job))


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


def test_ids_that_rows_would_write_alike_are_refused(tmp_path, recognizer, model):
    odd = tmp_path / "odd"
    (one,) = save_lines(odd, 1)
    shutil.copy(one, os.fsdecode(os.fsencode(odd) + b"/x\xff.png"))
    shutil.copy(one, odd / "x\\udcff.png")
    with pytest.raises(SourceError, match=r"x\\udcff\.png: is the id of inputs 2 and 3"):
        jobs.plan(jobs.open_source([str(odd)]), str(tmp_path / "job"), recognizer, model)


def test_a_source_whose_name_is_no_unicode(tmp_path, recognizer, model):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    save_lines(odd, 3)
    job = plan(odd, tmp_path / "job", recognizer, model)
    assert run(job, recognizer).ok == 3
    assert [row["id"] for row in rows(job)] == [printable(str(path)) for path in sorted(odd.iterdir())]
    assert plan(odd, tmp_path / "job", recognizer, model).plan == job.plan  # the same command goes on
    save_lines(tmp_path / "caf", 3)
    with pytest.raises(JobError, match=r'source\.paths: \[".*caf\\udce9"\] in the plan, \[".*caf"\] now'):
        plan(tmp_path / "caf", tmp_path / "job", recognizer, model)


def test_rows_of_another_plan_are_not_taken_over(tmp_path, lines, recognizer, model):
    folder = tmp_path / "job"
    run(plan(lines, folder, recognizer, model), recognizer)
    (folder / "plan.json").unlink()
    with pytest.raises(JobError, match=r"has no plan\.json, but parts and _SUCCESS of a job that had another"):
        plan(lines, folder, recognizer, model, decode=DecodeConfig(max_new_tokens=3))
    (folder / "_SUCCESS").unlink()
    with pytest.raises(JobError, match=r"but parts of a job that had another; give another folder, or delete them"):
        plan(lines, folder, recognizer, model)
    shutil.rmtree(folder / "parts")
    assert run(plan(lines, folder, recognizer, model), recognizer).ok == 20


def test_a_job_whose_folder_is_removed_is_not_complete(tmp_path, lines, recognizer, model):
    folder = tmp_path / "job"
    job = plan(lines, folder, recognizer, model)
    removed: list[Any] = []

    def removing(worker: Any) -> None:
        begin = worker.job.commit

        def commit(*given: Any, **options: Any) -> Any:
            if not removed:
                removed.append(folder)
                shutil.rmtree(folder)
            return begin(*given, **options)

        worker.job.commit = commit

    with pytest.raises(OutputError, match=r"its plan\.json has gone while this process worked on the job"):
        jobs.run(job, recognizer, DECODE, resources=RESOURCES, prepare=removing)
    assert not (folder / "_SUCCESS").exists()


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


def test_whatever_has_a_say_in_the_rows_is_compared(tmp_path, lines, recognizer, model, monkeypatch):
    folder = tmp_path / "job"
    planned = plan(lines, folder, recognizer, model)
    columns = jobs.Choices(columns=("id", "status"))
    with pytest.raises(JobError, match=r"columns: \["):
        plan(lines, folder, recognizer, model, choices=columns)
    with pytest.raises(JobError, match="batch_size: 4 in the plan, 5 now"):
        plan(lines, folder, recognizer, model, choices=jobs.Choices(batch_size=5))
    with pytest.raises(JobError, match='dtype: "float32" in the plan, "bfloat16" now'):
        plan(lines, folder, Recognizer.from_pretrained(model, dtype=jnp.bfloat16), model)
    with pytest.raises(JobError, match=r"source\.paths: "):
        plan(lines / "line-000.png", folder, recognizer, model)
    with monkeypatch.context() as patch:
        patch.setattr("trocr_jax.jobs.host.software", lambda: {"jax": "0"})
        with pytest.raises(JobError, match=r'software\.jax: ".*" in the plan, "0" now'):
            plan(lines, folder, recognizer, model)
    assert plan(lines, folder, recognizer, model, choices=CHOICES).plan == planned.plan


def test_an_error_may_name_what_is_no_unicode():
    found = row_of("a\udcff", Failure("failed", "a\udcff: not an image"), model="", configuration="", columns=COLUMNS)
    assert orjson.loads(encode([found]))["error"] == "a\\udcff: not an image"
