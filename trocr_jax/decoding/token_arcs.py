"""From an automaton over bytes to one over tokens, by what each token spells; trimmed to what can still be finished."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trocr_jax.decoding.dfa import Dfa, find, from_arcs, keys, row_offsets, rows
from trocr_jax.decoding.types import Special
from trocr_jax.errors import DecodeError

DEAD, FINISHED, START = 0, 1, 2
NEVER = np.iinfo(np.int16).max  # a distance: no accepted end
ARC_LIMIT = 1 << 28
# A byte arc that this many states share, to a state with this many arcs of its own (in a lexicon: the separator behind
# every word), is kept once: its tokens would be counted by the thousand for each of its owners.
SHARED_OWNERS, SHARED_DEGREE = 16, 16
BLOCK = 1 << 19  # states expanded at once: bounds memory


class TokenArcs(NamedTuple):
    """offsets [Q + 1] int64, tokens and targets [A] int32: arcs by state, sorted by token. base [Q] int32: the state
    whose arcs this one has besides its own, or DEAD, which lends none. distance [Q] int32: least number of tokens to an
    accepted end, the end token counted; NEVER if more than allowed. States: DEAD (what a forbidden token leads to),
    FINISHED, START, others."""

    offsets: np.ndarray
    tokens: np.ndarray
    targets: np.ndarray
    base: np.ndarray
    distance: np.ndarray


def token_arcs(
    dfa: Dfa,
    spellings: Sequence[bytes | None],
    first: Sequence[bytes | None],
    *,
    special: Special,
    max_new_tokens: int,
) -> TokenArcs:
    """What `dfa` allows, in tokens. spellings: what each token spells, `first`: at the beginning of a text.

    distance[START] is NEVER if no text of at most max_new_tokens tokens, the end token counted, is accepted.
    """
    shared, bundle, bundle_arcs, bundle_ends = _shared(dfa)
    count, degree, bundles = len(dfa.accepting), np.diff(dfa.offsets), len(bundle_arcs)
    start = 3 + count + bundles  # until they are numbered anew: DEAD, FINISHED, START; states of dfa; bundles; start
    base = np.full(start + 1, DEAD)
    base[3 : 3 + count] = np.where(bundle >= 0, 3 + count + bundle, DEAD)
    states = np.concatenate([np.repeat(np.arange(count), degree)[~shared], count + np.arange(bundles)])
    arcs = np.concatenate([np.flatnonzero(~shared), bundle_arcs])
    spelled = _spell(dfa, _Trie(spellings, special), 3 + states, arcs)
    opening = _spell(dfa, _Trie(first, special), np.full(degree[0], start), np.arange(degree[0]))
    silent = [i for i, text in enumerate(first) if text == b"" and i not in special]
    ends = np.concatenate([dfa.accepting & (bundle < 0), bundle_ends, dfa.accepting[:1]])
    accepting = 3 + np.flatnonzero(ends)
    table = np.concatenate(
        [
            [(DEAD, special.end, FINISHED), (FINISHED, special.pad, FINISHED)],
            spelled,
            opening,
            np.array([(start, token, 3) for token in silent], np.int64).reshape(-1, 3),
            np.stack([accepting, np.full_like(accepting, special.end), np.full_like(accepting, FINISHED)], axis=1),
        ]
    )
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    found = TokenArcs(
        offsets=row_offsets(table[:, 0], len(base)),
        tokens=table[:, 1].astype(np.int32),
        targets=table[:, 2].astype(np.int32),
        base=base.astype(np.int32),
        distance=np.zeros(0, np.int32),
    )
    return _trim(found._replace(distance=_distances(found, max_new_tokens)), start)


class _Trie:
    """Spellings as an automaton over bytes, with the tokens spelled by each of its states."""

    def __init__(self, spellings: Sequence[bytes | None], special: Special) -> None:
        states, arcs, ends = {b"": 0}, list[tuple[int, int, int]](), list[tuple[int, int]]()
        for token, text in enumerate(spellings):
            if not text or token in special:
                continue
            for i in range(1, len(text) + 1):
                if text[:i] not in states:
                    states[text[:i]] = len(states)
                    arcs.append((states[text[: i - 1]], text[i - 1], states[text[:i]]))
            ends.append((states[text], token))
        self.dfa = from_arcs(arcs, accepting=[False] * len(states))
        self.keys = keys(self.dfa)
        self.degree = np.diff(self.dfa.offsets)
        table = np.array(sorted(ends), np.int64).reshape(-1, 2)
        self.tokens, self.offsets = table[:, 1], row_offsets(table[:, 0], len(states))


def _spell(dfa: Dfa, trie: _Trie, states: np.ndarray, arcs: np.ndarray) -> np.ndarray:
    """Arcs [A, 3] (state, token, state) that begin with the byte arcs [N] of `dfa`, each of the state beside it."""
    found, total, own_keys, degree = [np.zeros((0, 3), np.int64)], 0, keys(dfa), np.diff(dfa.offsets)
    for begin in range(0, len(states), BLOCK):
        origin, arc = states[begin : begin + BLOCK], arcs[begin : begin + BLOCK]
        branch = find(trie.keys, dfa.symbols[arc])  # the arc of the trie beside it, at first of its root, 0
        while len(origin):
            ok = (arc >= 0) & (branch >= 0)
            origin, arc, branch = origin[ok], arc[ok], branch[ok]
            at, state = trie.dfa.targets[branch].astype(np.int64), dfa.targets[arc].astype(np.int64)
            owner, index = rows(trie.offsets, at)
            found.append(np.stack([origin[owner], trie.tokens[index], 3 + state[owner]], axis=1))
            total += len(owner)
            if total > ARC_LIMIT:
                raise DecodeError(f"the constraint takes more than {ARC_LIMIT:,} arcs: give a simpler one")
            more = trie.degree[at] > 0
            origin, at, state = origin[more], at[more], state[more]
            if trie.degree[at].sum() < degree[state].sum():  # as where any character may follow
                owner, branch = rows(trie.dfa.offsets, at)
                arc = find(own_keys, state[owner] * 256 + trie.dfa.symbols[branch])
            else:
                owner, arc = rows(dfa.offsets, state)
                branch = find(trie.keys, at[owner] * 256 + dfa.symbols[arc])
            origin = origin[owner]
    return np.concatenate(found)


def _shared(dfa: Dfa) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Which byte arcs are kept in a bundle instead of with their states [A] bool; the bundle of each state [Q] or -1;
    the one arc of each bundle; and whether the states of a bundle accept."""
    degree = np.diff(dfa.offsets)
    pair = dfa.targets.astype(np.int64) * 256 + dfa.symbols
    names, inverse, uses = np.unique(pair, return_inverse=True, return_counts=True)
    heavy = np.flatnonzero(((uses >= SHARED_OWNERS) & (degree[names // 256] >= SHARED_DEGREE))[inverse])
    heavy = heavy[np.argsort(-uses[inverse[heavy]], kind="stable")]  # of several in a state, the most used
    sources, first = np.unique(np.searchsorted(dfa.offsets, heavy, side="right") - 1, return_index=True)
    heavy = heavy[first]
    _, first, group = np.unique(pair[heavy] * 2 + dfa.accepting[sources], return_index=True, return_inverse=True)
    shared, bundle = np.zeros(len(pair), bool), np.full(len(degree), -1)
    shared[heavy], bundle[sources] = True, group
    return shared, bundle, heavy[first], dfa.accepting[sources[first]]


def _distances(arcs: TokenArcs, limit: int) -> np.ndarray:
    """Least number of tokens from each state to FINISHED; NEVER above `limit`."""
    distance = np.full(len(arcs.base), NEVER, np.int32)
    distance[FINISHED] = 0
    filled = np.flatnonzero(np.diff(arcs.offsets))
    begins = arcs.offsets[filled]
    for _ in range(limit):
        new = distance.copy()
        new[filled] = np.minimum.reduceat(distance[arcs.targets], begins) + 1
        new[FINISHED] = 0
        new[DEAD] = NEVER  # as a target; its own arc stays
        new = np.minimum(np.minimum(new, new[arcs.base]), NEVER)
        if (new == distance).all():
            break
        distance = new
    return distance


def _trim(arcs: TokenArcs, start: int) -> TokenArcs:
    """Without arcs and states that lead to no accepted end, or that `start` does not reach; states numbered anew."""
    sources = np.repeat(np.arange(len(arcs.base)), np.diff(arcs.offsets))
    kept = arcs.distance[arcs.targets] < NEVER
    tokens, targets, sources = arcs.tokens[kept], arcs.targets[kept], sources[kept]
    offsets = row_offsets(sources, len(arcs.base))
    seen = np.zeros(len(arcs.base), bool)
    frontier = np.array([DEAD, FINISHED, start])
    while frontier.size:
        seen[frontier] = True
        near = np.unique(np.concatenate([targets[rows(offsets, frontier)[1]], arcs.base[frontier]]))
        frontier = near[~seen[near]]
    order = np.concatenate([[DEAD, FINISHED, start], np.setdiff1d(np.flatnonzero(seen), [DEAD, FINISHED, start])])
    number = np.zeros(len(seen), np.int32)
    number[order] = np.arange(len(order))
    _, index = rows(offsets, order)
    return TokenArcs(
        offsets=row_offsets(number[sources[index]], len(order)),
        tokens=tokens[index],
        targets=number[targets[index]],
        base=number[arcs.base[order]],
        distance=arcs.distance[order],
    )
