"""Whether a job folder holds what it should: every line once, in order, under its own id, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from trocr_jax.errors import JobError
from trocr_jax.jobs.files import is_url
from trocr_jax.jobs.fingerprint import sha256
from trocr_jax.jobs.finish import of_another_job, part_counts
from trocr_jax.jobs.job import LEASES, PARTIAL, Job, part_name, read_success, unit_name
from trocr_jax.jobs.rows import Counts
from trocr_jax.jobs.store import TEMPORARY
from trocr_jax.say import printable


def verify(job: Job) -> Iterator[str]:
    """Every fault that is found, as a sentence; nothing if all is well. Reads the whole folder."""
    success = read_success(job.store)
    if success is None:
        yield "_SUCCESS is missing: the job is not complete"
    checksums = (success or {}).get("sha256", {})
    total = Counts()
    for unit in range(len(job.units)):
        try:
            inputs = job.inputs(job.whole(unit))
        except JobError as error:
            yield str(error)
            continue
        try:
            part = job.read_part(unit)
        except FileNotFoundError:
            if success is not None:
                yield f"{part_name(unit)} is missing"
            continue
        except OSError as error:
            if is_url(job.store.root):  # nothing is to be had from there
                raise
            yield f"{part_name(unit)} cannot be read ({error.strerror or error})"
            continue
        try:
            ids = [orjson.loads(line)["id"] for line in part.splitlines()]
        except (ValueError, KeyError, TypeError) as error:
            why = "a row has no id" if isinstance(error, KeyError) else error
            yield f"{part_name(unit)} is damaged ({why})"
            continue
        if ids != [printable(input.id) for input in inputs] or not part.endswith(b"\n"):
            yield f"{part_name(unit)} does not have the lines of its unit, each once and in order"
        if of_another_job(part, job):
            yield f"{part_name(unit)} was read with another configuration than this job's"
        if success is not None and checksums.get(part_name(unit)) != sha256(part):
            yield f"{part_name(unit)} has changed since the job was completed"
        total = total.plus(part_counts(part))
    known = {f"{unit_name(unit)}.jsonl" for unit in range(len(job.units))}
    for name in job.store.names("parts"):
        if name not in known:
            yield f"parts/{name} is of no unit"
    if success is not None:
        for name, value in total._asdict().items():
            if success.get(name) != value:
                yield f"_SUCCESS counts {success.get(name)} lines {name}, the parts have {value}"
        for folder in (TEMPORARY, LEASES, PARTIAL):
            for name in job.store.names(folder):
                yield f"{folder}/{name} was left behind"
