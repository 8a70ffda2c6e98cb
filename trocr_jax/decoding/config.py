"""How text is searched for, in transformers' names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trocr_jax.errors import DecodeError


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """How text is searched for.

    `max_new_tokens` counts every token behind the start token, the end token too. `length_penalty` and
    `early_stopping` are those of transformers' beam search and do nothing with one beam. `do_sample` draws tokens at
    random; the draws are a function of `seed` and of the image's pixels alone.
    """

    num_beams: int = 1
    max_new_tokens: int = 64
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    do_sample: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_beams", "max_new_tokens", "num_return_sequences"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise DecodeError(f"{name} is {value!r}: give a whole number of at least 1")
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise DecodeError(
                f"num_return_sequences is {self.num_return_sequences} with {self.num_beams} beams: "
                "a search returns at most as many texts as it has beams"
            )
        if self.early_stopping not in (True, False, "never"):
            raise DecodeError(f'early_stopping is {self.early_stopping!r}: give True, False or "never"')
