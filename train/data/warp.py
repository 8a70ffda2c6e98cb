"""A line seen at an angle, or bent: ink never leaves the picture."""

import math
from random import Random

import numpy as np
from PIL import Image


def in_perspective(mask: Image.Image, *, em: float, rng: Random) -> Image.Image:
    """The ink mask turned by up to 8 degrees, slanted, and nearer at one side."""
    turn = math.radians(rng.uniform(-8, 8))
    lift = abs(math.sin(turn)) * mask.width / 2
    width, height = mask.width, round(mask.height + 2 * min(lift, 1.5 * em))
    slope = math.copysign(min(lift, 1.5 * em), turn)
    near = [rng.uniform(0, 0.3) * em for _ in range(4)]  # what the corners recede
    slant = rng.uniform(-0.2, 0.2) * mask.height
    left, right, bottom = -max(slant, 0.0) - 1, mask.width + max(-slant, 0.0) + 1, mask.height
    above = (height - mask.height) / 2
    corners = (
        left, -above - near[0] - slope,
        left + slant, bottom + above + near[1] - slope,
        right + slant, bottom + above + near[2] + slope,
        right, -above - near[3] + slope,
    )  # fmt: skip
    return mask.transform((width, height), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR, fillcolor=0)


def arched(mask: Image.Image, *, em: float, rng: Random) -> Image.Image:
    """The ink mask on an arch, or in a bowl, up to 0.6 em high."""
    ink = np.asarray(mask)
    height, width = ink.shape
    rise = rng.uniform(0.1, 0.6) * em
    shape = np.sin(np.linspace(0, math.pi, width))
    shift = np.rint(rise * (1 - shape if rng.random() < 0.5 else shape)).astype(np.int64)
    most = int(shift.max())
    padded = np.pad(ink, ((most, most), (0, 0)))
    rows = np.arange(height + most)[:, None] + most - shift
    return Image.fromarray(padded[rows, np.arange(width)])
