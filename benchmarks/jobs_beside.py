"""A whole job, from files on the disk to `_SUCCESS`, beside transformers with a PyTorch DataLoader.

    python -m benchmarks.jobs_beside --shape base --lines 8192 --batch 256 --tokens 20 [--num-beams 1]
        [--against-batch 256] [--json-file FILE]

The shapes of a published model, random weights, every line forced to the same number of tokens; bf16 on an accelerator,
f32 on a CPU, weights too. The sides take turns in one process; printed are medians and the median of the ratios.

    trocr_jax     lists, plans, starts its decoders, reads, commits every unit: all of that is in its time
    transformers  worker processes that open images with PIL and have the model's image processor, pinned memory,
                  `generate`, `batch_decode`, rows of id and text as JSONL. Its workers have been started before
    device        trocr_jax's search alone, on pixels that are on the device: what the device could read at most

Loading and compiling are not counted: each side has read before, ours so many batches that it has compiled what a job
needs, which searches in other programs than `generate`; seconds in which a round compiled all the same are printed.
On a GPU both sides share its memory, so that each needs a limit: XLA_PYTHON_CLIENT_MEM_FRACTION=.45 for XLA.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from benchmarks.engine import JsonFile, check_json, machine, timed
from benchmarks.engine_sides import forced
from benchmarks.jobs_material import line_files, model_folder


class Job:
    """trocr_jax."""

    def __init__(self, model: Path, lines: Path, *, batch: int, tokens: int, num_beams: int, workers: int) -> None:
        import jax.numpy as jnp
        from jax import monitoring

        import trocr_jax
        from trocr_jax.generation_plan import compute_dtype
        from trocr_jax.image import ImageProcessor
        from trocr_jax.recognizer_batches import Batch
        from trocr_jax.recognizer_lanes import WINDOW
        from trocr_jax.tokenizer import load_tokenizer

        dtype = compute_dtype()
        weights = trocr_jax.checkpoint.load(model, dtype=dtype)
        processor = ImageProcessor.from_folder(model)
        self.recognizer = trocr_jax.Recognizer(weights, load_tokenizer(model), processor, dtype=dtype)
        self.model, self.lines, self.batch, self.workers = model, lines, batch, workers
        self.decode = trocr_jax.DecodeConfig(num_beams=num_beams, max_new_tokens=tokens, min_new_tokens=tokens)
        self.stats: list[dict[str, float]] = []
        paths = islice(cycle(sorted(lines.iterdir())), batch)
        self.pixels = jnp.asarray(np.stack([processor.pixels(path) for path in paths]))
        self.on_device(1)
        batches = [Batch.of_pixels(list(np.asarray(self.pixels)))] * (2 * WINDOW)  # of one shape, as those of the job
        assert len(list(self.recognizer.read_batches(batches, self.decode, batch))) == len(batches) * batch
        self.compiled: list[float] = []
        monitoring.register_event_duration_secs_listener(self._told)

    def _told(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.compiled.append(duration_secs)

    def read(self, folder: Path) -> None:
        from trocr_jax import jobs
        from trocr_jax.jobs.worker import Worker

        begun = time.perf_counter()
        self.compiled.clear()
        choices = jobs.Choices(unit_size=4 * self.batch, batch_size=self.batch)
        workers: list[Worker] = []
        resources = jobs.Resources(decoders=self.workers)
        with resources.standby() as standby:
            source = jobs.open_source([str(self.lines)])
            job = jobs.plan(source, str(folder), self.recognizer, self.model, self.decode, choices=choices)
            planned = time.perf_counter() - begun
            jobs.run(job, self.recognizer, self.decode, resources=resources, standby=standby, prepare=workers.append)
        spent = {"planning_seconds": round(planned, 3), "compiling_seconds": round(sum(self.compiled), 3)}
        self.stats.append(workers[0].reader.gauge.stats() | spent)

    def texts(self, folder: Path) -> dict[str, str]:
        rows = [row for part in sorted((folder / "parts").iterdir()) for row in part.read_text().splitlines()]
        return {Path(row["id"]).name: row["text"] for row in map(json.loads, rows)}

    def on_device(self, batches: int) -> None:
        import trocr_jax

        recognizer = self.recognizer
        found = [
            trocr_jax.generate(
                recognizer.model,
                self.pixels,
                self.decode,
                dtype=recognizer.dtype,
                image_processor=recognizer.image_processor,
            )
            for _ in range(batches)
        ]
        np.asarray(found[-1].scores)


class Images:
    """A data set of PyTorch: files as the model's image processor gives them. Pickled to the workers."""

    def __init__(self, model: Path, paths: list[Path], dtype: str) -> None:
        from transformers import AutoImageProcessor

        self.paths, self.dtype, self.processor = paths, dtype, AutoImageProcessor.from_pretrained(model)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[str, Any]:
        import torch
        from PIL import Image

        with Image.open(self.paths[index]) as image:
            pixels = self.processor(images=image.convert("RGB"), return_tensors="pt").pixel_values[0]
        return self.paths[index].name, pixels.to(getattr(torch, self.dtype))  # half the bytes to send for bf16


class Loader:
    """transformers with a DataLoader."""

    def __init__(self, model: Path, lines: Path, *, batch: int, tokens: int, num_beams: int, workers: int) -> None:
        import torch
        from transformers import AutoTokenizer, VisionEncoderDecoderModel

        self.torch = torch
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = "bfloat16" if self.device == "cuda" else "float32"
        self.model = VisionEncoderDecoderModel.from_pretrained(model, dtype=getattr(torch, dtype))
        self.model = self.model.eval().to(self.device)
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        images: Any = Images(model, sorted(lines.iterdir()), dtype)
        self.processor = type(images.processor).__name__
        self.loader: Any = torch.utils.data.DataLoader(
            images,
            batch_size=batch,
            num_workers=workers,
            prefetch_factor=2,
            pin_memory=self.device == "cuda",
            persistent_workers=True,
            multiprocessing_context="spawn",  # a process with threads of XLA cannot be forked
        )
        self.options = forced(self.model.config, tokens=tokens, num_beams=num_beams)
        for number, (_, pixels) in enumerate(self.loader):  # starts the workers; to its end, so that none goes on
            if number == 0:
                self.batch_texts(pixels)

    def batch_texts(self, pixels: Any) -> list[str]:
        with self.torch.inference_mode():
            ids = self.model.generate(pixels.to(self.device, non_blocking=True), **self.options)
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def read(self, folder: Path) -> None:
        folder.mkdir()
        with (folder / "lines.jsonl").open("w") as file:
            for names, pixels in self.loader:
                for name, text in zip(names, self.batch_texts(pixels), strict=True):
                    file.write(json.dumps({"id": name, "text": text}) + "\n")

    def texts(self, folder: Path) -> dict[str, str]:
        rows = map(json.loads, (folder / "lines.jsonl").read_text().splitlines())
        return {row["id"]: row["text"] for row in rows}


def main(
    shape: Literal["small", "base", "large"] = "base",
    lines: int = 8192,
    batch: int = 256,
    tokens: int = 20,
    num_beams: int = 1,
    against_batch: int | None = None,
    against: bool = True,
    rounds: int = 3,
    workers: int = max(1, (os.cpu_count() or 1) - 2),
    folder: Path | None = None,
    json_file: JsonFile = None,
) -> None:
    """Prints every round, and medians.

    Args:
        shape: of which published model.
        lines: files to read.
        batch: lines read at a time.
        tokens: written for every line, whatever the model thinks.
        num_beams: hypotheses a line.
        against_batch: batch of transformers; `batch` if none.
        against: measure transformers too.
        rounds: how often every side has its turn.
        workers: processes that decode images, on each side.
        folder: where model and lines are kept for the next time; a temporary folder if none.
        json_file: where the figures go too.
    """
    check_json(json_file)
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        model, images = place / f"model-{shape}", place / f"lines-{lines}"
        if not model.exists():
            model_folder(shape, model)
        if not images.exists():
            line_files(images, lines)
        options: dict[str, Any] = {"tokens": tokens, "num_beams": num_beams, "workers": workers}
        ours = Job(model, images, batch=batch, **options)
        theirs = Loader(model, images, batch=against_batch or batch, **options) if against else None
        speeds: dict[str, list[float]] = {"trocr_jax": [], "transformers": [], "device": []}
        equal = 0
        for number in range(rounds):
            out = Path(temporary) / f"round-{number}"
            out.mkdir()
            speeds["trocr_jax"].append(lines / timed(ours.read, out / "job")[0])
            if theirs is not None:
                speeds["transformers"].append(lines / timed(theirs.read, out / "loader")[0])
                one, two = ours.texts(out / "job"), theirs.texts(out / "loader")
                assert len(one) == len(two) == lines, "a side has lost lines"
                equal = sum(one[name] == text for name, text in two.items())
            batches = min(8, -(-lines // batch))
            speeds["device"].append(batches * batch / timed(ours.on_device, batches)[0])
            shown = ", ".join(f"{name} {found[-1]:.1f}" for name, found in speeds.items() if found)
            print(f"lines/s: {shown}; {ours.stats[-1]}", flush=True)
    medians = {name: round(statistics.median(found), 1) for name, found in speeds.items() if found}
    pairs = zip(speeds["trocr_jax"], speeds["transformers"], strict=False)
    busy = [a / b for a, b in zip(speeds["trocr_jax"], speeds["device"], strict=True)]
    packages = ("jax", "torch", "transformers") if against else ("jax", "transformers")
    result = {
        "shape": shape,
        "lines": lines,
        "batch": {"trocr_jax": batch, "transformers": against_batch or batch},
        **options,
        "dtype": str(ours.recognizer.dtype),
        "lines/s": medians,
        "ratio": round(statistics.median(a / b for a, b in pairs), 2) if theirs is not None else None,
        "device busy (job / device alone)": round(statistics.median(busy), 3),
        "equal texts": equal if theirs is not None else None,
        "image processor": theirs.processor if theirs is not None else None,
        "rounds": speeds,
        "stats": ours.stats,
        "machine": machine(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "date": time.strftime("%Y-%m-%d"),
    }
    print(json.dumps({name: value for name, value in result.items() if name not in ("rounds", "stats")}, indent=2))
    if json_file:
        json_file.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
