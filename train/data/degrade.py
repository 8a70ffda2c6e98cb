"""What printing, scanning and storing do to a line: weight, blur, paper, noise, thresholds and compression.

Everything happens at the final, low resolution; lengths are measured in em so that small and large print suffer alike.
"""

import io
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Gray = NDArray[np.uint8]
Float = NDArray[np.float32]

# Shares of nearly clean, of black-and-white and of grey lines.
_CLEAN, _BILEVEL = 0.25, 0.35


def degrade(ink: Gray, *, em: float, rng: Random) -> Gray:
    """Turns an ink mask into a scanned image.

    Args:
      ink: uint8 [height, width], 255 where the page is fully printed.
      em: size of the print in pixels.
      rng: source of every choice.

    Returns:
      uint8 [height, width], 255 white.
    """
    noise = np.random.default_rng(rng.getrandbits(64))
    kind = rng.random()
    if kind < _CLEAN:
        image = _clean(ink, em, rng)
    elif kind < _CLEAN + _BILEVEL:
        image = _bilevel(ink, em, rng, noise)
    else:
        image = _grey(ink, em, rng, noise)
    if rng.random() < 0.15:
        image = _jpeg(image, rng)
    return 255 - image if rng.random() < 0.03 else image


def _clean(ink: Gray, em: float, rng: Random) -> Gray:
    if rng.random() < 0.3:
        ink = _blur(ink, rng.uniform(0.2, 0.5) * em / 30)
    if rng.random() < 0.5:
        return 255 - ink
    paper, black = rng.uniform(225, 255), rng.uniform(0, 70)
    return _to_gray(paper - ink.astype(np.float32) * ((paper - black) / 255))


def _bilevel(ink: Gray, em: float, rng: Random, noise: np.random.Generator) -> Gray:
    ink = _weight(ink, em, rng)
    ink = _blur(ink, rng.uniform(0.15, 0.75) * em / 30)
    value = ink.astype(np.float32)
    if rng.random() < 0.3:
        value *= _uneven(value.shape, rng, noise, depth=rng.uniform(0.05, 0.25))
    if rng.random() < 0.8:
        value += _gaussian(value.shape, noise, rng.uniform(4, 36))
    black = value > rng.uniform(85, 165)
    if rng.random() < 0.35:
        _speckle(black, rng, noise)
    return np.where(black, np.uint8(0), np.uint8(255))


def _grey(ink: Gray, em: float, rng: Random, noise: np.random.Generator) -> Gray:
    ink = _weight(ink, em, rng)
    if rng.random() < 0.35:
        ink = _coarsen(ink, em, rng)
    if rng.random() < 0.7:
        ink = _blur(ink, rng.uniform(0.3, 1.3) * em / 30)
    value = ink.astype(np.float32) / 255
    if rng.random() < 0.25:
        value *= _uneven(value.shape, rng, noise, depth=rng.uniform(0.1, 0.5))
    paper = rng.uniform(170, 255)
    black = rng.uniform(0, min(110.0, paper - 100))
    ground = np.float32(paper)
    if rng.random() < 0.4:
        ground = paper * _uneven(value.shape, rng, noise, depth=rng.uniform(0.05, 0.25))
    image = ground * (1 - value) + black * value
    if rng.random() < 0.7:
        image += _gaussian(value.shape, noise, rng.uniform(1, 14))
    image = _to_gray(image)
    if rng.random() < 0.12:
        _salt_and_pepper(image, rng, noise)
    return image


def _to_gray(value: Float) -> Gray:
    return np.clip(value, 0, 255).astype(np.uint8)


def _weight(ink: Gray, em: float, rng: Random) -> Gray:
    """Thickens or thins strokes by a fraction of a pixel, as too much or too little toner does."""
    dice = rng.random()
    if dice < 0.5:
        return ink
    grown = ink.copy()
    best = np.maximum if dice < 0.85 else np.minimum
    best(grown[:, 1:], ink[:, :-1], out=grown[:, 1:])
    best(grown[1:], ink[:-1], out=grown[1:])
    part = rng.uniform(0.2, 1.0) if dice < 0.85 else rng.uniform(0.2, 0.6)
    part *= min(1.0, em / 26)
    return _to_gray(ink + np.float32(part) * (grown.astype(np.float32) - ink))


def _blur(ink: Gray, radius: float) -> Gray:
    return np.asarray(Image.fromarray(ink).filter(ImageFilter.GaussianBlur(radius)))


def _coarsen(ink: Gray, em: float, rng: Random) -> Gray:
    """Scans at a lower resolution (not below 11 pixels per em) and enlarges again."""
    factor = max(rng.uniform(0.5, 0.9), 11 / em)
    if factor >= 1:
        return ink
    height, width = ink.shape
    small = Image.fromarray(ink).resize((max(4, round(width * factor)), max(4, round(height * factor))), Image.Resampling.BOX)
    how = rng.choice((Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.NEAREST))
    return np.asarray(small.resize((width, height), how))


def _uneven(shape: tuple[int, ...], rng: Random, noise: np.random.Generator, *, depth: float) -> Float:
    """A smooth field float32 [height, width] between 1 - depth and 1: shadows, stains, worn toner."""
    height, width = shape
    cells = (rng.randint(2, 4), rng.randint(2, max(3, width // 40)))
    coarse = Image.fromarray(noise.integers(0, 256, cells, dtype=np.uint8))
    field = np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32)
    return np.float32(1) - field * np.float32(depth / 255)


def _gaussian(shape: tuple[int, ...], noise: np.random.Generator, sigma: float) -> Float:
    return noise.standard_normal(shape, dtype=np.float32) * np.float32(sigma)


def _speckle(black: NDArray[np.bool_], rng: Random, noise: np.random.Generator) -> None:
    """Adds dots of dirt and holes of one or two pixels, in place."""
    height, width = black.shape
    count = max(1, round(height * width * rng.uniform(0.0002, 0.003)))
    rows, columns = noise.integers(0, height - 1, count), noise.integers(0, width - 1, count)
    dark = rng.random() < 0.7
    black[rows, columns] = dark
    if rng.random() < 0.5:
        black[rows[::2], columns[::2] + 1] = dark


def _salt_and_pepper(image: Gray, rng: Random, noise: np.random.Generator) -> None:
    count = max(1, round(image.size * rng.uniform(0.001, 0.015)))
    places = noise.integers(0, image.size, count)
    image.reshape(-1)[places] = noise.choice(np.array([0, 255], np.uint8), count)


def _jpeg(image: Gray, rng: Random) -> Gray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=rng.randint(25, 85))
    return np.asarray(Image.open(buffer))
