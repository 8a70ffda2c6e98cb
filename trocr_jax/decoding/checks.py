"""What the value of one decoding option may be. Each raises DecodeError naming the option."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from trocr_jax.errors import DecodeError

_WHOLE, _REAL = (int, np.integer), (int, float, np.integer, np.floating)
_LARGEST = float(np.finfo(np.float32).max)


def check_whole(name: str, value: Any, least: int, *, bits: int = 31) -> None:
    """bits: that a device counts it in."""
    if isinstance(value, bool) or not isinstance(value, _WHOLE) or value < least:
        raise DecodeError(f"{name} is {value!r}: give a whole number of at least {least}")
    if value >= 1 << bits:
        raise DecodeError(f"{name} is {value}: give a whole number below 2**{bits}")


def check_seed(seed: Any) -> None:
    check_whole("seed", seed, 0, bits=32)


def check_room(cache: Any, max_new_tokens: int) -> None:
    """There is a token, and a cache that says its own `max_new_tokens` has room for so many: what is written behind
    would stand in the place of the last."""
    check_whole("max_new_tokens", max_new_tokens, 1)
    room = getattr(cache, "max_new_tokens", None)
    if isinstance(room, int) and room < max_new_tokens:
        raise DecodeError(
            f"max_new_tokens is {max_new_tokens}, and the cache has room for {room} tokens: make it with as many "
            "(init_cache)"
        )


def check_logits(logits: Any, batch: int, beams: int) -> None:
    """What a step gives, looked at when the search is traced."""
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != 3 or shape[:2] != (batch, beams):
        given = type(logits).__name__ if shape is None else list(shape)
        raise DecodeError(f"the step gives logits {given}: give [B, K, V], here [{batch}, {beams}, V]")


def check_real(name: str, value: Any, holds: Callable[[float], bool], words: str) -> None:
    """A finite number of f32 for which `holds` is true; `words` say which."""
    number = isinstance(value, _REAL) and not isinstance(value, bool) and -math.inf < value < math.inf
    if number and not -_LARGEST <= value <= _LARGEST:
        raise DecodeError(f"{name} is {value!r}: give a number of at most {_LARGEST:.1e}, as f32 holds")
    if not number or not holds(value):
        raise DecodeError(f"{name} is {value!r}: give {words}")


def token_id(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, _WHOLE) or value < 0:
        raise DecodeError(f"{name} holds {value!r}: token ids are whole numbers of at least 0")
    return int(value)


def token_ids(name: str, values: Any) -> tuple[int, ...]:
    return tuple(token_id(name, value) for value in _listed(name, values, "token ids"))


def some_ids(name: str, values: Any) -> tuple[int, ...]:
    """One token id or several."""
    return _not_empty(name, token_ids(name, [values] if isinstance(values, _WHOLE) else values))


def sequences(name: str, values: Any) -> tuple[tuple[int, ...], ...]:
    """Lists of token ids."""
    found = _listed(name, values, "lists of token ids")
    return _not_empty(name, tuple(_not_empty(name, token_ids(name, value)) for value in found))


def biases(name: str, value: Any) -> tuple[tuple[tuple[int, ...], float], ...]:
    """A number for each of some lists of token ids, from a dict or pairs; the last of equal lists counts."""
    try:
        pairs = [(ids, bias) for ids, bias in (value.items() if isinstance(value, Mapping) else value)]
    except (TypeError, ValueError):
        raise DecodeError(f"{name} is {value!r}: give pairs of a list of token ids and a number") from None
    for _, bias in pairs:
        if bias != -math.inf:
            check_real(name, bias, lambda x: True, "a finite number, or -inf, for each list of token ids")
    named = {_not_empty(name, token_ids(name, ids)): float(bias) for ids, bias in pairs}
    return _not_empty(name, tuple(named.items()))


def decay(name: str, value: Any) -> tuple[int, float]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise DecodeError(f"{name} is {value!r}: give a pair of a first position and a factor")
    start, factor = value
    check_whole(name, start, 0)
    check_real(name, factor, lambda x: x > 0, "a factor above 0")
    return int(start), float(factor)


def _listed(name: str, values: Any, what: str) -> list[Any]:
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise DecodeError(f"{name} holds {values!r}: give a list of {what}")
    return list(values)


def _not_empty(name: str, values: tuple[Any, ...]) -> Any:
    if not values:
        raise DecodeError(f"{name} is or holds an empty list: leave it out")
    return values
