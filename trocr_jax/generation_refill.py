"""The host's part of refilled slots: which line goes where, and when to look."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import DTypeLike

from trocr_jax.decoding.checks import check_whole
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.decoding.types import Decoded
from trocr_jax.errors import DecodeError
from trocr_jax.generation import own
from trocr_jax.generation_plan import CrossAttention, compute_dtype, plan
from trocr_jax.generation_slots import Flat, Lines, Slots, empty, encode, enter, leave, projections, run
from trocr_jax.image import ImageProcessor
from trocr_jax.model import TrOCR

LOOK = 16
"""A look is taken when a 16th of the slots have ended: on average a 32nd of the work is done for nobody then. Lines
that end one by one would have the host look behind every step."""


class Found(NamedTuple):
    """label: of the line, as it was given. decoded: of it alone, [R, …] in numpy."""

    label: Any
    decoded: Decoded


class _Waiting(NamedTuple):
    lines: Lines
    places: deque[tuple[int, Any]]  # places among the lines, and labels


class Refill:
    """Reads lines through slots that are refilled.

    Attributes: slots, group: how many lines are decoded, and encoded, together. steps: taken so far by all slots;
    lines: that have come out. steps * slots / lines is the work a line, in decoder steps.
    """

    def __init__(
        self,
        model: TrOCR,
        config: DecodeConfig,
        *,
        slots: int,
        group: int,
        dtype: DTypeLike | None = None,
        image_processor: ImageProcessor | None = None,
        cross_attention: CrossAttention = "products",
    ) -> None:
        """Arguments as for `generate`; on a GPU the memory is read by products. Raises DecodeError as it does."""
        check_whole("slots", slots, 1)
        check_whole("group", group, 1)
        self.slots, self.group = slots, group
        self.steps = self.lines = 0
        self._dtype = compute_dtype(dtype)
        self._shape, self._numbers = plan(config, model.config, cross_attention=cross_attention, dtype=self._dtype)
        if self._shape.one_pass == "hopper":
            if cross_attention == "kernel":
                raise DecodeError(f"cross_attention is {cross_attention!r}: slots on a GPU read by 'products'")
            self._shape, self._numbers = plan(config, model.config, cross_attention="products", dtype=self._dtype)
        self._image_processor = image_processor
        self._model, self._config = Flat(model), model.config
        self._projections = projections(self._model, shape=self._shape, dtype=self._dtype)

    def read(self, groups: Iterable[tuple[list[Any], np.ndarray]]) -> Iterator[Found]:
        """groups: labels and pixels [at most G, H, W, 3] of as many lines. What was found in each line, in the order in
        which they end. Groups are asked for as slots fall free, one ahead. Raises DecodeError for a larger group, or
        one with more labels or fewer than pixels, when it comes."""
        series, waiting = iter(groups), deque[_Waiting]()
        labels: dict[int, Any] = {}  # of the lines in slots
        free = list(range(self.slots - 1, -1, -1))
        found: list[tuple[list[Any], Decoded]] = []
        slots: Slots | None = None
        more = self._wait(series, waiting)
        while True:
            while free and (waiting or more):
                if not waiting:
                    more = self._wait(series, waiting)
                    continue
                if slots is None:
                    slots = self._empty(waiting[0].lines)
                slots = self._enter(slots, waiting, free, labels)
            if slots is None or not labels:
                break
            left = bool(waiting) or more
            enough = max(1, self.slots // LOOK) if left else len(labels)
            ran = run(
                self._model,
                slots,
                self._projections,
                self._numbers,
                np.int32(enough),
                shape=self._shape,
                dtype=self._dtype,
            )
            slots = ran.slots
            # While the device runs: the next lines are prepared, and what was found before is given out.
            if more and not waiting:
                more = self._wait(series, waiting)
            yield from self._told(found)
            active = np.asarray(ran.active)
            self.steps += int(ran.steps)
            ended = [slot for slot in labels if not active[slot]]
            found = [
                ([labels[slot] for slot in part], self._leave(slots, part))
                for part in (ended[i : i + self.group] for i in range(0, len(ended), self.group))
            ]
            for slot in ended:
                del labels[slot]
            free += ended
        yield from self._told(found)

    def _wait(self, series: Iterator[tuple[list[Any], np.ndarray]], waiting: deque[_Waiting]) -> bool:
        """Encodes the next group. False if there is none."""
        group = next(series, None)
        if group is None:
            return False
        labels, pixels = group
        if len(labels) != len(pixels) or len(pixels) > self.group:
            raise DecodeError(
                f"a group has {len(labels)} labels and the pixels of {len(pixels)} lines: give as many of both, at "
                f"most {self.group}"
            )
        if not labels:
            return True
        if missing := self.group - len(pixels):
            pixels = np.concatenate([pixels, np.repeat(pixels[:1], missing, axis=0)])
        lines = encode(
            self._model,
            own(pixels),
            self._numbers,
            shape=self._shape,
            dtype=self._dtype,
            image_processor=self._image_processor,
        )
        waiting.append(_Waiting(lines, deque(enumerate(labels))))
        return True

    def _empty(self, lines: Lines) -> Slots:
        return empty(self._model, lines, self._numbers, slots=self.slots, shape=self._shape, dtype=self._dtype)

    def _enter(self, slots: Slots, waiting: deque[_Waiting], free: list[int], labels: dict[int, Any]) -> Slots:
        """Moves lines of the first group that waits into free slots, as many as there are."""
        lines, places = waiting[0]
        sources, targets = np.zeros(self.group, np.int32), np.zeros(self.group, np.int32)
        count = min(len(free), len(places))
        for i in range(count):
            sources[i], label = places.popleft()
            targets[i] = free.pop()
            labels[int(targets[i])] = label
        if not places:
            waiting.popleft()
        return enter(
            slots, lines, self._numbers, sources, targets, np.int32(count), config=self._config, shape=self._shape
        )

    def _leave(self, slots: Slots, part: list[int]) -> Decoded:
        sources = np.array(part + part[:1] * (self.group - len(part)), np.int32)
        return leave(slots, self._numbers, sources, config=self._config, shape=self._shape)

    def _told(self, found: list[tuple[list[Any], Decoded]]) -> Iterator[Found]:
        for labels, decoded in found:
            arrays = Decoded._make(np.asarray(array) for array in jax.device_get(decoded))
            for i, label in enumerate(labels):
                self.lines += 1
                yield Found(label, Decoded._make(array[i] for array in arrays))
