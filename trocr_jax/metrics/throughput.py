"""How fast lines were read."""

from __future__ import annotations

from typing import NamedTuple


class Throughput(NamedTuple):
    """Lines, characters of their text, and the seconds of the wall clock that they took."""

    lines: int
    characters: int
    seconds: float

    @property
    def lines_per_second(self) -> float:
        return self.lines / self.seconds if self.seconds > 0 else 0.0

    @property
    def characters_per_second(self) -> float:
        return self.characters / self.seconds if self.seconds > 0 else 0.0
