"""Which phase a training run is in, seen from the process that started it: bytes of memory that both share."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any

# Of the thread that trains, in the order of a run, then of the one that writes states beside it.
TRAINS = ("start", "restore", "compilation", "steps", "evaluation", "end")
WRITES = ("", "writing", "digests", "tidying")
PHASES = (*TRAINS[:-1], *WRITES[1:])  # `end` comes once a run
AT_ONCE = ("start", "restore", "compilation")  # before the first step of a process


class Board:
    """What `watch` in a forked process writes and its parent reads."""

    def __init__(self) -> None:
        self._bytes = mmap.mmap(-1, 6)  # both phases, the number of steps done

    def clear(self) -> None:
        self._bytes[:] = bytes(6)

    def mark(self, thread: int, phase: int) -> int:
        """Puts down the phase of a thread (0 trains, 1 writes); the one before it."""
        before, self._bytes[thread] = self._bytes[thread], phase
        return before

    @property
    def step(self) -> int:
        return int.from_bytes(self._bytes[2:], "little")

    @step.setter
    def step(self, step: int) -> None:
        self._bytes[2:] = step.to_bytes(4, "little")

    @property
    def writes(self) -> bool:
        """Whether a state is being written."""
        return bool(self._bytes[1])

    def phases(self) -> list[str]:
        """What the run is doing: one phase, or two while a state is being written."""
        trains, writes = self._bytes[0], self._bytes[1]
        return [TRAINS[trains], *([WRITES[writes]] if writes else [])]


def watch(board: Board) -> None:
    """Wraps the functions of the training application in which the phases of a run begin and end."""
    from train import loop, manifest
    from train.checkpoints import Checkpoints
    from train.flight import Flight
    from train.scoring import Scorer

    def during(owner: Any, name: str, mark: Callable[[], int], unmark: Callable[[int], Any]) -> None:
        function = getattr(owner, name)

        def marked(*args: Any, **kwargs: Any) -> Any:
            before = mark()
            try:
                return function(*args, **kwargs)
            finally:
                unmark(before)

        setattr(owner, name, marked)

    def trains(owner: Any, name: str, phase: str) -> None:
        during(owner, name, lambda: board.mark(0, TRAINS.index(phase)), lambda before: board.mark(0, before))

    def writes(owner: Any, name: str, phase: str) -> None:  # restoring reads digests too, which is no writing
        number = WRITES.index(phase)
        during(owner, name, lambda: board.mark(1, number if board.writes else 0), lambda before: board.mark(1, before))

    def stepped(flight: Flight, step: int, losses: Any) -> None:
        board.mark(0, TRAINS.index("steps"))
        board.step = step + 1
        add(flight, step, losses)

    def saved(checkpoints: Checkpoints, state: Any) -> None:
        board.mark(1, WRITES.index("writing"))
        save(checkpoints, state)
        if checkpoints._writing is None:  # this step was saved before
            board.mark(1, 0)

    add, save = Flight.add, Checkpoints.save
    for owner, name, function in ((Flight, "add", stepped), (Checkpoints, "save", saved)):
        setattr(owner, name, function)
    trains(Checkpoints, "restore", "restore")
    trains(loop, "compile_unless", "compilation")
    trains(Scorer, "__call__", "evaluation")
    trains(Checkpoints, "__exit__", "end")
    writes(manifest, "digest", "digests")
    writes(Checkpoints, "_tidy", "tidying")
    during(Checkpoints, "_finish", lambda: 0, lambda before: board.mark(1, before))
