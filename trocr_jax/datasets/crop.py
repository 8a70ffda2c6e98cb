"""Lines and words cut out of pages: by the corners of a word, or by the outline of a line."""

import io
from collections.abc import Sequence
from math import hypot, nan

import numpy as np
from PIL import Image, ImageDraw

from trocr_jax.errors import DataError

Point = tuple[float, float]
"""x and y in pixels of the page, y downwards."""


FAR = 1e6  # pixels; no page is so large


def coordinate(text: str) -> float:
    """Raises DataError for what is no number, or none of a place on or near a page."""
    try:
        number = float(text)
    except ValueError:
        number = nan
    if not abs(number) < FAR:
        raise DataError(f"its coordinate {text!r} is no number of pixels")
    return number


def png(image: Image.Image) -> bytes:
    """A picture without loss, and without the colour profile of its page, which may be larger."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=3, icc_profile=None)
    return buffer.getvalue()


def cut_word(page: Image.Image, corners: Sequence[Point]) -> Image.Image:
    """The word between four corners, clockwise from its own top left: turned upright where it is written askew.

    Raises DataError where the corners enclose nothing on the page, or far more than the page.
    """
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = corners
    if _axis_aligned(corners):
        return _cut_box(page, min(x0, x3), min(y0, y1), max(x1, x2), max(y2, y3))
    width = round(max(hypot(x1 - x0, y1 - y0), hypot(x2 - x3, y2 - y3)))
    height = round(max(hypot(x3 - x0, y3 - y0), hypot(x2 - x1, y2 - y1)))
    if not _overlaps(page, corners) or width < 1 or height < 1:
        raise DataError(f"its corners {[(round(x), round(y)) for x, y in corners]} enclose nothing on the page")
    if max(width, height) > 2 * hypot(*page.size):
        raise DataError(f"its corners {[(round(x), round(y)) for x, y in corners]} are far from the page")
    quad = (x0, y0, x3, y3, x2, y2, x1, y1)  # PIL goes round the other way
    return page.transform((width, height), Image.Transform.QUAD, quad, Image.Resampling.BICUBIC)


def cut_line(page: Image.Image, outline: Sequence[Point]) -> Image.Image:
    """The box around an outline; what lies outside the outline, pieces of other lines, takes the colour of the paper
    (the median of each channel inside it).

    Raises DataError where the outline encloses nothing on the page.
    """
    xs, ys = [x for x, _ in outline], [y for _, y in outline]
    cut = _cut_box(page, min(xs), min(ys), max(xs) + 1, max(ys) + 1)
    left, top = max(0, int(min(xs))), max(0, int(min(ys)))
    mask = Image.new("1", cut.size)
    if len(outline) > 2:
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in outline], fill=1, outline=1)
    inside = np.asarray(mask)
    if not inside.any():
        raise DataError(f"its outline of {len(outline)} points encloses nothing on the page")
    pixels = np.asarray(cut).copy()
    pixels[~inside] = np.median(pixels[inside], axis=0).astype(np.uint8)
    return Image.fromarray(pixels)


def box(left: float, top: float, right: float, bottom: float) -> tuple[Point, Point, Point, Point]:
    """The corners of an upright box, clockwise from the top left."""
    return (left, top), (right, top), (right, bottom), (left, bottom)


def _cut_box(page: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    edges = max(0, int(left)), max(0, int(top)), min(page.width, round(right)), min(page.height, round(bottom))
    if edges[0] >= edges[2] or edges[1] >= edges[3]:
        raise DataError(
            f"its box {round(left)},{round(top)} to {round(right)},{round(bottom)} has nothing on the page of "
            f"{page.width} x {page.height} pixels"
        )
    return page.crop(edges)


def _axis_aligned(corners: Sequence[Point]) -> bool:
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = corners
    return max(abs(x0 - x3), abs(x1 - x2), abs(y0 - y1), abs(y2 - y3)) < 1.0 and x1 > x0 and y3 > y0


def _overlaps(page: Image.Image, corners: Sequence[Point]) -> bool:
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    return max(xs) > 0 and max(ys) > 0 and min(xs) < page.width and min(ys) < page.height
