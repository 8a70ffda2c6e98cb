"""`trocr-jax compile`: the programs with which `transcribe` and `jobs run` read, compiled and kept beside the model."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from trocr_jax.cli import Compile
from trocr_jax.cli.decode import check_options, decode_config, load
from trocr_jax.recognizer_batches import bucket_sizes


def compile(command: Compile, folder: Path) -> int:
    """Returns the exit status. folder: where jax keeps what it compiles. Raises TrOCRError for what cannot be used."""
    check_options(command)
    recognizer = load(command)
    decode = decode_config(command, recognizer)
    most = command.batch_size or recognizer.devices * recognizer.default_batch_size
    blank = np.full((*recognizer.image_processor.size, 3), 255, np.uint8)
    for size in bucket_sizes(most, recognizer.devices):
        recognizer([blank] * size, decode, most)
        print(f"trocr-jax: batches of {size}: compiled", file=sys.stderr)
    kept = [path.stat().st_size for path in folder.glob("*-cache")]
    print(f"trocr-jax: {folder}: {len(kept)} programs, {sum(kept) / 1e6:.1f} MB", file=sys.stderr)
    return 0
