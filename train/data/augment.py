"""What is done to a line before a model sees it: the seven of the TrOCR paper, and a set in the manner of RandAugment.

Every function is pure: the same picture and generator state give the same pixels. Pictures are uint8 [h, w] or
[h, w, 3] with dark writing on light paper; "dilation" and "erosion" are those of the writing.
"""

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from train.data.line import DataError

Pixels = NDArray[np.uint8]
Operation = Callable[[Image.Image, np.random.Generator], Image.Image]
Augmentation = Literal["none", "paper", "randaugment"]
"""Nothing, one of PAPER, or two of RANDAUGMENT."""


def augment(image: Pixels, rng: np.random.Generator, augmentation: Augmentation) -> Pixels:
    """The picture after an augmentation: uint8 with as many channels, sometimes of another size.

    Raises DataError for a name that is not an Augmentation.
    """
    if augmentation not in get_args(Augmentation):
        raise DataError(f"augmentation must be one of {', '.join(get_args(Augmentation))}, not {augmentation!r}")
    if augmentation == "none":
        return image
    picture = Image.fromarray(image)
    if augmentation == "paper":
        picture = PAPER[tuple(PAPER)[rng.integers(len(PAPER))]](picture, rng)
    else:
        for _ in range(_OPERATIONS):
            picture = RANDAUGMENT[tuple(RANDAUGMENT)[rng.integers(len(RANDAUGMENT))]](picture, rng)
    return np.asarray(picture)


def rotation(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turned by up to 10 degrees either way; the picture grows so that nothing is cut off."""
    return image.rotate(rng.uniform(-10, 10), Image.Resampling.BILINEAR, expand=True, fillcolor=_paper(image))


def gaussian_blur(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Blurred with a radius that grows with the size of the writing."""
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.5) * max(1.0, image.height / 64)))


def dilation(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Thicker strokes."""
    return _extreme(image, np.minimum)


def erosion(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Thinner strokes, at half strength where whole pixels would erase them."""
    eroded = _extreme(image, np.maximum)
    return eroded if image.height >= 64 else Image.blend(image, eroded, 0.5)


def downscale(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Shrunk to a third and enlarged again."""
    small = max(1, image.width // 3), max(1, image.height // 3)
    return image.resize(small, Image.Resampling.BILINEAR).resize(image.size, Image.Resampling.BILINEAR)


def underline(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A line under the writing, as dark as the writing."""
    height = image.height
    y = rng.uniform(0.82, 0.97) * height
    drop = rng.uniform(-0.02, 0.02) * height
    grey = image.convert("L")
    ink = int(np.percentile(np.asarray(grey), 2))
    out = image.copy()
    fill = (ink,) * 3 if image.mode == "RGB" else ink
    ImageDraw.Draw(out).line(
        (0, y, image.width, y + drop), fill=fill, width=max(1, round(height * rng.uniform(0.02, 0.05)))
    )
    return out


def unchanged(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The picture as it is."""
    return image


PAPER: Mapping[str, Operation] = {
    "rotation": rotation,
    "gaussian_blur": gaussian_blur,
    "dilation": dilation,
    "erosion": erosion,
    "downscale": downscale,
    "underline": underline,
    "none": unchanged,
}
"""The seven of the paper (arXiv 2109.10282, section 3.3), by name; one is chosen uniformly."""


def shear(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Slanted by up to 0.3 of the height; the picture grows so that nothing is cut off."""
    slant = rng.uniform(-0.3, 0.3)
    extra = round(abs(slant) * image.height)
    matrix = (1.0, slant, -extra if slant > 0 else 0.0, 0.0, 1.0, 0.0)
    size = image.width + extra, image.height
    return image.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=_paper(image))


def stretch(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Narrower or wider by up to a fifth."""
    width = max(1, round(image.width * rng.uniform(0.8, 1.25)))
    return image.resize((width, image.height), Image.Resampling.BILINEAR)


def brightness(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Darker or lighter."""
    return ImageEnhance.Brightness(image).enhance(rng.uniform(0.6, 1.4))


def contrast(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Paler or stronger; never so pale that writing disappears."""
    return ImageEnhance.Contrast(image).enhance(rng.uniform(0.5, 1.6))


def sharpness(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Softer or harder edges."""
    return ImageEnhance.Sharpness(image).enhance(rng.uniform(0.2, 3.0))


def posterize(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Fewer shades: 2 to 5 bits."""
    return ImageOps.posterize(image, int(rng.integers(2, 6)))


def noise(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Gaussian noise of up to 20 grey levels, the same in every channel."""
    pixels = np.asarray(image)
    grain_ = rng.standard_normal(pixels.shape[:2], dtype=np.float32) * np.float32(rng.uniform(3, 20))
    noisy = pixels + (grain_ if pixels.ndim == 2 else grain_[..., None])
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def inversion(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Light writing on dark paper."""
    return ImageOps.invert(image)


RANDAUGMENT: Mapping[str, Operation] = {
    **PAPER,
    "shear": shear,
    "stretch": stretch,
    "brightness": brightness,
    "contrast": contrast,
    "sharpness": sharpness,
    "posterize": posterize,
    "noise": noise,
    "inversion": inversion,
}
"""The paper's and more, as RandAugment (arXiv 1909.13719) chooses: two in a row, each uniformly. Translations and
cut-outs are left out: they remove letters that the label has."""

_OPERATIONS = 2


def _paper(image: Image.Image) -> int | tuple[int, ...]:
    """The colour of the paper: the median along the border."""
    pixels = np.asarray(image)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = np.median(edge, axis=0)
    return int(colour) if pixels.ndim == 2 else tuple(int(c) for c in colour)


def _extreme(image: Image.Image, best: np.ufunc) -> Image.Image:
    """Of each pixel the least or greatest of the square around it, about as wide as a stroke in writing of this height.
    Equal to Pillow's MinFilter and MaxFilter of 3 or 5 pixels, forty times as fast: first columns, then rows."""
    pixels = np.asarray(image)
    for axis in (0, 1):
        before = np.swapaxes(pixels, 0, axis)
        pixels = pixels.copy()
        after = np.swapaxes(pixels, 0, axis)
        for shift in range(1, 2 if image.height < 128 else 3):
            best(after[shift:], before[:-shift], out=after[shift:])
            best(after[:-shift], before[shift:], out=after[:-shift])
    return Image.fromarray(pixels)
