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

# Shares of nearly clean and of black-and-white lines; the rest is grey.
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
    ink = readable(ink)
    kind = rng.random()
    if kind < _CLEAN:
        image = _clean(ink, em, rng)
    else:
        ink = _warp(ink, em, rng)
        if kind < _CLEAN + _BILEVEL:
            image = _bilevel(ink, em, rng, noise)
        else:
            image = _grey(ink, em, rng, noise)
    if rng.random() < 0.15:
        image = jpeg(image, rng)
    return 255 - image if rng.random() < 0.03 else image


def readable(ink: Gray) -> Gray:
    """Raises the ink of thin faces at small sizes, whose strokes cover less than a pixel."""
    counts = _histogram(ink)
    counts[:32] = 0
    strong = int(np.searchsorted(np.cumsum(counts), 0.75 * counts.sum()))  # the third quartile of inked pixels
    if strong == 0 or strong >= 200:
        return ink
    gain = min(2.5, 200 / strong)
    return np.minimum(ink.astype(np.float32) * np.float32(gain), 255).astype(np.uint8)


def _clean(ink: Gray, em: float, rng: Random) -> Gray:
    if rng.random() < 0.3:
        ink = _blur(ink, rng.uniform(0.2, 0.5) * em / 30)
    if rng.random() < 0.5:
        return 255 - ink
    paper, black = rng.uniform(225, 255), rng.uniform(0, 70)
    return _to_gray(paper - ink.astype(np.float32) * np.float32((paper - black) / 255))


def _bilevel(ink: Gray, em: float, rng: Random, noise: np.random.Generator) -> Gray:
    ink = _blur(_weight(ink, em, rng), rng.uniform(0.15, 0.75) * em / 30)
    covered = float(ink.sum(dtype=np.int64)) / 255
    value = ink.astype(np.float32)
    if rng.random() < 0.3:
        value *= _uneven(value.shape, rng, noise, depth=rng.uniform(0.05, 0.25))
    sigma = 36 * rng.random() ** 1.5
    noisy = _to_gray(value + _gaussian(value.shape, noise, sigma))
    # The level at which the strokes keep about their weight, but above most of the noise of the paper.
    wanted = covered * rng.uniform(0.85, 1.45)
    darker = np.cumsum(_histogram(noisy)[::-1])
    level = 255 - int(np.searchsorted(darker, wanted))
    black = noisy >= min(max(level, 50 + 1.5 * sigma), 200)
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
        value *= _uneven(value.shape, rng, noise, depth=rng.uniform(0.1, 0.45))
    if rng.random() < 0.06:  # the print of the other side of the sheet
        behind = np.roll(_blur(ink, 1.5)[:, ::-1], rng.randint(0, ink.shape[0] - 1), axis=0)
        value = np.maximum(value, behind * np.float32(rng.uniform(0.04, 0.16) / 255))
    paper = rng.uniform(170, 255)
    black = rng.uniform(0, min(100.0, paper - 110))
    ground = np.full(value.shape, paper, np.float32)
    if rng.random() < 0.4:
        ground *= _uneven(value.shape, rng, noise, depth=rng.uniform(0.05, 0.25))
    image = ground + value * (np.float32(black) - ground)
    if rng.random() < 0.7:
        image += _gaussian(value.shape, noise, (paper - black) * rng.uniform(0.005, 0.07))
    gray = _to_gray(image)
    if rng.random() < 0.12:
        _salt_and_pepper(gray, rng, noise)
    return gray


def _histogram(gray: Gray) -> NDArray[np.int64]:
    """How many pixels have each of the 256 values."""
    return np.array(Image.fromarray(gray).histogram(), np.int64)  # three times as fast as np.bincount


def _to_gray(value: Float) -> Gray:
    return np.clip(value, 0, 255).astype(np.uint8)


def _warp(ink: Gray, em: float, rng: Random) -> Gray:
    """Rarely: a page that the camera sees at an angle, or a baseline that waves. Ink never leaves the image."""
    height, width = ink.shape
    dice = rng.random()
    if dice < 0.04:
        a, b, c, d = (rng.uniform(0, 0.2) * em for _ in range(4))
        corners = (0, -a, 0, height + b, width, height + c, width, -d)
        image = Image.fromarray(ink).transform(
            (width, height), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR, fillcolor=0
        )
        return np.asarray(image)
    if dice < 0.08:
        size = rng.uniform(0.02, 0.06) * em
        phase = rng.uniform(0, 6.28) + np.arange(width) * (6.28 / (em * rng.uniform(4, 14)))
        shift = size * (1 + np.sin(phase))
        whole = shift.astype(np.int64)
        part = (shift - whole).astype(np.float32)
        rows = np.arange(height)[:, None] - whole + 1
        padded = np.pad(ink, ((2 + int(2 * size), 1), (0, 0)))
        rows += 1 + int(2 * size)
        columns = np.arange(width)
        return _to_gray(padded[rows, columns] * (1 - part) + padded[rows - 1, columns] * part)
    return ink


def _weight(ink: Gray, em: float, rng: Random) -> Gray:
    """Thickens or thins strokes by a fraction of a pixel, as too much or too little toner does."""
    dice = rng.random()
    if dice < 0.5:
        return ink
    thicker = dice < 0.85
    best = np.maximum if thicker else np.minimum
    changed = ink.copy()
    best(changed[:, 1:], ink[:, :-1], out=changed[:, 1:])
    best(changed[1:], ink[:-1], out=changed[1:])
    part = rng.uniform(0.2, 1.0 if thicker else 0.6) * min(1.0, em / 26)
    return _to_gray(ink + np.float32(part) * (changed.astype(np.float32) - ink))


def _blur(ink: Gray, radius: float) -> Gray:
    return np.asarray(Image.fromarray(ink).filter(ImageFilter.GaussianBlur(radius)))


def _coarsen(ink: Gray, em: float, rng: Random) -> Gray:
    """Scans at a lower resolution (not below 12 pixels per em) and enlarges again."""
    factor = max(rng.uniform(0.5, 0.9), 12 / em)
    if factor >= 1:
        return ink
    height, width = ink.shape
    small = max(4, round(width * factor)), max(4, round(height * factor))
    coarse = Image.fromarray(ink).resize(small, Image.Resampling.BOX)
    how = rng.choice((Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.NEAREST))
    return np.asarray(coarse.resize((width, height), how))


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
    """Adds dots of dirt, or holes, of one or two pixels, in place."""
    height, width = black.shape
    count = max(1, round(height * width * rng.uniform(0.0002, 0.003)))
    rows, columns = noise.integers(0, height, count), noise.integers(0, width - 1, count)
    dark = rng.random() < 0.7
    black[rows, columns] = dark
    if rng.random() < 0.5:
        black[rows[::2], columns[::2] + 1] = dark


def _salt_and_pepper(image: Gray, rng: Random, noise: np.random.Generator) -> None:
    count = max(1, round(image.size * rng.uniform(0.001, 0.012)))
    places = noise.integers(0, image.size, count)
    image.reshape(-1)[places] = noise.choice(np.array([0, 255], np.uint8), count)


def jpeg(image: NDArray[np.uint8], rng: Random) -> NDArray[np.uint8]:
    """Compressed and read back: uint8 [height, width] or [height, width, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=rng.randint(25, 85))
    return np.asarray(Image.open(buffer))
