"""What the driver of `--engine ray` makes of the signs of life of its actors: go on, share out anew, or give up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import ray

from trocr_jax.errors import JobError
from trocr_jax.jobs.ray_bell import SILENT, Sign
from trocr_jax.jobs.ray_room import Actors, no_room, situation

STARTS = 10
"""Actors that may end one after the other without having read a unit, while nobody else does."""
NOTICE = 30.0
"""Seconds without an actor after which it is said what is waited for."""


class Life(NamedTuple):
    """An actor that has ended before it had anything to read, or failed. begin, end: when it was first and last heard
    of, of the driver's clock. failure: its traceback."""

    begin: float
    end: float
    failure: str


class Signs:
    """Signs of life of the actors of a pool."""

    def __init__(
        self, bell: Any, actors: Actors, lease_timeout: float, waiting: Callable[[str], object] = lambda text: None
    ) -> None:
        self._bell, self._actors, self._lease_timeout, self._waiting = bell, actors, lease_timeout, waiting
        self._asked: Any = None
        self._alive = self._busy = time.monotonic()  # when an actor lived, and one had units, or a unit was read
        self._in_vain: dict[str, Life] = {}  # since a unit was read
        self._ended: set[str] = set()  # those that have been in `_in_vain`
        self._outlived = self._spare = False
        self._told = False

    def moved(self) -> None:
        """A unit has been read."""
        self._alive = self._busy = time.monotonic()
        self._in_vain.clear()

    def stuck(self) -> bool:
        """Asks the bell. Whether actors that live have nothing to do: a new pool would give them what is left.

        Raises JobError if no actor has lived for `room_seconds`, or each ends before it has had a unit; RuntimeError if
        each fails, as its device does.
        """
        self._listen()
        return self.check() or self.idle()

    def idle(self) -> bool:
        """Whether no actor that lives has had units for `lease_timeout`."""
        return self._alive > self._busy + self._lease_timeout

    def check(self) -> bool:
        """Raises what `stuck` raises. Whether what is left is with actors that end in vain while others are idle."""
        silent = time.monotonic() - self._alive
        if silent > self._actors.room_seconds:
            raise no_room(self._actors, "no actor has read, or given a sign of life,")
        if in_a_row(self._in_vain.values()) >= STARTS and not self._outlived:
            if self._spare:
                return True
            raise self._hopeless()
        if silent > NOTICE and not self._told:
            self._told = True
            self._waiting(f"waiting for room in the cluster. {situation(self._actors)}")
        return False

    def take(self, heard: Mapping[str, Sign]) -> None:
        """What the bell has heard of each actor."""
        now = time.monotonic()
        live = {owner: sign for owner, sign in heard.items() if sign.ago < SILENT and not sign.failure}
        if live:
            self._alive, self._told = max(self._alive, now - min(sign.ago for sign in live.values())), False
        if any(sign.busy for sign in live.values()):
            self._busy = now
        self._spare = any(sign.has_read and not sign.busy for sign in live.values())
        for owner in self._ended.intersection(live):  # it was only silent
            self._ended.remove(owner)
            self._in_vain.pop(owner, None)
        ended = {
            owner: Life(now - sign.begun, now - sign.ago, sign.failure)
            for owner, sign in heard.items()
            if owner not in live and owner not in self._ended and (sign.failure or not sign.has_read)
        }
        self._ended.update(ended)
        self._in_vain.update(ended)
        for life in ended.values():
            if life.failure:
                last = life.failure.strip().splitlines()[-1]
                self._waiting(f"an actor has failed, and another takes its place: {last}")
        if ended:
            # Whoever is at work and was so when one of them began may do better than they.
            begin = min(life.begin for life in ended.values())
            self._outlived = any(sign.busy and now - sign.begun < begin for sign in live.values())

    def _hopeless(self) -> Exception:
        number, last = in_a_row(self._in_vain.values()), [*self._in_vain.values()][-1]
        if last.failure:
            return RuntimeError(f"{number} actors in a row have failed, the last so:\n{last.failure}")
        return JobError(
            f"{number} actors in a row have ended before they had anything to read; something kills them while they "
            "load the model: see the logs of Ray, and whether an actor has enough memory (--actor-cpus)"
        )

    def _listen(self) -> None:
        """Takes what the bell has answered, and asks it again."""
        if self._asked is None:
            self._asked = self._bell.heard.remote()
        if not ray.wait([self._asked], timeout=0)[0]:
            return
        asked, self._asked = self._asked, None
        with suppress(ray.exceptions.RayError):  # it is started again
            self.take(ray.get(asked))


def in_a_row(lives: Iterable[Life]) -> int:
    """How many of them came one after the other: those that are lost together, as with a node, count once."""
    number, end = 0, -math.inf
    for life in sorted(lives, key=lambda life: life.end):
        if life.begin > end:
            number, end = number + 1, life.end
    return number
