"""What a Recognizer returns for an image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from trocr_jax.calibration import Calibration
from trocr_jax.confidence import (
    Alternative,
    Confidence,
    alternatives,
    character_confidences,
    line_confidence,
    minimum_bayes_risk,
    token_spans,
    word_confidences,
)
from trocr_jax.decoding.types import Decoded
from trocr_jax.errors import DecodeError, TokenizerError
from trocr_jax.word_boxes import Box, CrossAttention, character_boxes, word_boxes


@dataclass(frozen=True)
class Recognition:
    """What was read in one image.

    text: without special tokens. score: that of the search: with beams the sum of token_log_probs divided by length **
    length_penalty, otherwise their sum. token_ids: the end token included, nothing behind it. token_log_probs: one for
    each of them, after processors and constraints. model_log_probs: the same before processors, what the model itself
    thinks; confidences are made of these. truncated: the text met `max_new_tokens` before its end, or a constraint
    ended it there where the model itself would have gone on (`Decoded.truncated`).
    spellings: the bytes of each token, None for special ones; None for a tokenizer whose spelling is not known.
    alternatives: all texts that were found (`num_return_sequences`), best score first and `text` among them.
    calibration: of the model, if its folder has one. attention: where the model looked, if it was asked for.
    """

    text: str
    score: float
    token_ids: list[int]
    token_log_probs: list[float]
    truncated: bool
    model_log_probs: list[float] = field(repr=False)
    spellings: list[bytes | None] | None = field(repr=False)
    alternatives: tuple[Alternative, ...] = field(repr=False)
    calibration: Calibration | None = field(repr=False, compare=False, default=None)
    attention: CrossAttention | None = field(repr=False, compare=False, default=None)

    @property
    def confidence(self) -> float:
        """How probable it is that the whole text is right, for a model with a calibration. Otherwise the geometric mean
        of the probabilities of the tokens, the end token too."""
        log_prob = math.fsum(self.model_log_probs)
        if log_prob == -math.inf or -math.inf in self.token_log_probs:  # no text was found, or none was left
            return 0.0
        return line_confidence(self.model_log_probs) if self.calibration is None else self.calibration.line(log_prob)

    @cached_property
    def characters(self) -> tuple[Confidence, ...]:
        """Each character of the text and how probable it is that it is right, for a model with a calibration; otherwise
        its share in the probability of its tokens (`trocr_jax.confidence` says how). Raises TokenizerError if it is not
        known what the tokens spell."""
        own = self.own_characters
        return own if self.calibration is None else _calibrated(own, self.calibration.character)

    @cached_property
    def words(self) -> tuple[Confidence, ...]:
        """Each word of the text and how probable it is that it is right, for a model with a calibration; otherwise the
        product of what the model itself gives to its characters. Raises as `characters` does."""
        own = word_confidences(self.own_characters)
        return own if self.calibration is None else _calibrated(own, self.calibration.word)

    @cached_property
    def character_boxes(self) -> list[Box]:
        """Where each character of the text stands in the image. Raises DecodeError without the attention, and as
        `characters` does."""
        return character_boxes(self.text, self.token_spans, self._attention)

    @cached_property
    def word_boxes(self) -> list[Box]:
        """Where each word of the text stands in the image. Raises as `character_boxes` does."""
        return word_boxes(self.text, self.token_spans, self._attention)

    @cached_property
    def own_characters(self) -> tuple[Confidence, ...]:
        return character_confidences(self.text, self._known_spellings, self.model_log_probs)

    @property
    def token_spans(self) -> list[tuple[int, int]]:
        """Which characters of the text each token spells, from and to. Raises as `characters` does."""
        return token_spans(self.text, self._known_spellings)

    @property
    def _known_spellings(self) -> list[bytes | None]:
        if self.spellings is None:
            raise TokenizerError(
                "what the tokens of this tokenizer spell is not known: its characters have no confidence and no box"
            )
        return self.spellings

    @property
    def _attention(self) -> CrossAttention:
        if self.attention is None:
            raise DecodeError("boxes are made of the attention, which was not asked for: read with attention=True")
        return self.attention


def _calibrated(parts: Sequence[Confidence], mapped: Callable[[float], float]) -> tuple[Confidence, ...]:
    return tuple(
        part._replace(confidence=mapped(math.log(part.confidence) if part.confidence > 0 else -math.inf))
        for part in parts
    )


def recognition(
    found: Decoded,
    texts: Sequence[str],
    spellings: Sequence[bytes | None] | None,
    *,
    drawn: bool,
    choose: Literal["score", "mbr"],
    calibration: Calibration | None = None,
) -> Recognition:
    """One image's. found: [R, L] arrays of numpy; texts: R; drawn: whether they are samples, which count the same."""
    best = 0
    listed: tuple[Alternative, ...] = (Alternative(texts[0], float(found.scores[0]), 1.0),)
    if len(texts) > 1:
        order = np.argsort(-np.asarray(found.scores), kind="stable").tolist()
        weights = [0.0] * len(texts) if drawn else found.model_log_probs.sum(axis=-1).tolist()
        # Not of beams that found fewer texts, nor of draws for which no token was left.
        there = (found.token_log_probs.sum(axis=-1) > -math.inf).tolist()
        order = [i for i in order if there[i]] or order[:1]
        if not drawn:  # what several groups of beams have found
            first = {tuple(found.token_ids[i].tolist()): i for i in reversed(order)}
            order = [i for i in order if i in first.values()]
        listed = alternatives(
            [texts[i] for i in order], [float(found.scores[i]) for i in order], [weights[i] for i in order]
        )
        chosen = listed[minimum_bayes_risk(listed) if choose == "mbr" else 0]
        best = next(i for i in order if texts[i] == chosen.text)
    length = int(found.lengths[best])
    token_ids = found.token_ids[best, :length].tolist()
    return Recognition(
        text=texts[best],
        score=float(found.scores[best]),
        token_ids=token_ids,
        token_log_probs=found.token_log_probs[best, :length].tolist(),
        truncated=bool(found.truncated[best]),
        model_log_probs=found.model_log_probs[best, :length].tolist(),
        spellings=None if spellings is None else [spellings[token] for token in token_ids],
        alternatives=listed,
        calibration=calibration,
    )
