"""Regular expressions as automata over bytes, built by outlines-core (a binding of Rust's `regex-automata`)."""

from __future__ import annotations

import re
import warnings
from functools import cache
from typing import Any

import numpy as np

from trocr_jax.decoding.dfa import Dfa, from_arcs
from trocr_jax.errors import DecodeError


def from_regex(pattern: str) -> Dfa:
    """Texts that `pattern` matches from beginning to end. Raises DecodeError if it is not a regular expression."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # what set operations of other syntaxes would mean
            re.compile(pattern)
    except (re.error, FutureWarning, RecursionError, OverflowError) as error:
        raise DecodeError(f"regex {pattern!r}: {error}; write it in the syntax of Python's re") from error
    # The whole text is matched anyway; people write ^ and $ all the same.
    inner = pattern.removeprefix("^")
    if inner.endswith("$") and (len(inner) - len(inner[:-1].rstrip("\\"))) % 2:
        inner = inner[:-1]
    transitions, start, accepting = _index(pattern, _spelled_out(inner))
    numbers = {start: 0}
    for state in transitions:
        numbers.setdefault(state, len(numbers))
    arcs = [
        (numbers[source], symbol, numbers[target])
        for source, row in transitions.items()
        for symbol, target in row.items()
        if symbol < 256
    ]
    return from_arcs(arcs, accepting=[state in accepting for state in numbers])


def _spelled_out(pattern: str) -> str:
    r"""`\d`, `\w`, `\s` and their opposites as the ranges that they mean to Python: others know other versions
    of Unicode, and other definitions."""
    parts: list[str] = []
    inside, i = False, 0
    while i < len(pattern):
        step = 1
        if pattern[i] == "\\":
            step = 2
            name = pattern[i + 1]
            if name in "dDwWsS":
                parts.append(_ranges(name) if inside else f"[{_ranges(name)}]")
                i += step
                continue
        elif pattern[i] == "[" and not inside:
            inside = True
            step += pattern.startswith("^", i + 1)
            step += pattern.startswith("]", i + step)  # a first ] is a character
        elif pattern[i] == "]":
            inside = False
        parts.append(pattern[i : i + step])
        i += step
    return "".join(parts)


@cache
def _ranges(name: str) -> str:
    """The characters of an escape as ranges of a class."""
    everything = "".join(map(chr, range(0x110000)))  # surrogates too: regex-syntax 0.8 negates wrongly around a gap
    codes = np.array([ord(character) for character in re.findall(rf"\{name}", everything)])
    breaks = np.flatnonzero(np.diff(codes) > 1)
    first, last = np.append(codes[0], codes[breaks + 1]), np.append(codes[breaks], codes[-1])
    return "".join(rf"\x{{{a:x}}}-\x{{{b:x}}}" for a, b in zip(first, last, strict=True))


@cache
def _bytes() -> Any:
    """The vocabulary of all bytes: over it, the index that outlines-core builds is the automaton itself."""
    from outlines_core import Vocabulary

    return Vocabulary(256, {bytes([byte]): [byte] for byte in range(256)})  # 256: its end token


def _index(pattern: str, inner: str) -> tuple[dict[int, dict[int, int]], int, set[int]]:
    """Transitions, start and accepting states of outlines-core.

    Its automata stop at the first match by priority (`a|ab` would be `a`) unless an end is asked for, and an end may
    only be asked for behind a byte: so a zero byte stands in front, and the start is what follows it.
    """
    from outlines_core import Index

    try:
        index = Index(f"\\x00(?:{inner})\\z", _bytes())
    except ValueError as error:
        if "no transitions" in str(error):
            raise DecodeError(f"regex {pattern!r} matches no text") from error
        raise DecodeError(
            f"regex {pattern!r}: {error}; look-around, back-references and anchors inside are not regular: leave them "
            "out (the whole text is matched)"
        ) from error
    transitions = index.get_transitions()
    return transitions, transitions[index.get_initial_state()][0], set(index.get_final_states())
