"""The search that a recognizer asks `generate` for: its constraint compiled for the tokenizer, and what does not fit
refused."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from trocr_jax.config import TrOCRConfig
from trocr_jax.decoding import constraints
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.decoding.fusion import ShallowFusion
from trocr_jax.decoding.types import Processor
from trocr_jax.errors import DecodeError
from trocr_jax.generation_plan import special_tokens
from trocr_jax.recognizer_devices import Devices
from trocr_jax.tokenizer_spelling import Spellings, spellings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_MAX_NEW_TOKENS = 128  # the built-in model writes a token a character; a search ends when its lines have ended
KEPT_CONSTRAINTS = 4  # a large lexicon is slow to compile and takes memory

Choose = Literal["score", "mbr"]


class Searches:
    """Those of one model, with its tokenizer, on its devices."""

    def __init__(self, config: TrOCRConfig, tokenizer: PreTrainedTokenizerBase, on: Devices) -> None:
        self._config, self._tokenizer, self._on = config, tokenizer, on
        self._compiled: dict[Any, Processor] = {}
        self._lock = Lock()  # several threads may read with one recognizer

    @cached_property
    def spellings(self) -> Spellings:
        """The bytes that each token of the model spells, None for one that spells nothing. Raises TokenizerError for a
        tokenizer of a kind whose spelling is not known."""
        return spellings(self._tokenizer, self._config.decoder.vocab_size)

    def plan(self, decode: DecodeConfig | None) -> tuple[DecodeConfig, Choose]:
        """The search, greedy if none, with its constraint among the processors, and how to choose among its texts.
        Raises DecodeError for one that this model cannot do."""
        ids = self._config
        if decode is None:
            decode = DecodeConfig(max_new_tokens=min(DEFAULT_MAX_NEW_TOKENS, ids.decoder.max_position_embeddings))
        if not isinstance(decode, DecodeConfig):
            raise DecodeError(f"decode is {decode!r}: give a DecodeConfig")
        choose, spec = decode.choose, decode.constraint
        if choose == "mbr" and decode.num_return_sequences == 1:
            raise DecodeError('choose is "mbr" and num_return_sequences is 1: give more texts to choose from')
        decode = replace(decode, choose="score", constraint=None)
        self._on.plan(decode, ids)
        for fusion in decode.processors:
            if isinstance(fusion, ShallowFusion) and len(fusion.lm.symbols) != ids.decoder.vocab_size:
                raise DecodeError(
                    f"processors: a language model over {len(fusion.lm.symbols)} tokens does not fit a model of "
                    f"{ids.decoder.vocab_size}; read it with this recognizer's `tokens`"
                )
        if spec is not None:
            processor = (
                self._constraint(spec, decode.max_new_tokens) if isinstance(spec, constraints.Constraint) else spec
            )
            decode = replace(decode, processors=(*decode.processors, processor))
        return decode, choose

    def _constraint(self, spec: constraints.Constraint, max_new_tokens: int) -> Processor:
        ids, key = self._config, (spec, constraints.versions(spec), max_new_tokens)
        with self._lock:
            if key not in self._compiled:
                special = special_tokens(ids)
                compiled = constraints.compile(spec, self.spellings, special=special, max_new_tokens=max_new_tokens)
                while len(self._compiled) >= KEPT_CONSTRAINTS:
                    del self._compiled[next(iter(self._compiled))]
                self._compiled[key] = compiled
            return self._compiled[key]
