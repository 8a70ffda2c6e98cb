"""Planning with `--engine ray`: in a task where an actor could run, started again where its process or node is lost."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any, NamedTuple, cast

import ray

from trocr_jax import errors
from trocr_jax.errors import JobError, TrOCRError
from trocr_jax.jobs.job import Job
from trocr_jax.jobs.owner import me
from trocr_jax.jobs.planning import Plan, read_plan
from trocr_jax.jobs.ray_actor import Prepare, not_shared, work_in
from trocr_jax.jobs.ray_room import Actors, no_room, refused, situation
from trocr_jax.jobs.stop import Stop
from trocr_jax.jobs.store import open_store

TRIES = 10
"""Processes that may be lost while they plan. Nodes come and go, but what kills each of them would do so for ever."""
BEAT = 2.0
"""Seconds between two signs of life of a process that plans."""
SILENCE = 60.0
"""Seconds without one after which another process is asked, if Ray has not missed the first by then."""
NOTICE = 15.0
"""Seconds after which it is said what is waited for."""


class Answer(NamedTuple):
    """The job folder, the host and the plan that is there, or the kind and message of the error that there was."""

    folder: str
    host: str
    plan: Plan | None
    error: tuple[str, str] | None


class _Lost(Exception):
    """The process that planned is no more."""


def plan(
    prepare: Prepare,
    actors: Actors,
    *,
    stop: Stop | None = None,
    waiting: Callable[[str], object] = lambda text: None,
) -> Job | None:
    """Plans the job, or compares it with its plan, where an actor could run: what kind of device there is has a say.
    None if a stop is requested before it is there. Raises what `prepare` raises of TrOCRError; JobError if there is no
    room for it, or no sign of life, for `actors.room_seconds`, if Ray refuses what an actor is to take, if TRIES
    processes are lost, or if this host does not see the plan.

    waiting: is told, after a while without room, what is waited for.
    """
    planning = _Planning(actors, Stop() if stop is None else stop, waiting)
    for number in range(1, TRIES + 1):
        try:
            answer = planning.ask(prepare)
        except _Lost as lost:
            if number == TRIES:
                raise JobError(
                    f"{TRIES} processes have ended while they planned the job, the last so: {lost}"
                ) from lost
            continue
        if answer is None:
            return None
        if answer.error is not None:
            raise error(*answer.error)
        if read_plan(open_store(answer.folder)) != answer.plan:
            raise not_shared(answer.host, answer.folder)
        return Job.open(answer.folder)
    raise AssertionError


class _Planning:
    def __init__(self, actors: Actors, stop: Stop, waiting: Callable[[str], object]) -> None:
        self._actors, self._stop, self._waiting = actors, stop, waiting
        self._moved = time.monotonic()  # when there was a sign of life
        self._told = False

    def ask(self, prepare: Prepare) -> Answer | None:
        """What one process answers; None after a stop. Raises _Lost."""
        options = self._actors.options() | {"max_calls": 1, "max_retries": 0, "num_returns": "streaming"}
        with refused(self._actors):
            answers = ray.remote(**options)(prepared).remote(prepare, os.getcwd())
        asked, begun, found = time.monotonic(), False, None
        try:
            while found is None and not self._stop.requested.is_set():
                if ray.wait([answers], timeout=0.5)[0]:
                    self._moved, begun = time.monotonic(), True
                    found = _get(answers)
                elif begun and time.monotonic() - self._moved > min(SILENCE, self._actors.room_seconds):
                    raise _Lost(f"no sign of life for {time.monotonic() - self._moved:.0f} s")
                else:
                    self._without(0.0 if begun else time.monotonic() - asked)
            return found
        finally:
            if found is None:  # else it ends by itself: Ray ends a process that cancels what ends at that moment
                with suppress(Exception):
                    ray.cancel(answers, force=True)

    def _without(self, seconds: float) -> None:
        """A process that was asked has had no room for so long."""
        if time.monotonic() - self._moved > self._actors.room_seconds:
            raise no_room(self._actors, "no process could plan the job")
        if seconds > NOTICE and not self._told:
            self._told = True
            self._waiting(f"waiting for room to plan the job. {situation(self._actors)}")


def _get(answers: Any) -> Answer | None:
    try:
        found: Answer | None = ray.get(next(answers))
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError) as death:
        raise _Lost(first_line(death)) from death
    except (ray.exceptions.RayError, StopIteration) as failure:
        raise JobError(f"the job could not be planned in a Ray task: {failure}") from failure
    return found


def prepared(prepare: Prepare, folder: str) -> Iterator[Answer | None]:
    """Runs in a task of its own: an answer in the end, and None now and then until it is there, the first at once."""
    yield None
    with ThreadPoolExecutor(1, thread_name_prefix="trocr-plan") as thread:
        answer = thread.submit(_answer, prepare, folder)
        while wait([answer], timeout=BEAT).not_done:
            yield None
        yield answer.result()


def _answer(prepare: Prepare, folder: str) -> Answer:
    try:
        work_in(folder)
        job = prepare().job
        return Answer(job.store.root, me().host, job.plan, None)
    except TrOCRError as error:
        return Answer("", me().host, None, (type(error).__name__, str(error)))


def error(kind: str, message: str) -> TrOCRError:
    """The error of another process."""
    return cast(TrOCRError, getattr(errors, kind)(message))


def first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
