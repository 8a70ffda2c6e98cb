"""A Ray cluster that has no room, loses nodes, or is not there: a job goes on, or says within bounds why it cannot."""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.ray_cluster import ENVIRONMENT, Cluster, ray_cluster
from tests.ray_fixtures import deadline as deadline
from tests.tiny import save_lines
from trocr_jax import jobs
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.errors import JobError
from trocr_jax.jobs.events import read_events
from trocr_jax.jobs.host import Prepared
from trocr_jax.jobs.leases import holders
from trocr_jax.jobs.rows import Counts
from trocr_jax.recognizer import Recognizer

pytest.importorskip("ray", reason="needs Ray: pip install trocr-jax[ray]")
DECODE = DecodeConfig(max_new_tokens=12)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    from trocr_jax.jobs import ray_engine

    with ray_cluster(nodes=2) as started, ray_engine.connected(started.address):
        yield started


def prepare(model: Path, source: Path, job: Path, *, slow: bool = False, pause: float = 0.0) -> Prepared:
    """slow: the first process that plans never ends. pause: seconds that a batch takes longer."""
    (pids := job.with_suffix(".pids")).mkdir(exist_ok=True)
    first = not any(pids.iterdir())
    (pids / str(os.getpid())).touch()
    if slow and first:
        time.sleep(3600)
    recognizer = Recognizer.from_pretrained(model)
    if pause:
        read = recognizer.read_batches

        def slowly(series, *rest):
            def looked():
                for batch in series:
                    time.sleep(pause if batch.pixels else 0)
                    yield batch

            return read(looked(), *rest)

        vars(recognizer)["read_batches"] = slowly
    choices = jobs.Choices(unit_size=4, batch_size=4)
    found = jobs.plan(jobs.open_source([str(source)]), str(job), recognizer, model, DECODE, choices=choices)
    return Prepared(found, recognizer, DECODE)


def fails(model: Path, source: Path, job: Path, *, always: bool = False) -> Prepared:
    """After the process that plans one fails while it loads, or each of them, and the next while it reads."""
    found = prepare(model, source, job)
    number = len([*job.with_suffix(".pids").iterdir()])
    if number == 2 or (always and number > 2):
        raise RuntimeError("no device is there")
    if number == 3:

        def read_batches(series, *rest):
            next(iter(series))
            raise RuntimeError("the device has failed")

        vars(found.recognizer)["read_batches"] = read_batches
    return found


def kill_nodes(cluster: Cluster, left: int) -> None:
    while cluster.nodes > left:
        assert cluster.kill_node(0)


def missed_by_ray() -> None:
    """Returns when Ray knows that only the head is left."""
    import ray

    while sum(node["Alive"] for node in ray.nodes()) > 1:
        time.sleep(0.2)


def test_what_no_node_has(tmp_path, model, cluster):
    from trocr_jax.jobs import ray_engine

    save_lines(tmp_path / "lines", 4)
    found = functools.partial(prepare, model, tmp_path / "lines", tmp_path / "job")
    actors = ray_engine.Actors(resources={"nobody has": 1}, room_seconds=3)
    with pytest.raises(JobError) as raised:
        ray_engine.plan(found, actors)
    said = str(raised.value)
    assert "no process could plan the job within 3 s. An actor takes 1 CPU, 1 nobody has" in said
    assert "2 nodes with 1 CPU, 1 GPU, 4 TPU; 1 node with nothing: no node can have an actor. Ask for less" in said
    job = prepare(model, tmp_path / "lines", tmp_path / "job").job
    with pytest.raises(JobError, match="no actor has read, or given a sign of life, within 3 s"):
        ray_engine.run(job, found, actors=actors)
    assert job.done() == set()


def test_actors_go_on_without_a_node_that_is_lost(tmp_path, model, cluster):
    from trocr_jax.jobs import ray_engine

    save_lines(tmp_path / "lines", 40)
    found = functools.partial(prepare, model, tmp_path / "lines", tmp_path / "job", pause=0.5)
    actors = ray_engine.Actors(least=2, most=2)
    job = ray_engine.plan(found, actors)
    assert job is not None
    readers = set[str]()

    def lose(report: ray_engine.Report) -> None:
        readers.add(report.owner)
        if len(readers) == 2:
            kill_nodes(cluster, left=1)

    resources = jobs.Resources(lease_timeout=10, decoders=1)
    assert ray_engine.run(job, found, actors=actors, resources=resources, report=lose) == Counts(ok=40)
    assert cluster.nodes == 1, "both actors have read, and the node of one was lost"
    assert [*jobs.verify(job)] == []


def test_a_node_is_lost_while_a_job_is_planned(tmp_path, model, cluster):
    from trocr_jax.jobs import ray_engine

    save_lines(tmp_path / "lines", 4)
    found = functools.partial(prepare, model, tmp_path / "lines", tmp_path / "job", slow=True)
    pids = tmp_path / "job.pids"

    def lose() -> None:
        while not (pids.exists() and any(pids.iterdir())):
            time.sleep(0.1)
        kill_nodes(cluster, left=0)
        time.sleep(3)
        cluster.add_node()

    threading.Thread(target=lose, daemon=True).start()
    job = ray_engine.plan(found, ray_engine.Actors(room_seconds=120))
    assert job is not None
    assert job.plan.lines == 4
    assert len([*pids.iterdir()]) == 2
    kill_nodes(cluster, left=0)
    missed_by_ray()
    with pytest.raises(JobError, match=r"within 3 s.* and has lost \d+: no node can have an actor"):
        ray_engine.plan(found, ray_engine.Actors(room_seconds=3))


def test_signs_of_life():
    from trocr_jax.jobs.ray_bell import SILENT, Sign
    from trocr_jax.jobs.ray_room import Actors
    from trocr_jax.jobs.ray_signs import Signs

    signs = Signs(None, Actors(), 0.2)
    signs.take({"a": Sign(0.0, True, True, 60.0), "b": Sign(SILENT, True, True, 60.0)})
    assert not signs.idle()
    time.sleep(0.3)
    signs.take({"a": Sign(0.0, True, True, 60.0), "b": Sign(SILENT + 1, True, True, 60.0)})
    assert not signs.idle(), "one is busy"
    time.sleep(0.3)
    signs.take({"a": Sign(0.0, False, True, 60.0), "b": Sign(SILENT + 2, True, True, 60.0)})
    assert signs.idle(), "the other will never be"
    signs.moved()
    assert not signs.idle()


def test_a_pool_whose_units_take_long(tmp_path, model, cluster):
    from trocr_jax.jobs.ray_pool import Pool
    from trocr_jax.jobs.ray_room import Actors

    save_lines(tmp_path / "lines", 1)
    found = functools.partial(prepare, model, tmp_path / "lines", tmp_path / "job")
    pool = Pool([0], found().job.plan, found, Actors(), jobs.Resources(), None)
    assert pool._units.context.execution_no_progress_timeout_s == -1


def test_actors_that_fail_are_started_again(tmp_path, model, cluster):
    from trocr_jax.jobs import ray_engine

    if not cluster.nodes:
        cluster.add_node()
    save_lines(tmp_path / "lines", 8)
    found = functools.partial(fails, model, tmp_path / "lines", tmp_path / "job")
    job = ray_engine.plan(found, ray_engine.Actors())
    assert job is not None
    said: list[str] = []
    assert ray_engine.run(job, found, waiting=said.append) == Counts(ok=8)
    failed = [line.rpartition(": ")[2] for line in said if "has failed" in line]
    assert failed == ["no device is there", "the device has failed"]
    assert [event for event in read_events(job.store) if event["event"] == "death"] == []
    assert [*jobs.verify(job)] == []


def test_actors_that_fail_one_after_the_other_end_the_job(tmp_path, monkeypatch, model, cluster):
    from trocr_jax.jobs import ray_engine, ray_signs

    monkeypatch.setattr(ray_signs, "STARTS", 2)
    if not cluster.nodes:
        cluster.add_node()
    save_lines(tmp_path / "lines", 4)
    found = functools.partial(fails, model, tmp_path / "lines", tmp_path / "job", always=True)
    job = ray_engine.plan(found, ray_engine.Actors())
    assert job is not None
    with pytest.raises(RuntimeError, match=r"(?s)2 actors in a row have failed, .* no device is there"):
        ray_engine.run(job, found)
    assert job.done() == set()
    assert holders(job) == {}


def test_a_head_that_says_nothing(tmp_path, model):
    save_lines(tmp_path / "lines", 1)
    command = [sys.executable, "-m", "trocr_jax", "jobs", "run", "lines", "--output", "job", "--model", str(model)]
    quick = {"RAY_gcs_rpc_server_connect_timeout_s": "1", "RAY_py_gcs_connect_timeout_s": "1"}
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        done = subprocess.run(
            [*command, "--engine", "ray", "--ray-address", address],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | ENVIRONMENT | quick,
            timeout=200,
            check=False,
        )
    assert done.returncode == 2, done.stderr
    assert f"no Ray cluster at {address}: " in done.stderr
    assert "Timed out while waiting for GCS" in done.stderr
    assert not (tmp_path / "job").exists()


def test_an_address_where_nobody_listens(monkeypatch):
    from trocr_jax.jobs import ray_connect, ray_engine

    monkeypatch.setattr(ray_connect, "ANSWER_SECONDS", 0.6)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        said = f"no Ray cluster at {address}: .*check the address, and that `ray start --head` runs there"
        with pytest.raises(JobError, match=said), ray_engine.connected(address):
            pass
