"""What a process that reads has done so far, and how well it was used."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

_COUNTERS = ("size", "lines", "failed", "tokens", "batches", "steps", "busy", "waited")


@dataclass
class Gauge:
    """size: lines of a batch. lines: with or without a text. tokens: of the texts. batches: searched, and their steps:
    those of a batch are the tokens of its longest line. busy: seconds in which the device had something to do. waited:
    those in which no pixels were there to send."""

    size: int
    lines: int = 0
    failed: int = 0
    tokens: int = 0
    batches: int = 0
    steps: int = 0
    busy: float = 0.0
    waited: float = 0.0
    started: float = field(default_factory=time.monotonic)
    moved: float = field(default_factory=time.monotonic)  # when something was last done, or there was nothing to do

    def line(self, tokens: int | None) -> None:
        """One line more; None if it has no text."""
        self.moved = time.monotonic()
        self.lines += 1
        if tokens is None:
            self.failed += 1
        else:
            self.tokens += tokens

    def wait(self, since: float) -> None:
        """There was nothing to send since then (time.monotonic)."""
        self.moved = time.monotonic()
        self.waited += self.moved - since

    def counters(self) -> dict[str, float]:
        """What has been done so far, to be sent to another process."""
        return {name: getattr(self, name) for name in _COUNTERS}

    @staticmethod
    def later(one: Mapping[str, float], other: Mapping[str, float]) -> Mapping[str, float]:
        """Of `counters` of one process those that were taken later; they may arrive in another order."""
        return max(one, other, key=lambda counters: counters["lines"])

    def assume(self, each: Collection[Mapping[str, float]]) -> None:
        """Takes what several processes have done together for its own; the times that they waited and were busy are
        their means."""
        if each:
            for name in _COUNTERS:
                setattr(self, name, sum(found[name] for found in each))
            self.waited, self.busy = self.waited / len(each), self.busy / len(each)
            self.size = int(next(iter(each))["size"])

    def stats(self) -> dict[str, float]:
        """lines_per_second; busy_share and waiting_share of the time; padding_waste, the share of decoding steps times
        places of a batch that gave no token of any text; steps_per_line; error_rate."""
        seconds = max(time.monotonic() - self.started, 1e-9)
        read = self.lines - self.failed
        return {
            "lines": self.lines,
            "seconds": round(seconds, 3),
            "lines_per_second": round(self.lines / seconds, 2),
            "busy_share": round(self.busy / seconds, 4),
            "waiting_share": round(self.waited / seconds, 4),
            "padding_waste": round(1 - self.tokens / (self.steps * self.size), 4) if self.steps else 0.0,
            "steps_per_line": round(self.steps * self.size / read, 2) if read else 0.0,
            "error_rate": round(self.failed / self.lines, 6) if self.lines else 0.0,
        }
