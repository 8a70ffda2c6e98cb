"""How busy a job keeps a device, which is simulated: what the host of a GPU has to do, measured without one.

    python -m benchmarks.jobs_fed [--milliseconds 90] [--lines 16384] [--batch 256] [--decoders 14]

Everything of a job is what it is, from the plan to `_SUCCESS`, with base's pixels of 384 x 384, vocabulary and
tokens, but for two things. The device takes a given time for a batch, half of it to encode and half to search, one
program after the other, beside the host; pixels are sent beside both. To start an encoding takes no time, but who
starts a search waits for its end, as where XLA asks a GPU after every step whether there is another one. And decoders
sleep a while and answer with black pixels, so that many of them fit on few cores.

Printed: the share of the job's time in which the device was busy; the same from its first to its last program; the
largest gaps between programs; and the processor's time of this process for a line, and of its main thread.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import tyro

import trocr_jax
from benchmarks.jobs_idle import Idle
from benchmarks.jobs_material import write_tokenizer
from trocr_jax import jobs
from trocr_jax.config import DecoderConfig, EncoderConfig, TrOCRConfig
from trocr_jax.decoding.types import Decoded
from trocr_jax.generation_stages import Encoded
from trocr_jax.image import ImageProcessor
from trocr_jax.jobs.worker import Worker
from trocr_jax.recognizer_devices import Devices
from trocr_jax.recognizer_lanes import Programs, Send
from trocr_jax.tokenizer import load_tokenizer

SIDE, WIDTH, VOCABULARY = 384, 768, 50_265


class Array:
    """What a program of the device gives: there at a time of time.monotonic."""

    def __init__(self, value: np.ndarray, at: float) -> None:
        self.value, self.at = value, at

    def block_until_ready(self) -> Array:
        if (left := self.at - time.monotonic()) > 0:
            time.sleep(left)
        return self

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.block_until_ready().value


class Device:
    """programs: begin and end of each that has run or will."""

    def __init__(self, bandwidth: float) -> None:
        """bandwidth: bytes a second from the host's memory to the device's."""
        self.bandwidth = bandwidth
        self.programs: list[tuple[float, float]] = []
        self._free = self._sent = 0.0

    def send(self, pixels: np.ndarray) -> float:
        """When they will be there."""
        self._sent = max(self._sent, time.monotonic()) + pixels.nbytes / self.bandwidth
        return self._sent

    def run(self, seconds: float, after: float = 0.0) -> float:
        """When its result will be there."""
        begin = max(self._free, after, time.monotonic())
        self._free = begin + seconds
        self.programs.append((begin, self._free))
        return self._free


class Simulated(Devices):
    """Whose programs are those of `device`, `seconds` a batch."""

    device: Device
    seconds: float

    def programs(self, model: Any, decode: Any, image_processor: Any) -> Programs:
        rng, device, length = np.random.default_rng(0), self.device, decode.max_new_tokens
        nothing = np.zeros(0)

        def encode(sent: tuple[int, float]) -> Encoded:
            at = device.run(self.seconds / 2, sent[1])
            means = rng.standard_normal((sent[0], WIDTH), np.float32)
            return Encoded(*(cast(jax.Array, Array(value, at)) for value in (nothing, nothing, means)))

        def together(each: tuple[Encoded, ...]) -> Encoded:
            return each[-1]

        def search(lines: Encoded, rows: np.ndarray) -> Decoded:
            at, batch = device.run(self.seconds / 2), len(rows)
            time.sleep(max(at - time.monotonic(), 0.0))
            probs = -rng.random((batch, 1, length), np.float32)
            found = {
                "token_ids": rng.integers(4, VOCABULARY, (batch, 1, length), np.int32),
                "token_log_probs": probs,
                "model_log_probs": probs,
                "beam_indices": np.zeros((batch, 1, length), np.int32),
                "scores": probs.sum(-1),
                "lengths": np.full((batch, 1), length, np.int32),
                "truncated": np.ones((batch, 1), bool),
            }
            return Decoded(**{name: cast(jax.Array, Array(array, at)) for name, array in found.items()})

        def generate(sent: tuple[int, float]) -> Decoded:
            return search(encode(sent), np.zeros(sent[0], np.int32))

        return Programs(generate, encode, together, search)

    @contextmanager
    def sending(self) -> Iterator[Send]:
        def send(pixels: np.ndarray) -> Callable[[], tuple[int, float]]:
            sent = len(pixels), self.device.send(pixels)
            return lambda: sent

        yield send


class Fed(trocr_jax.Recognizer):
    """A recognizer on such devices."""

    _on: Simulated


def recognizer(folder: Path, tokens: int) -> Fed:
    config = TrOCRConfig(
        encoder=EncoderConfig(patch_size=(SIDE, SIDE), hidden_size=8, num_layers=1, num_heads=1, intermediate_size=8),
        decoder=DecoderConfig(
            vocab_size=VOCABULARY,
            hidden_size=8,
            num_layers=1,
            num_heads=1,
            intermediate_size=8,
            cross_attention_hidden_size=8,
            max_position_embeddings=tokens + 2,
        ),
    )
    model = trocr_jax.TrOCR(config)
    write_tokenizer(VOCABULARY, folder)
    trocr_jax.checkpoint.save_huggingface(model, folder)
    fed = Fed(model, load_tokenizer(folder), ImageProcessor(height=SIDE, width=SIDE))
    fed._on = Simulated(None, dtype=fed.dtype, cross_attention=fed.cross_attention)
    return fed


def main(
    milliseconds: float = 90.0,
    lines: int = 16_384,
    batch: int = 256,
    tokens: int = 20,
    decoders: int = 14,
    decode_milliseconds: float = 3.0,
    gigabytes: float = 10.0,
    rounds: int = 1,
    unit_batches: int = 4,
) -> None:
    """Prints every round.

    Args:
        milliseconds: that the device takes for a batch.
        lines: of the job.
        batch: lines read at a time.
        tokens: of every line.
        decoders: processes that decode images.
        decode_milliseconds: that they sleep for each of them.
        gigabytes: a second from the host's memory to the device's.
        rounds: jobs, one after the other.
        unit_batches: batches of a unit.
    """
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        (place / "model").mkdir()
        reads = recognizer(place / "model", tokens)
        reads._on.seconds = milliseconds / 1e3
        manifest = place / "lines.jsonl"
        manifest.write_text("".join(f'{{"path": "scans/line-{i:07}.png"}}\n' for i in range(lines)))
        decode = trocr_jax.DecodeConfig(max_new_tokens=tokens, min_new_tokens=tokens)
        choices = jobs.Choices(unit_size=unit_batches * batch, batch_size=batch)
        print(f"{os.cpu_count()} cores, {decoders} decoders, batches of {batch}, {milliseconds:g} ms each", flush=True)
        for number in range(rounds):
            reads._on.device = Device(1e9 * gigabytes)
            workers: list[Worker] = []
            folder = str(place / f"job-{number}")
            begun, own, all_threads = time.monotonic(), time.thread_time(), time.process_time()
            resources = jobs.Resources(decoders=decoders)
            with resources.standby() as standby:
                source = jobs.open_source([str(manifest)], root="")
                job = jobs.plan(source, folder, reads, place / "model", decode, choices=choices)
                planned = time.monotonic()
                jobs.run(
                    job,
                    reads,
                    decode,
                    resources=resources,
                    decoder=Idle((SIDE, SIDE), decode_milliseconds / 1e3),
                    standby=standby,
                    prepare=workers.append,
                )
            ended = time.monotonic()
            own, all_threads = time.thread_time() - own, time.process_time() - all_threads
            shown(reads._on.device.programs, begun, planned, ended, lines)
            print(f"  µs of the processor a line: {1e6 * all_threads / lines:.0f}, main thread {1e6 * own / lines:.0f}")
            print(f"  {workers[0].reader.gauge.stats()}", flush=True)


def shown(programs: list[tuple[float, float]], begun: float, planned: float, ended: float, lines: int) -> None:
    busy = sum(end - begin for begin, end in programs)
    first, last = programs[0][0], programs[-1][1]
    gaps = sorted(
        ((after[0] - before[1], before[1] - first) for before, after in pairwise(programs)),
        reverse=True,
    )
    print(
        f"job {ended - begun:.2f} s, {lines / (ended - begun):.0f} lines/s, device busy {busy / (ended - begun):.3f}; "
        f"planned after {planned - begun:.2f} s, first program after {first - begun:.2f} s, last {ended - last:.2f} s "
        f"before the end, busy between them {busy / (last - first):.3f}\n  largest gaps, ms (s after the first): "
        + ", ".join(f"{1e3 * gap:.0f} ({at:.1f})" for gap, at in gaps[:10])
    )


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
