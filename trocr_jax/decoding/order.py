"""Which processors a DecodeConfig asks for, and in which order they act: that of transformers 5.23."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trocr_jax.decoding import filters, processors
from trocr_jax.decoding.checks import biases
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.decoding.processors import Chain, chain
from trocr_jax.decoding.types import Processor, Special
from trocr_jax.errors import DecodeError


def processor_for(config: DecodeConfig, special: Special) -> Chain:
    """Penalties and bans, `config.processors`, the constraint, the filters of sampling, normalisation.

    Every number has one type, so that no other value of an option compiles anew (1 and 1.0 are different types); an
    option that leaves its default does, and so does another number of token ids or another length of the longest word.
    """
    constraint = () if config.constraint is None else (config.constraint,)
    last = (processors.Normalize(),) if config.renormalize_logits else ()
    return chain(*_penalties(config, special), *config.processors, *constraint, *_filters(config), *last)


def check_token_ids(config: DecodeConfig, vocab_size: int) -> None:
    """Raises DecodeError if an option holds a token that the model does not have."""
    for name, token in _token_ids(config):
        if token >= vocab_size:
            raise DecodeError(f"{name} holds token {token}: the tokens of this model are 0 to {vocab_size - 1}")


def _penalties(config: DecodeConfig, special: Special) -> Iterator[Processor]:
    end = special.end
    if config.sequence_bias is not None:
        yield processors.sequence_bias(dict(biases("sequence_bias", config.sequence_bias)))
    if config.repetition_penalty != 1:
        yield processors.RepetitionPenalty(float(config.repetition_penalty))
    if config.no_repeat_ngram_size > 0:
        yield processors.NoRepeatNGram(config.no_repeat_ngram_size)
    if words := [word for word in config.bad_words_ids or () if tuple(word) != (special.end,)]:
        yield processors.bad_words(words)  # texts have to end: the end token alone is no bad word
    if config.least_new_tokens > 0:
        yield processors.MinLength(config.least_new_tokens, end)
    if config.forced_bos_token_id is not None:
        yield processors.ForcedBos(config.forced_bos_token_id)
    if config.forced_eos_token_id is not None:
        yield processors.ForcedEos(_array(config.forced_eos), config.max_new_tokens)
    if config.remove_invalid_values:
        yield processors.RemoveInvalidValues()
    if config.exponential_decay_length_penalty is not None:
        start, factor = config.exponential_decay_length_penalty
        yield processors.ExponentialDecayLength(start, float(factor), end)
    if config.suppress_tokens:
        yield processors.SuppressTokens(_array(config.suppress_tokens))
    if config.begin_suppress_tokens:
        begin = 0 if config.forced_bos_token_id is None else 1
        yield processors.BeginSuppress(_array(config.begin_suppress_tokens), begin)


def _filters(config: DecodeConfig) -> Iterator[Processor]:
    if not config.do_sample:
        return
    least = 1 if config.num_beams == 1 else 2  # a beam needs a token beside the end token
    if config.temperature != 1:
        yield filters.Temperature(float(config.temperature))
    if config.top_k > 0:
        yield filters.top_k(config.top_k, min_tokens_to_keep=least)
    if config.top_p < 1:
        yield filters.TopP(float(config.top_p), least)
    if config.min_p is not None:
        yield filters.MinP(float(config.min_p), least)
    if config.typical_p < 1:
        yield filters.Typical(float(config.typical_p), least)
    if config.epsilon_cutoff > 0:
        yield filters.EpsilonCutoff(float(config.epsilon_cutoff), least)
    if config.eta_cutoff > 0:
        yield filters.EtaCutoff(float(config.eta_cutoff), least)


def _token_ids(config: DecodeConfig) -> Iterator[tuple[str, int]]:
    for word in config.bad_words_ids or ():
        yield from (("bad_words_ids", token) for token in word)
    if config.sequence_bias is not None:
        for sequence, _ in biases("sequence_bias", config.sequence_bias):
            yield from (("sequence_bias", token) for token in sequence)
    for name in ("forced_bos", "forced_eos"):
        yield from ((f"{name}_token_id", token) for token in getattr(config, name))
    for name in ("suppress_tokens", "begin_suppress_tokens"):
        yield from ((name, token) for token in getattr(config, name) or ())


def _array(token_ids: object) -> np.ndarray:
    return np.asarray(token_ids, np.int32)
