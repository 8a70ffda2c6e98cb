"""`trocr-jax jobs`: from the options of its commands to trocr_jax.jobs, and what is said on stderr and stdout."""

from __future__ import annotations

import dataclasses
import time

import orjson

from trocr_jax import jobs
from trocr_jax.cli import printing
from trocr_jax.cli.jobs_merge import merge
from trocr_jax.cli.jobs_options import Merge, Status, Verify
from trocr_jax.errors import OutputError, TrOCRError
from trocr_jax.jobs import files
from trocr_jax.jobs.job_status import JobStatus
from trocr_jax.jobs.rows import Counts
from trocr_jax.say import printable, say


def look(command: Merge | Status | Verify) -> int:
    """Returns the exit status. Raises TrOCRError for what cannot be used."""
    try:
        return _look(command)
    except (TrOCRError, BrokenPipeError):
        raise
    except OSError as error:
        raise OutputError(f"{command.job}: the job cannot be read ({files.with_name(error)})") from error


def _look(command: Merge | Status | Verify) -> int:
    job = jobs.Job.open(command.job)
    if isinstance(command, Merge):
        return merge(job, command)
    if isinstance(command, Status):
        found = jobs.status(job)
        with printing():
            print(orjson.dumps(_as_json(found)).decode() if command.json else _as_text(found))
        return 0
    faults = 0
    for fault in jobs.verify(job):
        faults += 1
        with printing():
            print(printable(fault))
    say(f"{command.job}: {f'{faults} faults' if faults else 'every line is there once'}")
    return 1 if faults else 0


def _as_json(found: JobStatus) -> dict[str, object]:
    values = dataclasses.asdict(found)
    counts = values.pop("counts")._asdict()
    done = found.counts.lines
    return {**values, **counts, "lines_done": done, "lines_left": found.lines - done}


def _as_text(found: JobStatus) -> str:
    done = found.counts.lines
    state = "complete" if found.complete else f"{found.lines - done} lines left"
    lines = [
        f"units: {found.units_done} of {found.units}",
        f"lines: {done} of {found.lines} ({100 * done / found.lines:.1f} %), {state}",
        counted(found.counts).partition(": ")[2],
    ]
    if found.seconds_left is not None:
        until = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + found.seconds_left))
        lines.append(f"speed: {found.rate:.1f} lines/s; the rest takes until {until}")
    for host in found.hosts:
        units = ", ".join(map(str, host.reading))
        doing = f"reads unit {units}" if units else "idle, or gone"
        lines.append(f"{host.owner}: {host.lines} lines, {host.rate:.1f} lines/s, {doing}")
    return "\n".join(lines)


def counted(counts: Counts) -> str:
    return f"{counts.lines} lines: {counts.ok} read, {counts.failed} failed, {counts.quarantined} quarantined"
