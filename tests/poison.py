"""A decoder for jobs that does harm where the name of an image asks for it."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from dataclasses import dataclass
from typing import Any

from trocr_jax.jobs.decode_worker import Decoded, Decoder


@dataclass(frozen=True)
class Poison:
    """As `decoder`, but for ids that hold: segfault, hang, hungry (takes memory for ever), murder (kills the process
    that the worker works for), once (kills the worker the first time; `marks` is a folder that remembers)."""

    decoder: Decoder
    marks: str = ""

    def __call__(self, id: str, place: Any) -> Decoded:
        if "segfault" in id:
            ctypes.string_at(0)
        if "hang" in id:
            time.sleep(1000)
        if "hungry" in id:
            kept = []
            while True:
                kept.append(bytearray(1 << 24))
        if "murder" in id:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(1000)
        if "once" in id:
            mark = os.path.join(self.marks, os.path.basename(id))
            if not os.path.exists(mark):
                with open(mark, "x"):
                    os.kill(os.getpid(), signal.SIGKILL)
        return self.decoder(id, place)


@dataclass(frozen=True)
class Slow:
    """As `decoder`, a tenth of a second later."""

    decoder: Decoder

    def __call__(self, id: str, place: Any) -> Decoded:
        time.sleep(0.1)
        return self.decoder(id, place)


def slowed(*arguments: Any) -> Slow:
    """In the place of Decoder."""
    return Slow(Decoder(*arguments))
