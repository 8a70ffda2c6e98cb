"""`trocr-jax jobs merge`: the parts of a job, in order, as one stream, or its pages; one part or page is held at a
time."""

from __future__ import annotations

import os
from contextlib import suppress
from glob import iglob
from itertools import chain
from pathlib import Path

from trocr_jax.cli.jobs_options import Merge
from trocr_jax.cli.options import check_share
from trocr_jax.cli.output import format_of, needs_review, open_values
from trocr_jax.cli.output_file import open_bytes
from trocr_jax.errors import JobError, OutputError
from trocr_jax.jobs import files
from trocr_jax.jobs.job import Job, read_success
from trocr_jax.say import say


def merge(job: Job, command: Merge) -> int:
    """Returns the exit status. Raises JobError for a job that is not complete, unless that is asked for."""
    check_share("min_confidence", command.min_confidence)
    if command.output is not None and files.is_url(command.output):
        raise OutputError(
            f"{command.output}: only paths of this machine can be written; give one, and copy what is there"
        )
    units, success = sorted(job.done()), read_success(job.store)
    left = len(job.units) - len(units)
    if (success is None or left) and not command.incomplete:
        what = f"{left} of {len(job.units)} units are left" if left else "every unit is read, but not yet confirmed"
        raise JobError(
            f"{command.job}: is not complete, {what}; `jobs run` goes on with it, --incomplete merges what there is"
        )
    job.checksums = None if success is None else success["sha256"]
    columns = list(job.plan.configuration["columns"])
    if command.min_confidence is not None and "confidence" not in columns:
        raise JobError(f"{command.job}: its rows have no column confidence; merge it without --min-confidence")
    if command.format == "pages":
        return _pages(job, command, units)
    if command.output and _is_read(job, command.output):
        raise OutputError(f"{command.output}: is what the job was planned with; give another name")
    format = command.format or (format_of(command.output) if command.output else "jsonl")
    if format == "txt":
        if command.output is not None and command.output.lower().endswith(".txt"):
            raise JobError(f"{command.output}: rows of a job are more than a text; give jsonl, csv or parquet")
        format = "jsonl"
    if format == "jsonl" and command.min_confidence is None:  # as the parts are
        with open_bytes(command.output) as write:
            for unit in units:
                write(job.part(unit))
    else:
        columns += ["review"] * (command.min_confidence is not None)
        with open_values(command.output, format, columns) as put:
            for unit in units:
                for row in job.rows(unit):
                    if command.min_confidence is not None:
                        row["review"] = needs_review(row["confidence"], command.min_confidence)
                    put(row)
    say(f"{command.job}: {len(units)} units merged")
    return 0


def _is_read(job: Job, output: str) -> bool:
    """Whether a file is a source of the job by its name or a pattern, such as a manifest of lines."""
    paths = job.plan.configuration["source"].get("paths", ())
    with suppress(OSError):  # it is not there
        written = os.stat(output)
        for file in chain(paths, *(iglob(path, recursive=True) for path in paths)):
            with suppress(OSError):
                if os.path.samestat(written, os.stat(file)):
                    return True
    return False


def _pages(job: Job, command: Merge, units: list[int]) -> int:
    """A file for each page. Status 1 if one of them could not be filled in: the others are."""
    from trocr_jax.jobs.pages_filled import filled_pages

    if command.min_confidence is not None:
        raise JobError("--min-confidence marks rows; pages have the confidence of each line instead")
    if not command.output:
        raise JobError("--format pages needs --output FOLDER: a file for each page is written there")
    written = failed = 0
    for page in filled_pages(job, Path(command.output), units=units):
        if page.error is not None:
            failed += 1
            say(page.error)
            continue
        try:
            page.output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{page.output.parent}: cannot be made ({error.strerror})") from error
        with open_bytes(str(page.output)) as write:
            write(page.content)
        written += 1
    say(f"{command.job}: {written} pages written, {failed} left out")
    return 1 if failed else 0
