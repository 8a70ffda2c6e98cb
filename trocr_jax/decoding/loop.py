"""One loop, three ways to run a search: compiled, in Python, and in Python with every step shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import jax

from trocr_jax.decoding.types import Decoded, Search
from trocr_jax.errors import DecodeError

Loop = Literal["jit", "python"]


def run(search: Search, *, loop: Loop = "jit") -> Decoded:
    """What the search finds: by `jax.lax.while_loop`, or by the same loop in Python, outside jit, for debugging."""
    return search.finish(last(search, loop=loop))


def last(search: Search, *, loop: Loop = "jit") -> Any:
    """The last state of the search, for what `finish` does not tell."""
    if loop not in get_args(Loop):
        raise DecodeError(f'loop is {loop!r}: give "jit" or "python"')
    if loop == "jit":
        return jax.lax.while_loop(search.unfinished, search.advance, search.state)
    state = search.state
    while bool(search.unfinished(state)):
        state = search.advance(state)
    return state


def states(search: Search) -> Iterator[Any]:
    """Every state behind the first one: for tracing a search, and for showing texts while they grow
    (`search.finish(state)`)."""
    state = search.state
    while bool(search.unfinished(state)):
        state = search.advance(state)
        yield state
