"""Images for tests, and what becomes of them."""

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from trocr_jax.errors import ImageError
from trocr_jax.image import ImageProcessor

if TYPE_CHECKING:
    from train.data.render import Renderer


def held_out(seed: int) -> "Renderer":
    """Draws lines in held-out typefaces; the test is skipped where these are not installed."""
    from train.data.corpus import CorpusError
    from train.data.render import Renderer

    try:
        return Renderer.create(split="heldout", seed=seed)
    except CorpusError as error:
        pytest.skip(f"no rendered lines: {error}")


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def opened(source) -> np.ndarray:
    image = ImageProcessor().open(source)
    assert image.mode == "RGB"
    return np.asarray(image)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=-1)


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """round(colour * a + white * (1 - a)); 255 is odd, so there are no ties."""
    alpha = alpha.astype(np.int64)[..., None]
    return ((colour * alpha + 255 * (255 - alpha)) * 2 + 255) // 510


def raises(source, message: str, processor: ImageProcessor | None = None) -> str:
    with pytest.raises(ImageError, match=message) as caught:
        (processor or ImageProcessor()).pixels(source)
    return str(caught.value)
