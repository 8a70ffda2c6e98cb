"""What an actor takes and what a Ray cluster has, for those who wait for room in it, perhaps in vain."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray

from trocr_jax.errors import JobError

ROOM_SECONDS = 600.0
"""What an autoscaler may need to start a machine with an accelerator."""
_EVERYWHERE = ("memory", "object_store_memory")


@dataclass(frozen=True, kw_only=True)
class Actors:
    """The pool. least, most: how many actors; Ray adds them while there is work and the cluster has room. cpus, gpus,
    resources: what one of them takes, such as {"TPU": 4}. address: of the cluster; that of RAY_ADDRESS, or else a
    cluster on this machine that ends with this process, if None. room_seconds: how long to wait for room in the
    cluster, or for a sign of life of what it had room for."""

    least: int = 1
    most: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    resources: Mapping[str, float] = field(default_factory=dict)
    address: str | None = None
    room_seconds: float = ROOM_SECONDS

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise JobError(f"{self.least} to {self.most} actors: give at least one, and at most as many as most")
        if not all(0 <= amount < math.inf for amount in (self.cpus, self.gpus, *self.resources.values())):
            raise JobError("an actor cannot take less than nothing, or all: give CPUs, GPUs and resources of 0 or more")
        for name in ("CPU", "GPU"):
            if name in self.resources:
                amount = f"{self.resources[name]:g}"
                raise JobError(f"--actor-resources {name}={amount}: use --actor-{name.lower()}s {amount}")
        if not self.room_seconds > 0:  # nor is NaN
            raise JobError(f"room_seconds is {self.room_seconds:g}: give more than 0 seconds to wait for room")

    def options(self) -> dict[str, Any]:
        return {"num_cpus": self.cpus, "num_gpus": self.gpus or None, "resources": dict(self.resources) or None}

    def takes(self) -> dict[str, float]:
        asked = {"CPU": self.cpus, "GPU": self.gpus, **self.resources}
        return {name: amount for name, amount in asked.items() if amount}


@contextmanager
def refused(actors: Actors) -> Iterator[None]:
    """Around what asks Ray for an actor: JobError if it refuses the amounts."""
    try:
        yield
    except ValueError as error:
        options = [f"--actor-{name}" for name in ("cpus", "gpus", "resources") if getattr(actors, name)]
        why = "".join(map(str, error.args))  # which are parts of a sentence, for some
        raise JobError(
            f"{', '.join(options)}: Ray refuses an actor that takes {_shown(actors.takes())}: {why}"
        ) from error


def no_room(actors: Actors, what: str) -> JobError:
    """The error that says that `what` has not come to be within `room_seconds`."""
    return JobError(
        f"{what} within {actors.room_seconds:g} s. {situation(actors)}. Ask for less (--actor-cpus, --actor-gpus, "
        "--actor-resources), give the cluster more, or wait longer (--room-seconds); the same command goes on"
    )


def situation(actors: Actors) -> str:
    """What an actor takes, which nodes there are, and how many of them could ever have one."""
    takes = actors.takes()
    nodes = ray.nodes()
    alive = [_named(node["Resources"]) for node in nodes if node["Alive"]]
    able = sum(all(has.get(name, 0) >= amount for name, amount in takes.items()) for has in alive)
    each = Counter(_shown(has) for has in alive)
    has = "; ".join(
        f"{count} {'node' if count == 1 else 'nodes'} with {shown}" for shown, count in sorted(each.items())
    )
    if lost := len(nodes) - len(alive):
        has = f"{has or 'no nodes'}, and has lost {lost}"
    fit = f"{able} of them could have an actor, if not for what else they do" if able else "no node can have an actor"
    return f"An actor takes {_shown(takes)}. The cluster has {has or 'no nodes'}: {fit}"


def _named(resources: Mapping[str, float]) -> dict[str, float]:
    """Those that somebody could ask for by name."""
    return {name: amount for name, amount in resources.items() if ":" not in name and name not in _EVERYWHERE}


def _shown(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in sorted(resources.items())) or "nothing"
