"""Plots as inline SVG: no script, and colours of the page's style sheet (classes s0, s1, … for the runs)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

WIDTH, HEIGHT = 460, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 42
Point = tuple[float, float]
FEW = 10  # lines below which a share says little


class Series(NamedTuple):
    """A line of a plot. sizes: how many lines each point stands for, if the points are to be marked; those of few are
    small and stand beside the line."""

    name: str
    points: Sequence[Point]
    sizes: Sequence[int] = ()

    def joined(self) -> list[Point]:
        """The points that the line goes through."""
        return [p for p, size in zip(self.points, self.sizes or [FEW] * len(self.points), strict=True) if size >= FEW]


def lines(series: Sequence[Series], *, x: str, y: str, square: bool = False, diagonal: bool = False) -> str:
    """Lines over numbers; with `square` both axes go from 0 to 1. diagonal: also x = y, for reliability diagrams."""
    points = [point for one in series for point in one.points]
    if not points:
        return _empty()
    x_ticks = _ticks(0.0, 1.0) if square else _ticks(min(p[0] for p in points), max(p[0] for p in points))
    y_ticks = _ticks(0.0, 1.0) if diagonal else _ticks(0.0, max(p[1] for p in points))
    plane = _Plane(x_ticks, y_ticks)
    parts = [plane.axes(x, y)]
    if diagonal:
        parts.append(plane.path([(0, 0), (1, 1)], "ideal"))
    for number, one in enumerate(series):
        parts.append(plane.path(one.joined(), f"s{number % 6}"))
        parts += [plane.dot(p, f"s{number % 6}", one.name, n) for p, n in zip(one.points, one.sizes, strict=False)]
    return _svg(parts, f"{y} over {x}")


def bars(labels: Sequence[str], series: Sequence[Series], *, x: str, y: str) -> str:
    """Bars beside each other for each label; the y of the points counts, and there is no bar where it is NaN."""
    values = [p[1] for one in series for p in one.points if not math.isnan(p[1])]
    if not values:
        return _empty()
    plane = _Plane([0.0, float(len(labels))], _ticks(0.0, max(values)))
    parts = [plane.axes(x, y, labels)]
    wide = 0.8 / len(series)
    for number, one in enumerate(series):
        for i, (_, value) in enumerate(one.points):
            if math.isnan(value):
                continue
            parts.append(plane.bar(i + 0.1 + number * wide, wide, value, f"s{number % 6}", f"{labels[i]}: {value:.3g}"))
    return _svg(parts, f"{y} over {x}")


def matrix(counts: Sequence[tuple[str, str, int]], *, most: int = 14) -> str:
    """What is read for what: rows are the characters that stand there, columns what was read, shade the count."""
    total: dict[str, int] = {}
    for reference, read, count in counts:
        for side in (reference, read):
            total[side] = total.get(side, 0) + count
    shown = sorted(total, key=lambda c: (-total[c], c))[:most]
    if not shown:
        return _empty()
    shown.sort(key=lambda c: (c == "", c))
    cell, edge = 24, 40
    size = edge + cell * len(shown) + 4
    # no pair at all, where lines of one script are read in another
    largest = max((count for reference, read, count in counts if reference in shown and read in shown), default=1)
    parts = [f'<text x="2" y="{edge - 6}" class="label">is ↓</text>']
    parts.append(f'<text x="{edge}" y="10" class="label">read as →</text>')
    for i, character in enumerate(shown):
        middle = edge + cell * i + cell / 2
        parts.append(f'<text x="{middle}" y="{edge - 6}" text-anchor="middle">{visible(character)}</text>')
        parts.append(f'<text x="{edge - 8}" y="{middle + 4}" text-anchor="end">{visible(character)}</text>')
        parts.append(
            f'<rect x="{edge}" y="{edge + cell * i}" width="{cell * len(shown)}" height="{cell}" class="row"/>'
        )
    for reference, read, count in counts:
        if reference in shown and read in shown:
            x, y = edge + cell * shown.index(read), edge + cell * shown.index(reference)
            title = f"<title>{visible(reference)} read as {visible(read)}: {count}</title>"
            shade = 0.2 + 0.8 * count / largest
            parts.append(
                f'<g>{title}<rect x="{x + 1}" y="{y + 1}" width="{cell - 2}" height="{cell - 2}" class="cell" '
                f'style="fill-opacity:{shade:.2f}"/><text x="{x + cell / 2}" y="{y + cell / 2 + 4}" '
                f'text-anchor="middle" class="{"on" if shade > 0.55 else ""}">{count}</text></g>'
            )
    return f'<svg viewBox="0 0 {size} {size}" style="max-width:{size * 1.3:.0f}px" role="img" ' + (
        f'aria-label="confusion matrix">{"".join(parts)}</svg>'
    )


def visible(character: str) -> str:
    """A character as text of HTML: nothing and spaces have signs, and what is not seen has its number."""
    if character == "":
        return "∅"
    return escape("␣" if character == " " else repr(character)[1:-1] if not character.isprintable() else character)


class _Plane:
    """Where numbers stand in the picture."""

    def __init__(self, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> None:
        self.x_ticks, self.y_ticks = x_ticks, y_ticks

    def at(self, x: float, y: float) -> Point:
        (x0, x1), (y0, y1) = ((t[0], t[-1]) for t in (self.x_ticks, self.y_ticks))
        across, up = (x - x0) / ((x1 - x0) or 1), (y - y0) / ((y1 - y0) or 1)
        return _LEFT + across * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM)

    def axes(self, x: str, y: str, labels: Sequence[str] | None = None) -> str:
        parts = []
        for tick in self.y_ticks:
            left, height = self.at(self.x_ticks[0], tick)
            parts.append(f'<path class="grid" d="M{left} {height:.1f}H{WIDTH - _RIGHT}"/>')
            parts.append(f'<text x="{left - 6}" y="{height + 4:.1f}" text-anchor="end">{tick:.3g}</text>')
        marks = list(zip(self.x_ticks, (f"{t:.3g}" for t in self.x_ticks), strict=True))
        if labels is not None:
            marks = [(i + 0.5, label) for i, label in enumerate(labels)]
        for tick, label in marks:
            across, base = self.at(tick, self.y_ticks[0])
            parts.append(f'<text x="{across:.1f}" y="{base + 16:.1f}" text-anchor="middle">{escape(label)}</text>')
        middle = (_LEFT + WIDTH - _RIGHT) / 2
        parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle" class="label">{escape(x)}</text>')
        up = (HEIGHT - _BOTTOM + _TOP) / 2
        parts.append(
            f'<text transform="translate(12 {up}) rotate(-90)" text-anchor="middle" class="label">{escape(y)}</text>'
        )
        return "".join(parts)

    def path(self, points: Sequence[Point], style: str) -> str:
        if not points:
            return ""
        steps = "L".join(f"{a:.1f} {b:.1f}" for a, b in (self.at(*point) for point in points))
        return f'<path class="line {style}" d="M{steps}"/>'

    def dot(self, point: Point, style: str, name: str, size: int) -> str:
        x, y = self.at(*point)
        title = f"<title>{escape(name)}: {point[0]:.3g}, {point[1]:.3g} ({size} lines)</title>"
        return (
            f'<circle class="dot {style}" cx="{x:.1f}" cy="{y:.1f}" r="{3.5 if size >= FEW else 1.5}">{title}</circle>'
        )

    def bar(self, x: float, width: float, value: float, style: str, name: str) -> str:
        (left, top), (right, base) = self.at(x, value), self.at(x + width, self.y_ticks[0])
        shape = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{max(base - top, 0.5):.1f}"'
        return f'<rect class="bar {style}" {shape}><title>{escape(name)}</title></rect>'


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers around a range, four to nine of them."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    size = high - low
    step = 10.0 ** (len(f"{int(1 / size)}") * -1) if size < 1 else 10.0 ** (len(f"{int(size)}") - 1)
    while size / step > 8:
        step *= 2
    while size / step < 4:
        step /= 2
    first = int(low // step)
    last = int(-(-high // step))
    return [round(i * step, 12) for i in range(first, last + 1)]


def _svg(parts: Sequence[Any], label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _empty() -> str:
    return '<p class="note">Nothing to show.</p>'
