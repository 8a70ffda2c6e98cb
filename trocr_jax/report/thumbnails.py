"""Small copies of line images that a report can hold ten thousand of."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from trocr_jax.errors import ImageError
from trocr_jax.image_file import open_rgb

HEIGHT, WIDTH = 56, 1400  # pixels at most
TOTAL = 30_000_000  # bytes that all copies of a report may have together
_QUALITIES = ((1.0, 70), (1.0, 45), (0.8, 35), (0.6, 30), (0.45, 20), (0.3, 10))  # of the height; of WebP


class Thumbnail(NamedTuple):
    """data: WebP in base64, "" where the image cannot be read. width, height: of the whole image, in pixels."""

    data: str
    width: int
    height: int


def thumbnails(images: Sequence[bytes | Path | None]) -> list[Thumbnail]:
    """A copy of each image, as large as the number of them allows."""
    limit = min(40_000, TOTAL // max(len(images), 1))
    with ThreadPoolExecutor() as pool:  # Pillow works without the interpreter's lock
        return list(pool.map(lambda image: thumbnail(image, limit), images))


def thumbnail(source: bytes | Path | None, limit: int) -> Thumbnail:
    """The best copy whose base64 has at most `limit` bytes."""
    if source is None:
        return Thumbnail("", 0, 0)
    try:
        image = open_rgb(source)
    except ImageError:
        return Thumbnail("", 0, 0)
    data = ""
    for share, quality in _QUALITIES:
        scale = min(share * HEIGHT / image.height, WIDTH / image.width, 1.0)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        file = io.BytesIO()
        image.resize(size, Image.Resampling.LANCZOS).save(file, "WEBP", quality=quality, method=2)
        data = base64.b64encode(file.getvalue()).decode("ascii")
        if len(data) <= limit:
            break
    return Thumbnail(data, image.width, image.height)
