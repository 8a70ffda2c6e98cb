"""Steps whose losses have not been looked at yet, so that the devices never wait for the program."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path

import jax
import numpy as np

from train.input import samples_of
from train.objective import Losses
from train.recipe import StageSpan

IN_FLIGHT = 2  # steps that are given to the devices before the loss of the first is looked at


class Flight:
    """Those of one stage. A loss that is not finite raises FloatingPointError, and which samples gave it is kept in
    nonfinite.json of `folder`."""

    def __init__(self, folder: Path, span: StageSpan) -> None:
        self._folder, self._span = folder, span
        self._steps: deque[tuple[int, Losses]] = deque()
        self._last: dict[str, float] = {}

    def add(self, step: int, losses: Losses) -> None:
        """Step number `step` (the first is 0) has been given to the devices."""
        self._steps.append((step, losses))
        while len(self._steps) > IN_FLIGHT:
            self._look()

    def land(self) -> dict[str, float]:
        """Waits for all; the losses of the last."""
        while self._steps:
            self._look()
        return self._last

    def _look(self) -> None:
        step, losses = self._steps.popleft()
        values = {name: float(np.asarray(x)) for name, x in losses._asdict().items()}
        if not values.pop("finite"):
            found = {"step": step, "losses": {name: repr(x) for name, x in values.items()}}
            found |= {"samples": list(samples_of(self._span, step))}
            path = self._folder / "nonfinite.json"
            where = f"its samples are in {path}"
            try:
                if jax.process_index() == 0:
                    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            except OSError as error:
                where = f"its samples are not in {path}, which cannot be written ({error.strerror})"
            raise FloatingPointError(
                f"step {step + 1}: the loss is {values['total']}, the norm of the gradients {values['gradient_norm']};"
                f" {where}. The checkpoints are of steps before it: start again with a lower learning rate, or look at"
                " these lines"
            )
        self._last = values
