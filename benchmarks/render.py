"""Lines a second of one core: drawing, augmenting and encoding training lines.

    python -m benchmarks.render [--lines N] [--max-chars 40 72] [--style printed]

Processor time is counted, not the clock on the wall, so other work on the machine changes the figures little. The
stages build on each other: each row is the whole path up to its stage.
"""

import io
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import tyro
from PIL import Image

from train.data.augment import augment
from train.data.encode import Tokens
from train.data.fonts import Style
from train.data.line import Line
from train.data.render import Renderer
from train.input import Examples
from trocr_jax.checkpoint import resolve
from trocr_jax.config import TrOCRConfig
from trocr_jax.image import ImageProcessor
from trocr_jax.tokenizer import load_tokenizer


@dataclass(frozen=True)
class Options:
    """Lines a second of one core.

    Attributes:
        lines: lines of a round.
        rounds: the median of so many is printed.
        max_chars: characters a line may have; each value is measured.
        style: in which faces.
    """

    lines: int = 300
    rounds: int = 5
    max_chars: tuple[int, ...] = (40, 72)
    style: Style = "printed"


def measure(options: Options) -> None:
    """Prints a table: stage, and lines a second for each of `max_chars`."""
    renderer = Renderer.create(style=options.style)
    folder = resolve("tiny-printed")
    tokenizer, narrow = load_tokenizer(folder), ImageProcessor.from_folder(folder)
    config = TrOCRConfig.from_json(folder / "config.json")
    square = ImageProcessor(height=384, width=384)  # of the published models

    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, style {options.style}")
    print("| stage | " + " | ".join(f"up to {n} characters" for n in options.max_chars) + " |")
    print("|---|" + "---|" * len(options.max_chars))

    def row(name: str, then: Callable[[int, Line], object]) -> None:
        speeds = [f"{_speed(renderer, options, n, then):.0f}" for n in options.max_chars]
        print(f"| {name} | " + " | ".join(speeds) + " |", flush=True)

    def augmented(index: int, line: Line) -> Line:
        return Line(augment(line.image, np.random.default_rng((0, index)), "paper"), line.text)

    encoders = {
        name: Examples.of(config, Tokens(tokenizer), width=processor.width, max_tokens=127, processor=processor)
        for name, processor in {f"{narrow.height} x {narrow.width}": narrow, "384 x 384": square}.items()
    }
    row("drawn and damaged", lambda i, line: line)
    row("and augmented (paper)", augmented)
    for name, encoder in encoders.items():
        row(f"and encoded to {name} x 3 and tokens", lambda i, line, e=encoder: e(augmented(i, line)))  # type: ignore[misc]
    row("drawn, damaged and written as PNG, as `data build synthetic` does", lambda i, line: _png(line))


def _speed(renderer: Renderer, options: Options, max_chars: int, then: Callable[[int, Line], object]) -> float:
    for index in range(30):  # fills caches
        then(index, renderer.line(index, max_chars=max_chars))
    speeds = []
    for number in range(options.rounds):
        first = 1000 + number * options.lines
        started = time.process_time()
        for index in range(first, first + options.lines):
            then(index, renderer.line(index, max_chars=max_chars))
        speeds.append(options.lines / (time.process_time() - started))
    return median(speeds)


def _png(line: Line) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(line.image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


if __name__ == "__main__":
    measure(tyro.cli(Options, description=__doc__))
