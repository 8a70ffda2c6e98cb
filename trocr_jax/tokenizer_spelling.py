"""What each token of a tokenizer spells: the bytes that `decode` puts into the text for it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from trocr_jax.errors import TokenizerError
from trocr_jax.tokenizer import special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Spellings(list[bytes | None]):
    """What each token spells behind others, by id; None for special tokens and ids that spell nothing.

    first: the same at the beginning of a text, where a sentencepiece tokenizer drops the spaces of its first token.
    The text of a sequence of tokens is the UTF-8 of the first one's `first` and the others' spellings; bytes that are
    not UTF-8 become U+FFFD.
    """

    first: list[bytes | None]


def spellings(tokenizer: PreTrainedTokenizerBase, size: int | None = None) -> Spellings:
    """The spellings of a byte-level BPE, sentencepiece or character tokenizer, `size` of them: the vocabulary of the
    model, which may have more ids than the tokenizer or fewer. Raises TokenizerError for another kind of tokenizer."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder: dict[str, Any] = (json.loads(backend.to_str())["decoder"] if backend is not None else None) or {}
    kind = decoder.get("type")
    ids = sorted(set(tokenizer.get_vocab().values()) - special_ids(tokenizer))
    # As written where it is decoded: the vocabulary has what was asked for when a token was added.
    texts: dict[int, str] = dict(zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True))
    count = max(tokenizer.get_vocab().values(), default=-1) + 1 if size is None else size
    found = Spellings()
    if kind == "ByteLevel":
        found.extend(_bytes_of(texts.get(i)) for i in range(count))
        found.first = list(found)
    elif kind == "Metaspace":
        space = decoder["replacement"]
        found.extend(_text_of(texts.get(i), space, " ") for i in range(count))
        dropped = " " if decoder.get("prepend_scheme", "always") == "never" else ""
        found.first = [_text_of(texts.get(i), space, dropped) for i in range(count)]
    elif kind == "Fuse":
        found.extend(_text_of(texts.get(i), "", "") for i in range(count))
        found.first = list(found)
    else:
        raise TokenizerError(
            f"what the tokens of {type(tokenizer).__name__} (decoder {kind}) spell is not known; constraints work with "
            "byte-level BPE, sentencepiece and character tokenizers"
        )
    return found


def _text_of(token: str | None, old: str, new: str) -> bytes | None:
    return None if token is None else token.replace(old, new).encode()


def _bytes_of(token: str | None) -> bytes | None:
    """A byte-level token is written with one printable character a byte (the table of GPT-2)."""
    if token is None:
        return None
    if all(character in _BYTES for character in token):
        return bytes(_BYTES[character] for character in token)
    return token.encode()


def _byte_characters() -> dict[str, int]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_characters()
