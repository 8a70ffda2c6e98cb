"""Error rates of read text.

Definition: the Levenshtein distances (insertions, deletions and substitutions, each 1) of all pairs are added up and
divided by the total length of the references. That is the corpus-level rate, not the mean of the rates of single
lines; it exceeds 1 where much is inserted. Unless asked for, nothing is normalised: case, punctuation and every space
count, and so does the Unicode form (NFC or NFD). If all references are empty the rate is 0 when all hypotheses are
empty too, and infinite otherwise.

`whitespace="jiwer"` does what jiwer 4 does by default. Characters: both ends of a text are stripped. Words: runs of two
or more white spaces become one space, the ends are stripped, and words are divided by the space character alone, so
that a single tab or line feed stays inside a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal

from rapidfuzz.distance import Levenshtein

from trocr_jax.errors import DataError
from trocr_jax.metrics.tally import Tally

Whitespace = Literal["keep", "jiwer"]
UnicodeForm = Literal["NFC", "NFD", "NFKC", "NFKD"]
Texts = str | Iterable[str]


def cer(
    references: Texts, hypotheses: Texts, *, whitespace: Whitespace = "keep", unicode_form: UnicodeForm | None = None
) -> float:
    """Character error rate: edits per reference character (Unicode code point, spaces counted).

    Takes two strings, or two equally long series of strings; raises DataError if the lengths differ, or for what is no
    string, and for another `whitespace`.
    whitespace: "keep", or "jiwer" for its default. unicode_form: both sides are brought to it first; none leaves them.
    """
    return character_edits(references, hypotheses, whitespace=whitespace, unicode_form=unicode_form).value


def wer(
    references: Texts, hypotheses: Texts, *, whitespace: Whitespace = "keep", unicode_form: UnicodeForm | None = None
) -> float:
    """Word error rate: edits per reference word. Words are what `str.split()` gives, runs without white space, or with
    whitespace="jiwer" what jiwer makes of the text. Arguments and errors as for `cer`."""
    return word_edits(references, hypotheses, whitespace=whitespace, unicode_form=unicode_form).value


def character_edits(
    references: Texts, hypotheses: Texts, *, whitespace: Whitespace = "keep", unicode_form: UnicodeForm | None = None
) -> Tally:
    """The character error rate line by line: edits, and characters of the reference. Arguments as for `cer`."""
    pairs = pair(references, hypotheses, unicode_form=unicode_form)
    if _is_jiwer(whitespace):
        pairs = [(r.strip(), h.strip()) for r, h in pairs]
    return _distances(pairs)


def word_edits(
    references: Texts, hypotheses: Texts, *, whitespace: Whitespace = "keep", unicode_form: UnicodeForm | None = None
) -> Tally:
    """The word error rate line by line: edits, and words of the reference. Arguments as for `cer`."""
    words = _jiwer_words if _is_jiwer(whitespace) else str.split
    return _distances([(words(r), words(h)) for r, h in pair(references, hypotheses, unicode_form=unicode_form)])


def exact_match(references: Texts, hypotheses: Texts, *, unicode_form: UnicodeForm | None = None) -> float:
    """Share of texts that are right to the character. Arguments and errors as for `cer`."""
    return exact_matches(references, hypotheses, unicode_form=unicode_form).value


def exact_matches(references: Texts, hypotheses: Texts, *, unicode_form: UnicodeForm | None = None) -> Tally:
    """Whether each text is right to the character (1 or 0), of 1."""
    return Tally.of((r == h, 1) for r, h in pair(references, hypotheses, unicode_form=unicode_form))


def pair(references: Texts, hypotheses: Texts, *, unicode_form: UnicodeForm | None = None) -> list[tuple[str, str]]:
    """Each reference with its hypothesis, in `unicode_form` if given. Raises DataError if the lengths differ, or for
    what is no text."""
    one, other = ([side] if isinstance(side, str) else list(side) for side in (references, hypotheses))
    for name, side in (("references", one), ("hypotheses", other)):
        if others := [i for i, text in enumerate(side) if not isinstance(text, str)]:  # as NaN of a table's empty cells
            raise DataError(f'{name}[{others[0]}] is {side[others[0]]!r}, and no text; give "" where there is none')
    if len(one) != len(other):
        raise DataError(f"{len(one)} references and {len(other)} hypotheses: give as many of each")
    if unicode_form is not None:
        one, other = ([unicodedata.normalize(unicode_form, text) for text in side] for side in (one, other))
    return list(zip(one, other, strict=True))


def _is_jiwer(whitespace: Whitespace) -> bool:
    if whitespace not in ("keep", "jiwer"):
        raise DataError(f"whitespace is {whitespace!r}: give 'keep' or 'jiwer'")
    return whitespace == "jiwer"


_SPACES = re.compile(r"\s\s+")


def _jiwer_words(text: str) -> list[str]:
    return [word for word in _SPACES.sub(" ", text).strip().split(" ") if word]


def _distances(pairs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> Tally:
    return Tally.of((Levenshtein.distance(r, h), len(r)) for r, h in pairs)
