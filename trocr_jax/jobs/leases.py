"""Leases: a small file for each unit that is being read, so that processes which share a job do not read it twice.

A lease never guards a result, which `Job.commit` does: two holders of one lease only waste the time of one of them. So
no clocks are compared. The holder rewrites its leases now and then. Whoever has watched one for `timeout` seconds (its
own or the holder's, whichever is more) without a change, or knows its holder to be a dead process of this host, takes
it over. A holder that was only suspended finds that out before it next writes the lease, and leaves it alone from then
on: what it still reads of the unit the other reads too, and whoever is first commits it.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any, NamedTuple

import orjson

from trocr_jax.jobs.job import LEASES, Job, Task, unit_name
from trocr_jax.jobs.owner import Owner, me

TIMEOUT = 60.0
UNREADABLE = b"unreadable"
"""Stands for what a lease says that cannot be read now."""


class Dead(NamedTuple):
    """A former holder of a lease, and what it was reading when it died."""

    holder: str
    tasks: list[Task]


class Leases:
    """The leases of this process. A context manager: while it is entered they are renewed, in the end given back."""

    def __init__(self, job: Job, *, timeout: float = TIMEOUT) -> None:
        self._job, self._timeout = job, timeout
        self._held: dict[int, Task | None] = {}  # and which stretch of it is being read
        self._beat = 0
        self._seen: dict[int, tuple[bytes, float]] = {}  # leases of others: content, and when it was first seen so
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="trocr-leases", daemon=True)

    def __enter__(self) -> Leases:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        for unit in list(self._held):
            with suppress(OSError):  # the disk may be what ended the job
                self.give_back(unit)

    def take(self, unit: int) -> bool | Dead:
        """Whether the unit is now this process's; or the dead holder from whom it was taken over."""
        with self._lock:
            if self._job.store.create(_name(unit), self._content(None), durable=False):
                self._held[unit] = None
                self._seen.pop(unit, None)
                return True
        try:
            content = self._job.store.read(_name(unit))
        except FileNotFoundError:  # given back this moment; the next round will find it
            return False
        except OSError:  # replaced this moment, or the disk fails: if it stays so, taking it over will tell
            content = UNREADABLE
        return self._take_over(unit, content)

    def content(self, unit: int) -> bytes:
        """What the lease of a unit says now, which changes while its holder lives; nothing if there is none, or if it
        cannot be read."""
        try:
            return self._job.store.read(_name(unit))
        except OSError:
            return b""

    def reading(self, task: Task) -> None:
        """Says which stretch of a unit that is held is being read, for the case that it kills this process."""
        with self._lock:
            if self._keeps(task.unit):
                self._held[task.unit] = task
                self._job.store.replace(_name(task.unit), self._content(task))

    def renew(self) -> None:
        """Shows that this process lives, in every lease that it has not lost."""
        with self._lock:
            self._beat += 1
            for unit, task in list(self._held.items()):
                with suppress(OSError):  # a failing disk is told of by the commit
                    if self._keeps(unit):
                        self._job.store.replace(_name(unit), self._content(task))

    def give_back(self, unit: int) -> None:
        with self._lock:
            if self._keeps(unit):
                del self._held[unit]
                self._job.store.remove(_name(unit))

    def _take_over(self, unit: int, content: bytes) -> bool | Dead:
        lease = _lease(content)
        owner = Owner.parse(str(lease.get("owner", "")))
        if owner == me():  # of a predecessor in this process that could not give it back
            died = unit not in self._held
        else:
            seen, since = self._seen.get(unit, (b"", 0.0))
            if seen != content:
                self._seen[unit] = content, time.monotonic()
            patience = max(self._timeout, _seconds(lease))
            died = (owner is not None and owner.has_died()) or (seen == content and time.monotonic() - since > patience)
        if not died:
            return False
        with self._lock:
            self._job.store.replace(_name(unit), self._content(None))
            self._held[unit] = None
        self._seen.pop(unit, None)
        return Dead(
            str(lease.get("owner", "?")), [Task.stretch(unit, *stretch) for stretch in lease.get("reading", [])]
        )

    def _renew(self) -> None:
        while not self._ended.wait(self._timeout / 5):
            with suppress(Exception):  # whatever a file system raises: no lease would be renewed any more
                self.renew()

    def _keeps(self, unit: int) -> bool:
        """Whether a lease that is held still is this process's: while that was suspended another may have taken it."""
        if unit in self._held and self._owner(unit) != str(me()):
            del self._held[unit]
        return unit in self._held

    def _owner(self, unit: int) -> str | None:
        """Raises OSError where a lease cannot be read: then nothing is known."""
        try:
            return _lease(self._job.store.read(_name(unit))).get("owner")
        except FileNotFoundError:
            return None

    def _content(self, task: Task | None) -> bytes:
        reading = [] if task is None else [[task.lines[0], len(task.lines)]]
        lease = {"owner": str(me()), "beat": self._beat, "timeout": self._timeout, "reading": reading}
        return orjson.dumps(lease)


def _name(unit: int) -> str:
    return f"{LEASES}/{unit_name(unit)}"


def _lease(content: bytes) -> dict[str, Any]:
    """Nothing if it is damaged."""
    try:
        return dict(orjson.loads(content))
    except (ValueError, TypeError):
        return {}


def _seconds(lease: dict[str, Any]) -> float:
    """The timeout of who wrote a lease; 0 if it does not say."""
    seconds = lease.get("timeout")
    return float(seconds) if isinstance(seconds, int | float) else 0.0


def holders(job: Job) -> dict[int, str]:
    """Units that are being read, and by whom, but for processes of this host that have died."""
    found = {}
    for name in job.store.names(LEASES):
        with suppress(OSError, ValueError):
            holder = str(_lease(job.store.read(f"{LEASES}/{name}")).get("owner", "?"))
            if (owner := Owner.parse(holder)) is None or not owner.has_died():
                found[int(name)] = holder
    return found
