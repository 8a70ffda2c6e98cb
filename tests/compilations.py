"""Counts what XLA compiles, and keeps it from being kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax
from jax.experimental.compilation_cache import compilation_cache

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


@contextmanager
def nothing_kept() -> Iterator[None]:
    """What is compiled in the block is not kept for the next run: programs for devices that are not there cannot be
    read back."""
    before = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        compilation_cache.reset_cache()
