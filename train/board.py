"""Curves and pictures for TensorBoard. Of tensorboardX only what writes the file: its SummaryWriter hands all to a
thread, whose death on a full disk nothing notices until the queue to it is full and the run waits for ever."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from trocr_jax.errors import ConfigError


class Board:
    """An event file in `folder`. Every method but `close` raises OSError for a disk that is full, and its like."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError if tensorboardX is not installed."""
        try:
            from tensorboardX import event_file_writer
        except ImportError as error:
            raise ConfigError(
                "tensorboard: tensorboardX is not installed: pip install -e '.[tensorboard]'; log.jsonl has the figures"
                " too"
            ) from error
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = event_file_writer.EventsWriter(str(folder / "events"))

    def scalars(self, row: Mapping[str, float], step: int) -> None:
        """A point of each curve; what is not finite is left out."""
        from tensorboardX.summary import scalar

        self._write([scalar(name, value) for name, value in row.items() if math.isfinite(value)], step)

    def picture(self, name: str, pixels: np.ndarray, step: int) -> None:
        """pixels: [H, W, 3] uint8."""
        from tensorboardX.summary import image

        self._write([image(name, pixels, dataformats="HWC")], step)

    def close(self) -> None:
        with suppress(OSError):  # a full disk, which has been said
            self._writer.close()

    def _write(self, summaries: list[Any], step: int) -> None:
        from tensorboardX.proto.event_pb2 import Event

        for summary in summaries:
            self._writer.write_event(Event(wall_time=time.time(), step=step, summary=summary))
        self._writer.flush()
