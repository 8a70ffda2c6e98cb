"""Decoders and sources for processes that decode. Such a process imports this file: beside the tests it would import
jax with them, which takes longer than all that it is to do."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from trocr_jax.errors import SourceError
from trocr_jax.jobs.decode_worker import Decoded

SIZE = (4, 6)


@dataclass(frozen=True)
class Numbers:
    """Decodes the id "…-7" to pixels of 7, after so many seconds; "…-stop-7" stops its process first, for ever, and
    "…-gone-7" has no source."""

    seconds: float = 0.0
    log: str = ""

    def __call__(self, id: str, place: Any) -> Decoded:
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{id}\n")
        if "stop" in id:
            os.kill(os.getpid(), signal.SIGSTOP)
        if "gone" in id:
            raise SourceError(f"{id}: gone")
        time.sleep(self.seconds)
        number = int(id.rsplit("-", 1)[1])
        return Decoded(np.full((*SIZE, 3), number, np.uint8), float(number))


@dataclass(frozen=True)
class Given:
    """An image for "plain"; of "silent.tar" nothing is heard."""

    kind: ClassVar[str] = "given"

    def read(self, place: Any) -> np.ndarray:
        if place[0] == "silent.tar":
            time.sleep(1000)
        return np.zeros((*SIZE, 3), np.uint8)

    def check(self) -> None:
        pass


@dataclass(frozen=True)
class Stopped(Given):
    """Its process is stopped while it reads."""

    def read(self, place: Any) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGSTOP)
        raise AssertionError


@dataclass(frozen=True)
class Decoding(Given):
    """Its images are decoded while they are read."""

    kind: ClassVar[str] = "tfds"


@dataclass(frozen=True)
class ToBeMade(Given):
    """Its images are made of what has been read."""

    def read(self, place: Any) -> Any:
        return partial(super().read, place)


class BrokenDecoder:
    """Cannot be unpickled in the process that is to decode."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return _broken, (str(self.folder),)

    def __call__(self, id: str, place: Any) -> Any:
        raise AssertionError


def _broken(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    raise ModuleNotFoundError("No module named 'that_reads_images'")
