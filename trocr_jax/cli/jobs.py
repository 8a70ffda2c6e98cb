"""`trocr-jax jobs`: from the options of its commands to trocr_jax.jobs, and what is said on stderr and stdout."""

from __future__ import annotations

import dataclasses
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import orjson

from trocr_jax import jobs
from trocr_jax.cli.jobs_merge import merge
from trocr_jax.cli.jobs_options import JobCommand, Merge, RetryFailed, Run, Status, Verify
from trocr_jax.jobs.job_status import JobStatus
from trocr_jax.jobs.rows import COLUMNS, Counts


def run_command(command: JobCommand) -> int:
    """Returns the exit status. Raises TrOCRError for what cannot be used."""
    if isinstance(command, Run):
        return run(command)
    job = jobs.Job.open(command.job)
    if isinstance(command, Merge):
        return merge(job, command)
    if isinstance(command, Status):
        found = jobs.status(job)
        print(orjson.dumps(_as_json(found)).decode() if command.json else _as_text(found))
        return 0
    assert isinstance(command, Verify)
    faults = 0
    for fault in jobs.verify(job):
        faults += 1
        print(fault)
    print(f"trocr-jax: {command.job}: {f'{faults} faults' if faults else 'every line is there once'}", file=sys.stderr)
    return 1 if faults else 0


def run(command: Run) -> int:
    """`jobs run` and `jobs retry-failed`."""
    from trocr_jax.cli.decode import check_options, decode_config  # they load jax, which `status` need not
    from trocr_jax.cli.jobs_progress import JobProgress
    from trocr_jax.jobs.all_devices import load

    check_options(command)
    resources = _resources(command)
    stop = jobs.Stop()
    source = jobs.open_source(command.inputs, command.where.source, **_where(command))
    with _stopped_by(signal.SIGTERM, stop), ExitStack() as stack:
        recognizer = load(command.model, revision=command.revision, dtype=command.dtype)
        decode = decode_config(command, recognizer)
        chosen = jobs.Choices(
            unit_size=command.unit_size, batch_size=command.batch_size, columns=tuple(_columns(command))
        )
        job = jobs.plan(
            source, command.output, recognizer, command.model, decode, revision=command.revision, choices=chosen
        )
        _say(f"{command.output}: {job.plan.lines} lines in {len(job.units)} units, {len(job.done())} of them committed")
        if command.plan_only:
            return 0
        progress = stack.enter_context(JobProgress(job, port=command.resources.metrics_port))
        do = jobs.retry_failed if isinstance(command, RetryFailed) else jobs.run
        counts = do(job, recognizer, decode, resources=resources, stop=stop, prepare=progress.watch)
    if command.resources.stats:
        print(orjson.dumps(progress.stats(), option=orjson.OPT_INDENT_2).decode())
    if counts is None:
        left = len(job.units) - len(job.done())
        why = "stopped" if stop.requested.is_set() else "nothing left to do here"
        _say(f"{command.output}: {why}; {left} of {len(job.units)} units are left: the same command goes on with them")
        return 0
    _say(f"{command.output}: complete. {_counted(counts)}")
    return 1 if counts.ok < counts.lines else 0


def _resources(command: Run) -> jobs.Resources:
    from trocr_jax.jobs.decode_worker import Limits

    asked = command.resources
    return jobs.Resources(
        decoders=asked.decoders,
        limits=Limits(asked.decode_seconds, asked.decode_memory << 20),
        lease_timeout=asked.lease_timeout,
        grace=asked.grace,
        hang=asked.hang,
        max_error_rate=asked.max_error_rate,
    )


def _where(command: Run) -> dict[str, object]:
    options = dataclasses.asdict(command.where)
    del options["source"]
    return options


def _columns(command: Run) -> Iterator[str]:
    yield from COLUMNS
    if command.search.n_best is not None:
        yield "alternatives"
    if command.score.confidences:
        yield from ("words", "characters")
    if command.token_log_probs:
        yield from ("token_ids", "token_log_probs")


@contextmanager
def _stopped_by(number: signal.Signals, stop: jobs.Stop) -> Iterator[None]:
    before = signal.signal(number, lambda *_: stop.request())
    try:
        yield
    finally:
        signal.signal(number, before)


def _say(message: str) -> None:
    print(f"trocr-jax: {message}", file=sys.stderr, flush=True)


def _counted(counts: Counts) -> str:
    return f"{counts.lines} lines: {counts.ok} read, {counts.failed} failed, {counts.quarantined} quarantined"


def _as_json(found: JobStatus) -> dict[str, object]:
    values = dataclasses.asdict(found)
    counts = values.pop("counts")._asdict()
    return {**values, **counts, "lines_done": found.counts.lines}


def _as_text(found: JobStatus) -> str:
    done = found.counts.lines
    state = "complete" if found.complete else f"{found.lines - done} lines left"
    lines = [
        f"units: {found.units_done} of {found.units}",
        f"lines: {done} of {found.lines} ({100 * done / found.lines:.1f} %), {state}",
        _counted(found.counts).partition(": ")[2],
    ]
    if found.seconds_left is not None:
        until = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + found.seconds_left))
        lines.append(f"speed: {found.rate:.1f} lines/s; the rest takes until {until}")
    for host in found.hosts:
        units = ", ".join(map(str, host.reading))
        doing = f"reads unit {units}" if units else "idle, or gone"
        lines.append(f"{host.owner}: {host.lines} lines, {host.rate:.1f} lines/s, {doing}")
    return "\n".join(lines)
