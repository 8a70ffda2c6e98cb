"""How far a job is, from its folder alone: any process may ask, on any host, while others work."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import reduce

from trocr_jax.jobs.events import read_events
from trocr_jax.jobs.finish import part_counts
from trocr_jax.jobs.job import Job, read_success
from trocr_jax.jobs.leases import holders
from trocr_jax.jobs.rows import Counts

WINDOW = 600.0
"""Seconds over which a rate is taken."""


@dataclass
class HostStatus:
    """A process that has worked on the job. reading: units that it holds. rate: lines/s of late, 0 if it is idle."""

    owner: str
    lines: int = 0
    reading: list[int] = field(default_factory=list)
    rate: float = 0.0
    last: float = 0.0


@dataclass
class JobStatus:
    """units and lines: planned; `counts` of the committed ones. seconds_left: None if nobody is working."""

    complete: bool
    units: int
    units_done: int
    lines: int
    counts: Counts
    rate: float
    seconds_left: float | None
    hosts: list[HostStatus]


def status(job: Job) -> JobStatus:
    """Reads the event logs and, of a job that is not complete, the parts of units whose commit no log tells of (their
    process was killed then), or several do."""
    done, now = job.done(), time.time()
    known: dict[int, Counts] = {}
    pieces: dict[int, list[Counts]] = {}
    commits: dict[str, list[tuple[float, int]]] = {}
    begun: dict[str, float] = {}
    for event in read_events(job.store):
        owner, unit = event["owner"], event.get("unit", -1)
        begun.setdefault(owner, event["time"])
        if event["event"] == "commit":
            counts = Counts(event["ok"], event["failed"], event["quarantined"])
            commits.setdefault(owner, []).append((event["time"], counts.lines))
            pieces.setdefault(unit, []).append(counts)
    for unit, found in pieces.items():  # one that was read more than once may have changed since
        if unit in done and len(found) == 1 and found[0].lines == job.units[unit].lines:
            known[unit] = found[0]
    success = read_success(job.store) if len(done) == len(job.units) else None
    if success is None:
        each = (known[unit] if unit in known else part_counts(job.read_part(unit)) for unit in done)
        total = reduce(Counts.plus, each, Counts())
    else:
        total = Counts.of(success)
    hosts = _hosts(job, commits, begun, now)
    rate = sum(host.rate for host in hosts)
    left = job.plan.lines - total.lines
    return JobStatus(
        complete=success is not None,
        units=len(job.units),
        units_done=len(done),
        lines=job.plan.lines,
        counts=total,
        rate=round(rate, 2),
        seconds_left=round(left / rate, 1) if rate and left else None,
        hosts=hosts,
    )


def _hosts(
    job: Job, commits: dict[str, list[tuple[float, int]]], begun: dict[str, float], now: float
) -> list[HostStatus]:
    hosts = {owner: HostStatus(owner) for owner in begun}
    for owner, found in commits.items():
        host = hosts[owner]
        host.lines, host.last = sum(lines for _, lines in found), found[-1][0]
        then = max(now, host.last)  # by a clock that is ahead of this host's
        since = max(begun[owner], then - WINDOW)
        # A clock that was set back meanwhile leaves times behind it out.
        late = [(at, lines) for at, lines in found if since < at <= then]
        before, last = found[-2][0] if found[1:] else begun[owner], found[-1]
        if not late and 0 <= then - last[0] < 2 * (last[0] - before):  # a unit may take longer than the window
            since, late = before, [last]
        if late:
            host.rate = round(sum(lines for _, lines in late) / max(max(at for at, _ in late) - since, 1.0), 2)
    for unit, owner in holders(job).items():
        if unit < len(job.units):
            hosts.setdefault(owner, HostStatus(owner)).reading.append(unit)
    for host in hosts.values():
        if not host.reading:
            host.rate = 0.0
    return sorted(hosts.values(), key=lambda host: (not host.reading, -host.last))
