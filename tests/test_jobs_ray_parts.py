"""The parts of `--engine ray` without a cluster: what actors, the driver and its connection make of faults."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.tiny import save_lines
from trocr_jax import jobs
from trocr_jax.cli import jobs_run, main
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.errors import JobError, SourceError
from trocr_jax.jobs.host import Prepared
from trocr_jax.jobs.job import Job
from trocr_jax.jobs.leases import holders
from trocr_jax.jobs.owner import me
from trocr_jax.jobs.stop import Stop, Stopped
from trocr_jax.recognizer import Recognizer

if TYPE_CHECKING:
    from trocr_jax.jobs.ray_actor import Prepare

pytest.importorskip("ray", reason="needs Ray: pip install trocr-jax[ray]")
DECODE = DecodeConfig(max_new_tokens=4)
BREAKS = "the device has failed"


def prepare(model: Path, source: Path, job: Path, *, breaks: bool = False) -> Prepared:
    recognizer = Recognizer.from_pretrained(model)
    if breaks:

        def read_batches(series: Any, *rest: Any) -> Any:
            next(iter(series))
            raise RuntimeError(BREAKS)

        vars(recognizer)["read_batches"] = read_batches
    choices = jobs.Choices(unit_size=2, batch_size=2)
    found = jobs.plan(jobs.open_source([str(source)]), str(job), recognizer, model, DECODE, choices=choices)
    return Prepared(found, recognizer, DECODE)


def nothing() -> Prepared:
    raise AssertionError


@pytest.fixture
def job(tmp_path: Path, model: Path) -> Job:
    save_lines(tmp_path / "lines", 4)
    return prepare(model, tmp_path / "lines", tmp_path / "job").job


class Here:
    """An actor in this process: `method.remote` answers at once, and `ray.get` gives that back."""

    def __init__(self, actor: object) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(remote=getattr(self._actor, name))


class Became(NamedTuple):
    """What became of an actor: its answer, if it gave one, the statuses with which it would have ended its process, and
    what the bell has heard."""

    answer: dict[str, list[Any]] | None
    statuses: list[int]
    heard: dict[str, Any]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, job: Job) -> Iterator[Callable[..., Became]]:
    """Has an actor for the plan of `job`, or another, read unit 0, by default in the folder where tests run; where it
    would end its process it notes that and does no more."""
    from trocr_jax.jobs.ray_actor import UnitReader
    from trocr_jax.jobs.ray_bell import Bell

    statuses: list[int] = []
    answers: list[dict[str, list[Any]]] = []
    bell = Bell()
    actors: list[UnitReader] = []
    listen = UnitReader._listen

    def listens(actor: UnitReader) -> None:
        actors.append(actor)
        listen(actor)

    def ends(status: int) -> None:
        statuses.append(status)
        threading.Event().wait()

    def work(prepare: Prepare, of: Job, folder: str) -> None:
        actor = UnitReader(prepare, of.plan, folder, jobs.Resources(decoders=1), 1, Here(bell))
        answers.append(actor({"unit": [0]}))

    def became(prepare: Prepare, of: Job = job, folder: str = os.getcwd()) -> Became:
        threading.Thread(target=work, args=(prepare, of, folder), daemon=True).start()
        until = time.monotonic() + 60
        while not answers and not statuses:
            assert time.monotonic() < until
            time.sleep(0.05)
        return Became(answers[0] if answers else None, statuses, bell.heard())

    monkeypatch.setattr("ray.get", lambda answer, timeout=None: answer)
    monkeypatch.setattr("os._exit", ends)
    monkeypatch.setattr(UnitReader, "_listen", listens)
    monkeypatch.chdir(Path.cwd())  # which an actor leaves
    yield became
    for actor in actors:
        actor._ended.set()
    for thread in threading.enumerate():
        if thread.name == "trocr-ray-listen":
            thread.join(10)


def test_an_actor_that_does_not_see_the_folder_of_the_driver(tmp_path, model, job, read):
    other = tmp_path / "other"
    time.sleep(1.0)  # plans have the second in which they were made
    found = read(functools.partial(prepare, model, tmp_path / "lines", other))
    assert found.answer["error"] == ["JobError"]
    (message,) = found.answer["message"]
    assert message.startswith(f"{other}: on {me().host} holds a plan")
    assert "give a folder or URL that all hosts share" in message
    assert Job.open(str(other)).done() == set()
    assert found.statuses == []


def test_a_driver_that_does_not_see_the_folder_of_the_plan(tmp_path, monkeypatch, job):
    from trocr_jax.jobs import ray_plan
    from trocr_jax.jobs.ray_room import Actors

    elsewhere = dataclasses.replace(job.plan, created="by another host")
    for folder in (job.store.root, str(tmp_path / "nothing")):
        answer = ray_plan.Answer(folder, "over-there", elsewhere, None)
        monkeypatch.setattr("trocr_jax.jobs.ray_plan._Planning.ask", lambda planning, prepare, answer=answer: answer)
        with pytest.raises(JobError, match=f"{folder}: on over-there holds a plan .* that all hosts share"):
            ray_plan.plan(nothing, Actors())


def test_an_actor_whose_device_fails_while_it_reads(tmp_path, model, job, read, capfd):
    found = read(functools.partial(prepare, model, tmp_path / "lines", tmp_path / "job", breaks=True))
    assert found.statuses == [4]
    assert BREAKS in found.heard[str(me())].failure
    assert f"RuntimeError: {BREAKS}" in capfd.readouterr().err
    assert holders(job) == {}
    assert not [*job.store.names("attempts")], "a device that fails says nothing about lines"
    assert found.answer is None, "the unit is read by another process"


@pytest.mark.parametrize("answers", [True, False])
def test_a_process_that_has_planned_the_job_is_left_to_end_by_itself(monkeypatch, job, answers):
    """Ray aborts the driver if a task that it cancels ends just then (ray-project/ray#54785)."""
    from trocr_jax.jobs import ray_plan
    from trocr_jax.jobs.ray_room import Actors

    answer, stop, cancelled = ray_plan.Answer(job.store.root, "here", job.plan, None), jobs.Stop(), []
    left = [None, answer] if answers else [None]
    series = (left.pop(0) for _ in range(2))

    def wait(refs: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        if left:
            return refs, []
        stop.request()
        return [], refs

    monkeypatch.setattr("ray.remote", lambda **options: lambda task: SimpleNamespace(remote=lambda *rest: series))
    monkeypatch.setattr("ray.wait", wait)
    monkeypatch.setattr("ray.get", lambda ref: ref)
    monkeypatch.setattr("ray.cancel", lambda ref, force: cancelled.append((ref, force)))
    found = ray_plan.plan(nothing, Actors(), stop=stop)
    if answers:
        assert found is not None
        assert (found.plan, cancelled) == (job.plan, [])
    else:
        assert (found, cancelled) == (None, [(series, True)])


@pytest.mark.parametrize(
    ("first", "tasks", "message", "said"),
    [
        ("dies", 10, "10 processes have ended while they planned the job, the last so: The worker died", 0),
        ("lives", 10, r"10 processes have ended .*, the last so: no sign of life for 6\d s", 0),
        ("", 1, "no process could plan the job within 200 s", 1),  # there is no room for any
    ],
)
def test_processes_that_do_not_get_round_to_planning(monkeypatch, first, tasks, message, said):
    """Each gives one sign, or none."""
    import ray

    from trocr_jax.jobs import ray_plan
    from trocr_jax.jobs.ray_room import Actors

    now, told, asked = 0.0, list[str](), list[list[str]]()

    def remote(*arguments: object) -> Iterator[str]:
        asked.append([first] * bool(first))
        return iter(asked[-1])

    def wait(refs: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        nonlocal now
        now += 1.0
        return (refs, []) if asked[-1] else ([], refs)

    def get(sign: str) -> None:
        asked[-1].clear()
        if sign == "dies":
            raise ray.exceptions.WorkerCrashedError

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr("ray.nodes", list)
    monkeypatch.setattr("ray.remote", lambda **options: lambda task: SimpleNamespace(remote=remote))
    monkeypatch.setattr("ray.wait", wait)
    monkeypatch.setattr("ray.get", get)
    monkeypatch.setattr("ray.cancel", lambda ref, force: None)
    with pytest.raises(JobError, match=message):
        ray_plan.plan(nothing, Actors(room_seconds=200.0), waiting=told.append)
    assert (len(asked), len(told)) == (tasks, said)


def test_an_actor_works_in_the_folder_of_the_driver_and_decodes_with_what_started_there(
    tmp_path, monkeypatch, model, job, read
):
    folders: list[str] = []
    before: list[list[str]] = []
    popen = subprocess.Popen

    def noted(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        if "trocr_jax.jobs.decode_worker" in arguments[0]:
            folders.append(os.getcwd())
        return popen(*arguments, **options)

    def prepares() -> Prepared:
        before.append(folders.copy())
        return prepare(model, Path("lines"), tmp_path / "beside")

    monkeypatch.setattr(subprocess, "Popen", noted)
    with monkeypatch.context() as there:
        there.chdir(tmp_path)
        planned = prepare(model, Path("lines"), tmp_path / "beside").job
    found = read(prepares, planned, str(tmp_path))
    assert found.answer["stopped"] == [False]
    assert [row["status"] for row in planned.rows(0)] == ["ok", "ok"]
    assert (before, folders) == ([[str(tmp_path)]], [str(tmp_path)])


def test_an_actor_whose_device_fails_while_it_loads(read):
    def fails() -> Prepared:
        raise RuntimeError(BREAKS)

    found = read(fails)
    assert found.statuses == [4]
    assert BREAKS in found.heard[str(me())].failure


def test_what_the_bell_knows_of_one_that_has_failed():
    from trocr_jax.jobs.ray_bell import Bell

    bell = Bell()
    bell.rung("a", loading=False, units=2)
    bell.rung("b", loading=True, units=0)
    bell.failed("a", BREAKS)
    bell.rung("a", loading=False, units=2)  # a last sign
    assert bell.ring() == ["b"]
    heard = bell.heard()
    assert (heard["a"].failure, heard["b"].failure) == (BREAKS, "")
    assert heard["a"].has_read
    assert not heard["b"].has_read


def test_pools_that_end_with_units_left(monkeypatch, job):
    from trocr_jax.jobs import ray_engine

    pools: list[list[int]] = []

    def read_one_pool(job: Job, left: list[int], *rest: object) -> None:
        pools.append(left)

    monkeypatch.setattr(ray_engine, "connected", lambda address, stop: nullcontext())
    monkeypatch.setattr(ray_engine, "_read", read_one_pool)
    with pytest.raises(JobError, match="3 pools of actors in a row have ended without a unit read, 2 are left"):
        ray_engine.run(job, nothing)
    assert pools == [[0, 1]] * 3
    stop = jobs.Stop()
    stop.request()
    assert ray_engine.run(job, nothing, stop=stop) is None
    assert len(pools) == 3
    seen = iter([[0, 1], [0, 1], [0, 1], [1], [1], [1], [1]])
    monkeypatch.setattr(ray_engine, "_left", lambda job: next(seen))
    with pytest.raises(JobError, match=r"3 pools of actors in a row .* 1 are left"):
        ray_engine.run(job, nothing)
    assert len(pools) == 3 + 6, "a unit that is read is progress"


class Ringing(nullcontext[Any]):
    """The bells of a pool: who is at work, each time that it is asked."""

    bell = None

    def __init__(self, at_work: Iterator[list[str] | None]) -> None:
        super().__init__(self)
        self.ring = lambda: next(at_work)


def test_a_stop_waits_for_those_who_are_at_work_and_for_what_they_have_read(monkeypatch, job):
    from trocr_jax.jobs import ray_engine

    row = {"unit": 0, "ok": 2, "failed": 0, "quarantined": 0, "owner": "a", "gauge": "{}", "stopped": False}
    found: queue.Queue[Any] = queue.Queue()

    def at_work() -> Iterator[list[str] | None]:
        yield ["a"]
        yield None  # not known at the moment
        found.put(row | {"error": "", "message": ""})
        yield []
        assert told, "what has been read is told first"
        yield []

    told: list[Any] = []
    asked = at_work()
    monkeypatch.setattr(ray_engine, "Bells", lambda: Ringing(asked))
    monkeypatch.setattr(ray_engine, "Pool", lambda *rest: nullcontext(SimpleNamespace(found=found)))
    stop = jobs.Stop()
    stop.request()
    arguments = (job, [0], nothing, SimpleNamespace(room_seconds=1.0), jobs.Resources(), stop, told.append, print)
    ray_engine._read(*arguments)  # type: ignore[arg-type]
    assert [report.unit for report in told] == [0]
    assert next(asked, "no more") == "no more"
    asked = iter([["a"]] * 3)  # one that does not answer
    now = time.monotonic() + jobs.Resources().grace + ray_engine.GIVE_UP
    monkeypatch.setattr(time, "monotonic", lambda: now)
    ray_engine._read(*arguments)  # type: ignore[arg-type]
    looked = iter([False, True, False])  # those who live have nothing to do: another pool is to share out what is left
    monkeypatch.setattr(ray_engine, "Signs", lambda *rest: SimpleNamespace(stuck=lambda: next(looked)))
    ray_engine._read(*arguments[:5], jobs.Stop(), *arguments[6:])  # type: ignore[arg-type]
    found.put(row | {"stopped": True, "error": "SourceError", "message": "it has gone"})
    with pytest.raises(SourceError, match="it has gone"):  # as the actor has raised it
        ray_engine._read(*arguments[:5], jobs.Stop(), *arguments[6:])  # type: ignore[arg-type]


def test_units_that_are_left_are_no_success_with_ray(tmp_path, monkeypatch, model, job, capsys):
    command = ["jobs", "run", str(tmp_path / "lines"), "--output", str(tmp_path / "job"), "--model", str(model)]
    for name in ("_run_here", "_run_on_ray"):
        monkeypatch.setattr(jobs_run, name, lambda command, stop: jobs_run.Ran(job, None, {}))
    assert main([*command, "--engine", "ray"]) == 4
    assert "the actors have ended; 2 of 2 units are left" in capsys.readouterr().err
    assert main(command) == 0
    assert "nothing left to do here; 2 of 2 units are left" in capsys.readouterr().err


def test_an_address_of_ray_client(tmp_path, model, capsys):
    save_lines(tmp_path / "lines", 1)
    command = ["jobs", "run", str(tmp_path / "lines"), "--output", str(tmp_path / "job"), "--model", str(model)]
    assert main([*command, "--engine", "ray", "--ray-address", "ray://head:10001"]) == 2
    err = capsys.readouterr().err
    assert "--ray-address ray://head:10001: a job cannot be driven through Ray Client" in err
    assert "host:port" in err
    assert "submit the command as a Ray job" in err


def test_an_interrupt_while_nobody_listens_where_a_cluster_should_be(monkeypatch):
    from trocr_jax.jobs import ray_connect

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    stop = Stop()
    before = signal.signal(signal.SIGALRM, lambda number, frame: stop.interrupt())
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(Stopped), ray_connect.connected("127.0.0.1:1", stop):
            pass
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_stop_while_ray_connects(tmp_path, monkeypatch, model, capsys):
    from trocr_jax.jobs import ray_connect

    def init(*args: object, **options: object) -> None:
        """As Ray does it: SIGTERM ends what connects."""
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped), ray_connect.connected("local"):
        pass
    assert signal.getsignal(signal.SIGTERM) is before
    save_lines(tmp_path / "lines", 1)
    command = ["jobs", "run", str(tmp_path / "lines"), "--output", str(tmp_path / "job"), "--model", str(model)]
    monkeypatch.setattr("os._exit", sys.exit)
    with pytest.raises(SystemExit) as ended:
        main([*command, "--engine", "ray", "--stopped-status", "143"])
    assert ended.value.code == 143
    assert jobs_run.NOT_PLANNED in capsys.readouterr().err


@pytest.mark.parametrize("name", ["CPU", "GPU"])
def test_resources_that_have_options_of_their_own(tmp_path, model, capsys, name):
    command = ["jobs", "run", "lines", "--output", str(tmp_path / "job"), "--model", str(model), "--engine", "ray"]
    assert main([*command, "--actor-resources", f"{name}=2"]) == 2
    assert f"--actor-resources {name}=2: use --actor-{name.lower()}s 2" in capsys.readouterr().err


def test_amounts_that_ray_refuses():
    from trocr_jax.jobs import ray_plan
    from trocr_jax.jobs.ray_room import Actors

    with pytest.raises(JobError, match=r"--actor-cpus, --actor-resources: Ray refuses .* 1 CPU, 1\.5 TPU: The number"):
        ray_plan.plan(nothing, Actors(resources={"TPU": 1.5}))
    with pytest.raises(JobError, match="give CPUs, GPUs and resources of 0 or more"):
        Actors(cpus=float("nan"))


def test_who_could_have_an_actor(monkeypatch):
    from trocr_jax.jobs.ray_room import Actors, situation

    node: dict[str, Any] = {"Alive": True, "Resources": {"CPU": 2.0, "GPU": 1.0, "memory": 9.0, "node:10.0.0.1": 1.0}}
    monkeypatch.setattr("ray.nodes", lambda: [node, node, node | {"Alive": False}])
    has = "The cluster has 2 nodes with 2 CPU, 1 GPU, and has lost 1: "
    assert situation(Actors(cpus=2.0, gpus=1.0)) == (
        f"An actor takes 2 CPU, 1 GPU. {has}2 of them could have an actor, if not for what else they do"
    )
    assert situation(Actors(cpus=2.5)).endswith(f"{has}no node can have an actor")
    monkeypatch.setattr("ray.nodes", list)
    assert situation(Actors()) == "An actor takes 1 CPU. The cluster has no nodes: no node can have an actor"


def test_whom_the_bell_counts(monkeypatch):
    from trocr_jax.jobs.ray_bell import SILENT, Bell

    bell, now = Bell(), time.monotonic()
    assert not bell.rung("a", loading=True, units=0)
    bell.rung("b", loading=False, units=2)
    bell.rung("b", loading=False, units=0)
    assert [(sign.busy, sign.has_read) for sign in bell.heard().values()] == [(True, False), (False, True)]
    assert bell.ring() == ["a", "b"]
    assert bell.rung("a", loading=False, units=0), "it is to stop"
    bell.end("a")
    bell.failed("c", "it failed")
    assert bell.ring() == ["b"]
    monkeypatch.setattr(time, "monotonic", lambda: now + SILENT + 60)
    assert bell.ring() == []
    bell.rung("b", loading=False, units=1)
    assert bell.heard()["b"].begun > SILENT + 59


@pytest.mark.parametrize(
    "values",
    [
        {"least": 0},
        {"least": 3, "most": 2},
        {"cpus": -1.0},
        {"gpus": math.inf},
        {"resources": {"TPU": math.nan}},
        {"resources": {"CPU": 1.0}},
        {"room_seconds": 0.0},
        {"room_seconds": math.nan},
    ],
)
def test_pools_that_mean_nothing_are_refused(values):
    from trocr_jax.jobs.ray_room import Actors

    with pytest.raises(JobError):
        Actors(**values)


def test_no_sign_of_life_and_nothing_to_do(monkeypatch):
    from trocr_jax.jobs import ray_signs
    from trocr_jax.jobs.ray_bell import Sign
    from trocr_jax.jobs.ray_room import Actors

    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr("ray.nodes", list)
    said: list[str] = []
    signs = ray_signs.Signs(None, Actors(room_seconds=100.0), 60.0, said.append)
    now += 50
    assert not signs.check()
    assert not signs.check()
    assert len(said) == 1
    assert "waiting for room" in said[0]
    signs.take({"a": Sign(0.0, False, True, 40.0)})
    assert not signs.idle()
    now += 20
    signs.take({"a": Sign(0.0, False, True, 60.0)})
    assert signs.idle()
    now += 60
    signs.moved()
    assert not signs.idle()
    now += 99
    assert not signs.check(), "a unit that was read is a sign of life too"
    signs.take({"a": Sign(19.0, False, True, 200.0), "b": Sign(10.0, True, True, 200.0)})
    now += 89
    assert not signs.check(), "ten seconds before that, b has lived"
    now += 2
    with pytest.raises(JobError, match="within 100 s"):
        signs.check()
    bell = SimpleNamespace(heard=SimpleNamespace(remote=lambda: {"a": Sign(0.0, False, True, 300.0)}))
    monkeypatch.setattr("ray.wait", lambda refs, timeout: (refs, []))
    monkeypatch.setattr("ray.get", lambda ref: ref)
    signs = ray_signs.Signs(bell, Actors(), 60.0)
    assert not signs.stuck()
    now += 61
    assert signs.stuck(), "it lives, and has had nothing to do"
