"""How far a long run has come, on stderr: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

from trocr_jax.say import printable, say

INTERVAL = 10.0  # seconds between plain lines


class Progress:
    """Counts images. `bar`: whether a bar may be drawn. A context manager."""

    def __init__(self, total: int | None, *, bar: bool) -> None:
        self.total, self.done, self.failed = total, 0, 0
        self._said = 0  # images of the last plain line
        self.start = self.shown = time.monotonic()
        self._bar = tqdm(total=total, unit=" images", file=sys.stderr, dynamic_ncols=True) if bar else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None and self.shown > self.start and self.done > self._said:
            self.say(self._line())

    def say(self, message: str) -> None:
        """Prints a line without tearing the bar."""
        if self._bar is not None:
            self._bar.clear()
        say(printable(message))
        if self._bar is not None:
            self._bar.refresh()

    def update(self, *, failed: bool) -> None:
        """One image more."""
        self.done += 1
        self.failed += failed
        if self._bar is not None:
            self._bar.update()
        elif (now := time.monotonic()) - self.shown >= INTERVAL:
            self.shown, self._said = now, self.done
            self.say(self._line())

    def _line(self) -> str:
        of = "" if self.total is None else f" of {self.total}"
        rate = self.done / max(time.monotonic() - self.start, 1e-9)
        return f"{self.done}{of} images, {self.failed} failed, {rate:.1f} images/s"
