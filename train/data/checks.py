"""What a record must be to train on: a picture that can be decoded, and a text of the right length."""

import io
import unicodedata
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from trocr_jax.errors import ImageError
from trocr_jax.image_file import open_rgb
from trocr_jax.tokenizer import special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MIN_SIDE = 3  # pixels; a picture that is thinner shows no text


@dataclass(frozen=True)
class TextLimit:
    """How long a text may be, and what measures it.

    Attributes:
        length: in tokens of `tokenizer`, special ones counted and the end token in any case, which training adds
            where the tokenizer does not; in characters without one; None for any length.
        tokenizer: texts that it knows no token for are refused too.
        tokenizer_name: what messages and build.json call it.
    """

    length: int | None = None
    tokenizer: "PreTrainedTokenizerBase | None" = field(default=None, compare=False)
    tokenizer_name: str = ""

    def measure(self, text: str) -> int:
        """The length of a text, in the unit of `length`."""
        return self._length(text, self._ids(text))

    def refusal(self, text: str) -> str | None:
        """Why a text, as `normal_text` gives it, cannot be a label; None where it can."""
        if not text:
            return "its text is empty"
        odd = next((c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Co", "Cn") or c == "\ufffd"), None)
        if odd is not None:
            return f"its text holds U+{ord(odd):04X}, which nobody writes"
        ids = self._ids(text)
        if self.tokenizer is not None:
            if self._special.unknown in ids:
                unknown = sorted(c for c in set(text) if self.tokenizer.unk_token_id in self.tokenizer(c).input_ids)
                return f"the tokenizer {self.tokenizer_name} has no token for {unknown or text!r}"
            if self._special.spelt_out(ids):
                marks = self.tokenizer.convert_ids_to_tokens(sorted(self._special.all))
                found = [token for token in marks if token in text] or [text]
                return f"the tokenizer {self.tokenizer_name} takes {', '.join(found)} in its text for a mark of its own"
        if self.length is not None and (length := self._length(text, ids)) > self.length:
            unit = "characters" if self.tokenizer is None else "tokens"
            return f"its text has {length} {unit}, more than {self.length}: {text!r}"
        return None

    def _ids(self, text: str) -> list[int]:
        return [] if self.tokenizer is None else self.tokenizer(text).input_ids

    def _length(self, text: str, ids: list[int]) -> int:
        return len(text) if self.tokenizer is None else len(ids) + (ids[-1:] != [self._special.end])

    @cached_property
    def _special(self) -> "Special":
        assert self.tokenizer is not None
        return Special.of(self.tokenizer)


class Special(NamedTuple):
    """Special token ids of a tokenizer, which looks them up by name, and how many of them it puts around a text."""

    unknown: int | None
    end: int
    all: frozenset[int]
    around: int

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase") -> "Special":
        every = special_ids(tokenizer)
        around = sum(i in every for i in tokenizer("").input_ids)
        return cls(tokenizer.unk_token_id, tokenizer.eos_token_id, every, around)

    def spelt_out(self, ids: list[int]) -> bool:
        """Whether a text has special tokens of its own: "</s>" would be where it ends."""
        return sum(i in self.all for i in ids) != self.around


def normal_text(text: str) -> str:
    """NFC with single spaces and none at the ends: as texts are stored, and as errors are counted."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def image_refusal(image: bytes) -> str | None:
    """Why a picture cannot be trained on; None where it can. Decodes all of it."""
    try:
        decoded = open_rgb(image)
    except ImageError as error:
        return str(error)
    if min(decoded.size) < MIN_SIDE:
        return f"its picture is {decoded.width} x {decoded.height} pixels"
    return None


def image_bytes(image: bytes | Path) -> bytes:
    """The bytes of a picture. Raises ImageError naming the file where it cannot be read."""
    if isinstance(image, bytes):
        return image
    try:
        return image.read_bytes()
    except (OSError, ValueError) as error:  # a name that no file can have is a ValueError
        why = getattr(error, "strerror", None) or error
        raise ImageError(f"{image}: cannot be read ({why}); unpack or copy it again") from None


def is_grey(image: bytes) -> bool:
    """Whether a picture is stored in one channel of 8 bits or fewer, upright and opaque."""
    with Image.open(io.BytesIO(image)) as opened:
        return opened.mode in ("1", "L") and not opened.getexif() and "transparency" not in opened.info
