"""Counts what XLA compiles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax

_COMPILED: list[str] = []


def _listen(event: str, duration_secs: float, **_: str | int) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _COMPILED.append(event)


jax.monitoring.register_event_duration_secs_listener(_listen)


@contextmanager
def count_compilations() -> Iterator[list[str]]:
    """A list with one entry for each program compiled in the block, however small; filled when the block ends."""
    before, found = len(_COMPILED), list[str]()
    yield found
    found.extend(_COMPILED[before:])
