"""The pool of actors of `--engine ray`: a Ray Data set of units, and the bell that they hear."""

from __future__ import annotations

import logging
import os
import queue
import threading
from contextlib import closing, suppress
from typing import Any

import ray
import ray.data
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trocr_jax.jobs.planning import Plan
from trocr_jax.jobs.ray_actor import Prepare, UnitReader
from trocr_jax.jobs.ray_bell import Bell
from trocr_jax.jobs.ray_room import Actors
from trocr_jax.jobs.worker import Resources

CALLS = 2
"""Units that an actor has at a time: images of the second are decoded while the device reads the first."""
CLOSE = 10.0
"""Seconds that a pool has to end in."""

Row = dict[str, Any]


class Pool:
    """Units on their way through actors. A context manager.

    Attributes: found, what becomes of each unit: a row of `UnitReader`, an error, or None when there is nothing more.
    """

    def __init__(
        self, units: list[int], plan: Plan, prepare: Prepare, actors: Actors, resources: Resources, bell: Any
    ) -> None:
        for name in ("ray.data._internal.execution.streaming_executor", "ray.data._internal.progress"):
            logging.getLogger(name).setLevel(logging.ERROR)  # what matters here is told by the job
        self.found: queue.Queue[Row | BaseException | None] = queue.Queue()
        asked = ray.data.from_items([{"unit": unit} for unit in units], override_num_blocks=len(units))
        self._ended: list[bool] = []
        self._thread = threading.Thread(target=self._consume, name="trocr-ray", daemon=True)
        context = asked.context
        context.custom_execution_callback_classes = [_ends_with(self._ended)]
        context.enable_progress_bars = False
        context.execution_no_progress_timeout_s = -1  # a unit may take longer than 30 minutes; `Signs` watches
        # Actors never have more than CALLS units: all of them busy is what the pool is to grow at.
        context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
        self._units: Any = asked.map_batches(
            UnitReader,
            fn_constructor_args=(prepare, plan, os.getcwd(), resources, max(1, int(actors.cpus)), bell),
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
