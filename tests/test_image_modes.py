"""Modes of images, arrays and transparency against PIL and NumPy formulas."""

import io
import struct
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.images import encoded, grey, noise, opened, over_white
from trocr_jax.errors import ImageError
from trocr_jax.image import ImageProcessor
from trocr_jax.image_file import open_rgb


def test_grey_modes():
    values = noise(9, 14)
    bits = values > 99
    assert np.array_equal(opened(Image.fromarray(values)), grey(values))
    assert np.array_equal(opened(encoded(Image.fromarray(values), "PNG")), grey(values))
    for source in (bits, Image.fromarray(bits), encoded(Image.fromarray(bits), "TIFF", compression="group4")):
        assert np.array_equal(opened(source), grey(bits * np.uint8(255)))


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
def test_alpha_is_laid_over_white(mode):
    alpha = noise(16, 16, seed=1)
    alpha[0], alpha[1] = 0, 255
    if mode in ("LA", "La"):
        colour = grey(noise(16, 16))
        image = Image.merge("LA", (Image.fromarray(colour[..., 0]), Image.fromarray(alpha)))
    elif mode == "PA":
        table, index = noise(256, 3, seed=2), noise(16, 16)
        colour = table[index]
        image = Image.merge("LA", (Image.fromarray(index), Image.fromarray(alpha)))
        image.putpalette(table.tobytes())
        assert image.mode == "PA"
    else:
        colour = noise(16, 16, 3)
        image = Image.fromarray(np.concatenate([colour, alpha[..., None]], -1))
    expected = over_white(colour, alpha)
    if mode in ("La", "RGBa"):  # premultiplied: colour is known to one part in alpha only
        image = image.convert(mode)
        difference = np.abs(opened(image).astype(int) - expected)
        assert difference.max() <= 2
        return
    np.testing.assert_array_equal(opened(image), expected)
    if mode != "PA":
        np.testing.assert_array_equal(opened(encoded(image, "PNG")), expected)
    np.testing.assert_array_equal(opened(np.array(image.convert("RGBA"))), expected)


@pytest.mark.parametrize("transparency", [None, 7, bytes(range(0, 256, 8))])
def test_palette_with_and_without_transparency(transparency):
    table, index = noise(32, 3), noise(12, 20, seed=1) % 32
    image = Image.fromarray(index.astype(np.uint8)).convert("L")
    image.putpalette(table.tobytes())
    alpha = np.full(32, 255)
    if isinstance(transparency, int):
        alpha[transparency] = 0
    elif transparency is not None:
        alpha[:] = list(transparency)
    options = {} if transparency is None else {"transparency": transparency}
    expected = over_white(table[index], alpha[index])
    data = encoded(image, "PNG", **options)
    assert Image.open(io.BytesIO(data)).mode == "P"
    np.testing.assert_array_equal(opened(data), expected)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "I;16"])
def test_a_transparent_colour_becomes_white(mode):
    values = noise(10, 10) % 4 * 50
    values[0, 0] = 100
    key: int | tuple[int, ...] = 100
    if mode == "1":
        image, key, plain = Image.fromarray(values > 60), 0, grey((values > 60) * np.uint8(255))
    elif mode == "L":
        image, plain = Image.fromarray(values), grey(values)
    elif mode == "RGB":
        image, key, plain = Image.fromarray(grey(values)), (100, 100, 100), grey(values)
    else:
        image, key, plain = Image.fromarray(values.astype(np.uint16) * 257), 25700, grey(values)
    data = encoded(image, "PNG", transparency=key)
    transparent = plain[..., 0] == (0 if mode == "1" else 100)
    assert transparent.any()
    assert Image.open(io.BytesIO(data)).mode == mode
    np.testing.assert_array_equal(opened(data), np.where(transparent[..., None], 255, plain))


@pytest.mark.parametrize(("depth", "kind"), [(1, 0), (2, 0), (4, 0), (8, 0), (8, 2), (16, 2)])
def test_a_transparent_colour_of_any_depth(depth, kind):
    """Of files made by hand, since Pillow writes few depths: kind 0 is grey, 2 colour."""
    full = 2**depth - 1
    every = np.arange(2 ** min(depth, 8)) * (full // (2 ** min(depth, 8) - 1))  # every value that 8 bits can tell apart
    width, channels = len(every), 3 if kind else 1
    if depth < 8:
        bits = (every[:, None] >> np.arange(depth)[::-1]) & 1
        row = np.packbits(bits.reshape(-1)).tobytes()
    else:
        row = np.repeat(every, channels).astype(f">u{depth // 8}").tobytes()
    for key in {0, 1, full // 2 + 1, full - 255 if depth == 16 else full, full}:

        def chunk(name: bytes, content: bytes) -> bytes:
            return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

        header = struct.pack(">IIBBBBB", width, 1, depth, kind, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
        data += chunk(b"tRNS", struct.pack(">H", key) * channels)
        data += chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
        plain = np.repeat((every * 255 // full).astype(np.uint8)[:, None], 3, 1)
        transparent = every >> 8 == key >> 8 if depth == 16 else every == key  # of 16 bits 8 are left
        assert transparent.sum() == 1
        expected = np.where(transparent[:, None], 255, plain)[None]
        np.testing.assert_array_equal(opened(data), expected)
        lazy = Image.open(io.BytesIO(data))
        before = dict(lazy.info)
        np.testing.assert_array_equal(opened(lazy), expected)
        assert lazy.info == before  # the caller's is left alone


def test_a_deep_greymap_has_16_bits():
    np.testing.assert_array_equal(opened(b"P2 3 1 65535 0 300 65535"), [[[0] * 3, [1] * 3, [255] * 3]])


def test_16_bit_values_are_divided_by_257_and_rounded():
    values = np.concatenate([np.arange(0, 65536, 13), [65535, 128, 129, 385, 386]]).astype(np.uint16).reshape(1, -1)
    expected = grey(np.rint(values / 257).astype(np.uint8))
    image = Image.fromarray(values)
    assert image.mode == "I;16"
    sources = [values, values.astype(">u2"), values[..., None], image, encoded(image, "PNG"), encoded(image, "TIFF")]
    sources.append(b"P5 %d 1 65535\n" % values.size + values.astype(">u2").tobytes())
    for source in sources:
        np.testing.assert_array_equal(opened(source), expected)
    big_endian = Image.frombytes("I;16B", image.size, values.astype(">u2").tobytes())
    np.testing.assert_array_equal(opened(big_endian), expected)


@pytest.mark.parametrize(
    ("values", "full"),
    [
        (np.array([[0, 100, 255]], np.int32), 255),
        (np.array([[-5, 300, 65535]], np.int32), 65535),
        (np.array([[0, 70000, 2**31 - 1]], np.int32), 2**31 - 1),
        (np.array([[0.0, 0.25, 1.0]], np.float32), 1),
        (np.array([[-3.0, 2.0, 254.6]], np.float32), 255),
        (np.array([[1.0, 256.0, 60000.0]], np.float32), 65535),
        (np.zeros((1, 3), np.float32), 1),
        (np.full((1, 3), -1, np.int32), 255),
    ],
)
def test_wide_modes_are_scaled_by_the_smallest_full_scale(values, full):
    expected = grey(np.rint(np.maximum(values, 0) * (255 / full)).astype(np.uint8))
    image = Image.fromarray(values)
    assert image.mode in ("I", "F")
    np.testing.assert_array_equal(opened(image), expected)
    np.testing.assert_array_equal(opened(encoded(image, "TIFF")), expected)


def tiff(rows: bytes, width: int, bits: int, *, photometric: int, kind: int = 1) -> bytes:
    """One row, by TIFF 6.0. kind: of the samples, 1 whole numbers, 3 floats."""
    short, long = 3, 4
    tags = [(256, long, width), (257, long, 1), (258, short, bits), (259, short, 1), (262, short, photometric)]
    tags += [(273, long, 8), (277, short, 1), (278, long, 1), (279, long, len(rows)), (339, short, kind)]
    entries = b"".join(struct.pack("<HHII", tag, of, 1, value) for tag, of, value in tags)
    rows += b"\0" * (len(rows) % 2)
    ahead = struct.pack("<2sHI", b"II", 42, 8 + len(rows)) + rows
    return ahead + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_a_tiff_says_how_many_bits_there_are_and_what_zero_is():
    twelve = [0, 1000, 2048, 4095]
    packed = int("".join(f"{value:012b}" for value in twelve), 2).to_bytes(6, "big")
    expected = np.rint(np.array(twelve) * 255 / 4095).astype(np.uint8)
    assert opened(tiff(packed, 4, 12, photometric=1))[0, :, 0].tolist() == expected.tolist()
    sixteen = np.array([0, 257, 30000, 65535], "<u2")
    expected = np.rint(sixteen / 257).astype(np.uint8)
    assert opened(tiff(sixteen.tobytes(), 4, 16, photometric=1))[0, :, 0].tolist() == expected.tolist()
    assert opened(tiff(sixteen.tobytes(), 4, 16, photometric=0))[0, :, 0].tolist() == (255 - expected).tolist()
    wide = np.array([0, 2**30, 2**31, 2**32 - 1], "<u4")
    for unsigned in (wide, wide // 2):
        assert opened(tiff(unsigned.tobytes(), 4, 32, photometric=1))[0, :, 0].tolist() == [0, 64, 128, 255]
    floats = np.array([0, 0.25, 1.02, 1.0], "<f4")  # more than white, as resizing leaves it
    expected = np.rint(np.minimum(floats, 1) * np.float32(255)).astype(np.uint8)
    for photometric, values in ((1, expected), (0, 255 - expected)):
        found = opened(tiff(floats.tobytes(), 4, 32, photometric=photometric, kind=3))
        assert found[0, :, 0].tolist() == values.tolist()


def test_cmyk():
    values = noise(20, 20, 4)
    c, m, y, k = (255 - values[..., i].astype(int) for i in range(4))
    expected = np.stack([(x * k * 2 + 255) // 510 for x in (c, m, y)], -1)
    image = Image.frombytes("CMYK", (20, 20), values.tobytes())
    assert np.abs(opened(image) - expected).max() <= 1
    np.testing.assert_array_equal(opened(encoded(image, "TIFF")), np.asarray(image.convert("RGB")))


def test_ycbcr():
    values = noise(20, 20, 3)
    y, cb, cr = (values[..., i].astype(float) - (0 if i == 0 else 128) for i in range(3))
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1)  # JFIF 1.02
    got = opened(Image.frombytes("YCbCr", (20, 20), values.tobytes()))
    assert np.abs(got - np.clip(rgb, 0, 255)).max() <= 1


@pytest.mark.parametrize(
    ("mode", "value", "rgb"),
    [
        ("HSV", (0, 255, 255), (255, 0, 0)),
        ("HSV", (170, 255, 255), (0, 0, 255)),
        ("HSV", (33, 0, 200), (200, 200, 200)),
        ("LAB", (255, 0, 0), (255, 255, 255)),  # a and b are signed, as in TIFF
        ("LAB", (0, 0, 0), (0, 0, 0)),
        ("LAB", (138, 81, 70), (255, 0, 0)),  # sRGB red under D50: L 54.3, a 80.8, b 69.9
        ("RGBX", (1, 2, 3, 4), (1, 2, 3)),
    ],
)
def test_other_colour_spaces(mode, value, rgb):
    image = Image.frombytes(mode, (2, 2), bytes(value) * 4)
    assert np.abs(opened(image).astype(int) - rgb).max() <= 6
    if mode == "LAB":
        assert np.abs(opened(encoded(image, "TIFF")).astype(int) - rgb).max() <= 6


# --- arrays


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_arrays_in_0_to_1(dtype):
    values = noise(6, 7, 3)
    np.testing.assert_array_equal(opened((values / 255).astype(dtype)), values)


def test_array_layouts():
    colour = noise(6, 7, 3)
    np.testing.assert_array_equal(opened(colour), colour)
    np.testing.assert_array_equal(opened(colour[:, ::-1]), colour[:, ::-1])  # not contiguous
    np.testing.assert_array_equal(opened(jnp.asarray(colour)), colour)
    np.testing.assert_array_equal(opened(colour[..., :1]), grey(colour[..., 0]))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 8, 9), np.uint8), r"must be \[H, W\]"),
        (np.zeros((2, 8, 9, 3), np.uint8), r"must be \[H, W\]"),
        (np.zeros(5, np.uint8), r"must be \[H, W\]"),
        (np.zeros((), np.uint8), r"must be \[H, W\]"),
        (np.zeros((4, 4), np.int64), "dtype must be"),
        (np.zeros((4, 4), np.complex64), "dtype must be"),
        (np.array([["a"]]), "dtype must be"),
        (np.full((4, 4), 255.0), r"0\.\.1"),
        (np.full((4, 4), -0.5), r"0\.\.1"),
        (np.full((4, 4), np.nan), r"0\.\.1"),
        (np.full((4, 4), np.inf), r"0\.\.1"),
        (np.zeros((0, 4), np.uint8), "no pixels"),
        (np.zeros((4, 0, 3), np.uint8), "no pixels"),
    ],
)
def test_arrays_that_are_not_images(array, message):
    with pytest.raises(ImageError, match=message) as caught:
        ImageProcessor().pixels(array)
    assert str(list(array.shape)) in str(caught.value)


def test_a_dark_greymap_of_16_bits_stays_dark():
    content = b"P5 3 1 65535\n" + np.array([0, 128, 255], ">u2").tobytes()
    np.testing.assert_array_equal(np.asarray(open_rgb(content))[0, :, 0], [0, 0, 1])
