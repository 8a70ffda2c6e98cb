"""Sentences and words in six languages, read from Debian's documentation, fortune and word list packages.

Nothing is downloaded here: `scripts/install-fonts` installs the packages. A sentence or word belongs to the
training or to the held-out split by its checksum, so the two never share one.
"""

import gzip
import html
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

from train.data.alphabet import ACCENTED, ALPHABET
from trocr_jax.errors import TrOCRError

Split = Literal["train", "heldout"]
LANGUAGES = ("en", "de", "fr", "it", "es", "pt")

# Where each Debian package puts its text; {l} is the language. A pattern that matches nothing is skipped.
_SOURCES = {
    "usr/share/debian-reference/debian-reference.{l}.txt.gz": ("en", "de", "fr", "it", "es", "pt"),
    "usr/share/doc/installation-guide-amd64/{l}/*.html": ("en", "de", "fr", "it", "es", "pt"),
    "usr/share/doc/debian/FAQ/*.{l}.html": ("en",),
    "usr/share/doc/debian/FAQ/{l}/*.html": ("en", "de", "fr", "it", "pt"),
    "usr/share/developers-reference/{l}/*.html": ("de", "fr", "it"),
    "usr/share/doc/maint-guide-{l}/html/*.html": ("es", "it"),
    "usr/share/doc/debian-handbook/html/{l}-*/*.html": ("en", "de", "fr", "it", "es", "pt"),
    "usr/share/games/fortunes/{l}/*": ("de", "it", "es"),
}
_FORTUNES = "usr/share/games/fortunes"
_PORTUGUESE_FORTUNES = ("brasil",)
_SKIPPED_FORTUNES = ("art", "ascii-art", "asciiart", "banner", "translate-me", "woerterbuch", "off")
_WORD_LISTS = {
    "en": ("american-english",),
    "de": ("ngerman",),
    "fr": ("french",),
    "it": ("italian",),
    "es": ("spanish",),
    "pt": ("portuguese", "brazilian"),
}
_ITALIAN_ACCENT = re.compile(r"(?<!\bp)([aeiou])'(?=[\s.,;:!?)]|$)")
_WORDS_PER_LANGUAGE = 30_000
_SCARCE = re.compile("[ëïùûôìîœÁÉÄÖÜ]")
_HELD_OUT_ONE_IN = 20

_BLOCK = re.compile(
    r"<(p|li|h[1-4]|dd|dt|title)\b[^>]*>(.*?)(?=</?(?:p|li|h[1-4]|dd|dt|ul|ol|dl|div|pre|table)\b)", re.S
)
_PRE = re.compile(r"<(pre|script|style)\b.*?</\1>", re.S)
_TAG = re.compile(r"<[^>]*>")
_NOT_PROSE = re.compile(r"[^\w ]|[\d_]")
_SPACE = re.compile(r"\s+")
_SENTENCE_END = re.compile(r"(?<=[.!?:;…])\s+(?=[\w«„“‘¿¡(\"'])")
_REPLACED = str.maketrans(
    {
        "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2002": " ", "\u2003": " ",
        "\u00ad": "", "\u200b": "", "\ufeff": "", "\u2010": "-", "\u2011": "-", "\u2015": "—",
    }
)  # fmt: skip
_ALLOWED = frozenset(ALPHABET)


class CorpusError(TrOCRError, ValueError):
    """The text or the typefaces that training lines are made of are not installed."""


@dataclass(frozen=True)
class Corpus:
    """The sentences and words of one split, by language; every string is clean (see `clean`)."""

    sentences: dict[str, tuple[str, ...]]
    words: dict[str, tuple[str, ...]]

    @cached_property
    def accented_words(self) -> dict[str, tuple[str, ...]]:
        """The words that hold an accented letter, by letter; letters that are in no word are left out."""
        found: dict[str, list[str]] = {letter: [] for letter in ACCENTED}
        for word in (word for words in self.words.values() for word in words if not word.isascii()):
            for letter in set(word) & found.keys():
                found[letter].append(word)
        return {letter: tuple(words) for letter, words in found.items() if words}


def clean(text: str) -> str | None:
    """NFC with single spaces and no space at the ends; None where nothing is left or a character is not in ALPHABET."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text).translate(_REPLACED)
    text = _SPACE.sub(" ", text).strip()
    return text if text and _ALLOWED.issuperset(text) else None


def is_held_out(text: str) -> bool:
    """Whether a sentence or word is one of the 5% that training never uses."""
    return zlib.crc32(text.encode()) % _HELD_OUT_ONE_IN == 0


@lru_cache(maxsize=2)  # the styles of a recipe share them
def load_corpus(split: Split, *, root: Path = Path("/")) -> Corpus:
    """Reads every installed source below `root`.

    Raises:
      CorpusError: a language has too little text or no word list.
    """
    sentences, words = {}, {}
    for language in LANGUAGES:
        found = dict.fromkeys(s for s in _sentences(root, language) if is_held_out(s) == (split == "heldout"))
        sentences[language] = tuple(found)
        words[language] = tuple(w for w in _words(root, language) if is_held_out(w) == (split == "heldout"))
        if len(found) < 100 or len(words[language]) < 100:
            raise CorpusError(
                f"Only {len(found)} sentences and {len(words[language])} words of language '{language}' were found "
                f"below {root}. Install Debian's text packages and word lists with scripts/install-fonts."
            )
    return Corpus(sentences=sentences, words=words)


def _sentences(root: Path, language: str) -> Iterator[str]:
    for path in _files(root, language):
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if path.suffix == ".html":
            text = _PRE.sub(" <p>", text)
            blocks: Iterable[str] = (html.unescape(_TAG.sub("", m[2])) for m in _BLOCK.finditer(text))
        elif path.suffix == ".gz":
            blocks = re.split(r"\n\s*\n", text)
        else:
            if language == "it":  # typed without accents: perche' e' cosi'
                text = _ITALIAN_ACCENT.sub(lambda m: unicodedata.normalize("NFC", m[1] + "\u0300"), text)
            blocks = re.split(r"\n%\n|\n\s*\n", text)
        for block in blocks:
            for sentence in _SENTENCE_END.split(block):
                cleaned = clean(sentence)
                if cleaned and _is_prose(cleaned):
                    yield cleaned


def _files(root: Path, language: str) -> list[Path]:
    found: list[Path] = []
    for pattern, languages in _SOURCES.items():
        if language in languages:
            found += sorted(root.glob(pattern.format(l=language)))
    fortunes = sorted((root / _FORTUNES).glob("*"))
    if language == "en":
        found += [p for p in fortunes if p.name not in _PORTUGUESE_FORTUNES]
    if language == "pt":
        found += [p for p in fortunes if p.name in _PORTUGUESE_FORTUNES]
    # The Italian fortunes are linked into the folder of the English ones.
    found = [p for p in found if p.is_file() and not p.is_symlink()]
    return [p for p in found if p.suffix not in (".dat", ".u8") and p.stem not in _SKIPPED_FORTUNES]


def _is_prose(sentence: str) -> bool:
    if not 12 <= len(sentence) <= 400 or sentence.count(" ") < 2:
        return False
    return len(_NOT_PROSE.sub("", sentence)) >= 0.75 * len(sentence)


def _words(root: Path, language: str) -> Iterator[str]:
    for name in _WORD_LISTS[language]:
        path = root / "usr/share/dict" / name
        if not path.is_file():
            continue
        words = path.read_text(encoding="utf-8").splitlines()
        if language == "fr":
            words = [word.replace("oeu", "œu") for word in words]  # the list is spelt for keyboards without the letter
        # Lists are sorted by letter: an even stride keeps every letter while workers stay small.
        stride = max(1, len(words) // _WORDS_PER_LANGUAGE)
        for number, word in enumerate(words):
            if number % stride and not _SCARCE.search(word):
                continue
            cleaned = clean(word)
            if cleaned and " " not in cleaned and "/" not in cleaned:
                yield cleaned
