"""What a job costs beside the bare engine, and what planning and status of a very large one cost.

    python -m benchmarks.jobs [--lines 3072] [--rounds 3]     a job from files to committed rows, beside the same engine
                                                              on pixels that are in memory already, in turn
    python -m benchmarks.jobs --plan-rows 10000000            a manifest of as many rows is listed and planned
    python -m benchmarks.jobs --hosts 1 8 64 [--units 40]     as many hosts on one folder, their devices simulated
    python -m benchmarks.jobs --actors 1 8 [--units 12]       the same with actors of a Ray cluster on this machine
    python -m benchmarks.jobs --commits 1 4 16                as many processes that commit units and read nothing
    python -m benchmarks.jobs --stages [--lines 1536]         where the processor's time goes
    python -m benchmarks.jobs --processes [--lines 1536]      one process on one core, two on two

The time of a job begins with the start of its decoders and ends with _SUCCESS; loading and compiling are not counted on
either side.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from pathlib import Path

import tyro

import trocr_jax
from benchmarks import jobs_actors, jobs_hosts, jobs_processes, jobs_stages
from scripts.killed_job import Options, draw
from trocr_jax import jobs
from trocr_jax.jobs.planning import make_plan
from trocr_jax.jobs.store import open_store
from trocr_jax.jobs.worker import Worker
from trocr_jax.recognizer_batches import Batch

DECODE = trocr_jax.DecodeConfig(max_new_tokens=96)


def main(
    lines: int = 3072,
    rounds: int = 3,
    plan_rows: int = 0,
    hosts: tuple[int, ...] = (),
    actors: tuple[int, ...] = (),
    units: int = 40,
    commits: tuple[int, ...] = (),
    processes: bool = False,
    stages: bool = False,
    folder: Path | None = None,
) -> None:
    """Prints each round, and medians. folder: where lines that are drawn already are taken from."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) if folder is None else folder
        if plan_rows:
            planning(place, plan_rows)
        elif hosts:
            jobs_hosts.sharing(place, hosts, units, rounds)
        elif actors:
            jobs_actors.sharing(place, actors, units)
        elif commits:
            jobs_hosts.commits(place, commits)
        elif processes:
            jobs_processes.processes(place, lines, rounds)
        elif stages:
            jobs_stages.stages(place, lines, rounds, DECODE)
        else:
            beside_the_engine(place, lines, rounds)


def beside_the_engine(folder: Path, lines: int, rounds: int) -> None:
    manifest = draw(folder, Options(lines=lines, distinct=lines, max_chars=64))
    recognizer = trocr_jax.Recognizer.from_pretrained("tiny-printed")
    size = recognizer.default_batch_size
    paths = sorted((folder / "lines").iterdir())[:lines]
    pixels = [recognizer.image_processor.pixels(path) for path in paths]
    batches = [Batch.of_pixels(pixels[start : start + size]) for start in range(0, lines, size)]
    list(recognizer.read_batches(batches[:1], DECODE))  # compiles

    def bare() -> float:
        begun = time.monotonic()
        found = recognizer.read_batches(batches, DECODE)
        assert sum(isinstance(one, trocr_jax.Recognition) for one in found) == lines
        return lines / (time.monotonic() - begun)

    ratios, engine, job_rates = [], [bare()], []
    for number in range(rounds):
        job = jobs.plan(
            jobs.open_source([str(manifest)]), str(folder / f"job-{number}"), recognizer, "tiny-printed", DECODE
        )
        workers: list[Worker] = []
        begun = time.monotonic()
        jobs.run(job, recognizer, DECODE, prepare=workers.append)
        job_rates.append(lines / (time.monotonic() - begun))
        stats = workers[0].reader.gauge.stats()
        engine.append(bare())
        ratios.append(job_rates[-1] / statistics.mean(engine[-2:]))  # the machine's speed drifts
        print(
            f"engine {engine[-2]:.1f} and {engine[-1]:.1f} lines/s, job {job_rates[-1]:.1f}, ratio {ratios[-1]:.3f};",
            stats,
            flush=True,
        )
    print(
        f"medians: engine {statistics.median(engine):.1f} lines/s, job {statistics.median(job_rates):.1f}, "
        f"ratio {statistics.median(ratios):.3f}"
    )


def planning(folder: Path, rows: int) -> None:
    manifest = folder / "lines.jsonl"
    with manifest.open("w") as file:
        for i in range(rows):
            file.write(f'{{"path": "scans/{i // 100_000:04}/page-{i // 40:06}/line-{i % 40:03}.png", "text": ""}}\n')
    job = str(folder / "job")
    begun, cpu = time.monotonic(), time.process_time()
    source = jobs.open_source([str(manifest)], root="")
    make_plan(open_store(job), {"source": {}, "columns": []}, source.inputs(), 512)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"planned {rows} rows in {time.monotonic() - begun:.1f} s, {time.process_time() - cpu:.1f} s of them of the "
        f"processor; at most {memory} MiB",
        flush=True,
    )
    begun = time.monotonic()
    found = jobs.status(jobs.Job.open(job))
    print(f"status of {found.units} units in {time.monotonic() - begun:.2f} s")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
