"""What `scripts.kill_jobs` kills: the options, the lines, and a driver of either engine."""

from __future__ import annotations

import functools
import json
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image

if TYPE_CHECKING:
    from trocr_jax.jobs.host import Prepared
    from trocr_jax.jobs.worker import Worker


@dataclass(frozen=True, kw_only=True)
class Options:
    """How often, on how much."""

    engine: Literal["local", "ray"] = "local"
    lines: int = 2000
    distinct: int = 2000  # images that are drawn; lines beyond that are the same images under other ids
    kills: int = 100
    driver_share: float = 0.5  # of the kills with --engine local; the others hit workers that decode
    store: Literal["folder", "s3", "gcs"] = "folder"  # where the jobs are; s3, gcs: a server on this machine, in memory
    processes: int = 2  # drivers with --engine local; actors, each on a node of its own, with --engine ray
    decoders: int = 2
    unit_size: int = 32
    max_chars: int = 24
    model: str = "tiny-printed"
    max_new_tokens: int = 64
    seed: int = 0
    folder: Path | None = None  # where it happens; a temporary folder if none. What is there is gone on with


@dataclass(frozen=True)
class Target:
    """A job. progress: a file with a byte for each commit that a driver of either engine has told of."""

    url: str
    progress: Path

    def committed(self) -> int:
        if "://" not in self.url:
            parts = Path(self.url, "parts")
            return len(os.listdir(parts)) if parts.exists() else 0
        return self.progress.stat().st_size if self.progress.exists() else 0


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


def start(options: Options, manifest: Path, target: Target, *, address: str | None = None) -> int:
    """Forks a driver, of `--engine ray` if there is an address; what it prints is appended to the file `stderr`."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with (target.progress.parent / "stderr").open("a") as file:
                os.dup2(file.fileno(), 1)  # where Ray tells of what has been killed
                os.dup2(file.fileno(), 2)
                found = functools.partial(prepare, options, str(manifest), target.url)
                status = (
                    _drive_here(options, found, target)
                    if address is None
                    else _drive_ray(options, found, target, address)
                )
        except BaseException:  # noqa: BLE001  nothing may come back from here
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def prepare(options: Options, manifest: str, url: str) -> Prepared:
    from trocr_jax import jobs
    from trocr_jax.decoding.config import DecodeConfig
    from trocr_jax.jobs.all_devices import load
    from trocr_jax.jobs.host import Prepared

    recognizer = load(options.model)
    decode = DecodeConfig(max_new_tokens=options.max_new_tokens)
    choices = jobs.Choices(unit_size=options.unit_size)
    job = jobs.plan(jobs.open_source([manifest]), url, recognizer, options.model, decode, choices=choices)
    return Prepared(job, recognizer, decode)


def _drive_here(options: Options, found: functools.partial[Prepared], target: Target) -> int:
    from trocr_jax import jobs

    job, recognizer, decode = found()
    with target.progress.open("ab", buffering=0) as progress:

        def watch(worker: Worker) -> None:
            worker.on_commit = lambda task, counts: progress.write(b".")

        jobs.run(job, recognizer, decode, resources=jobs.Resources(decoders=options.decoders), prepare=watch)
    return 0


def _drive_ray(options: Options, found: functools.partial[Prepared], target: Target, address: str) -> int:
    from trocr_jax import jobs
    from trocr_jax.jobs import ray_engine

    actors = ray_engine.Actors(least=options.processes, most=options.processes, address=address)
    resources = jobs.Resources(decoders=options.decoders)
    with ray_engine.connected(address), target.progress.open("ab", buffering=0) as progress:
        job = ray_engine.plan(found, actors)
        assert job is not None
        ray_engine.run(job, found, actors=actors, resources=resources, report=lambda told: progress.write(b"."))
    return 0
