"""How text is searched for, in transformers' names."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from trocr_jax.decoding.checks import (
    biases,
    check_real,
    check_seed,
    check_whole,
    decay,
    sequences,
    some_ids,
    token_id,
    token_ids,
)
from trocr_jax.decoding.config_huggingface import SAMPLING, read_generation_config
from trocr_jax.decoding.types import Processor
from trocr_jax.errors import DecodeError

TokenIds = Sequence[int]
CacheDtype = Literal["int8"]


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """How text is searched for. Options have the names, meaning and, but for the length, the defaults of `generate` of
    transformers 5.23. Those that contradict each other are refused, also where transformers would warn and go on.

    Length: `max_new_tokens` and `min_new_tokens` count every token behind the start token, the end token too;
    `min_length` counts the start token as well.
    Beams: `length_penalty` and `early_stopping` do nothing with one beam. `num_beam_groups` above 1 is diverse beam
    search with `diversity_penalty`.
    Sampling: `do_sample` draws tokens at random; the draws are a function of `seed` and of the image's pixels alone.
    `top_k` is 50 unless another is given, as in `generate`, 0 for no limit; the other filters are off. All of them are
    refused without `do_sample`.
    Scores: the penalties and bans of `generate`. `sequence_bias` maps sequences of token ids to what is added to the
    score of their last token, as a dict or a list of pairs. `processors` act behind the named ones and before the
    filters of sampling.
    Not in transformers: `seed`; `processors`, there an argument of `generate`; `constraint`, texts that may come out at
    all; `choose`, how the best text is chosen: by score, or by minimum Bayes risk over all that were found ("mbr");
    `cache_dtype`: "int8" keeps what a search reads of the image and of its texts in int8 with a scale for each row (the
    memory or the keys and values made of it, and those of the texts), in less memory and not quite exact.

    Raises DecodeError naming the option.
    """

    num_beams: int = 1
    max_new_tokens: int = 64
    min_length: int = 0
    min_new_tokens: int | None = None
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    do_sample: bool = False
    seed: int = 0
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float | None = None
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: Sequence[TokenIds] | None = None
    sequence_bias: Mapping[tuple[int, ...], float] | Sequence[tuple[TokenIds, float]] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | TokenIds | None = None
    suppress_tokens: TokenIds | None = None
    begin_suppress_tokens: TokenIds | None = None
    exponential_decay_length_penalty: tuple[int, float] | None = None
    remove_invalid_values: bool = False
    renormalize_logits: bool = False
    processors: tuple[Processor, ...] = ()
    constraint: Any = None
    choose: Literal["score", "mbr"] = "score"
    cache_dtype: CacheDtype | None = None

    @classmethod
    def fairseq(cls, **overrides: Any) -> DecodeConfig:
        """The settings that TrOCR was evaluated with in fairseq: 10 beams, length penalty 1, at most 200 tokens (there
        the end token is not counted), at least 1 before the end; a line stops with its tenth finished text. overrides:
        options that go before these."""
        options = {"num_beams": 10, "length_penalty": 1.0, "max_new_tokens": 200, "min_new_tokens": 1}
        return cls(**{**options, "early_stopping": True, **overrides})

    @classmethod
    def from_generation_config(
        cls, source: Mapping[str, Any] | str | os.PathLike[str], **overrides: Any
    ) -> DecodeConfig:
        """What `generate` of transformers 5.23 does with a generation_config.json.

        source: its contents, its path, or the folder of a model; of one that has no such file, the options in its
        config.json, where they stood before. `max_length` counts the start token and gives way to
        `max_new_tokens`; with neither, 20 tokens are generated. null means the default. Options of sampling and of
        diverse beams that the others leave without effect are dropped, as is all that does not change the text (cache,
        output_*). The special tokens are those of the model.
        overrides: options of DecodeConfig that go before those of the source.
        Raises DecodeError naming an option that would change the text and is not supported, and any unknown one.
        """
        names = {field.name for field in fields(cls)}
        if unknown := sorted(overrides.keys() - names):
            raise DecodeError(f"{unknown[0]}: no option of DecodeConfig")
        return cls(**read_generation_config(source, names=names, overrides=overrides))

    def __post_init__(self) -> None:
        for field in fields(self):
            if isinstance(value := getattr(self, field.name), np.generic):
                object.__setattr__(self, field.name, value.item())
        for name, least in _LEAST.items():
            check_whole(name, getattr(self, name), least)
        if self.min_new_tokens is not None:
            check_whole("min_new_tokens", self.min_new_tokens, 0)
        for name, (holds, words) in _RANGES.items():
            check_real(name, getattr(self, name), holds, words)
        if self.min_p is not None:
            check_real("min_p", self.min_p, lambda x: 0 <= x <= 1, "a number from 0 to 1")
        for name in ("do_sample", "remove_invalid_values", "renormalize_logits"):
            if not isinstance(getattr(self, name), bool):
                raise DecodeError(f"{name} is {getattr(self, name)!r}: give True or False")
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise DecodeError(f'early_stopping is {self.early_stopping!r}: give True, False or "never"')
        if self.choose not in ("score", "mbr"):
            raise DecodeError(f'choose is {self.choose!r}: give "score" or "mbr"')
        if isinstance(self.constraint, type) or not (self.constraint is None or callable(self.constraint)):
            from trocr_jax.decoding.constraints import Constraint

            if not isinstance(self.constraint, Constraint):
                raise DecodeError(f"constraint is {self.constraint!r}: give Regex(…), Characters(…) or another of them")
            try:
                hash(self.constraint)
            except TypeError as error:
                kind = type(self.constraint).__name__
                raise DecodeError(f"constraint: {error}; make {kind} a frozen dataclass of hashable fields") from None
        if self.cache_dtype not in (None, "int8"):
            raise DecodeError(f'cache_dtype is {self.cache_dtype!r}: give "int8", or leave it out for the compute type')
        check_seed(self.seed)
        self._freeze_token_ids()
        self._check_together()

    def _freeze_token_ids(self) -> None:
        """Token ids as tuples, so that equal configurations are equal and hashable."""

        def freeze(name: str, read: Callable[[str, Any], Any]) -> None:
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, read(name, value))

        freeze("bad_words_ids", sequences)
        freeze("sequence_bias", biases)
        freeze("forced_bos_token_id", token_id)
        freeze("forced_eos_token_id", some_ids)
        freeze("suppress_tokens", token_ids)
        freeze("begin_suppress_tokens", token_ids)
        freeze("exponential_decay_length_penalty", decay)
        if not isinstance(self.processors, list | tuple):
            kind = type(self.processors).__name__
            raise DecodeError(f"processors is a {kind}: give a tuple of functions of scores and context, (it,) of one")
        for p in self.processors:
            if isinstance(p, type) or not callable(p):
                what = f"the class {p.__name__}" if isinstance(p, type) else f"a {type(p).__name__}"
                raise DecodeError(f"processors holds {what}: give functions of scores and context")
        object.__setattr__(self, "processors", tuple(self.processors))

    def _check_together(self) -> None:
        if not self.do_sample:
            for field in fields(self):
                if field.name in SAMPLING and getattr(self, field.name) != field.default:
                    raise DecodeError(
                        f"{field.name} is {getattr(self, field.name)} and do_sample is not set: it changes nothing "
                        "unless tokens are drawn; set do_sample=True or leave it out"
                    )
        if self.num_return_sequences > self.num_beams and (self.num_beams > 1 or not self.do_sample):
            raise DecodeError(
                f"num_return_sequences is {self.num_return_sequences} with {self.num_beams} beams: "
                "a search returns at most as many texts as it has beams"
            )
        if self.min_new_tokens is not None and self.min_length > 0:
            raise DecodeError("min_length and min_new_tokens are both given: leave one out")
        if self.least_new_tokens > self.max_new_tokens:
            name = "min_length" if self.min_new_tokens is None else "min_new_tokens"
            raise DecodeError(
                f"{name} asks for {self.least_new_tokens} tokens behind the start token: "
                f"max_new_tokens allows {self.max_new_tokens}"
            )
        if self.num_beam_groups == 1 and self.diversity_penalty > 0:
            raise DecodeError(f"diversity_penalty is {self.diversity_penalty} with one group: set num_beam_groups")
        if self.num_beam_groups > 1 and self.diversity_penalty == 0:
            raise DecodeError("diversity_penalty is 0: all groups would find the same texts")
        if self.num_beams % self.num_beam_groups:
            raise DecodeError(
                f"num_beam_groups is {self.num_beam_groups}: {self.num_beams} beams cannot be divided evenly"
            )
        if self.num_beam_groups > 1 and self.do_sample:
            raise DecodeError(
                "num_beam_groups is above 1 and do_sample is set: groups of beams are not drawn at random"
            )
        suppressed = set(self.suppress_tokens or ())
        for name, forced in (("forced_bos_token_id", self.forced_bos), ("forced_eos_token_id", self.forced_eos)):
            if forced and suppressed.issuperset(forced):
                raise DecodeError(f"{name}: suppress_tokens forbids all of {list(forced)}, so no token would be left")

    @property
    def least_new_tokens(self) -> int:
        """The least length in tokens behind the start token, by min_new_tokens or min_length."""
        return max(self.min_length - 1, 0) if self.min_new_tokens is None else self.min_new_tokens

    @property
    def forced_bos(self) -> tuple[int, ...]:
        return () if self.forced_bos_token_id is None else (self.forced_bos_token_id,)

    @property
    def forced_eos(self) -> tuple[int, ...]:
        return () if self.forced_eos_token_id is None else some_ids("forced_eos_token_id", self.forced_eos_token_id)


LEAST_TEMPERATURE = 1e-30  # scores of up to 3e8 divided by it are finite in f32
_LEAST = {
    "num_beams": 1,
    "max_new_tokens": 1,
    "num_return_sequences": 1,
    "num_beam_groups": 1,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "top_k": 0,
}
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "length_penalty": (lambda x: True, "a number"),
    "diversity_penalty": (lambda x: x >= 0, "a number of at least 0"),
    "temperature": (
        lambda x: x >= LEAST_TEMPERATURE,
        f"a number of at least {LEAST_TEMPERATURE}; for the likeliest token leave do_sample out",
    ),
    "top_p": (lambda x: 0 <= x <= 1, "a number from 0 to 1"),
    "typical_p": (lambda x: 0 < x <= 1, "a number above 0 and at most 1"),
    "epsilon_cutoff": (lambda x: 0 <= x < 1, "a number from 0, off, to below 1"),
    "eta_cutoff": (lambda x: 0 <= x < 1, "a number from 0, off, to below 1"),
    "repetition_penalty": (lambda x: bool(np.float32(x) > 0), "a number above 0"),
}
