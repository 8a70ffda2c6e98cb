"""`trocr-jax jobs merge`: the parts of a job, in order, as one stream; a part is held at a time."""

from __future__ import annotations

import sys

from trocr_jax.cli.jobs_options import Merge
from trocr_jax.cli.output import format_of, open_bytes, open_values
from trocr_jax.errors import JobError
from trocr_jax.jobs.job import Job, read_success
from trocr_jax.jobs.rows import decode


def merge(job: Job, command: Merge) -> int:
    """Returns the exit status. Raises JobError for a job that is not complete, unless that is asked for."""
    units = sorted(job.done())
    if read_success(job.store) is None and not command.incomplete:
        raise JobError(
            f"{command.job}: is not complete, {len(job.units) - len(units)} of {len(job.units)} units are left; "
            "`jobs run` goes on with it, --incomplete merges what there is"
        )
    format = command.format or (format_of(command.output) if command.output else "jsonl")
    if format == "txt":
        format = "jsonl"
    if format == "jsonl":  # as the parts are
        with open_bytes(command.output) as write:
            for unit in units:
                write(job.read_part(unit))
    else:
        with open_values(command.output, format, job.plan.configuration["columns"]) as put:
            for unit in units:
                for row in decode(job.read_part(unit)):
                    put(row)
    print(f"trocr-jax: {command.job}: {len(units)} units merged", file=sys.stderr)
    return 0
