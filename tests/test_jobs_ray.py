"""Jobs on a Ray cluster: the same bytes as without one, whatever Ray does with the processes."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.ray_cluster import ENVIRONMENT, Cluster, ray_cluster
from tests.ray_fixtures import deadline as deadline
from tests.tiny import save_lines
from trocr_jax import jobs
from trocr_jax.cli import jobs_run, main
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.errors import JobError
from trocr_jax.jobs.events import read_events
from trocr_jax.jobs.host import Prepared
from trocr_jax.jobs.job import Job
from trocr_jax.jobs.leases import holders
from trocr_jax.jobs.ray import COLUMNS, TranscribeActor
from trocr_jax.jobs.rows import Counts, decode
from trocr_jax.recognizer import Recognizer

pytest.importorskip("ray", reason="needs Ray: pip install trocr-jax[ray]")
DECODE = DecodeConfig(max_new_tokens=12)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with ray_cluster(nodes=2) as started:
        yield started


@pytest.fixture
def connected(cluster: Cluster) -> Iterator[Cluster]:
    from trocr_jax.jobs import ray_engine

    with ray_engine.connected(cluster.address):
        yield cluster


def command(model: Path, source: Path, job: Path, *options: str) -> list[str]:
    fixed = ["--max-new-tokens", "12", "--batch-size", "4", "--decoders", "1"]
    return ["jobs", "run", str(source), "--output", str(job), "--model", str(model), *fixed, *options]


def prepare(model: Path, source: Path, job: Path, unit_size: int, deadly: bool) -> Prepared:
    """As the command does it, but that a recognizer which meets a black image ends its process, and that the devices
    that Ray gave to this one are noted."""
    devices = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS")}
    job.with_suffix(".devices").write_text(json.dumps(devices))
    recognizer = Recognizer.from_pretrained(model)
    if deadly:
        read = recognizer.read_batches

        def dies(series, *rest):
            def looked():
                for batch in series:
                    if any(pixels.max() == 0 for pixels in batch.pixels):
                        os._exit(1)
                    yield batch

            return read(looked(), *rest)

        vars(recognizer)["read_batches"] = dies
    choices = jobs.Choices(unit_size=unit_size, batch_size=4)
    found = jobs.plan(jobs.open_source([str(source)]), str(job), recognizer, model, DECODE, choices=choices)
    return Prepared(found, recognizer, DECODE)


def test_the_same_bytes_as_without_ray(tmp_path, model, cluster, capsys):
    lines = tmp_path / "lines"
    save_lines(lines, 20)
    (lines / "line-002.png").write_bytes(b"no image")
    assert main(command(model, lines, tmp_path / "here", "--unit-size", "2")) == 1
    on_ray = ["--engine", "ray", "--ray-address", cluster.address, "--actors", "1", "--max-actors", "2", "--stats"]
    assert main(command(model, lines, tmp_path / "there", "--unit-size", "2", *on_ray)) == 1
    out, err = capsys.readouterr()
    assert "complete. 20 lines: 19 read, 1 failed, 0 quarantined" in err
    assert '"lines": 20' in out
    here, there = (Job.open(str(tmp_path / name)) for name in ("here", "there"))
    assert [here.read_part(unit) for unit in range(10)] == [there.read_part(unit) for unit in range(10)]
    assert [*jobs.verify(there)] == []
    assert main(command(model, lines, tmp_path / "there", "--num-beams", "2", *on_ray)) == 2
    assert "decode.num_beams: 1 in the plan, 2 now" in capsys.readouterr().err


def test_what_kills_actors_is_counted_in_the_job_folder(tmp_path, model, connected):
    from trocr_jax.jobs import ray_engine

    lines = tmp_path / "lines"
    save_lines(lines, 3)
    Image.new("L", (64, 16), 0).save(lines / "line-001.png")
    found = functools.partial(prepare, model, lines, tmp_path / "job", 1, True)
    actors = ray_engine.Actors(gpus=1, resources={"TPU": 2})
    job = ray_engine.plan(found, actors)
    assert job is not None
    told: list[ray_engine.Report] = []
    counts = ray_engine.run(job, found, actors=actors, report=told.append)
    devices = json.loads((tmp_path / "job.devices").read_text())
    assert devices["CUDA_VISIBLE_DEVICES"] == "0"
    assert len(devices["TPU_VISIBLE_CHIPS"].split(",")) == 2
    assert counts == Counts(ok=2, quarantined=1)
    assert sorted(report.unit for report in told) == [0, 1, 2]
    (row,) = decode(job.read_part(1))
    assert "the process that read it ended" in row["error"]
    assert "tried 3 times" in row["error"]
    deaths = [event for event in read_events(job.store) if event["event"] == "death" and event["unit"] == 1]
    assert len(deaths) == 3
    assert [*jobs.verify(job)] == []


@pytest.mark.parametrize("whose", ["somebody's", "own"])
def test_a_stop_is_told_to_the_actors(whose, tmp_path, model, cluster):
    """Of a cluster of its own all processes are in the session that is told, as `timeout` and systemd tell it."""
    lines = tmp_path / "lines"
    save_lines(lines, 40)
    rows = [f'{{"id": "{i}", "path": "lines/line-{i % 40:03}.png"}}' for i in range(20_000)]
    (tmp_path / "lines.jsonl").write_text("\n".join(rows) + "\n")
    job = tmp_path / "job"
    options = command(model, tmp_path / "lines.jsonl", job, "--unit-size", "40")
    options += ["--engine", "ray", "--grace", "60"]
    options += ["--ray-address", cluster.address] if whose == "somebody's" else []
    running = subprocess.Popen(
        [sys.executable, "-m", "trocr_jax", *options],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | ENVIRONMENT,
        start_new_session=True,
    )
    until = time.monotonic() + 120
    while not (job / "parts").exists() and time.monotonic() < until:
        assert running.poll() is None
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGTERM)
    _, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    assert "units are left: the same command goes on with them" in err
    found = Job.open(str(job))
    assert 0 < len(found.done()) < 500
    assert holders(found) == {}
    assert [event["event"] for event in read_events(found.store)][-1] == "stop"


CONNECTS = """
import os, signal, sys, threading
import ray._private.worker as worker
from trocr_jax.cli import main
def connect(*arguments, connect=worker.connect, **options):
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    return connect(*arguments, **options)
worker.connect = connect
sys.exit(main(sys.argv[1:]))
"""


def test_sigterm_while_ray_has_handlers_of_its_own(tmp_path, model):
    save_lines(tmp_path / "lines", 1)
    options = [*command(model, tmp_path / "lines", tmp_path / "job"), "--engine", "ray", "--stopped-status", "143"]
    ran = subprocess.run([sys.executable, "-c", CONNECTS, *options], capture_output=True, text=True, env=os.environ)
    assert ran.returncode == 143, ran.stderr
    assert ran.stderr.endswith(f"{tmp_path / 'job'}: {jobs_run.NOT_PLANNED}\n")


def test_a_stop_ends_the_wait_for_room_in_the_cluster(tmp_path, model, connected):
    from trocr_jax.jobs import ray_engine

    save_lines(tmp_path / "lines", 1)
    found = functools.partial(prepare, model, tmp_path / "lines", tmp_path / "job", 1, False)
    stop = jobs.Stop()
    threading.Timer(1.0, stop.request).start()
    assert ray_engine.plan(found, ray_engine.Actors(resources={"nobody has": 1}), stop=stop) is None
    assert not (tmp_path / "job").exists()


def test_wrong_usage_is_told_before_ray_is_asked(tmp_path, model, capsys):
    lines = tmp_path / "lines"
    save_lines(lines, 1)
    assert main(command(model, lines, tmp_path / "job", "--actors", "2")) == 2
    assert "--actors needs --engine ray" in capsys.readouterr().err
    on_ray = command(model, lines, tmp_path / "job", "--engine", "ray")
    assert main([*on_ray, "--actors", "2", "--max-actors", "1"]) == 2
    assert "2 to 1 actors" in capsys.readouterr().err
    assert main([*on_ray, "--actor-resources", "TPU"]) == 2
    assert "--actor-resources TPU: give NAME=NUMBER" in capsys.readouterr().err
    assert main(["jobs", "retry-failed", *on_ray[2:]]) == 2
    assert "use --engine local" in capsys.readouterr().err
    assert not (tmp_path / "job").exists()


def test_actors_of_somebody_elses_pipeline(tmp_path, model, connected):
    import ray.data

    paths = save_lines(tmp_path / "lines", 10)
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"no image")
    expected = Recognizer.from_pretrained(model)(paths, DECODE)
    rows = [{"image": str(path), "number": number} for number, path in enumerate([*paths, damaged])]
    table = ray.data.from_items(rows, override_num_blocks=3).map_batches(
        TranscribeActor,
        fn_constructor_args=(str(model), DECODE),
        fn_constructor_kwargs={"decoders": 1, "device_batch": 4},
        batch_size=5,
        concurrency=1,
        num_cpus=1,
    )
    found = sorted(table.take_all(), key=lambda row: row["number"])
    assert [row["text"] for row in found] == [one.text for one in expected] + [None]
    assert [row["status"] for row in found] == ["ok"] * 10 + ["failed"]
    assert [row["error"] for row in found[:-1]] == [None] * 10
    assert "damaged.png" in found[-1]["error"]
    assert "image" not in found[0]
    np.testing.assert_allclose([row["score"] for row in found[:-1]], [one.score for one in expected], atol=1e-5)


def test_files_that_a_pipeline_writes_are_read_together(tmp_path, model, connected):
    import ray.data
    from pyarrow import parquet

    paths = save_lines(tmp_path / "lines", 4)
    images = [paths[0].read_bytes(), paths[1].read_bytes(), b"no image", b"none", paths[2].read_bytes(), b"nor this"]
    rows = [{"image": image, "number": number, "error": "of before"} for number, image in enumerate(images)]
    table = ray.data.from_items(rows, override_num_blocks=3).map_batches(
        TranscribeActor,
        fn_constructor_args=(str(model), DECODE),
        fn_constructor_kwargs={"decoders": 1, "device_batch": 4},
        batch_format="pyarrow",
        batch_size=2,
        concurrency=1,
        num_cpus=1,
    )
    table.write_parquet(str(tmp_path / "texts"))
    found = parquet.read_table(tmp_path / "texts").sort_by("number")
    assert len(list((tmp_path / "texts").glob("*.parquet"))) == 3
    texts = [one.text for one in Recognizer.from_pretrained(model)(paths[:3], DECODE)]
    assert found["text"].to_pylist() == [*texts[:2], None, None, texts[2], None]
    assert [error is None for error in found["error"].to_pylist()] == [True, True, False, False, True, False]
    types = {field.name: str(field.type) for field in found.schema}
    assert types == {"number": "int64", **COLUMNS}


def test_batches_of_bytes_arrays_and_what_is_no_image(tmp_path, model):
    import pyarrow as pa
    from ray.data.block import BlockAccessor

    paths = save_lines(tmp_path / "lines", 2)
    texts = [one.text for one in Recognizer.from_pretrained(model)(paths, DECODE)]
    actor = TranscribeActor(model, DECODE, image_column="line", keep_images=True, decoders=1, device_batch=4)
    try:
        first = paths[0].read_bytes()
        values = [first, np.asarray(Image.open(paths[1])), {"bytes": first, "path": None}, None, 7]
        column = np.empty(len(values), object)
        column[:] = values
        found = actor({"line": column})
        assert found["text"].tolist() == [texts[0], texts[1], texts[0], None, None]
        assert found["status"].tolist() == ["ok"] * 3 + ["failed"] * 2
        assert found["error"][3] == "the row has no image"
        assert "row 4 of the batch" in found["error"][4]
        assert found["line"] is column
        pixels = np.stack([np.asarray(Image.open(paths[0]))] * 2)
        table = actor(BlockAccessor.batch_to_block({"line": pixels, "kept": np.arange(2)}))
        assert table.column_names == ["line", "kept", *COLUMNS]
        assert table["text"].to_pylist() == [texts[0]] * 2
        nothing = actor(pa.table({"line": pa.nulls(2)}))  # a column that Ray gives as NaN
        assert nothing["error"].to_pylist() == ["the row has no image"] * 2
        with pytest.raises(JobError, match="line: no such column in the batch, which has kept; image_column"):
            actor(table.select(["kept"]))
        with pytest.raises(JobError, match="line: no such column in the batch, which has lines; image_column"):
            TranscribeActor.__call__(actor, {"lines": column})
        with pytest.raises(JobError, match='a batch is a DataFrame: give map_batches batch_format="pyarrow"'):
            TranscribeActor.__call__(actor, table.to_pandas())
    finally:
        actor.close()


def test_numbers_that_no_actor_can_take(model):
    with pytest.raises(JobError, match="device_batch is 0: give a whole number of at least 1"):
        TranscribeActor(model, device_batch=0)
    with pytest.raises(JobError, match="decoders is 0: give at least one process"):
        TranscribeActor(model, decoders=0)
