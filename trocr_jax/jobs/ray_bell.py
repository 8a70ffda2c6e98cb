"""The bell of `--engine ray`: by it the driver asks actors to stop, and knows who lives."""

from __future__ import annotations

import time
from typing import NamedTuple

SILENT = 20.0
"""Seconds without a sign of life, which comes every PATIENCE seconds, after which an actor counts as lost."""


class Sign(NamedTuple):
    """What an actor was last heard of: seconds ago; busy, loading the model or with units to read; has_read, whether it
    has ever had units; begun, the seconds since it was first heard of; failure, the end of the traceback of one that
    has ended so."""

    ago: float
    busy: bool
    has_read: bool
    begun: float
    failure: str = ""


class Bell:
    """An actor beside the driver, by which it asks the others to stop, and knows who lives."""

    def __init__(self) -> None:
        self._rung = False
        self._begun: dict[str, float] = {}
        self._heard: dict[str, tuple[float, bool, bool]] = {}
        self._failures: dict[str, str] = {}

    def ring(self) -> list[str]:
        """Says who has not stopped yet. To be called again and again: what it knows is lost when it is restarted."""
        self._rung = True
        return sorted(owner for owner, sign in self.heard().items() if sign.ago < SILENT and not sign.failure)

    def rung(self, owner: str, *, loading: bool, units: int) -> bool:
        """Whether `owner`, who is at work, is to stop. units: how many it has."""
        now = time.monotonic()
        _, _, has_read = self._heard.get(owner, (0.0, False, False))
        self._begun.setdefault(owner, now)
        self._heard[owner] = now, loading or units > 0, has_read or units > 0
        return self._rung

    def failed(self, owner: str, failure: str) -> None:
        """`owner` ends itself. failure: the last of its traceback."""
        self.rung(owner, loading=False, units=0)
        self._failures[owner] = failure

    def end(self, owner: str) -> None:
        self._heard.pop(owner, None)

    def heard(self) -> dict[str, Sign]:
        """Every actor that has not ended of itself."""
        now = time.monotonic()
        return {
            owner: Sign(now - when, busy, has_read, now - self._begun[owner], self._failures.get(owner, ""))
            for owner, (when, busy, has_read) in self._heard.items()
        }
