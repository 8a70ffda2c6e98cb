"""`trocr-jax compile`: the programs with which `transcribe` and `jobs run` read, compiled and kept beside the model."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from trocr_jax.cli import Compile
from trocr_jax.cli.decode import check_options, decode_config, load
from trocr_jax.errors import OutputError, TrOCRError
from trocr_jax.jobs.all_devices import load as on_all_devices
from trocr_jax.recognizer_batches import Batch, bucket_sizes
from trocr_jax.say import say

_FAILED = "Error writing persistent compilation cache entry"


def compile(command: Compile, folder: Path) -> int:
    """Returns the exit status. folder: where jax keeps what it compiles, made here. Raises TrOCRError for what cannot
    be used, and leaves no folder then."""
    try:
        check_options(command)
        folder.mkdir(exist_ok=True)
        with _kept(folder):
            _compile(command)
    except TrOCRError:
        with suppress(OSError):  # as it is not empty
            folder.rmdir()
        raise
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made or written ({error.strerror or error})") from error
    kept = [path.stat().st_size for path in folder.glob("*-cache")]
    say(f"{folder}: {len(kept)} programs, {sum(kept) / 1e6:.1f} MB")
    return 0


@contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """Raises OutputError for a program that could not be kept, of which jax only warns. What was written is removed
    then, and where the block raises."""
    with tempfile.TemporaryFile(dir=folder):  # said before anything is compiled
        pass
    before, failed = {path.name for path in folder.iterdir()}, list[str]()
    show = warnings.showwarning

    def heard(message: Warning | str, *arguments: Any, **options: Any) -> None:
        if _FAILED in str(message):
            failed.append(str(message).splitlines()[0])
        else:
            show(message, *arguments, **options)

    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=_FAILED)
        warnings.showwarning = heard
        try:
            yield
        except TrOCRError:
            _remove_others(folder, before)
            raise
    if failed:
        _remove_others(folder, before)
        raise OutputError(f"{folder}: {len(failed)} programs cannot be kept ({failed[0]}); make room and compile again")


def _remove_others(folder: Path, before: set[str]) -> None:
    for path in folder.iterdir():
        if path.name not in before:
            path.unlink()


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
