"""Kills processes of a job at random moments until it is complete, and compares it with the same job left alone.

    python -m scripts.kill_jobs --engine local [--lines 100000] [--kills 100] [--processes 2] [--unit-size 128]

SIGKILL hits drivers (each with its JAX process) and the workers that decode, from listing and planning to the last
commit; a driver that was killed is started again. At the end no line may be missing or there twice, the merged output
has to be the same bytes, no temporary file, lease or piece may be left, and no driver may have had more than one unit
whose rows had begun to come out and were not committed. Drivers are forked from a process that has imported everything
and used no device, so that the moments fall into what is tested.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from PIL import Image

from scripts.s3_server import s3_server

if TYPE_CHECKING:
    from trocr_jax.jobs.worker import Worker


@dataclass(frozen=True, kw_only=True)
class Options:
    """How often, on how much."""

    engine: Literal["local"] = "local"
    lines: int = 2000
    distinct: int = 2000  # images that are drawn; lines beyond that are the same images under other ids
    kills: int = 100
    driver_share: float = 0.5  # of the kills; the others hit workers that decode
    store: Literal["folder", "s3"] = "folder"  # where the jobs are; s3 is a server on this machine, in memory
    processes: int = 2
    decoders: int = 2
    unit_size: int = 32
    max_chars: int = 24
    model: str = "tiny-printed"
    max_new_tokens: int = 64
    seed: int = 0
    folder: Path | None = None  # where it happens; a temporary folder if none. What is there is gone on with


@dataclass(frozen=True)
class Target:
    """A job. progress: a file with a byte for each commit that a driver has told of."""

    url: str
    progress: Path

    def committed(self) -> int:
        return self.progress.stat().st_size if self.progress.exists() else 0


def main(options: Options) -> int:
    """0 if the job that was killed is the same as the other."""
    import trocr_jax.jobs.all_devices
    import trocr_jax.jobs.host  # noqa: F401  before the first fork

    folder = options.folder or Path(tempfile.mkdtemp(prefix="kill-jobs-"))
    manifest = draw(folder, options)
    with s3_server(["jobs"]) if options.store == "s3" else nullcontext():
        where = "s3://jobs" if options.store == "s3" else str(folder)
        whole, cut = (Target(f"{where}/{name}", folder / f"{name}.committed") for name in ("whole", "cut"))
        begun = time.monotonic()
        if _wait(_start(options, manifest, whole)) != 0:
            raise RuntimeError(f"the undisturbed run failed: see {folder / 'stderr'}")
        print(f"undisturbed: {options.lines} lines in {time.monotonic() - begun:.0f} s", flush=True)
        begun = time.monotonic()
        killed = _disturb(options, manifest, cut)
        print(f"{sum(killed.values())} SIGKILL in {time.monotonic() - begun:.0f} s: {dict(killed)}", flush=True)
        faults = [*_faults(whole, cut)]
    if sum(killed.values()) < options.kills:
        faults.append(f"the job was complete after {sum(killed.values())} of {options.kills} kills: use smaller units")
    print("\n".join(faults) if faults else "0 missing, 0 twice, the same bytes, nothing left behind")
    if not faults and options.folder is None:
        shutil.rmtree(folder)
    return 1 if faults else 0


def draw(folder: Path, options: Options) -> Path:
    """Rendered lines and a manifest of them."""
    manifest = folder / "lines.jsonl"
    if manifest.exists():
        return manifest
    from train.data.render import Renderer

    images = folder / "lines"
    images.mkdir(parents=True, exist_ok=True)
    renderer = Renderer.create(split="heldout", seed=options.seed)
    distinct = min(options.lines, options.distinct)
    for index in range(distinct):
        if not (path := images / f"{index:06}.png").exists():
            Image.fromarray(renderer.line(index, max_chars=options.max_chars).image).save(path)
    rows = (
        json.dumps({"id": f"line-{index:08}", "path": f"lines/{index % distinct:06}.png"})
        for index in range(options.lines)
    )
    manifest.write_text("\n".join(rows) + "\n")
    return manifest


def _start(options: Options, manifest: Path, job: Target) -> int:
    """Forks a driver; its standard error is appended to a file."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with (job.progress.parent / "stderr").open("a") as file:
                os.dup2(file.fileno(), 2)
                status = _drive(options, manifest, job)
        finally:
            os._exit(status)
    return pid


def _drive(options: Options, manifest: Path, target: Target) -> int:
    from trocr_jax import jobs
    from trocr_jax.decoding.config import DecodeConfig
    from trocr_jax.jobs.all_devices import load

    recognizer = load(options.model)
    decode = DecodeConfig(max_new_tokens=options.max_new_tokens)
    source = jobs.open_source([str(manifest)])
    choices = jobs.Choices(unit_size=options.unit_size)
    job = jobs.plan(source, target.url, recognizer, options.model, decode, choices=choices)
    with target.progress.open("ab", buffering=0) as progress:

        def watch(worker: Worker) -> None:
            worker.on_commit = lambda task, counts: progress.write(b".")

        jobs.run(job, recognizer, decode, resources=jobs.Resources(decoders=options.decoders), prepare=watch)
    return 0


def _disturb(options: Options, manifest: Path, job: Target) -> Counter[str]:
    """Kills by kind. A moment is a number of units that are committed or, for every other one, at most some seconds
    away, so that starting, planning and compiling are not spared."""
    rng = random.Random(options.seed)
    killed: Counter[str] = Counter()
    drivers = [_start(options, manifest, job) for _ in range(options.processes)]
    units = -(-options.lines // options.unit_size)
    per_kill = units / (options.kills + 1)
    while drivers:
        target = per_kill * (sum(killed.values()) + rng.random())
        seconds = rng.uniform(0, 4) if not killed or rng.random() < 0.5 else 600.0
        begun = time.monotonic()
        while time.monotonic() - begun < seconds and job.committed() < target:
            if any(_ended(drivers)):
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.05))
        for pid in list(_ended(drivers)):
            drivers.remove(pid)
            status = _wait(pid)
            if status != 0:
                raise RuntimeError(f"a driver ended with status {status}: see {job.progress.parent / 'stderr'}")
        if not drivers or sum(killed.values()) >= options.kills:
            continue
        driver = rng.choice(drivers)
        decoders = _children(driver)
        if decoders and rng.random() >= options.driver_share:
            with suppress(ProcessLookupError):  # it ended by itself
                os.kill(rng.choice(decoders), signal.SIGKILL)
                killed["decoder"] += 1
        else:
            killed["driver that reads" if job.committed() else "driver before the first commit"] += 1
            os.kill(driver, signal.SIGKILL)
            _wait(driver)
            drivers[drivers.index(driver)] = _start(options, manifest, job)
        if sum(killed.values()) % 10 == 0:
            print(f"{sum(killed.values())} kills, {job.committed()} of {units} units", flush=True)
    return killed


def _faults(undisturbed: Target, disturbed: Target) -> Iterator[str]:
    from trocr_jax import jobs
    from trocr_jax.jobs.events import read_events

    whole, cut = (jobs.Job.open(target.url) for target in (undisturbed, disturbed))
    yield from jobs.verify(whole)
    yield from jobs.verify(cut)
    ids = Counter[str]()
    if missing := whole.done() - cut.done():
        yield f"units {sorted(missing)} are missing"
        return
    for unit in range(len(cut.units)):
        part = cut.read_part(unit)
        ids.update(json.loads(line)["id"] for line in part.splitlines())
        if part != whole.read_part(unit):
            yield f"unit {unit} differs"
    lines = cut.plan.lines
    if len(ids) != lines or ids.total() != lines:
        yield f"{lines - len(ids)} lines are missing, {ids.total() - len(ids)} are there twice"
    begun, commits = Counter[str](), Counter[str]()
    for event in read_events(cut.store):
        begun[event["owner"]] += event["event"] == "begin"
        commits[event["owner"]] += event["event"] == "commit"
    lost = {owner: begun[owner] - commits[owner] for owner in begun}
    print(
        f"units that were begun and lost: {sum(lost.values())} by {sum(map(bool, lost.values()))} drivers", flush=True
    )
    if max(lost.values()) > 1:
        yield f"a driver lost {max(lost.values())} units"


def _children(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in thread.read_text().split()]
    return found


def _ended(pids: list[int]) -> Iterator[int]:
    for pid in pids:
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is not None:
            yield pid


def _wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
