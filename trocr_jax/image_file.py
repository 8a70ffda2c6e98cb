"""Decoding: any picture file, PIL image or array to an upright RGB image on white, or an ImageError that says why."""

import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from trocr_jax.errors import ImageError, ImageLimitError

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | np.ndarray

# Raster formats only: readers that start other programs (EPS) or guess from weak signatures (PCX, TGA) stay out.
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
MAX_PIXELS = 178_956_970  # twice PIL.Image.MAX_IMAGE_PIXELS: where Pillow, too, refuses by default


def open_rgb(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode one image to mode RGB, upright, on white, full size.

    source: a path, the bytes of a file, a binary file object (read from its start), a PIL image, or an array
    [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] (RGBA) of uint8, uint16 (0 to 65535), bool or floats in 0..1.

    EXIF orientation is applied; alpha and transparent colours are laid over white; of several frames or pages the first
    is read; 16-bit values become round(value / 257), those of a colour file value // 256, as Pillow has it; those of a
    TIFF with fewer bits are scaled by these; 32-bit and float files are scaled by the smallest of 1 (floats only, which
    may overshoot it by a half), 255, 65535 and 2^31 - 1 that holds their largest value, negative values being black; a
    TIFF whose zero is white is inverted; other modes are converted as PIL's `convert("RGB")` does. More than
    `max_pixels` pixels are refused before they are decoded.
    Raises ImageError naming the source and what to do; ImageLimitError for one that is too large.
    """
    image = open_picture(source, max_pixels=max_pixels)
    return image if image.mode == "RGB" else image.convert("RGB")


def open_picture(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """As `open_rgb`, but in mode L if the image has one channel, whose three copies would be the same."""
    name = describe(source)
    with decoding(name):
        return _open(source, name, max_pixels)


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Around what reads the image `name`: makes an ImageError that names it of whatever Pillow raises."""
    try:
        with without_pillow_warnings():
            yield
    except ImageError:
        raise
    except FileNotFoundError:
        do = "only `trocr-jax jobs run` reads URLs" if "://" in name else "check the path"
        raise ImageError(f"{name}: no such file; {do}") from None
    except PermissionError:
        raise ImageError(f"{name}: reading is not permitted; check the permissions of the file and folder") from None
    except UnidentifiedImageError:
        raise ImageError(
            f"{name}: not an image that can be read, or damaged; convert it to one of {', '.join(FORMATS)}"
        ) from None
    except Image.DecompressionBombError as error:
        raise ImageLimitError(
            f"{name}: {error}; crop or shrink it (Python code may raise PIL.Image.MAX_IMAGE_PIXELS and max_pixels)"
        ) from error
    except MemoryError as error:
        raise ImageLimitError(f"{name}: too large for the memory of this machine; crop or shrink it") from error
    except Exception as error:  # Pillow's decoders raise nearly every built-in exception on damaged files.
        if isinstance(error, OSError) and error.errno is not None and error.strerror:  # the system's
            raise ImageError(f"{name}: cannot be read ({error.strerror})") from error
        detail = str(error) or type(error).__name__
        raise ImageError(f"{name}: cannot be decoded ({detail}); it may be damaged, save or copy it again") from error


def describe(source: Any) -> str:
    """How messages call an image: its path or file name where it has one, else its kind and size."""
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return f"<image of {len(source)} bytes>"
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or f"<PIL image {source.mode} {source.width} x {source.height}>")
    if hasattr(source, "read"):
        return str(getattr(source, "name", "<file object>"))
    if hasattr(source, "shape") and hasattr(source, "dtype"):
        return f"<array {list(source.shape)} {source.dtype}>"
    return f"<{type(source).__name__}>"


def _open(source: ImageSource, name: str, max_pixels: int) -> Image.Image:
    if isinstance(source, Image.Image):
        return _load(source, name, max_pixels)
    if isinstance(source, str | os.PathLike):
        mode = os.stat(source).st_mode
        if stat.S_ISDIR(mode):
            raise ImageError(f"{name}: is a folder; name the image files in it")
        if not stat.S_ISREG(mode):  # a pipe or device could block or never end
            raise ImageError(f"{name}: is not a regular file; copy the image to a file first")
        with open(source, "rb") as file:
            return _decode(file, name, max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode(io.BytesIO(bytes(source)), name, max_pixels)  # a view may have gaps
    if isinstance(source, np.ndarray) or hasattr(source, "__array__"):
        return _load(_from_array(as_array(source), name), name, max_pixels)
    if hasattr(source, "read"):
        if not hasattr(source, "seekable") or source.seekable():  # mmap has no `seekable` before Python 3.13
            with suppress(AttributeError, OSError):  # of a stream, which is read from where it stands
                source.seek(0)
        content = source.read()
        if not isinstance(content, bytes):
            raise ImageError(f"{name}: is open in text mode; open it with mode 'rb'")
        return _decode(io.BytesIO(content), name, max_pixels)
    raise ImageError(f"{name}: not an image; give a path, bytes, a binary file, a PIL image or an array")


def _decode(file: IO[bytes], name: str, max_pixels: int) -> Image.Image:
    if file.seek(0, os.SEEK_END) == 0:
        raise ImageError(f"{name}: is empty (0 bytes); save or copy it again")
    with Image.open(file, formats=FORMATS) as image:
        return _load(image, name, max_pixels)


def _load(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    width, height = image.size
    if not width or not height:
        raise ImageError(f"{name}: has no pixels ({width} x {height}); leave it out")
    if width * height > max_pixels:
        raise ImageLimitError(
            f"{name}: {width} x {height} pixels are more than the cap of {max_pixels}; "
            "crop or shrink it (Python code may raise max_pixels)"
        )
    stored = [tile[3] for tile in getattr(image, "tile", [])]  # before it is loaded: how its pixels are packed
    image.load()
    if image.format == "PNG" and (transparent := image.info.get("transparency")) is not None:
        image = _with_transparent(image, transparent, stored)
    return _plain(_upright(image), getattr(image, "tag_v2", {}))


def _with_transparent(image: Image.Image, transparent: Any, stored: list[Any]) -> Image.Image:
    """The image with its transparent colour as Pillow compares it with its pixels: at 8 bits, as they have become. It
    leaves the colour as it stands in the file, at the file's depth."""
    if isinstance(transparent, tuple) and ("RGB;16B" in stored or max(transparent) > 255):
        transparent = tuple(value >> 8 for value in transparent)
    elif isinstance(transparent, int) and stored and stored[0] in ("L;2", "L;4"):
        transparent *= 85 if stored[0] == "L;2" else 17
    else:
        return image
    image = image.copy()
    image.info["transparency"] = transparent
    return image


def as_array(images: Any) -> np.ndarray:
    """As numpy has it. Raises ImageError for what it cannot have, such as bf16 or gradients of torch."""
    try:
        return np.asarray(images)
    except Exception as error:  # noqa: BLE001  of somebody else's class
        raise ImageError(f"{describe(images)}: numpy cannot have it ({error}); give it as a numpy array") from None


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    shape = array.shape
    if not (array.ndim == 2 or (array.ndim == 3 and shape[2] in (1, 3, 4))):
        raise ImageError(f"{name}: an image array must be [H, W], [H, W, 1], [H, W, 3] or [H, W, 4]")
    if 0 in shape:
        raise ImageError(f"{name}: has no pixels; leave it out")
    if array.dtype == bool:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype.kind == "u" and array.dtype.itemsize == 2:
        array = _from_16_bits(array)
    elif array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
        if not (array.min() >= 0 and array.max() <= 1):  # also false for NaN
            raise ImageError(f"{name}: float arrays must lie in 0..1; scale it, or pass uint8")
        array = np.rint(array * np.float32(255)).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(f"{name}: the dtype must be uint8, uint16, bool or float in 0..1; convert it")
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if shape[2:] == (1,) else array))


_UPRIGHT = {  # EXIF 2.32, tag 0x0112: how to turn the stored image
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image) -> Image.Image:
    try:
        method = _UPRIGHT.get(image.getexif().get(0x0112, 1))
    except Exception:  # noqa: BLE001, damaged metadata says nothing about the pixels
        method = None
    return image if method is None else image.transpose(method)


_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
"""Tags of TIFF 6.0, which Pillow does not heed in grey wider than 8 bits; the last in that of 32 bits."""


def _plain(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """In mode L or RGB, never the image itself. tags: of a TIFF."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if image.mode == "I" and image.format == "PPM":  # which Pillow scales to 16 bits
            values = values.astype(np.uint16)
        if image.mode == "I" and tags and tags.get(_SAMPLE_FORMAT, (1,))[0] == 1:
            values = values.view(np.uint32)
        bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
        grey = _from_16_bits(values, bits) if values.dtype.itemsize == 2 else _from_wide(values)
        if tags.get(_PHOTOMETRIC) == 0:  # its zero is white
            grey = np.uint8(255) - grey
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey = np.where(values == transparent, np.uint8(255), grey)
        return Image.fromarray(grey)
    if not image.has_transparency_data:
        return image.convert("L" if image.mode in ("1", "L") else "RGB")
    image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image.convert("RGB"), mask=image.getchannel("A"))
    return canvas


def _from_16_bits(values: np.ndarray, bits: int = 16) -> np.ndarray:
    """0 to 2^bits - 1, 65535 at most, to 0..255, rounded."""
    full = 2**bits - 1
    wide = values.astype(np.uint32)
    wide *= 255
    wide += full // 2
    wide //= full
    return np.minimum(wide, 255, out=wide).astype(np.uint8)


def _from_wide(values: np.ndarray) -> np.ndarray:
    """int32, uint32 or f32 of unknown range to uint8, by the smallest usual full scale that holds the largest value."""
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    largest = float(values.max())
    scales = (255, 65535, 2**31 - 1, 2**32 - 1)[: 4 if values.dtype.kind == "u" else 3]
    if values.dtype.kind == "f":
        scales = (1, *scales)
    full = next((scale for scale in scales if largest <= (1.5 if scale == 1 else scale)), largest)
    grey = np.clip(values, 0, full).astype(np.float32)
    grey *= np.float32(255 / full)
    return np.rint(grey, out=grey).astype(np.uint8)


class _Here(threading.local):
    """Stands where a filter of `warnings` has a pattern of modules, and matches in threads that decode alone: other
    filters would have to be set for all threads, and taken away again under those of the program's own."""

    depth = 0

    def match(self, module: str) -> bool:
        return self.depth > 0 and module.startswith(("PIL.", "trocr_jax.image"))


_here = _Here()
_QUIET: Any = ("ignore", None, Warning, _here, 0)
_setting = threading.Lock()


@contextmanager
def without_pillow_warnings() -> Iterator[None]:
    """Silence Pillow in this thread: what it only warns about (odd metadata, size) is either harmless here or checked
    here."""
    filters: Any = warnings.filters
    if not filters or filters[0] is not _QUIET:  # `warnings.catch_warnings` has taken it away, or put others before it
        with _setting:
            filters.insert(0, _QUIET)
            for place in [i for i, one in enumerate(filters) if one is _QUIET][:0:-1]:
                del filters[place]
    _here.depth += 1
    try:
        yield
    finally:
        _here.depth -= 1
