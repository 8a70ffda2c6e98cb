"""The pool of actors of `--engine ray`: a Ray Data set of units, and what is known of those who read them."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import Any

import ray
import ray.data
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trocr_jax.errors import JobError
from trocr_jax.jobs.ray_actor import SILENT, Bell, Prepare, Sign, UnitReader
from trocr_jax.jobs.ray_room import Actors, no_room, situation
from trocr_jax.jobs.worker import Resources

CALLS = 2
"""Units that an actor has at a time: images of the second are decoded while the device reads the first."""
STARTS = 10
"""Actors that may end one after the other without having had a unit, while nobody reads."""
CLOSE = 10.0
"""Seconds that a pool has to end in."""
NOTICE = 30.0
"""Seconds without an actor after which it is said what is waited for."""

Row = dict[str, Any]


class Pool:
    """Units on their way through actors. A context manager.

    Attributes: found, what becomes of each unit: a row of `UnitReader`, an error, or None when there is nothing more.
    """

    def __init__(self, units: list[int], prepare: Prepare, actors: Actors, resources: Resources, bell: Any) -> None:
        for name in ("ray.data._internal.execution.streaming_executor", "ray.data._internal.progress"):
            logging.getLogger(name).setLevel(logging.ERROR)  # what matters here is told by the job
        self.found: queue.Queue[Row | BaseException | None] = queue.Queue()
        asked = ray.data.from_items([{"unit": unit} for unit in units], override_num_blocks=len(units))
        self._ended: list[bool] = []
        self._thread = threading.Thread(target=self._consume, name="trocr-ray", daemon=True)
        context = asked.context
        context.custom_execution_callback_classes = [_ends_with(self._ended)]
        context.enable_progress_bars = False
        # Actors never have more than CALLS units: all of them busy is what the pool is to grow at.
        context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
        self._units: Any = asked.map_batches(
            UnitReader,
            fn_constructor_args=(prepare, os.getcwd(), resources, max(1, int(actors.cpus)), bell),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(
                min_size=actors.least,
                max_size=actors.most,
                max_tasks_in_flight_per_actor=CALLS,
                max_concurrent_calls_per_actor=CALLS,
                enable_true_multi_threading=True,
            ),
            **actors.options(),  # Ray Data restarts actors, and tries their units again, for ever
        )

    def __enter__(self) -> Pool:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Ends the actors, also those that Ray has not got back: the rows of units that they have would not come."""
        self._ended.append(True)
        self._thread.join(CLOSE)

    def _consume(self) -> None:
        try:
            with closing(iter(self._units.iter_rows())) as rows:
                for row in rows:
                    self.found.put(row)
                    if row["stopped"] or row["error"]:
                        break
            self.found.put(None)
        except BaseException as error:  # noqa: BLE001  it is raised where the rows are asked for
            self.found.put(error)


def _ends_with(ended: list[bool]) -> type[ExecutionCallback]:
    """Ends a running execution, once there is something in `ended`, from outside of the loop over its rows: Ray Data
    2.60 has nothing else for that. A list, because Ray pickles the class."""

    class Ends(ExecutionCallback):
        def on_execution_step(self, executor: Any) -> None:
            if ended:
                raise InterruptedError("the pool is closed")

    return Ends


class Bells:
    """The bell of a pool, which stands on the driver's node. A context manager."""

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        beside: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": here, "max_restarts": -1}
        self.bell: Any = ray.remote(**beside, max_task_retries=-1)(Bell).remote()

    def __enter__(self) -> Bells:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(Exception):
            ray.kill(self.bell)

    def ring(self) -> list[str] | None:
        """Asks all to stop. Who has not yet; None if that is not known at the moment."""
        try:
            at_work: list[str] = ray.get(self.bell.ring.remote(), timeout=5.0)
        except ray.exceptions.RayError:
            return None
        return at_work


class Signs:
    """Signs of life of the actors of a pool."""

    def __init__(
        self, bell: Any, actors: Actors, lease_timeout: float, waiting: Callable[[str], object] = lambda text: None
    ) -> None:
        self._bell, self._actors, self._lease_timeout, self._waiting = bell, actors, lease_timeout, waiting
        self._asked: Any = None
        self._alive = self._busy = time.monotonic()  # when an actor lived, and one had units, or a unit was read
        self._in_vain: set[str] = set()
        self._told = False

    def moved(self) -> None:
        """A unit has been read."""
        self._alive = self._busy = time.monotonic()
        self._in_vain.clear()

    def stuck(self) -> bool:
        """Asks the bell. Whether the actors that live have nothing to do: a new pool would give them what is left.

        Raises JobError if no actor has lived for `room_seconds`, or each ends before it has had a unit.
        """
        self._listen()
        self.check()
        return self.idle()

    def idle(self) -> bool:
        """Whether no actor that lives has had units for `lease_timeout`."""
        return self._alive > self._busy + self._lease_timeout

    def check(self) -> None:
        """Raises what `stuck` raises."""
        silent = time.monotonic() - self._alive
        if silent > self._actors.room_seconds:
            raise no_room(self._actors, "no actor has read, or given a sign of life,")
        if len(self._in_vain) >= STARTS:
            raise JobError(
                f"{len(self._in_vain)} actors have ended before they had anything to read; something kills them while "
                "they load the model: see the logs of Ray, and whether an actor has enough memory (--actor-cpus)"
            )
        if silent > NOTICE and not self._told:
            self._told = True
            self._waiting(f"waiting for room in the cluster. {situation(self._actors)}")

    def _listen(self) -> None:
        """Takes what the bell has answered, and asks it again."""
        if self._asked is None:
            self._asked = self._bell.heard.remote()
        if not ray.wait([self._asked], timeout=0)[0]:
            return
        asked, self._asked = self._asked, None
        with suppress(ray.exceptions.RayError):  # it is started again
            self.take(ray.get(asked))

    def take(self, heard: Mapping[str, Sign]) -> None:
        """What the bell has heard of each actor."""
        now = time.monotonic()
        live = [sign for sign in heard.values() if sign.ago < SILENT]
        if live:
            self._alive, self._told = max(self._alive, now - min(sign.ago for sign in live)), False
        if any(sign.busy for sign in live):
            self._busy = now
        if any(sign.has_read for sign in live):
            self._in_vain.clear()
        else:
            self._in_vain |= {owner for owner, sign in heard.items() if sign.ago >= SILENT and not sign.has_read}
