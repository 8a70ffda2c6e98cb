"""What is read for what: edits of aligned texts, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein

from trocr_jax.metrics.rates import Texts, UnicodeForm, pair


class Edit(NamedTuple):
    """A stretch of the reference and what stands for it in the hypothesis: "" where something was left out or put in.

    equal: nothing was changed. The stretches of `edits` spell both texts.
    """

    reference: str
    hypothesis: str
    equal: bool


def edits(reference: str, hypothesis: str) -> Iterator[Edit]:
    """A shortest alignment of two texts, in order. Neighbouring changes are one stretch: "rn" read as "m" is one edit.

    Of several shortest alignments it is the one of rapidfuzz.
    """
    for equal, blocks in groupby(Levenshtein.opcodes(reference, hypothesis), lambda block: block.tag == "equal"):
        stretch = list(blocks)
        first, last = stretch[0], stretch[-1]
        yield Edit(reference[first.src_start : last.src_end], hypothesis[first.dest_start : last.dest_end], equal)


def confusions(
    references: Texts, hypotheses: Texts, *, longest: int = 1, unicode_form: UnicodeForm | None = None
) -> Counter[tuple[str, str]]:
    """How often each piece of a reference was read as another piece: (reference, hypothesis) -> count, where "" is
    nothing. Only what differs is counted.

    longest: characters a piece may have on either side. 1: the character by character table, in which a change from
    "rn" to "m" is one substitution and one deletion. More: a whole stretch of changes is one entry if it is no longer
    than that on either side, and is taken apart into characters otherwise.
    """
    found: Counter[tuple[str, str]] = Counter()
    for reference, hypothesis in pair(references, hypotheses, unicode_form=unicode_form):
        if reference == hypothesis:
            continue
        for edit in edits(reference, hypothesis):
            if edit.equal:
                continue
            if longest > 1 and max(len(edit.reference), len(edit.hypothesis)) <= longest:
                found[edit.reference, edit.hypothesis] += 1
            else:
                found.update(_characters(edit))
    return found


def _characters(edit: Edit) -> Iterable[tuple[str, str]]:
    for operation in Levenshtein.editops(edit.reference, edit.hypothesis):
        yield (
            "" if operation.tag == "insert" else edit.reference[operation.src_pos],
            "" if operation.tag == "delete" else edit.hypothesis[operation.dest_pos],
        )
