"""Lines in colour: printed matter, receipts, and words as they stand in photographs.

Ink is painted on a ground: both have a colour, the ground perhaps a texture, the whole uneven light. The colours
of text and ground differ by at least LEAST grey levels, so that every line can be read.
"""

from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from train.data.degrade import jpeg, readable
from train.data.warp import arched, in_perspective

Gray = NDArray[np.uint8]
Colour = NDArray[np.uint8]  # [height, width, 3]
Rgb = tuple[int, int, int]

LEAST = 80  # grey levels between the ink and the ground, before texture, light and noise


def document(ink: Gray, *, em: float, rng: Random) -> Colour:
    """Books, forms and posters: uint8 [height, width, 3] of an ink mask [height, width], as `degrade.degrade` takes."""
    noise = np.random.default_rng(rng.getrandbits(64))
    mask = _blurred(Image.fromarray(readable(ink)), rng.uniform(0.0, 0.9) * em / 30)
    text, paper = _colours(rng, calm=0.6)
    picture = _ground(mask.size, paper, rng, noise, depth=0.3, textured=0.4)
    picture.paste(text, mask=mask)
    if rng.random() < 0.4:
        picture = _lit(picture, rng, noise, depth=rng.uniform(0.1, 0.4))
    return _stored(picture, rng, noise, grain=0.5)


def receipt(ink: Gray, *, em: float, rng: Random) -> Colour:
    """Thermal paper: pale, worn in bands, crumpled. Shapes as for `document`."""
    noise = np.random.default_rng(rng.getrandbits(64))
    mask = Image.fromarray(readable(ink))
    if rng.random() < 0.5:  # worn heating dots leave pale stripes along the paper, a weak battery pale bands across it
        cells = (1, max(2, mask.width // rng.randint(6, 60))) if rng.random() < 0.5 else (rng.randint(2, 6), 1)
        strength = noise.integers(rng.randint(90, 220), 256, cells, dtype=np.uint8)
        mask = ImageChops.multiply(mask, Image.fromarray(strength).resize(mask.size, Image.Resampling.BILINEAR))
    mask = _blurred(mask, rng.uniform(0.2, 1.1) * em / 30)
    level, tint = rng.randint(185, 250), rng.choice(((0, 0, 0), (0, -3, -14), (-8, -4, 0), (0, -8, -8)))
    paper = (level + tint[0], level + tint[1], level + tint[2])
    black = rng.randint(15, min(110, level - LEAST))
    picture = Image.new("RGB", mask.size, paper)
    picture.paste((black, black, min(255, black + rng.randint(0, 25))), mask=mask)
    if rng.random() < 0.6:
        picture = _lit(picture, rng, noise, depth=rng.uniform(0.1, 0.45))
    return _stored(picture, rng, noise, grain=0.7)


def scene(ink: Gray, *, em: float, rng: Random) -> Colour:
    """A word on a sign, a wrapper, a wall: seen at an angle, perhaps bent, outlined or with a shadow. Height and width
    are those of the warped ink."""
    noise = np.random.default_rng(rng.getrandbits(64))
    mask = Image.fromarray(readable(ink))
    if rng.random() < 0.15:
        mask = arched(mask, em=em, rng=rng)
    if rng.random() < 0.6:
        mask = in_perspective(mask, em=em, rng=rng)
    text, ground = _colours(rng, calm=0.2)
    picture = _ground(mask.size, ground, rng, noise, depth=0.6, textured=0.7)
    effect = rng.random()
    if effect < 0.2:  # a shadow falls to the right and down
        shift = max(1, round(rng.uniform(0.03, 0.09) * em))
        shadow = ImageChops.offset(mask, shift, shift)
        shadow.paste(0, (0, 0, shift, mask.height))
        shadow.paste(0, (0, 0, mask.width, shift))
        picture.paste(_darker(ground), mask=shadow.filter(ImageFilter.BoxBlur(shift / 2)))
    elif effect < 0.4 and em > 22:  # an outline as far from the text as the ground is
        picture.paste(_away(text, rng), mask=mask.filter(ImageFilter.MaxFilter(3)))
    if rng.random() < 0.2:  # letters that change their shade from side to side
        ends = np.asarray([[text, _nudged(text, rng, 25)]], np.uint8)
        picture.paste(Image.fromarray(ends).resize(mask.size, Image.Resampling.BILINEAR), mask=mask)
    else:
        picture.paste(text, mask=mask)
    if rng.random() < 0.5:
        picture = _lit(picture, rng, noise, depth=rng.uniform(0.1, 0.5))
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.3) * em / 30))
    return _stored(picture, rng, noise, grain=0.5)


def luminance(colour: Rgb) -> float:
    """Grey level of a colour, as Pillow's mode L has it (ITU-R BT.601)."""
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _colours(rng: Random, *, calm: float) -> tuple[Rgb, Rgb]:
    """Ink and ground. A share `calm` is dark on light with little colour, as most print is."""
    if rng.random() < calm:
        level, black = rng.randint(190, 252), rng.randint(0, 70)
        return _nudged((black,) * 3, rng, 20), _nudged((level,) * 3, rng, 14)
    while True:
        ink, ground = ((rng.randrange(256), rng.randrange(256), rng.randrange(256)) for _ in range(2))
        if abs(luminance(ink) - luminance(ground)) >= LEAST + 30:
            return ink, ground


def _ground(
    size: tuple[int, int], colour: Rgb, rng: Random, noise: np.random.Generator, *, depth: float, textured: float
) -> Image.Image:
    """A picture of one colour, or around it: sloping from side to side, cloudy, or of patches with edges. `depth` is
    how much of the room to the ink a texture may take."""
    if rng.random() >= textured:
        return Image.new("RGB", size, colour)
    kind = rng.random()
    if kind < 0.35:
        cells, how = (2, 2), Image.Resampling.BILINEAR
    else:
        cells = rng.randint(2, 5), max(2, size[0] // rng.randint(12, 120))
        how = Image.Resampling.BICUBIC if kind < 0.8 else Image.Resampling.NEAREST
    reach = max(1, round(depth * LEAST / 2))
    shades = noise.integers(-reach, reach + 1, (*cells, 1), dtype=np.int16)
    hues = noise.integers(-reach // 3, reach // 3 + 1, (*cells, 3), dtype=np.int16)
    small = np.clip(np.asarray(colour, np.int16) + shades + hues, 0, 255).astype(np.uint8)
    return Image.fromarray(small).resize(size, how)


def _lit(picture: Image.Image, rng: Random, noise: np.random.Generator, *, depth: float) -> Image.Image:
    """Uneven light: shadows, folds, a lamp at one side."""
    cells = rng.randint(2, 3), rng.randint(2, max(3, picture.width // 80))
    light = noise.integers(round(255 * (1 - depth)), 256, cells, dtype=np.uint8)
    field = Image.fromarray(light).resize(picture.size, Image.Resampling.BILINEAR)
    return ImageChops.multiply(picture, Image.merge("RGB", [field] * 3))


def _stored(picture: Image.Image, rng: Random, noise: np.random.Generator, *, grain: float) -> Colour:
    """Grain of the camera, and compression."""
    if rng.random() < grain:
        sigma = rng.uniform(1.5, 9.0)
        speck = noise.standard_normal(picture.size[::-1], np.float32)
        field = Image.fromarray(np.clip(128 + sigma * speck, 0, 255).astype(np.uint8))
        picture = ImageChops.add(picture, Image.merge("RGB", [field] * 3), offset=-128)
    pixels = np.asarray(picture)
    return jpeg(pixels, rng) if rng.random() < 0.2 else pixels


def _blurred(mask: Image.Image, radius: float) -> Image.Image:
    return mask.filter(ImageFilter.GaussianBlur(radius)) if radius > 0.2 else mask


def _nudged(colour: Rgb, rng: Random, by: int) -> Rgb:
    red, green, blue = (min(255, max(0, value + rng.randint(-by, by))) for value in colour)
    return red, green, blue


def _darker(colour: Rgb) -> Rgb:
    red, green, blue = (value // 2 for value in colour)
    return red, green, blue


def _away(text: Rgb, rng: Random) -> Rgb:
    """A colour that the text can be told from."""
    level = 0 if luminance(text) > 127 else 255
    return _nudged((level,) * 3, rng, 30)
