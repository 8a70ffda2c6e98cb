"""The end of a job: every part is looked at once, then _SUCCESS says that there is nothing left to do."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from operator import contains

import orjson

from trocr_jax.errors import JobError, OutputError
from trocr_jax.jobs.claims import PATIENCE
from trocr_jax.jobs.fingerprint import sha256
from trocr_jax.jobs.job import LEASES, PARTIAL, PARTS, SUCCESS, Job, part_name, read_success
from trocr_jax.jobs.leases import TIMEOUT, Leases
from trocr_jax.jobs.planning import PLAN
from trocr_jax.jobs.rows import Counts
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.store import Store
from trocr_jax.say import printable

NAMED = 10  # parts in one message

_OWN = re.compile(rf"(plan/(inputs|units)-.*|{LEASES}/[0-9]{{8,}}|{PARTIAL}/[0-9]{{8,}}(-[0-9]{{6,}}){{2}})(\.jsonl)?")


def part_counts(part: bytes) -> Counts:
    """The lines of a part by status. In JSON no text can hold these bytes: its quotes are escaped."""
    return Counts(
        *(part.count(b'"status":"%s"' % status.encode()) for status in Counts._fields),
    )


def of_another_job(part: bytes, job: Job) -> bool:
    """Whether rows of a part were read with another model or other choices. Where rows do not tell, they are not."""
    mark = b'"configuration":'
    return part.count(mark) != part.count(mark + orjson.dumps(job.plan.fingerprint))


def has_lines_of(part: bytes, inputs: Sequence[Input]) -> bool:
    """Whether a part has a row for each of the lines, in their order."""
    rows, ids = part.splitlines(), (orjson.dumps(printable(input.id)) for input in inputs)
    complete = part.endswith(b"\n") and len(rows) == len(inputs)
    return complete and all(map(contains, rows, (b'"id":%s' % id for id in ids)))


def reopen(job: Job, stop: threading.Event) -> bool:
    """Removes _SUCCESS if parts of the job have gone since, as whoever wants them read again deletes them. Result and
    errors as of `open_again`."""
    # In this order: whoever completes the job meanwhile has not written _SUCCESS yet when it is looked for.
    if job.store.exists(SUCCESS) and len(job.done()) < len(job.units):
        return open_again(job, stop)
    return True


def open_again(job: Job, stop: threading.Event) -> bool:
    """Removes _SUCCESS; False if `stop` is set before. Raises JobError that names every part which has changed since it
    was written: the checksums are lost with it, and the next one would take such parts for good."""
    if (success := read_success(job.store)) is None:
        return True
    changed = []
    for name in map(part_name, sorted(job.done())):
        if stop.is_set():
            return False
        if _changed(job, name, success["sha256"].get(name)):
            changed.append(name)
    if changed:
        names = ", ".join(changed[:NAMED]) + (f" and {len(changed) - NAMED} more" * (len(changed) > NAMED))
        raise JobError(
            f"{job.store.root}: {names}: changed since the job was completed; delete what there is of them and run the "
            "job again, which reads their lines once more (or delete _SUCCESS, if they are to stay as they are)"
        )
    job.store.remove(SUCCESS)
    return True


def _changed(job: Job, name: str, checksum: str | None) -> bool:
    try:
        return sha256(job.store.read(name)) != checksum
    except FileNotFoundError:  # deleted meanwhile
        return False
    except OSError as error:
        raise JobError(f"{job.store.root}/{name}: cannot be read ({error.strerror or error})") from error


def finish(job: Job, stop: threading.Event | None = None, *, lease_timeout: float = TIMEOUT) -> Counts | None:
    """Writes _SUCCESS if all units are committed, and sweeps what a finished job does not need. None if units are left,
    or another process is doing it, which is waited for until it gives a sign of life, is done, or counts as dead; or if
    `stop` is set meanwhile. Raises JobError for a part that does not have the lines of its unit."""
    if not job.store.exists(PLAN):
        raise OutputError(
            f"{job.store.root}: its {PLAN} has gone while this process worked on the job, as if the folder had been "
            "removed; what is left of it cannot be gone on with: give another folder"
        )
    if read_success(job.store) is None:
        if len(job.done()) < len(job.units):
            return None
        this = len(job.units)  # the number behind the last unit stands for it
        with Leases(job, timeout=lease_timeout) as leases:
            before = leases.content(this)
            while leases.take(this) is False and read_success(job.store) is None:
                if leases.content(this) not in (b"", before) or (stop or threading.Event()).wait(PATIENCE):
                    return None
            if read_success(job.store) is None:
                _write_success(job)
    sweep(job)
    success = read_success(job.store)  # none if another process has reopened the job this moment: it completes it
    return None if success is None else Counts.of(success)


def check_empty(store: Store) -> None:
    """Raises JobError for a folder without a plan in which rows of another one stand."""
    left = [name for name in (PARTS, PARTIAL) if store.names(name)] + [SUCCESS] * store.exists(SUCCESS)
    if left and not store.exists(PLAN):  # another process may have planned meanwhile, and read
        raise JobError(
            f"{store.root}: has no {PLAN}, but {' and '.join(left)} of a job that had another; give another folder, or "
            "delete them"
        )


def _write_success(job: Job) -> None:
    total, checksums = Counts(), {}
    for unit, planned in enumerate(job.units):
        part = job.read_part(unit)
        if part_counts(part).lines != planned.lines or not has_lines_of(part, job.inputs(job.whole(unit))):
            raise JobError(
                f"{job.store.root}/{part_name(unit)}: does not have the {planned.lines} lines of its unit; delete it "
                "and run the job again"
            )
        if of_another_job(part, job):
            raise JobError(
                f"{job.store.root}/{part_name(unit)}: was read with another configuration than this job's; delete it "
                "and run the job again"
            )
        total = total.plus(part_counts(part))
        checksums[part_name(unit)] = sha256(part)
    success = {
        "units": len(job.units),
        "lines": total.lines,
        **total._asdict(),
        "configuration": job.plan.fingerprint,
        "sha256": checksums,
    }
    job.store.create(SUCCESS, orjson.dumps(success, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def sweep(job: Job) -> None:
    """Removes what is left of processes that died: temporary files, leases, pieces of units, lists of lost planners. A
    file of another name is somebody else's, who had such a folder before the job came into its own."""
    done = read_success(job.store) is not None
    job.store.sweep(all_of_them=done)
    with suppress(OSError):
        for name in _own(job, "plan"):
            if name not in (job.plan.inputs, job.plan.units):
                job.store.remove(name)
    if done:
        for name in (*_own(job, LEASES), *_own(job, PARTIAL)):
            job.store.remove(name)


def _own(job: Job, folder: str) -> list[str]:
    names = (f"{folder}/{name}" for name in job.store.names(folder))
    return [name for name in names if _OWN.fullmatch(name)]
