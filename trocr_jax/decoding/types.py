"""What a search and a model say to each other. B images, K hypotheses each, V vocabulary, L new tokens at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import jax

from trocr_jax.errors import DecodeError

Cache = Any  # any pytree whose every leaf starts with the axes [B, K]


class StepFn(Protocol):
    """A language model as a search sees it: one token further for every hypothesis."""

    def __call__(self, tokens: jax.Array, cache: Cache, position: jax.Array) -> tuple[jax.Array, Cache]:
        """tokens [B, K] int32 stand at `position` (int32 scalar; the start token at 0)
        -> logits [B, K, V] f32 of the token at position + 1, cache."""
        ...


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """How text is searched for.

    `max_new_tokens` counts every token behind the start token, the end token too. `length_penalty` and
    `early_stopping` are those of transformers' beam search and do nothing with one beam.
    """

    num_beams: int = 1
    max_new_tokens: int = 64
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False

    def __post_init__(self) -> None:
        for name in ("num_beams", "max_new_tokens", "num_return_sequences"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise DecodeError(f"{name} is {value!r}: give a whole number of at least 1")
        if self.num_return_sequences > self.num_beams:
            raise DecodeError(
                f"num_return_sequences is {self.num_return_sequences} with {self.num_beams} beams: "
                "a search returns at most as many texts as it has beams"
            )
        if self.early_stopping not in (True, False, "never"):
            raise DecodeError(f'early_stopping is {self.early_stopping!r}: give True, False or "never"')


class Special(NamedTuple):
    """Token ids that a search needs. Hashable, so that it can be static under jit."""

    start: int
    end: int
    pad: int


class Decoded(NamedTuple):
    """What a search found, best first. R texts an image.

    token_ids [B, R, L] int32: start token left out, end token kept, pad behind it.
    token_log_probs [B, R, L] f32: of the model, 0 behind the end token.
    scores [B, R] f32.
    lengths [B, R] int32: tokens, the end token counted.
    truncated [B, R] bool: no end token within L.
    """

    token_ids: jax.Array
    token_log_probs: jax.Array
    scores: jax.Array
    lengths: jax.Array
    truncated: jax.Array
