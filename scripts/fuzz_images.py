"""Feed mutated image files to the image processor: each must give pixels or an ImageError, and soon.

    python -m scripts.fuzz_images --count 10000

Prints how many were read and how many were refused for which reason, the slowest file and the peak memory; exits 1 if
anything but an ImageError was raised. A file that takes longer than --timeout ends the run with a traceback.
Every mutation is a function of (--seed, index): `--first N --count 1` repeats file N.
"""

import argparse
import faulthandler
import io
import random
import re
import resource
import struct
import sys
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from trocr_jax.errors import ImageError
from trocr_jax.image import ImageProcessor

PROCESSOR = ImageProcessor(height=40, width=960, keep_aspect_ratio=True)


@dataclass
class Report:
    """What happened to the files: counts per outcome, the slowest, and the exceptions that should not exist."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_seconds: float = 0.0
    slowest_index: int = -1
    escaped: list[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="how many files")
    parser.add_argument("--first", type=int, default=0, help="index of the first file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds after which a file counts as a hang")
    options = parser.parse_args()
    report = fuzz(range(options.first, options.first + options.count), seed=options.seed, timeout=options.timeout)
    for outcome, count in report.outcomes.most_common():
        print(f"{count:6d}  {outcome}")
    print(f"slowest: file {report.slowest_index}, {report.slowest_seconds:.3f} s")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")  # Linux counts KiB
    for trace in report.escaped[:10]:
        print(trace)
    print(f"{len(report.escaped)} exceptions other than ImageError in {sum(report.outcomes.values())} files")
    return 1 if report.escaped else 0


def fuzz(indices: range, *, seed: int = 0, timeout: float = 60.0) -> Report:
    """Read the mutated files of `indices`."""
    originals = list(make_originals())
    report = Report()
    for index in indices:
        kind, data = mutated(originals, seed=seed, index=index)
        faulthandler.dump_traceback_later(timeout, exit=True)
        start = time.perf_counter()
        try:
            pixels = PROCESSOR.pixels(data)
            ok = pixels.shape == (40, 960, 3) and pixels.dtype == np.uint8
            outcome = "read" if ok else "wrong shape"
            if not ok:
                report.escaped.append(f"file {index} ({kind}): pixels {pixels.shape} {pixels.dtype}")
        except ImageError as error:
            outcome = "refused: " + reason(str(error))
        except Exception:  # noqa: BLE001, what this script looks for
            outcome = "escaped"
            report.escaped.append(f"file {index} ({kind}):\n{traceback.format_exc()}")
        finally:
            faulthandler.cancel_dump_traceback_later()
        seconds = time.perf_counter() - start
        if seconds > report.slowest_seconds:
            report.slowest_seconds, report.slowest_index = seconds, index
        report.outcomes[f"{kind} {outcome}"] += 1
    return report


def reason(message: str) -> str:
    """The kind of an error message: without the file's name and the numbers in it."""
    return re.sub(r"\d+", "N", message.partition(": ")[2])[:60]


def make_originals() -> Iterator[tuple[str, bytes]]:
    """Small valid files (format, bytes) in the modes and compressions that scans come in."""
    grey = Image.new("L", (120, 40), 235)
    ImageDraw.Draw(grey).text((6, 12), "mutated line 1234", fill=20)
    colour = Image.merge("RGB", (grey, grey.rotate(2), grey))
    alpha = colour.copy()
    alpha.putalpha(grey)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * np.uint16(257))
    exif = Image.Exif()
    exif[0x0112] = 6
    for image in (grey, colour, alpha, deep, grey.convert("1"), colour.quantize(16), grey.convert("LA")):
        yield "PNG", encoded(image, "PNG", exif=exif)
    for image in (grey, colour, colour.convert("CMYK")):
        yield "JPEG", encoded(image, "JPEG", exif=exif)
    yield "JPEG", encoded(colour, "JPEG", progressive=True, optimize=True)
    for image in (grey, colour, alpha, deep, grey.convert("F"), grey.convert("I"), colour.convert("LAB")):
        yield "TIFF", encoded(image, "TIFF")
    yield "TIFF", encoded(grey, "TIFF", save_all=True, append_images=[colour])
    yield "TIFF", encoded(grey.convert("1"), "TIFF", compression="group4")
    for compression in ("packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg"):
        yield "TIFF", encoded(colour, "TIFF", compression=compression)
    yield "WEBP", encoded(colour, "WEBP", quality=60, exif=exif)
    yield "WEBP", encoded(alpha, "WEBP", quality=60)
    yield "WEBP", encoded(alpha, "WEBP", lossless=True)
    yield "WEBP", encoded(colour, "WEBP", save_all=True, append_images=[colour.rotate(180)], duration=50)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def mutated(originals: list[tuple[str, bytes]], *, seed: int, index: int) -> tuple[str, bytes]:
    """File number `index`: one original with one to three mutations; half of the PNGs get their checksums repaired."""
    rng = random.Random(f"{seed}-{index}")
    kind, original = rng.choice(originals)
    data = bytearray(original)
    for _ in range(rng.randint(1, 3)):
        rng.choice(MUTATIONS)(data, rng, originals)
    if kind == "PNG" and rng.random() < 0.5:
        repair_png(data)
    return kind, bytes(data)


def flip_bits(data: bytearray, rng: random.Random, originals: list[tuple[str, bytes]]) -> None:
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def flip_header_bits(data: bytearray, rng: random.Random, originals: list[tuple[str, bytes]]) -> None:
    if data:
        data[rng.randrange(min(len(data), 200))] ^= 1 << rng.randrange(8)


def truncate(data: bytearray, rng: random.Random, originals: list[tuple[str, bytes]]) -> None:
    del data[rng.randrange(len(data) + 1) :]


def splice(data: bytearray, rng: random.Random, originals: list[tuple[str, bytes]]) -> None:
    other = rng.choice(originals)[1]
    begin = rng.randrange(len(other))
    at = rng.randrange(len(data) + 1)
    data[at : at + rng.choice((0, 4, 64, len(data)))] = other[begin : begin + rng.choice((4, 64, 1024))]


def cut_out(data: bytearray, rng: random.Random, originals: list[tuple[str, bytes]]) -> None:
    at = rng.randrange(len(data) + 1)
    del data[at : at + rng.choice((1, 2, 16, 256))]


def overwrite_integer(data: bytearray, rng: random.Random, originals: list[tuple[str, bytes]]) -> None:
    value = rng.choice((0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF))
    at = rng.randrange(len(data) + 1)
    data[at : at + 4] = struct.pack(rng.choice("<>") + "I", value)


MUTATIONS: tuple[Callable[[bytearray, random.Random, list[tuple[str, bytes]]], None], ...] = (
    flip_bits,
    flip_header_bits,
    truncate,
    splice,
    cut_out,
    overwrite_integer,
)


def repair_png(data: bytearray) -> None:
    """Recompute the checksum of each PNG chunk, so that damage reaches the code behind the checksums."""
    at = 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if at + 12 + length > len(data):
            return
        data[at + 8 + length : at + 12 + length] = struct.pack(">I", zlib.crc32(data[at + 4 : at + 8 + length]))
        at += 12 + length


if __name__ == "__main__":
    sys.exit(main())
