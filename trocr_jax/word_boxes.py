"""Where words and characters stand in a line image, from cross-attention.

1. A token looks at a place: the mean column of its attention, a median over the heads that look at one place.
2. Half way between the places of two tokens one ends and the next begins; a token that spells several characters is
   divided evenly.
3. The gap between two words is the widest stretch without ink between the last character of one and the first of the
   next, and the ends of a line are the ends of its ink; where no such stretch is found the attention has the last word.

A box is as high as the image: one line of text is in it. Everything is in pixels of the image as it was given.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

BLANK = 0.12  # share of a line's usual ink below which a column is blank: specks and paper grain
EDGE = 0.35  # widths of a character that paper beside a line has at least
REACH = 2.5  # widths of a character within which the end of a line is looked for
STEADY = 0.02  # heads that go back over at most so much more of their way than the steadiest one read along the line


class Box(NamedTuple):
    """A word or character and its edges, in pixels, x to the right and y downwards."""

    text: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, eq=False)
class CrossAttention:
    """Where a model looked while it wrote each token of a text.

    weights: f32 [layers, N, T, S], a row for every token of `token_ids`, the end token too; each row adds up to 1.
    special: how many of S stand in front of the patches. grid: rows and columns of patches. ink: f32 [W], how much ink
    is in each column of pixels that the model saw, 0 to 1. width, height: of the image as it was given. span: where in
    that image the first of the columns begins and the last one ends, in pixels; beyond it where it was padded.
    """

    weights: np.ndarray
    special: int
    grid: tuple[int, int]
    ink: np.ndarray
    width: int
    height: int
    span: tuple[float, float]

    def maps(self) -> np.ndarray:
        """Mean over layers and heads on the grid of patches: f32 [T, rows, columns]."""
        return self.weights[..., self.special :].mean(axis=(0, 1)).reshape(-1, *self.grid)

    def places(self) -> np.ndarray:
        """The column of the image that each token looked at: f64 [T], in pixels, never going back."""
        rows, columns = self.grid
        patches = self.weights[..., self.special :].astype(np.float64)
        patches = patches.reshape(-1, patches.shape[2], rows, columns).sum(axis=2)  # [heads, T, columns]
        patches /= np.maximum(patches.sum(axis=-1, keepdims=True), 1e-12)
        place = patches @ (np.arange(columns) + 0.5)  # [heads, T]
        back = np.array([_backward(row) for row in place])
        reading = back <= back.min() + STEADY
        found = np.interp(np.median(place[reading], axis=0), (0, columns), self.span)
        return np.clip(np.maximum.accumulate(found), 0, self.width)


def character_boxes(text: str, tokens: Sequence[tuple[int, int]], attention: CrossAttention) -> list[Box]:
    """The box of each character. tokens: for each token the characters of `text` that it spells, from and to.

    The characters of a word share its box as the attention says; a space reaches from one word to the next.
    """
    edges = _edges(text, tokens, attention)
    spans, words = word_spans(text), _words(text, edges, attention)
    for (start, stop), (left, right) in zip(spans, words, strict=True):
        inner, width = edges[start : stop + 1].copy(), edges[stop] - edges[start]
        share = (inner - inner[0]) / width if width > 0 else np.linspace(0, 1, len(inner))
        edges[start : stop + 1] = left + share * (right - left)
    for (_, stop), (start, _) in pairwise(spans):
        edges[stop : start + 1] = np.linspace(edges[stop], edges[start], start - stop + 1)
    edges = np.maximum.accumulate(edges).tolist()
    height = float(attention.height)
    return [Box(c, edges[i], 0.0, edges[i + 1], height) for i, c in enumerate(text)]


def word_boxes(text: str, tokens: Sequence[tuple[int, int]], attention: CrossAttention) -> list[Box]:
    """The box of each word (`str.split`). Arguments as for `character_boxes`."""
    words = _words(text, _edges(text, tokens, attention), attention)
    height = float(attention.height)
    return [
        Box(text[start:stop], left, 0.0, right, height)
        for (start, stop), (left, right) in zip(word_spans(text), words, strict=True)
    ]


def ink_columns(pixels: np.ndarray) -> np.ndarray:
    """How much ink is in each column of pixels uint8 [H, W, 3]: f32 [W], 0 to 1. Ink is what differs from the median
    grey, dark on light or light on dark; pieces of other lines at the top and bottom edges are left out."""
    grey = pixels.mean(axis=2, dtype=np.float32)
    paper = float(np.median(grey))
    dark, light = np.quantile(grey, [0.02, 0.98])
    ink = float(dark if paper - dark > light - paper else light)
    if abs(ink - paper) < 8:  # of 255: nothing is written here
        return np.zeros(grey.shape[1], np.float32)
    rows = slice(grey.shape[0] // 5, -(-grey.shape[0] * 4 // 5))
    return np.clip((grey[rows] - paper) / np.float32(ink - paper), 0, 1).mean(axis=0)


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where the words of a text begin and end in it."""
    return [match.span() for match in re.finditer(r"\S+", text)]


def _words(text: str, edges: np.ndarray, attention: CrossAttention) -> list[tuple[float, float]]:
    """Left and right of each word, from the edges of its characters and the gaps in the ink."""
    spans = word_spans(text)
    if not spans:
        return []
    found = [[float(edges[start]), float(edges[stop])] for start, stop in spans]
    middles = ((edges[:-1] + edges[1:]) / 2).tolist()
    blanks = _blanks(attention)
    for i, ((_, stop), (start, _)) in enumerate(pairwise(spans)):
        if inside := _between(blanks, middles[stop - 1], middles[start]):
            found[i][1], found[i + 1][0] = max(inside, key=lambda run: run[1] - run[0])
    size = float(edges[-1] - edges[0]) / len(text)
    first, last = middles[spans[0][0]], middles[spans[-1][1] - 1]
    found[0][0] = _left_end(blanks, first, size, found[0][0])
    found[-1][1] = _right_end(blanks, last, size, found[-1][1], attention.width)
    return [(left, right) for left, right in found]


def _edges(text: str, tokens: Sequence[tuple[int, int]], attention: CrossAttention) -> np.ndarray:
    """Where each character begins, and where the last one ends: [characters + 1]."""
    spelling = [(i, start, stop) for i, (start, stop) in enumerate(tokens) if stop > start]
    if not spelling:
        return np.full(len(text) + 1, 0.0)
    places = attention.places()[[i for i, _, _ in spelling]]
    borders = (places[1:] + places[:-1]) / 2
    if len(places) > 1:
        ends = [places[0] - (borders[0] - places[0]), places[-1] + (places[-1] - borders[-1])]
    else:
        ends = [0.0, float(attention.width)]
    borders = np.clip(np.concatenate([ends[:1], borders, ends[1:]]), 0, attention.width)
    at = [spelling[0][1], *(stop for _, _, stop in spelling)]
    return np.interp(np.arange(len(text) + 1), at, borders)


def _backward(places: np.ndarray) -> float:
    """The share of a head's way along the line that it went back, 0 to 1."""
    steps = np.diff(places)
    way = float(np.abs(steps).sum())
    return float(-np.minimum(steps, 0).sum()) / way if way else 1.0


def _blanks(attention: CrossAttention) -> list[tuple[float, float]]:
    """The stretches of columns without ink, in pixels of the image."""
    edges = np.linspace(*attention.span, len(attention.ink) + 1)
    inside = (edges[1:] > 0) & (edges[:-1] < attention.width)
    ink, edges = (
        attention.ink[inside],
        np.clip(edges[np.append(inside, False) | np.append(False, inside)], 0, attention.width),
    )
    if not len(ink):
        return []
    blank = np.concatenate([[False], ink <= BLANK * float(np.quantile(ink, 0.9)), [False]])
    turns = edges[np.flatnonzero(blank[1:] != blank[:-1])]
    return list(zip(turns[::2].tolist(), turns[1::2].tolist(), strict=True))


def _between(blanks: list[tuple[float, float]], start: float, stop: float) -> list[tuple[float, float]]:
    """The parts of the blank stretches that lie between two places."""
    cut = ((max(a, start), min(b, stop)) for a, b in blanks)
    return [(a, b) for a, b in cut if b > a]


def _left_end(blanks: list[tuple[float, float]], middle: float, size: float, fallback: float) -> float:
    wide = [b for a, b in blanks if a < middle and b <= middle and (b - a >= EDGE * size or a == 0)]
    if wide and middle - wide[-1] <= REACH * size:
        return wide[-1]
    return 0.0 if not wide and middle <= REACH * size else fallback


def _right_end(blanks: list[tuple[float, float]], middle: float, size: float, fallback: float, width: int) -> float:
    wide = [a for a, b in blanks if a >= middle and (b - a >= EDGE * size or b >= width)]
    if wide and wide[0] - middle <= REACH * size:
        return wide[0]
    return float(width) if not wide and width - middle <= REACH * size else fallback
