"""What a text may be: characters, a regular expression, words of a list, a beginning; compiled for the device.

    automaton = compile(Regex(r"[A-Z]{2}-\\d{4}"), spellings, special=special, max_new_tokens=16)

An automaton is a `Processor`. Every text of a search that uses it satisfies the constraint when `max_new_tokens` cuts
too: a token is forbidden if too few would be left to complete the text behind it. It holds for the text that the
tokens spell, special tokens left out and no clean-up of spaces applied. Put it last of the processors that penalise or
filter, before those that only sample (temperature, top-k, ...).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from trocr_jax.decoding import dfa, lexicon, regex
from trocr_jax.decoding.automaton import Automaton, build
from trocr_jax.decoding.token_arcs import NEVER, START, token_arcs
from trocr_jax.decoding.types import Special
from trocr_jax.errors import DecodeError


class Constraint:
    """What texts may be, whatever the tokenizer. Frozen and hashable; `compile` makes a processor of it."""

    def automaton(self) -> dfa.Dfa:
        """The allowed texts, as an automaton over UTF-8. Raises DecodeError if there can be none."""
        raise NotImplementedError


@dataclass(frozen=True)
class Characters(Constraint):
    """Texts of these characters alone, the empty text too."""

    characters: str

    def __post_init__(self) -> None:
        _check_text("the allowed characters are", self.characters)

    def automaton(self) -> dfa.Dfa:
        if not self.characters:
            raise DecodeError("the list of allowed characters is empty: give at least one")
        return regex.from_regex(f"[{re.escape(self.characters)}]*")


@dataclass(frozen=True)
class Regex(Constraint):
    r"""Texts that a regular expression matches from beginning to end, in the common ground of Python's `re` and Rust's
    `regex`: classes, groups, alternatives, repetition, flags but a and x; no look-around, back-references, atomic
    groups, possessive quantifiers, or anchors but at the ends of the alternatives. `\d`, `\w` and `\s` are Python's,
    digits and letters of every script: write `[0-9]` for ten digits."""

    pattern: str

    def __post_init__(self) -> None:
        _check_text("the regex is", self.pattern)

    def automaton(self) -> dfa.Dfa:
        return regex.from_regex(self.pattern)


@dataclass(frozen=True)
class Prefix(Constraint):
    """Texts that begin with `text`."""

    text: str

    def __post_init__(self) -> None:
        _check_text("the prefix is", self.text)

    def automaton(self) -> dfa.Dfa:
        return regex.from_regex(re.escape(self.text) + "(?s:.*)")


@dataclass(frozen=True)
class Lexicon(Constraint):
    """Texts of one or more words of a list joined by `separator`, or with separator=None of exactly one.

    words: a collection of str, or the path of a UTF-8 file with one a line. Empty ones do not count.
    """

    words: Collection[str] | str | os.PathLike[str]
    separator: str | None = " "

    def __post_init__(self) -> None:
        if self.separator is not None:
            _check_text("the separator of the lexicon is", self.separator)
        try:
            if not isinstance(self.words, (str, os.PathLike, tuple, frozenset)):
                object.__setattr__(self, "words", tuple(self.words))
            hash(self)
        except TypeError:
            raise DecodeError("the words of the lexicon are no collection of str: give such, or a path") from None

    def entries(self) -> list[str]:
        """The words that are not empty. Raises DecodeError if there are none."""
        words = _lines(self.words) if isinstance(self.words, (str, os.PathLike)) else self.words
        if wrong := set(map(type, words)) - {str}:
            raise DecodeError(f"the lexicon holds a {wrong.pop().__name__}: every word must be a str")
        _check_text("the words of the lexicon are", "".join(words))
        if not (found := [word for word in words if word]):
            raise DecodeError("the lexicon is empty: give at least one word")
        return found

    def automaton(self) -> dfa.Dfa:
        return lexicon.from_words(self.entries(), separator=self.separator)


@dataclass(frozen=True, init=False)
class All(Constraint):
    """Texts that satisfy every one of several constraints."""

    constraints: tuple[Constraint, ...]

    def __init__(self, *constraints: Constraint) -> None:
        for one in constraints:
            if not isinstance(one, Constraint):
                raise DecodeError(f"All(...) holds {one!r}: give constraints alone")
        object.__setattr__(self, "constraints", constraints)

    def automaton(self) -> dfa.Dfa:
        if not self.constraints:
            raise DecodeError("All() holds no constraint: give at least one")
        return reduce(dfa.intersect, (constraint.automaton() for constraint in self.constraints))


def versions(spec: Constraint) -> tuple[tuple[int, int], ...]:
    """When each file that a constraint names was last written, in ns, and its size in bytes."""
    if isinstance(spec, All):
        return tuple(version for own in spec.constraints for version in versions(own))
    if isinstance(spec, Lexicon) and isinstance(spec.words, (str, os.PathLike)):
        with suppress(OSError, ValueError):  # which `compile` tells of
            found = os.stat(spec.words)
            return ((found.st_mtime_ns, found.st_size),)
    return ()


def compile(spec: Constraint, spellings: Sequence[bytes | None], *, special: Special, max_new_tokens: int) -> Automaton:
    """A processor that holds `spec` in every search of up to `max_new_tokens` tokens (or more), the end token counted.

    spellings [V]: the bytes of UTF-8 text that each token spells, None for those that spell none; its attribute
    `first`, if it has one, says what each spells at the beginning of a text instead.
    Raises DecodeError if no text satisfies it, the tokens cannot spell one, or only longer ones.
    """
    first = getattr(spellings, "first", spellings)
    _check_spellings(spec, spellings, first)
    texts = spec.automaton()
    arcs = token_arcs(texts, spellings, first, special=special, max_new_tokens=max_new_tokens)
    if arcs.distance[START] >= NEVER:
        if dfa.is_empty(texts):
            raise DecodeError(f"{_brief(spec)}: no text satisfies it")
        raise DecodeError(
            f"{_brief(spec)}: the tokenizer spells no text that satisfies it in {max_new_tokens} tokens, the end token "
            "counted; raise max_new_tokens, or see which characters the tokenizer has"
        )
    return build(arcs, len(spellings))


def _lines(path: str | os.PathLike[str]) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DecodeError(f"lexicon {os.fspath(path)}: {error}; give a UTF-8 file with a word a line") from error
    return text.split("\n")  # read_text has made one of the other ends of line


def _check_text(what: str, text: object) -> None:
    if not isinstance(text, str):
        raise DecodeError(f"{what} {text!r}: give a str")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        wrong = text[error.start : error.end]
        raise DecodeError(f"{what} no valid Unicode ({wrong!r}): give text that UTF-8 can hold") from None


def _brief(spec: Constraint) -> str:
    text = repr(spec) if not isinstance(spec, Lexicon) else f"Lexicon(..., separator={spec.separator!r})"
    return text if len(text) <= 200 else text[:200] + "..."


def _check_spellings(spec: Constraint, spellings: Sequence[bytes | None], first: Sequence[bytes | None]) -> None:
    """Raises DecodeError for words of a lexicon, or allowed characters, that the tokens cannot spell."""
    if isinstance(spec, All):
        for one in spec.constraints:
            _check_spellings(one, spellings, first)
    elif isinstance(spec, Lexicon):
        rest, opening = set(spellings), set(first)
        words = spec.entries()
        unusual = {character for character in set().union(*words) if character.encode() not in rest}
        # A word of characters that are tokens is spelled by them; only the others are looked at one by one.
        suspects = [word for word in words if not unusual.isdisjoint(word)] if unusual else []
        wrong = [word for word in suspects if not _can_spell(word.encode(), rest, opening)]
        if wrong:
            names = ", ".join(repr(word) for word in wrong[:5]) + (", ..." if len(wrong) > 5 else "")
            raise DecodeError(
                f"the tokenizer cannot spell {len(wrong)} of the lexicon's words ({names}): leave them out"
            )
    elif isinstance(spec, Characters) and spec.characters:
        rest = set(spellings)
        if not any(_can_spell(character.encode(), rest, rest) for character in set(spec.characters)):
            raise DecodeError(f"the tokenizer spells none of the allowed characters {spec.characters!r}")


def _can_spell(text: bytes, spellings: set[bytes | None], first: set[bytes | None]) -> bool:
    reached = [(i == 0 and b"" in first) or text[:i] in first for i in range(len(text) + 1)]
    for end in range(1, len(text) + 1):
        reached[end] = reached[end] or any(reached[begin] and text[begin:end] in spellings for begin in range(end))
    return reached[-1]
