"""A line as a model takes it: the pixels that inference would see, and token ids as labels."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from train.data.checks import Special, TextLimit, normal_text
from train.data.line import DataError
from trocr_jax.config import TrOCRConfig
from trocr_jax.image import ImageProcessor

if TYPE_CHECKING:
    import tokenizers
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Tokens:
    """Text to the token ids of a tokenizer, the end token left out; the start that a tokenizer writes (<s> of the
    published ones) is part of it. Picklable."""

    tokenizer: "PreTrainedTokenizerBase"

    def __getstate__(self) -> dict[str, Any]:
        """What is kept below stays here: a pickled tokenizer of Rust forgets that texts may hold "</s>"."""
        return {"tokenizer": self.tokenizer}

    def __call__(self, text: str, /) -> list[int]:
        """Raises DataError for a text with characters that the tokenizer has no token for, or with a special token."""
        normal = normal_text(text)
        library = self._library
        ids: list[int] = self.tokenizer(normal).input_ids if library is None else library.encode(normal).ids
        special = self._special
        odd = special.unknown in ids or special.spelt_out(ids)
        if odd and (why := TextLimit(tokenizer=self.tokenizer).refusal(normal)):
            raise DataError(f"{text!r}: {why}")
        return ids[:-1] if ids[-1:] == [special.end] else ids

    @cached_property
    def _library(self) -> "tokenizers.Tokenizer | None":
        """What `self.tokenizer` is made of, if it is one of Rust: the same ids in a quarter of the time."""
        self.tokenizer("")  # takes away what a tokenizer.json says of truncation and padding
        return getattr(self.tokenizer, "backend_tokenizer", None)

    @cached_property
    def _special(self) -> Special:
        return Special.of(self.tokenizer)


def check_vocabulary(config: TrOCRConfig, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raises DataError unless every id of the tokenizer is in the model's vocabulary and the special ids agree."""
    largest = max(tokenizer.get_vocab().values())
    if largest >= config.decoder.vocab_size:
        raise DataError(
            f"the tokenizer has ids up to {largest} and the model a vocabulary of {config.decoder.vocab_size}; "
            "take the tokenizer of the model, or extend the model's vocabulary"
        )
    for name in ("pad_token_id", "eos_token_id"):
        own, wanted = getattr(tokenizer, name), getattr(config, name)
        if own != wanted:
            raise DataError(f"{name} is {own} in the tokenizer and {wanted} in the model; take the model's tokenizer")


def pixels(processor: ImageProcessor, image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3], equal to `processor.pixels(image)`; grey pictures [h, w] are resized in one channel."""
    return processor.fit(Image.fromarray(image), "a line") if image.ndim == 2 else processor.pixels(image)
