"""Kills processes of a job at random moments until it is complete, and compares it with the same job left alone.

    python -m scripts.kill_jobs --engine local [--lines 100000] [--kills 100] [--processes 2] [--unit-size 128]
    python -m scripts.kill_jobs --engine ray   [the same]

SIGKILL hits drivers, from listing and planning to the last commit, and the workers that decode; with --engine ray also
the actors, the task that plans, and whole nodes of a cluster on this machine. A driver or node that was killed is
started again. At the end no line may be missing or there twice, the merged output has to be the same bytes as those of
--engine local left alone, no temporary file, lease or piece may be left, and no process that reads may have had more
than one unit whose rows had begun to come out and were not committed: a driver that is killed costs at most that for
each of them. Drivers are forked from a process that has imported everything and used no device, so that the moments
fall into what is tested; actors find their compiled programs on the disk. With --folder a run that was interrupted goes
on, with as many kills again.

For 100,000 lines with --engine ray: --unit-size 128 --decoders 1, and --distinct 2000 if drawing is to be short. It
takes about 1 GB of memory for each of --processes and 2 GB besides, and some 15 s of a core for each kill, since what
reads has to start again; nothing has a limit of time but a driver that finds no room in the cluster for ten minutes.
Of the cluster everything lies in /tmp/ray-*, which a run that is itself killed by SIGKILL leaves behind, with the
processes of the nodes.
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
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import tyro

if not __package__:  # by its name as a file: the folder above is not searched for `scripts` then
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [sys.path[0], os.environ.get("PYTHONPATH")]))

from scripts.gcs_server import gcs_server
from scripts.killed_job import Options, Target, draw, start
from scripts.ray_cluster import ENVIRONMENT, Cluster, children, ray_cluster
from scripts.s3_server import s3_server


def main(options: Options) -> int:
    """0 if the job that was killed is the same as the other."""
    folder = options.folder or Path(tempfile.mkdtemp(prefix="kill-jobs-"))
    if options.engine == "ray":
        os.environ |= ENVIRONMENT  # some of it is read when Ray is imported
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder.absolute() / "compiled")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    import trocr_jax.jobs.all_devices
    import trocr_jax.jobs.host

    manifest = draw(folder, options)
    with ExitStack() as stack:
        where = str(folder.absolute())
        if options.store != "folder":
            stack.enter_context({"s3": s3_server, "gcs": gcs_server}[options.store](["jobs"]))
            where = f"{options.store}://jobs"
        cut_name = "cut" if options.engine == "local" else "cut-ray"
        whole, cut = (Target(f"{where}/{name}", folder / f"{name}.committed") for name in ("whole", cut_name))
        begun = time.monotonic()
        if _wait(start(options, manifest, whole)) != 0:
            raise RuntimeError(f"the undisturbed run failed: see {folder / 'stderr'}")
        print(f"undisturbed: {options.lines} lines in {time.monotonic() - begun:.0f} s", flush=True)
        begun = time.monotonic()
        if options.engine == "ray":
            import trocr_jax.jobs.ray_engine  # noqa: F401  before the first fork

            cluster = stack.enter_context(ray_cluster(options.processes))
            killed = _disturb(
                options,
                cut,
                lambda: start(options, manifest, cut, address=cluster.address),
                drivers=1,
                strike=lambda rng, drivers: _strike_ray(cluster, rng, drivers),
            )
        else:
            killed = _disturb(
                options,
                cut,
                lambda: start(options, manifest, cut),
                drivers=options.processes,
                strike=lambda rng, drivers: _strike_local(options, rng, drivers),
            )
        print(f"{sum(killed.values())} SIGKILL in {time.monotonic() - begun:.0f} s: {dict(killed)}", flush=True)
        faults = [*_faults(whole, cut)]
    if sum(killed.values()) < options.kills:
        faults.append(f"the job was complete after {sum(killed.values())} of {options.kills} kills: use smaller units")
    print("\n".join(faults) if faults else "0 missing, 0 twice, the same bytes, nothing left behind")
    if not faults and options.folder is None:
        shutil.rmtree(folder)
    return 1 if faults else 0


Strike = Callable[[random.Random, list[int]], "str | None"]


def _disturb(options: Options, job: Target, begin: Callable[[], int], *, drivers: int, strike: Strike) -> Counter[str]:
    """Kills by kind. A moment is a number of units that are committed or, for every other one, at most some seconds
    away, so that starting, planning and compiling are not spared.

    begin: starts a driver. strike: kills something and says what; a driver by its number in a list, which is then
    waited for and started again.
    """
    rng = random.Random(options.seed)
    killed: Counter[str] = Counter()
    running = [begin() for _ in range(drivers)]
    units = -(-options.lines // options.unit_size)
    there = job.committed()
    per_kill = (units - there) / (options.kills + 1)
    wait = 4 if options.engine == "local" else 10  # what the start of an actor takes
    while running:
        target = there + per_kill * (sum(killed.values()) + rng.random())
        seconds = rng.uniform(0, wait) if not killed or rng.random() < 0.5 else 600.0
        begun = time.monotonic()
        while time.monotonic() - begun < seconds and job.committed() < target:
            if any(_ended(running)):
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.05))
        for pid in list(_ended(running)):
            running.remove(pid)
            status = _wait(pid)
            if status != 0:
                raise RuntimeError(f"a driver ended with status {status}: see {job.progress.parent / 'stderr'}")
        if not running or sum(killed.values()) >= options.kills:
            continue
        what = strike(rng, running)
        if what is None:
            continue
        if what == "driver":
            what += " that reads" if job.committed() else " before the first commit"
            for pid in list(_ended(running)):
                _wait(pid)
                running[running.index(pid)] = begin()
        killed[what] += 1
        if sum(killed.values()) % 10 == 0:
            print(f"{sum(killed.values())} kills, {job.committed()} of {units} units", flush=True)
    return killed


def _strike_local(options: Options, rng: random.Random, drivers: list[int]) -> str | None:
    driver = rng.choice(drivers)
    decoders = children(driver)
    if decoders and rng.random() >= options.driver_share:
        return _kill(rng.choice(decoders), "decoder")
    return _kill(driver, "driver")


SHARES = {"driver": 0.2, "node": 0.1, "actor": 0.4, "decoder": 0.3}
"""Of the kills with --engine ray."""


def _strike_ray(cluster: Cluster, rng: random.Random, drivers: list[int]) -> str | None:
    kind = rng.choices([*SHARES], [*SHARES.values()])[0]
    if kind == "driver":
        return _kill(rng.choice(drivers), kind)
    if kind == "node":
        if not cluster.kill_node(rng.randrange(cluster.nodes)):
            return None
        cluster.add_node()
        return kind
    actors = cluster.workers("ray::MapWorker") + cluster.workers("ray::prepared")
    pids = actors if kind == "actor" else [pid for actor in actors for pid in children(actor)]
    return _kill(rng.choice(pids), kind) if pids else None


def _kill(pid: int, what: str) -> str | None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:  # it ended by itself
        return None
    if what == "driver":  # until it is known to have ended
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return what


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
    print(f"units that were begun and lost: {sum(lost.values())}, by as many of {len(lost)} processes", flush=True)
    if max(lost.values()) > 1:
        yield f"a process lost {max(lost.values())} units"


def _ended(pids: list[int]) -> Iterator[int]:
    for pid in pids:
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is not None:
            yield pid


def _wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
