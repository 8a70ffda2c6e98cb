"""Reads n-gram language models in the ARPA format, which kenlm, SRILM and their like write.

    \\data\\
    ngram 1=3            one line for each order
    \\1-grams:
    -1.2 <s> -0.3        log10 of the probability, n words, log10 of the back-off weight (0 if it is left out)
    \\end\\
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from array import array
from collections.abc import Iterable
from typing import NamedTuple, cast

import numpy as np

from trocr_jax.errors import DecodeError

LOG_ZERO = -99.0  # what the format writes for the logarithm of zero
_COUNT = re.compile(rb"ngram\s+(\d+)\s*=\s*(\d+)")
_SECTION = re.compile(rb"\\(\d+)-grams:")


class NGrams(NamedTuple):
    """The n-grams of one order. words [M, n] int32: indices of words; log_probs, backoffs [M] f64: natural logs."""

    words: np.ndarray
    log_probs: np.ndarray
    backoffs: np.ndarray


class Arpa(NamedTuple):
    """A model as its file has it. words: those of the 1-grams, in their order; orders: 1-grams first."""

    words: list[str]
    orders: list[NGrams]


def read_arpa(path: str | os.PathLike[str]) -> Arpa:
    """Reads a file, plain or gzip. Raises DecodeError naming the file, and the line where it stops being ARPA."""
    try:
        with open(path, "rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if compressed else open(path, "rb") as lines:
            return _parse(cast(Iterable[bytes], lines))
    except FileNotFoundError:
        raise DecodeError(f"{os.fspath(path)}: no such file; give a language model in the ARPA format") from None
    except _NotArpaError as error:
        raise DecodeError(f"{os.fspath(path)}: {error}; give a language model in the ARPA format") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DecodeError(f"{os.fspath(path)}: cannot be read ({error})") from error


class _NotArpaError(Exception):
    pass


def _parse(lines: Iterable[bytes]) -> Arpa:
    counts: list[int] = []
    orders: list[NGrams] = []
    index: dict[bytes, int] = {}
    order = -1  # of the section that is read: -1 before the header, 0 in it
    ids, log_probs, backoffs = array("i"), array("d"), array("d")

    def close() -> None:
        if order > 0:
            if len(log_probs) != counts[order - 1]:
                raise _NotArpaError(f"has {len(log_probs)} {order}-grams where its header says {counts[order - 1]}")
            words = np.array(ids, np.int32).reshape(-1, order)
            orders.append(NGrams(words, _natural(log_probs), _natural(backoffs)))
            del ids[:], log_probs[:], backoffs[:]

    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields or order < 0:
            order = max(order, 0 if fields == [b"\\data\\"] else -1)
        elif fields == [b"\\end\\"]:
            close()
            if len(orders) != len(counts) or not counts:
                raise _NotArpaError(f"ends behind {len(orders)} of {len(counts)} orders")
            return Arpa(_decoded(index), orders)
        elif match := _SECTION.fullmatch(fields[0]):
            close()
            order += 1
            if int(match[1]) != order or order > len(counts):
                raise _NotArpaError(f"line {number}: {order}-grams are missing")
        elif order == 0:
            if not (match := _COUNT.fullmatch(line.strip())) or int(match[1]) != len(counts) + 1:
                raise _NotArpaError(f"line {number}: is no count of n-grams")
            counts.append(int(match[2]))
        else:
            if not 0 <= len(fields) - order - 1 <= 1:
                raise _NotArpaError(f"line {number}: is not a {order}-gram")
            if order == 1 and index.setdefault(fields[1], len(index)) != len(log_probs):
                raise _NotArpaError(f"line {number}: a word is listed twice")
            try:
                ids.extend([index[word] for word in fields[1 : order + 1]])
                log_probs.append(float(fields[0]))
                backoffs.append(float(fields[order + 1]) if len(fields) > order + 1 else 0.0)
            except KeyError as error:
                raise _NotArpaError(f"line {number}: {error.args[0]!r} is not among the 1-grams") from None
            except ValueError as error:
                raise _NotArpaError(f"line {number}: {error}") from None
    raise _NotArpaError("has no end: it is not ARPA, or was cut off" if order >= 0 else "has no \\data\\ header")


def _natural(log10: array[float]) -> np.ndarray:
    values = np.array(log10, np.float64)
    if np.isnan(values).any() or (values == np.inf).any():
        raise _NotArpaError("holds a logarithm that is no number")
    return np.maximum(values, LOG_ZERO) * np.log(10.0)


def _decoded(words: Iterable[bytes]) -> list[str]:
    try:
        return [word.decode() for word in words]
    except UnicodeDecodeError as error:
        raise _NotArpaError(f"holds a word that is not UTF-8 ({error.object!r})") from None
