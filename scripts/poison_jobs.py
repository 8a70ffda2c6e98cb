"""Among many lines one image that segfaults the decoder, one that hangs, one that eats memory, one of 40,000 x 40,000.

    python -m scripts.poison_jobs [--lines 5000]

The first three are done by a decoder that does harm where the name asks for it; the last is a real file. The job has to
end with a text for every other line and the four quarantined, each with its reason, after at most three attempts.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import orjson
import tyro
from PIL import Image

from scripts.killed_job import Options, draw
from tests.poison import Poison
from trocr_jax import jobs
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.jobs.attempts import ATTEMPTS
from trocr_jax.jobs.decode_worker import Decoder, Limits
from trocr_jax.recognizer import Recognizer

POISON = ("segfault", "hang", "hungry", "vast")


def main(lines: int = 5000, model: str = "tiny-printed") -> int:
    """0 if all is as it should be."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = draw(folder, Options(lines=lines - len(POISON), distinct=500))
        Image.new("1", (40_000, 40_000)).save(folder / "vast.png")
        rows = [{"id": poison, "path": "vast.png" if poison == "vast" else "lines/000000.png"} for poison in POISON]
        listed = manifest.read_bytes().splitlines(keepends=True)
        for number, row in enumerate(rows, 1):
            listed.insert(number * lines // (len(POISON) + 1), orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        manifest.write_bytes(b"".join(listed))
        recognizer, decode = Recognizer.from_pretrained(model), DecodeConfig(max_new_tokens=64)
        source = jobs.open_source([str(manifest)])
        job = jobs.plan(source, str(folder / "job"), recognizer, model, decode)
        resources = jobs.Resources(limits=Limits(seconds=5, memory=1 << 30))
        counts = jobs.run(
            job, recognizer, decode, resources=resources, decoder=Poison(Decoder(source, recognizer.image_processor))
        )
        print(counts)
        faults = list(jobs.verify(job))
        for unit in range(len(job.units)):
            for row in map(orjson.loads, job.read_part(unit).splitlines()):
                if row["status"] != "ok":
                    print(f"{row['id']}: {row['status']}: {row['error']}")
        tries = [
            len(reasons)
            for name in job.store.names("attempts")
            for reasons in orjson.loads(job.store.read(f"attempts/{name}")).values()
        ]
        print(f"deaths of decoders by image: {tries}")
        print("\n".join(faults))
        expected = (lines - len(POISON), 0, len(POISON))
        return 0 if counts == expected and not faults and max(tries) <= ATTEMPTS else 1


if __name__ == "__main__":
    sys.exit(tyro.cli(main, description=__doc__))
