"""One loop, two ways to run it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

import jax

State = TypeVar("State")
Loop = Literal["jit", "python"]


def while_loop(
    condition: Callable[[State], jax.Array], body: Callable[[State], State], state: State, *, loop: Loop = "jit"
) -> State:
    """`jax.lax.while_loop`, or the same loop in Python, outside jit, for debugging and for watching a search."""
    if loop == "jit":
        return jax.lax.while_loop(condition, body, state)
    while bool(condition(state)):
        state = body(state)
    return state
