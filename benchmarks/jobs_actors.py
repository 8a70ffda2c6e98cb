"""How well Ray actors share a job: `python -m benchmarks.jobs --actors 1 8`.

A Ray cluster on this machine, the engine as it is, with real decoders; only the recognizer is a stub that sleeps SLOWER
times as long as a batch of the built-in model was measured to take, since two cores have to carry all the actors.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

from PIL import Image

from benchmarks.jobs_hosts import BATCH, LINES, Stub, last_commit, measured
from scripts.ray_cluster import ENVIRONMENT
from trocr_jax import jobs
from trocr_jax.jobs.events import read_events
from trocr_jax.jobs.host import Prepared
from trocr_jax.jobs.job import Job
from trocr_jax.jobs.planning import make_plan
from trocr_jax.jobs.sources import describe
from trocr_jax.jobs.store import open_store
from trocr_jax.recognizer import Recognition, Recognizer

SLOWER = 4.0


def sharing(folder: Path, numbers: Sequence[int], units: int) -> None:
    """Prints lines/s of each number of actors, from the moment at which all have started; `units` units for each."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as elsewhere:
        seconds, found = elsewhere.submit(measured, folder).result()
    seconds = [SLOWER * each for each in seconds]
    print(
        f"a batch of {BATCH} takes {statistics.median(seconds):.3f} s, {SLOWER:g} times what was measured", flush=True
    )
    os.environ |= ENVIRONMENT
    import ray

    from trocr_jax.jobs import ray_engine

    rates: list[float] = []
    for number in numbers:
        job = planned(folder / f"actors-{number}", number * units)
        prepare = partial(prepared, job.store.root, seconds, found)
        ray.init(num_cpus=number, include_dashboard=False, log_to_driver=False)
        ray_engine.run(job, prepare, actors=ray_engine.Actors(least=number, most=number))
        ray.shutdown()
        events = [*read_events(job.store)]
        begun = max(event["time"] for event in events if event["event"] == "start")
        lines = sum(event["ok"] for event in events if event["event"] == "commit" and event["time"] > begun)
        rates.append(lines / (last_commit(job) - begun))
        print(
            f"{number} actors: {lines} of {job.plan.lines} lines when all had started, {rates[-1]:.1f} lines/s, "
            f"efficiency {rates[-1] / number / (rates[0] / numbers[0]):.3f}",
            flush=True,
        )


def prepared(folder: str, seconds: Sequence[float], found: Sequence[Recognition]) -> Prepared:
    return Prepared(Job.open(folder), cast(Recognizer, Stub(seconds, found, os.getpid())), None)


def planned(folder: Path, units: int) -> Job:
    folder.mkdir()
    Image.new("L", (64, 16), 255).save(folder.with_suffix(".png"))
    rows = (f'{{"id": "line-{i}", "path": "{folder.name}.png"}}\n' for i in range(units * LINES))
    manifest = folder.with_suffix(".jsonl")
    manifest.write_text("".join(rows))
    source = jobs.open_source([str(manifest)])
    configuration: dict[str, Any] = {
        "source": describe(source),
        "model": {"sha256": "0" * 64},
        "batch_size": BATCH,
        "columns": list(jobs.Choices().columns),
    }
    store = open_store(str(folder))
    return Job(store, make_plan(store, configuration, source.inputs(), LINES))
