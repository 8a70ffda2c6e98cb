"""A list of words as a minimal automaton over bytes, for a million words and more."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from trocr_jax.decoding.dfa import LIMIT, Dfa, from_arcs, group_equal_rows, row_offsets, rows
from trocr_jax.errors import DecodeError


def from_words(words: Collection[str], *, separator: str | None) -> Dfa:
    """Texts that are one of `words` (not empty), or with a separator one or more of them joined by it."""
    dfa = _minimise(*_trie(sorted({word.encode() for word in words})))
    return dfa if separator is None else _join(dfa, separator.encode())


def _trie(words: list[bytes]) -> tuple[list[int], np.ndarray, np.ndarray, np.ndarray]:
    """Sorted words -> where each level of nodes begins, and of every node but the root its parent and symbol; final
    [nodes] bool. Level by level over all words at once; nodes are in the order of their parents and symbols."""
    text = np.frombuffer(b"".join(words), np.uint8)
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    begins = np.cumsum(lengths) - lengths
    node, active = np.zeros(len(words), np.int64), np.arange(len(words))  # of each word that reaches this level
    levels, parents, symbols, finals = [0, 1], [], [], [np.zeros(1, bool)]
    for depth in range(int(lengths.max())):
        longer = lengths[active] > depth
        node, active = node[longer], active[longer]
        symbol = text[begins[active] + depth]
        new = np.ones(len(active), bool)
        new[1:] = (node[1:] != node[:-1]) | (symbol[1:] != symbol[:-1])
        parents.append(node[new])
        symbols.append(symbol[new])
        node = levels[-1] + np.cumsum(new) - 1
        levels.append(levels[-1] + len(parents[-1]))
        final = np.zeros(len(parents[-1]), bool)
        final[node[lengths[active] == depth + 1] - levels[-2]] = True
        finals.append(final)
    return levels, np.concatenate(parents), np.concatenate(symbols), np.concatenate(finals)


def _minimise(levels: list[int], parents: np.ndarray, symbols: np.ndarray, final: np.ndarray) -> Dfa:
    """Equal subtrees become one state, from the leaves upwards; the root becomes state 0."""
    height = np.zeros(len(final), np.int32)
    for begin, end in zip(reversed(levels[1:-1]), reversed(levels[2:]), strict=True):
        np.maximum.at(height, parents[begin - 1 : end - 1], height[begin:end] + 1)
    offsets = row_offsets(parents, len(final))  # the child of arc i is node i + 1
    order = np.argsort(height, kind="stable")
    state = np.zeros(len(final), np.int64)
    count = 0
    sources, arc_symbols, targets, accepting = [], [], [], []
    for nodes in np.split(order, np.cumsum(np.bincount(height))[:-1]):
        owner, arcs = rows(offsets, nodes)
        own_offsets, child = row_offsets(owner, len(nodes)), state[arcs + 1]
        group = group_equal_rows(own_offsets, [symbols[arcs], child], final[nodes])
        state[nodes] = count + group
        _, first = np.unique(group, return_index=True)
        owner, kept = rows(own_offsets, first)
        sources.append(count + owner)
        arc_symbols.append(symbols[arcs[kept]])
        targets.append(child[kept])
        accepting.append(final[nodes[first]])
        count += len(first)
    table = np.stack(
        [count - 1 - np.concatenate(sources), np.concatenate(arc_symbols), count - 1 - np.concatenate(targets)], axis=1
    )
    return from_arcs(table, accepting=np.concatenate(accepting)[::-1])


def _join(dfa: Dfa, separator: bytes) -> Dfa:
    """Texts of `dfa`, one or more, joined by the separator."""
    if not separator:
        raise DecodeError("the separator of the lexicon is empty: give at least one character, or None for one entry")
    count, ends = len(dfa.accepting), np.flatnonzero(dfa.accepting)
    inside = [count + i for i in range(len(separator) - 1)]  # states within a separator
    path = [*inside, 0]
    extra = np.stack([ends, np.full_like(ends, separator[0]), np.full_like(ends, path[0])], axis=1)
    chain = np.array([*zip(inside, separator[1:], path[1:], strict=True)], np.int64).reshape(-1, 3)
    sources = np.repeat(np.arange(count), np.diff(dfa.offsets))
    table = np.concatenate([np.stack([sources, dfa.symbols.astype(np.int64), dfa.targets], axis=1), extra, chain])
    return _determinise(table, np.concatenate([dfa.accepting, np.zeros(len(inside), bool)]))


def _determinise(table: np.ndarray, accepting: np.ndarray) -> Dfa:
    """Arcs [A, 3] with several targets for some (source, symbol), where a word holds the separator: sets of states are
    made for those alone."""
    table = table[np.argsort(table[:, 0] * 256 + table[:, 1], kind="stable")]
    key = table[:, 0] * 256 + table[:, 1]
    repeated = np.zeros(len(key), bool)
    repeated[1:] = key[1:] == key[:-1]
    repeated[:-1] |= repeated[1:]
    if not repeated.any():
        return from_arcs(table, accepting=accepting)
    offsets, numbers, waiting = row_offsets(table[:, 0], len(accepting)), dict[frozenset[int], int](), []

    def number(targets: set[int]) -> int:
        if len(targets) == 1:
            return next(iter(targets))
        states = frozenset(targets)
        if states not in numbers:
            numbers[states] = len(accepting) + len(numbers)
            waiting.append(states)
            if len(accepting) + len(numbers) > LIMIT:
                raise DecodeError("too many words of the lexicon hold the separator: give separator=None or another")
        return numbers[states]

    def row(states: Collection[int]) -> dict[int, set[int]]:
        found: dict[int, set[int]] = {}
        for state in states:
            for _, symbol, target in table[offsets[state] : offsets[state + 1]].tolist():
                found.setdefault(symbol, set()).add(target)
        return found

    arcs = []
    for source in np.unique(table[repeated, 0]).tolist():
        arcs += [(source, symbol, number(to)) for symbol, to in row([source]).items() if len(to) > 1]
    while waiting:
        states = waiting.pop()
        arcs += [(numbers[states], symbol, number(to)) for symbol, to in row(states).items()]
    final = [bool(accepting[list(states)].any()) for states in numbers]
    return from_arcs(np.concatenate([table[~repeated], arcs]), accepting=np.concatenate([accepting, final]))
