"""`trocr-jax compile`: the programs with which `transcribe` and `jobs run` read, compiled and kept beside the model."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np

from trocr_jax.cli import Compile
from trocr_jax.cli.decode import check_options, decode_config, load
from trocr_jax.errors import OutputError, TrOCRError
from trocr_jax.jobs.all_devices import load as on_all_devices
from trocr_jax.recognizer_batches import Batch, bucket_sizes
from trocr_jax.say import say


def compile(command: Compile, folder: Path) -> int:
    """Returns the exit status. folder: where jax keeps what it compiles, made here. Raises TrOCRError for what cannot
    be used, and leaves no folder then."""
    try:
        check_options(command)
        folder.mkdir(exist_ok=True)
        _compile(command)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made ({error.strerror})") from error
    except TrOCRError:
        with suppress(OSError):  # as it is not empty
            folder.rmdir()
        raise
    kept = [path.stat().st_size for path in folder.glob("*-cache")]
    say(f"{folder}: {len(kept)} programs, {sum(kept) / 1e6:.1f} MB")
    return 0


def _compile(command: Compile) -> None:
    recognizer = load(command)
    decode = decode_config(command, recognizer)
    blank = np.full((*recognizer.image_processor.size, 3), 255, np.uint8)
    most = recognizer.devices * recognizer.default_batch_size if command.batch_size is None else command.batch_size
    for size in bucket_sizes(most, recognizer.devices):
        recognizer([blank] * size, decode, most)
        say(f"batches of {size}: compiled")
    shared = load(command, by=on_all_devices)
    if shared.devices > 1:  # `jobs run` has a batch on each
        each = shared.default_batch_size if command.batch_size is None else command.batch_size
        size = shared.devices * each
        list(shared.read_batches([Batch.of_pixels([blank] * size)], decode, command.batch_size))
        say(f"jobs run, batches of {size} on {shared.devices} devices: compiled")
