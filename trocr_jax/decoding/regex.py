"""Regular expressions as automata over bytes, built by outlines-core (a binding of Rust's `regex-automata`)."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from functools import cache
from re import _parser  # type: ignore[attr-defined]
from typing import Any

import numpy as np

from trocr_jax.decoding.dfa import Dfa, from_arcs
from trocr_jax.errors import DecodeError


def from_regex(pattern: str) -> Dfa:
    """Texts that `pattern` matches from beginning to end. Raises DecodeError if it is not a regular expression, or one
    that means something else without Python's `re`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # what set operations of other syntaxes would mean
            flags = re.compile(pattern).flags
            inner = _without_ends(pattern)
            wrong = set(_not_understood(_parser.parse(inner)))
    except (re.error, FutureWarning, RecursionError, OverflowError) as error:
        raise DecodeError(f"regex {pattern!r}: {error}; write it in the syntax of Python's re") from error
    wrong |= {why for flag, why in _FLAGS.items() if flags & flag}
    if "(?#" in "".join("." if inside or len(piece) > 1 else piece for piece, inside in _pieces(pattern)):
        wrong.add("a comment (?#...) is not understood; leave it out")
    if wrong:
        raise DecodeError(f"regex {pattern!r}: {min(wrong)}")
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


_FLAGS = {
    re.VERBOSE: "the flag x is not understood; leave it, and its spaces and comments, out",
    re.ASCII: r"the flag a is not understood; leave it out, and write [0-9] for \d and [a-zA-Z0-9_] for \w",
}
_NOT_UNDERSTOOD = {
    "AT": "an anchor inside, where it matches no text or is not understood; leave it out (the whole text is matched)",
    "POSSESSIVE_REPEAT": "a possessive quantifier is not regular; leave its second + out",
    "ATOMIC_GROUP": "an atomic group is not regular; write (?:...)",
}


def _not_understood(node: Any) -> Iterator[str]:
    """What is wrong with each part of a parsed pattern that others read otherwise than Python, or not at all."""
    if isinstance(node, tuple) and len(node) == 2:
        operation, argument = node
        if (name := str(operation)) in _NOT_UNDERSTOOD:
            yield _NOT_UNDERSTOOD[name]
        if operation is _parser.SUBPATTERN:
            yield from (why for flag, why in _FLAGS.items() if argument[1] & flag)
    if isinstance(node, tuple | list | _parser.SubPattern):
        for part in node:
            yield from _not_understood(part)


def _pieces(pattern: str) -> Iterator[tuple[str, bool]]:
    """Characters, escapes and beginnings of classes, and whether each stands in a class."""
    inside, i = False, 0
    while i < len(pattern):
        within, step = inside, 1
        if pattern[i] == "\\":
            step = 2
        elif pattern[i] == "[" and not inside:
            inside = True
            step += pattern.startswith("^", i + 1)
            step += pattern.startswith("]", i + step)  # a first ] is a character
        elif pattern[i] == "]":
            inside = False
        yield pattern[i : i + step], within
        i += step


def _without_ends(pattern: str) -> str:
    """Without the anchors at both ends of each alternative: the whole text is matched anyway, and people write them all
    the same."""
    flags = re.match(r"(\(\?[a-zA-Z]+\))*", pattern)
    assert flags is not None
    branches: list[list[str]] = [[]]
    depth = 0
    for piece, inside in _pieces(pattern[flags.end() :]):
        if not inside:
            depth += (piece == "(") - (piece == ")")
        if piece == "|" and not inside and depth == 0:
            branches.append([])
        else:
            branches[-1].append(piece)
    for branch in branches:
        while branch[:1] in (["^"], [r"\A"]):
            del branch[0]
        while branch[-1:] in (["$"], [r"\Z"]):
            del branch[-1]
    return flags.group() + "|".join(map("".join, branches))


def _spelled_out(pattern: str) -> str:
    r"""`\d`, `\w`, `\s` and their opposites as the ranges that they mean to Python: others know other versions
    of Unicode, and other definitions. `{,n}` as `{0,n}`, and `{` as itself where no repetition begins."""
    parts: list[str] = []
    place = 0
    for piece, inside in _pieces(pattern):
        repeats = re.match(r"\{(?:\d+(?:,\d*)?|,\d*)\}", pattern[place:]) if piece == "{" and not inside else None
        place += len(piece)
        if repeats and repeats.group()[1] == ",":
            piece = "{0"
        elif piece == "{" and not inside and not repeats:  # as `a{1, 2}`: the characters themselves
            piece = r"\{"
        elif piece[0] == "\\" and piece[1] in "dDwWsS":
            piece = _ranges(piece[1]) if inside else f"[{_ranges(piece[1])}]"
        parts.append(piece)
    return "".join(parts)


@cache
def _ranges(name: str) -> str:
    """The characters of an escape as ranges of a class."""
    everything = "".join(map(chr, range(0x110000)))  # surrogates too: regex-syntax 0.8 negates wrongly around a gap
    codes = np.array([ord(character) for character in re.findall(rf"\{name}", everything)])
    breaks = np.flatnonzero(np.diff(codes) > 1)
    first, last = np.append(codes[0], codes[breaks + 1]), np.append(codes[breaks], codes[-1])
    return "".join(rf"\x{{{a:x}}}-\x{{{b:x}}}" for a, b in zip(first, last, strict=True))


_FRONT = 257  # a token of three zero bytes


@cache
def _bytes() -> Any:
    """The vocabulary of all bytes: over it, the index that outlines-core builds is the automaton itself. Beside them
    _FRONT and, at 256, an end token."""
    from outlines_core import Vocabulary

    return Vocabulary(256, {bytes(3): [_FRONT], **{bytes([byte]): [byte] for byte in range(256)}})


def _index(pattern: str, inner: str) -> tuple[dict[int, dict[int, int]], int, set[int]]:
    """Transitions, start and accepting states of outlines-core.

    Its automata stop at the first match by priority (`a|ab` would be `a`) unless an end is asked for, and an end may
    only be asked for behind a byte: so zero bytes stand in front, and the start is what follows them. It also makes
    automata that may begin anywhere, with 2 ** n states for `.{n}` behind zero bytes that `.` matches. A match of the
    first zero byte alone comes before all other beginnings and stops that; it is told of behind the second.
    """
    from outlines_core import Index

    try:
        index = Index(rf"\x00\x00\x00(?:{inner})\z|\x00", _bytes())
    except ValueError as error:
        if "no transitions" in str(error):
            raise DecodeError(f"regex {pattern!r} matches no text") from error
        raise DecodeError(
            f"regex {pattern!r}: {error}; look-around and back-references are not regular: leave them out"
        ) from error
    transitions = index.get_transitions()
    return transitions, transitions[index.get_initial_state()][_FRONT], set(index.get_final_states())
