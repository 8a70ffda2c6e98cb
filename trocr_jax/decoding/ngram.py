"""A back-off n-gram language model on the device: an automaton whose states are the contexts that it knows.

A state is the longest known context of what was written; its arcs are the n-grams that continue it, sorted by token.
What a context does not list is backed off: its weight is added and the next shorter context is asked, down to the
dense row of the 1-grams (Katz 1987, as the ARPA format defines it). Memory: 12 bytes for each n-gram of two or more
words, 20 for each context, 8 for each token; never contexts times tokens.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from trocr_jax.decoding.arpa import Arpa, NGrams, read_arpa
from trocr_jax.decoding.ngram_tree import Tree
from trocr_jax.decoding.pytree import pytree
from trocr_jax.errors import DecodeError

SILENT = -1  # the symbol of a token that the language model passes over
SPACE = "▁"  # how " " is written in a file whose fields blanks separate: sentencepiece's mark
CHUNK = 64  # arcs of each hypothesis that are looked at together


@pytree
@dataclass(frozen=True, eq=False)
class NGram:
    """An n-gram model over the V tokens of a model. Made by `from_arpa`; C contexts (0 is the empty one), A arcs.

    symbols [V] int32: each token's own id, V for an unknown word, -1 for one that spells nothing. unigrams [V] f32.
    roots [V + 1] int32: the context behind each symbol alone. start int32: the context at the start of a line.
    first_arcs [C + 1], shorter [C] int32; backoffs, paths (all weights down to the empty context) and unknowns
    (log-probability of an unknown word) [C] f32. arc_symbols, arc_contexts int32, arc_log_probs f32 [A].
    order, end: static; the longest n-gram, and the id of the end token (-1 if there is none).
    """

    symbols: jax.Array
    unigrams: jax.Array
    roots: jax.Array
    start: jax.Array
    first_arcs: jax.Array
    shorter: jax.Array
    backoffs: jax.Array
    paths: jax.Array
    unknowns: jax.Array
    arc_symbols: jax.Array
    arc_contexts: jax.Array
    arc_log_probs: jax.Array
    order: int = field(metadata={"static": True})
    end: int = field(metadata={"static": True})

    @classmethod
    def from_arpa(cls, path: str | os.PathLike[str], tokens: Sequence[str | None]) -> NGram:
        """Reads an ARPA file, plain or gzip, whose words are tokens.

        tokens: the string of each token by its id, as `tokenizer.convert_ids_to_tokens` gives them; None for one that
        spells nothing, such as padding: its log-probability is 0 and the context stays, so that only the model decides
        about it. So it is for "<s>"; "</s>" is the end of a line. The token " " is written "▁" in the file, unless
        there is a token "▁". A token that is no word of the file has the probability of <unk>, 1e-100 if the file has
        none.
        Raises DecodeError if the file is not ARPA, or if a word of it is no token, naming some of those.
        """
        return _build(read_arpa(path), tokens, os.fspath(path))

    def init(self, batch: int, beams: int) -> jax.Array:
        """The context at the start of a line: [B, K] int32."""
        return jnp.broadcast_to(self.start, (batch, beams))

    def advance(self, contexts: jax.Array, tokens: jax.Array) -> jax.Array:
        """contexts, tokens [B, K] -> the contexts behind the tokens [B, K]."""
        symbols = self.symbols[tokens]
        found = self.roots[jnp.maximum(symbols, 0)]
        for context in reversed(self._chain(contexts)):  # the longest that lists the token is the last to speak
            arc, listed = self._find(context, symbols)
            found = jnp.where(listed, self.arc_contexts[arc], found)
        return jnp.where(symbols == SILENT, contexts, found)

    def log_probs(self, contexts: jax.Array) -> jax.Array:
        """contexts [B, K] -> log-probability of every token behind them [B, K, V] f32."""
        zeros = jnp.zeros((*contexts.shape, len(self.symbols)), jnp.float32)
        return self.add_to(zeros, contexts, weight=1.0, bonus=0.0)

    def add_to(self, scores: jax.Array, contexts: jax.Array, *, weight: ArrayLike, bonus: ArrayLike) -> jax.Array:
        """scores [B, K, V] + weight * log_probs(contexts) + bonus for every token but the end and silent ones."""
        b, k, v = scores.shape
        tokens = jnp.arange(v, dtype=jnp.int32)
        counted = jnp.where((self.symbols == SILENT) | (tokens == self.end), np.float32(0), np.float32(1))
        backed_off = self.unigrams[None, None, :] + self.paths[contexts][..., None]
        backed_off = jnp.where((self.symbols == v)[None, None, :], self.unknowns[contexts][..., None], backed_off)
        backed_off = jnp.where((self.symbols == SILENT)[None, None, :], np.float32(0), backed_off)
        fused = scores + weight * backed_off + (bonus * counted)[None, None, :]

        chain = jnp.stack(self._chain(contexts))  # [N - 1, B, K], longest first
        weights = self.backoffs[chain]
        weights = jnp.cumsum(weights, axis=0) - weights  # of the contexts that are longer
        rows, columns = jnp.arange(b)[:, None, None], jnp.arange(k)[None, :, None]
        places = jnp.arange(CHUNK, dtype=jnp.int32)[None, None, :]

        def context(i: jax.Array, fused: jax.Array) -> jax.Array:
            here = len(chain) - 1 - i  # the longest is written last, over what shorter ones say
            first, end = self.first_arcs[chain[here]][..., None], self.first_arcs[chain[here] + 1][..., None]

            def chunk(number: jax.Array, fused: jax.Array) -> jax.Array:
                arcs = first + number * CHUNK + places  # [B, K, CHUNK]
                symbols = jnp.where(arcs < end, self.arc_symbols.at[arcs].get(mode="clip"), v)
                log_probs = self.arc_log_probs.at[arcs].get(mode="clip") + weights[here][..., None]
                own = scores.at[rows, columns, symbols].get(mode="clip")
                value = own + weight * log_probs + bonus * counted.at[symbols].get(mode="clip")
                return fused.at[rows, columns, symbols].set(value, mode="drop")  # symbols that are no token

            return jax.lax.fori_loop(0, -(-(end - first).max() // CHUNK), chunk, fused)

        return jax.lax.fori_loop(0, len(chain), context, fused)

    def _chain(self, contexts: jax.Array) -> list[jax.Array]:
        """The contexts [B, K] and all their shorter ones, longest first; the empty one may be repeated."""
        chain = [contexts]
        while len(chain) < self.order - 1:
            chain.append(self.shorter[chain[-1]])
        return chain

    def _find(self, contexts: jax.Array, symbols: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The first arc of each context whose symbol is not smaller, and whether it is equal: binary search."""
        low, high = self.first_arcs[contexts], self.first_arcs[contexts + 1]
        end = high

        def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = bounds
            middle = (low + high) // 2
            right = (low < high) & (self.arc_symbols.at[middle].get(mode="clip") < symbols)
            return jnp.where(right, middle + 1, low), jnp.where(right, high, middle)

        steps = (len(self.symbols) + 3).bit_length()  # a context has at most an arc a symbol
        low, _ = jax.lax.fori_loop(0, steps, halve, (low, high))
        return low, (low < end) & (self.arc_symbols.at[low].get(mode="clip") == symbols)


def _build(arpa: Arpa, tokens: Sequence[str | None], name: str) -> NGram:
    v = len(tokens)
    own = {token: i for i, token in reversed(list(enumerate(tokens))) if token is not None}
    if " " in own and SPACE not in own:
        own[SPACE] = own[" "]
    words = {**own, "</s>": own.get("</s>", v + 2), "<unk>": v, "<s>": v + 1}
    if strange := [word for word in arpa.words if word not in words]:
        raise DecodeError(
            f"{name}: {len(strange)} of its {len(arpa.words)} words are no tokens of this model, such as "
            f"{', '.join(map(repr, strange[:5]))}; give a language model trained on token strings"
        )
    table = np.array([words[word] for word in arpa.words], np.int64)
    tree = Tree.grow([ngrams._replace(words=table[ngrams.words]) for ngrams in arpa.orders], v, name)

    spoken = set(table.tolist())
    symbols = np.full(v, SILENT, np.int32)
    for i, token in enumerate(tokens):
        if token is not None and token != "<s>":
            symbols[i] = i if i in spoken and token != "<unk>" else v
    unigrams = np.zeros(v + 3)
    unigrams[tree.levels[0].words[:, 0]] = tree.levels[0].log_probs
    every = np.concatenate([np.where(symbols == v, v, np.arange(v)), [v]])  # a symbol for each token, and the unknown
    kept = list(zip(tree.levels, tree.kept, strict=True))[:-1]  # the longest n-grams are no contexts
    states = [np.zeros((1, 0), np.int64), *(level.words[mask] for level, mask in kept)]
    backoffs = np.concatenate([np.zeros(1), *(level.backoffs[mask] for level, mask in kept)])
    shorter = np.concatenate([np.zeros(1, np.int64), *(tree.context(state[:, 1:]) for state in states[1:])])
    paths = backoffs.copy()
    for first, state in zip(tree.firsts, states[1:], strict=False):  # shorter contexts come first
        paths[first : first + len(state)] += paths[shorter[first : first + len(state)]]
    unknown = [tree.log_prob(np.concatenate([state, np.full((len(state), 1), v)], axis=1)) for state in states]
    nothing = NGrams(np.full((1, 1), v), np.zeros(1), np.zeros(1))  # an arc of no context: no array is empty
    arcs = [*tree.levels[1:], nothing]
    parents = np.concatenate([tree.context(level.words[:, :-1]) for level in arcs[:-1]] or [np.zeros(0, np.int64)])
    return NGram(
        symbols=jnp.asarray(symbols),
        unigrams=_f32(unigrams[:v]),
        roots=_i32(tree.context(every[:, None])),
        start=_i32(tree.context(np.array([[v + 1]]))[0]),
        first_arcs=_i32(np.searchsorted(parents, np.arange(len(backoffs) + 1))),
        shorter=_i32(shorter),
        backoffs=_f32(backoffs),
        paths=_f32(paths),
        unknowns=_f32(np.concatenate(unknown)),
        arc_symbols=_i32(np.concatenate([level.words[:, -1] for level in arcs])),
        arc_contexts=_i32(np.concatenate([tree.context(level.words) for level in arcs])),
        arc_log_probs=_f32(np.concatenate([level.log_probs for level in arcs])),
        order=len(tree.levels),
        end=own.get("</s>", -1),
    )


def _f32(values: np.ndarray) -> jax.Array:
    return jnp.asarray(values, jnp.float32)


def _i32(values: np.ndarray | np.integer) -> jax.Array:
    return jnp.asarray(values, jnp.int32)
