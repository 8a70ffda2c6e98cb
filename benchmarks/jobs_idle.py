"""A decoder that does nothing, in a module that a decoding process imports quickly."""

from __future__ import annotations

import time

import numpy as np

from trocr_jax.jobs.decode_worker import Decoded


class Idle:
    """Black pixels of a size (H, W) for whatever it is asked for, after so many seconds of sleep."""

    def __init__(self, size: tuple[int, int], seconds: float = 0.0) -> None:
        self._pixels, self._seconds = np.zeros((*size, 3), np.uint8), seconds

    def __call__(self, id: str, place: object) -> Decoded:
        if self._seconds:
            time.sleep(self._seconds)
        return Decoded(self._pixels, 0.0)
