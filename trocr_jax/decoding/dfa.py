"""Deterministic automata over bytes: the texts a constraint allows, spelled in UTF-8. Arrays, so that millions fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trocr_jax.errors import DecodeError

LIMIT = 1 << 25  # states: what a few gigabytes hold


class Dfa(NamedTuple):
    """offsets [Q + 1] int64: the arcs of state s are offsets[s] to offsets[s + 1], sorted by symbol; symbols [A] uint8
    and targets [A] int32 of each arc; accepting [Q] bool. State 0 is the start; an absent arc leads nowhere."""

    offsets: np.ndarray
    symbols: np.ndarray
    targets: np.ndarray
    accepting: np.ndarray


def from_arcs(arcs: Sequence[tuple[int, int, int]] | np.ndarray, *, accepting: Sequence[bool] | np.ndarray) -> Dfa:
    """A Dfa of (source, symbol, target) in any order."""
    table = np.asarray(arcs, np.int64).reshape(-1, 3)
    table = table[np.argsort(table[:, 0] * 256 + table[:, 1], kind="stable")]
    final = np.asarray(accepting, bool)
    return Dfa(row_offsets(table[:, 0], len(final)), table[:, 1].astype(np.uint8), table[:, 2].astype(np.int32), final)


def intersect(a: Dfa, b: Dfa) -> Dfa:
    """Texts of both. Raises DecodeError if that takes too many states."""
    a, b = sorted((a, b), key=lambda one: len(one.symbols) / len(one.accepting))  # fewer arcs are followed
    width, table_a, table_b = len(b.accepting), (a.offsets, keys(a)), keys(b)
    known = frontier = np.zeros(1, np.int64)  # a pair of states is the number p * width + q
    sources, symbols, targets = [], [], []
    while frontier.size:
        owner, arcs = rows(table_a[0], frontier // width)
        symbol = a.symbols[arcs]
        found = find(table_b, frontier[owner] % width * 256 + symbol)
        both = found >= 0
        source, target = frontier[owner[both]], a.targets[arcs[both]].astype(np.int64) * width + b.targets[found[both]]
        sources.append(source)
        symbols.append(symbol[both])
        targets.append(target)
        frontier = np.unique(target)
        frontier = frontier[find(known, frontier) < 0]
        known = np.sort(np.concatenate([known, frontier]), kind="stable")  # merges the two, which are sorted
        if len(known) > LIMIT:
            raise DecodeError(f"the constraints together take more than {LIMIT:,} states: give simpler ones")
    pairs = [np.searchsorted(known, np.concatenate(column)) for column in (sources, targets)]
    arcs = np.stack([pairs[0], np.concatenate(symbols).astype(np.int64), pairs[1]], axis=1)
    return from_arcs(arcs, accepting=a.accepting[known // width] & b.accepting[known % width])


def is_empty(dfa: Dfa) -> bool:
    """Whether it accepts no text."""
    seen = np.zeros(len(dfa.accepting), bool)
    frontier = np.zeros(1, np.int64)
    while frontier.size:
        seen[frontier] = True
        if dfa.accepting[frontier].any():
            return False
        reached = np.unique(dfa.targets[rows(dfa.offsets, frontier)[1]])
        frontier = reached[~seen[reached]]
    return True


# --- rows of unequal length, one behind the other


def row_offsets(sources: np.ndarray, count: int) -> np.ndarray:
    """Where the rows of `count` owners begin, and where the last ends; sources [A]: the owner of each entry, sorted."""
    return np.concatenate([[0], np.cumsum(np.bincount(sources, minlength=count))]).astype(np.int64)


def rows(offsets: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The entries of the chosen rows, one row behind the other: which of `chosen` each belongs to, and its index."""
    begin = offsets[chosen]
    counts = offsets[chosen + 1] - begin
    owner = np.repeat(np.arange(len(chosen)), counts)
    return owner, np.arange(len(owner)) + np.repeat(begin - (np.cumsum(counts) - counts), counts)


def keys(dfa: Dfa) -> np.ndarray:
    """source * 256 + symbol of each arc [A] int64, ascending: for `find`."""
    return np.repeat(np.arange(len(dfa.accepting)), np.diff(dfa.offsets)) * 256 + dfa.symbols


def find(sorted_keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Index of each of `wanted` in sorted_keys; -1 where it is not there."""
    if not len(sorted_keys):
        return np.full(len(wanted), -1)
    index = np.minimum(np.searchsorted(sorted_keys, wanted), len(sorted_keys) - 1)
    return np.where(sorted_keys[index] == wanted, index, -1)


def group_equal_rows(offsets: np.ndarray, columns: Sequence[np.ndarray], labels: np.ndarray) -> np.ndarray:
    """A number for each row, the same for rows with equal label and equal entries in every column; in order of first
    appearance among the sorted hashes. Hashes find the groups; then every row is compared with its group's first."""
    counts = np.diff(offsets)
    for salt in range(1, 100):
        mixed = np.full(offsets[-1], salt, np.uint64)
        for column in columns:
            mixed = _mix(mixed ^ column.astype(np.uint64))
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)])
        hashes = sums[offsets[1:]] - sums[offsets[:-1]]
        hashes = _mix(_mix(hashes ^ labels.astype(np.uint64)) ^ counts.astype(np.uint64))
        _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
        like = first[group]
        if (counts == counts[like]).all() and (labels == labels[like]).all():
            _, own = rows(offsets, np.arange(len(counts)))
            _, theirs = rows(offsets, like)
            if all((column[own] == column[theirs]).all() for column in columns):
                return group
    raise AssertionError("no salt without a collision of 64-bit hashes")


def _mix(x: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64 (Steele, Lea and Flood 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
