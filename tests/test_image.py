"""Images against PIL, NumPy formulas and the PIL image processors of transformers."""

import io
import json
import os
import struct
import threading
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from scripts.fuzz_images import fuzz
from trocr_jax import image_file
from trocr_jax.errors import CheckpointError, ConfigError, ImageError
from trocr_jax.image import ImageProcessor, as_pixels


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


# --- the pixels of transformers


@pytest.mark.parametrize("resample", [2, 3])
@pytest.mark.parametrize(
    "size", [(1, 1), (1, 300), (300, 1), (2, 3), (37, 211), (384, 384), (384, 100), (64, 1800), (700, 900)]
)
def test_pixels_and_normalisation_equal_transformers_bit_for_bit(size, resample):
    image = Image.fromarray(noise(*size, 3, seed=size[1]))
    ours = ImageProcessor(height=384, width=384, resample=resample)
    theirs = ViTImageProcessorPil(size={"height": 384, "width": 384}, resample=resample)
    unscaled = theirs(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
    pixels = ours.pixels(image)
    assert pixels.dtype == unscaled.dtype == np.uint8
    np.testing.assert_array_equal(pixels.transpose(2, 0, 1), unscaled)
    expected = theirs(image)["pixel_values"][0]
    normalised = np.asarray(jax.jit(ours.normalize)(pixels[None]))[0]
    assert normalised.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(normalised.transpose(2, 0, 1), expected)


@pytest.mark.parametrize("resample", range(6))
@pytest.mark.parametrize("target", [(32, 512), (7, 3)])
def test_every_filter_and_a_rectangular_target_equal_transformers(resample, target):
    image = Image.fromarray(noise(41, 333, 3))
    size = {"height": target[0], "width": target[1]}
    config = {"image_processor_type": "ViTImageProcessor", "size": size, "resample": resample}
    theirs = ViTImageProcessorPil.from_dict(config)
    expected = theirs(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
    np.testing.assert_array_equal(ImageProcessor.from_dict(config).pixels(image).transpose(2, 0, 1), expected)


@pytest.mark.parametrize("crop", [(224, 224), (225, 100), (256, 256), (301, 257), (300, 91), (91, 300)])
def test_the_center_crop_of_deit_equals_transformers(crop):
    config = {"image_processor_type": "DeiTImageProcessor", "crop_size": {"height": crop[0], "width": crop[1]}}
    image = Image.fromarray(noise(50, 200, 3))
    ours, theirs = ImageProcessor.from_dict(config), DeiTImageProcessorPil.from_dict(config)
    expected = theirs(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
    pixels = ours.pixels(image)
    assert ours.size == crop
    np.testing.assert_array_equal(pixels.transpose(2, 0, 1), expected)


# --- normalisation


NORMALISATIONS = [
    {},
    {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)},
    {"rescale_factor": 1 / 127.5, "image_mean": (1.0, 1.0, 1.0), "image_std": (1.0, 1.0, 1.0)},
    {"do_normalize": False},
    {"do_rescale": False, "image_mean": (127.5, 127.0, 3.3), "image_std": (127.5, 60.0, 7.0)},
]


@pytest.mark.parametrize("options", NORMALISATIONS)
@pytest.mark.parametrize("compiled", [True, False])
def test_normalize_equals_transformers_on_every_value_of_every_channel(options, compiled):
    pixels = np.stack([np.roll(np.arange(256, dtype=np.uint8), shift) for shift in (0, 1, 77)], -1).reshape(16, 16, 3)
    ours = ImageProcessor(height=16, width=16, **options)
    config = {key: list(x) if isinstance(x, tuple) else x for key, x in options.items()}
    theirs = ViTImageProcessorPil.from_dict({"size": {"height": 16, "width": 16}, **config})
    expected = theirs(Image.fromarray(pixels))["pixel_values"][0].transpose(1, 2, 0)
    normalize = jax.jit(ImageProcessor.normalize, static_argnums=0) if compiled else ImageProcessor.normalize
    normalised = np.asarray(normalize(ours, pixels[None]))[0]
    assert normalised.dtype == np.float32
    np.testing.assert_array_equal(normalised, expected)


@pytest.mark.parametrize("options", NORMALISATIONS)
def test_what_a_tpu_computes_is_what_others_look_up(options):
    processor, pixels = ImageProcessor(**options), np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 16, 16, 3)
    exact = np.asarray(processor._looked_up(pixels))
    np.testing.assert_allclose(processor._computed(pixels), exact, rtol=0, atol=1e-6 * np.abs(exact).max())


def test_normalize_stays_exact_inside_a_larger_compiled_function():
    processor, pixels = ImageProcessor(), noise(2, 8, 64, 3)
    fused = jax.jit(lambda x: processor.normalize(x) * jnp.float32(3) + jnp.float32(1))(pixels)
    exact = np.asarray(processor.normalize(pixels))
    contracted = (exact.astype(np.float64) * 3 + 1).astype(np.float32)  # a fused multiply-add rounds once
    assert ((np.asarray(fused) == exact * np.float32(3) + np.float32(1)) | (np.asarray(fused) == contracted)).all()


def test_a_processor_is_a_static_argument_that_compiles_once():
    calls = []

    def normalize(processor, pixels):
        calls.append(processor)
        return processor.normalize(pixels)

    compiled = jax.jit(normalize, static_argnums=0)
    for _ in range(2):
        compiled(ImageProcessor.from_dict({"size": 8, "image_mean": [0.1, 0.2, 0.3]}), noise(1, 8, 8, 3))
    assert len(calls) == 1


@pytest.mark.parametrize("pixels", [np.zeros((1, 4, 4, 3), np.float32), noise(1, 3, 4, 4), np.uint8(3)])
def test_normalize_refuses_what_is_not_uint8_with_channels_last(pixels):
    with pytest.raises(ImageError, match="uint8 pixels"):
        ImageProcessor().normalize(pixels)


# --- keeping the aspect ratio


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.integers(1, 400), st.sampled_from([2, 3]))
def test_kept_aspect_ratio_is_a_plain_resize_on_white(height, width, resample):
    image = Image.fromarray(noise(height, width, 3))
    pixels = ImageProcessor(height=40, width=160, resample=resample, keep_aspect_ratio=True).pixels(image)
    scaled = min(max(int(np.rint(width * 40 / height)), 1), 160)
    expected = np.asarray(image.resize((scaled, 40), Image.Resampling(resample)))
    np.testing.assert_array_equal(pixels[:, :scaled], expected)
    assert pixels.shape == (40, 160, 3)
    assert (pixels[:, scaled:] == 255).all()


# --- modes


@pytest.mark.parametrize("options", [{}, {"keep_aspect_ratio": True}, {"crop_size": (20, 90)}, {"do_resize": False}])
@pytest.mark.parametrize("resample", range(6))
@pytest.mark.parametrize("mode", ["1", "L"])
def test_one_channel_is_resized_as_three(mode, resample, options):
    height, width = (37, 211) if not options.get("do_resize", True) else (32, 100)
    processor = ImageProcessor(height=height, width=width, resample=resample, **options)
    image = Image.fromarray(noise(37, 211)).convert(mode)
    np.testing.assert_array_equal(processor.pixels(image), processor.pixels(image.convert("RGB")))


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


# --- orientation and frames


TURNS = {  # EXIF 2.32, 4.6.5.1.6, by NumPy: what is stored -> what is seen
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda x: np.rot90(x, 1),
}


def exif(orientation) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_exif_orientation(orientation, format):
    values = noise(8, 13, 3)
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(Image.fromarray(values), format, exif=exif(orientation), **options)
    stored = values
    if format == "JPEG":
        stored = np.asarray(Image.open(io.BytesIO(encoded(Image.fromarray(values), format))))
    expected = TURNS[orientation](stored)
    np.testing.assert_array_equal(opened(data), expected)
    with Image.open(io.BytesIO(data)) as image:  # a PIL image that nobody turned yet
        np.testing.assert_array_equal(opened(image), expected)


def test_orientation_of_a_deep_image():
    values = noise(8, 13).astype(np.uint16) * 257
    data = encoded(Image.fromarray(values), "PNG", exif=exif(6))
    np.testing.assert_array_equal(opened(data), np.rot90(grey((values // 257).astype(np.uint8)), -1))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_do_not_exist_turn_nothing(orientation):
    values = noise(8, 13, 3)
    np.testing.assert_array_equal(opened(encoded(Image.fromarray(values), "PNG", exif=exif(orientation))), values)


def test_damaged_exif_does_not_cost_the_image():
    values = noise(8, 13, 3)
    data = encoded(Image.fromarray(values), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xffgarbage")
    np.testing.assert_array_equal(opened(data), values)


@pytest.mark.parametrize("format", ["GIF", "TIFF", "PNG", "WEBP"])
def test_the_first_frame_is_read(format):
    first, second = (Image.new("RGB", (9, 5), colour) for colour in ("blue", "red"))
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(first, format, save_all=True, append_images=[second], **options)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 2
    np.testing.assert_array_equal(opened(data), np.asarray(first))


# --- sources


def test_every_kind_of_source_gives_the_same_pixels(tmp_path):
    image = Image.fromarray(noise(20, 50, 3))
    data = encoded(image, "PNG")
    path = tmp_path / "Zeile ä 1.png"
    path.write_bytes(data)
    processor = ImageProcessor(height=16, width=32)
    expected = processor.pixels(image)
    read_already = io.BytesIO(data)
    read_already.read()
    sources = [
        str(path),
        path,
        data,
        bytearray(data),
        memoryview(data),
        io.BytesIO(data),
        read_already,
        np.array(image),
    ]
    for source in sources:
        np.testing.assert_array_equal(processor.pixels(source), expected)
    with path.open("rb") as file:
        np.testing.assert_array_equal(processor.pixels(file), expected)
        assert not file.closed
    link = tmp_path / "link"
    link.symlink_to(path)
    np.testing.assert_array_equal(processor.pixels(link), expected)


def test_a_stream_that_cannot_seek():
    class Stream(io.RawIOBase):
        def __init__(self, data):
            self.rest = io.BytesIO(data)

        def readable(self):
            return True

        def read(self, size=-1):
            return self.rest.read(size)

    values = noise(4, 9, 3)
    np.testing.assert_array_equal(opened(Stream(encoded(Image.fromarray(values), "PNG"))), values)


def test_the_image_of_the_caller_is_left_alone():
    image = Image.fromarray(noise(4, 9, 4))
    before = image.tobytes()
    ImageProcessor(height=8, width=8).pixels(image)
    assert (image.mode, image.size, image.tobytes()) == ("RGBA", (9, 4), before)
    rgb = Image.fromarray(noise(4, 9, 3))
    result = ImageProcessor().open(rgb)
    result.putpixel((0, 0), (1, 2, 3))
    assert rgb.tobytes() == noise(4, 9, 3).tobytes()


# --- bad input


def raises(source, message: str, processor: ImageProcessor | None = None) -> str:
    with pytest.raises(ImageError, match=message) as caught:
        (processor or ImageProcessor()).pixels(source)
    return str(caught.value)


def test_paths_that_are_not_image_files(tmp_path):
    missing, empty, text = tmp_path / "missing.png", tmp_path / "empty.png", tmp_path / "notes.txt"
    empty.touch()
    text.write_text("a line of text, not a picture of one")
    assert str(missing) in raises(missing, "no such file; check the path")
    assert str(missing) in raises(str(missing), "no such file")
    assert str(tmp_path) in raises(tmp_path, "is a folder")
    assert str(empty) in raises(empty, "is empty")
    assert str(text) in raises(text, "not an image that can be read")
    raises(text / "below.png", "cannot be decoded|no such file")
    raises("nul\0byte.png", "nul")
    raises("x" * 5000, "x")
    raises("", "no such file")


def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    raises(tmp_path / "pipe.png", "not a regular file")


def test_missing_permission(tmp_path, monkeypatch):
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(Image.new("L", (3, 3)), "PNG"))

    def refuse(*args, **kwargs):  # the tests may run as root, who may read everything
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(image_file, "open", refuse, raising=False)
    assert str(path) in raises(path, "not permitted; check the permissions")


@pytest.mark.parametrize("source", [None, 5, object(), [1, 2], {"a": 1}])
def test_things_that_are_not_images(source):
    raises(source, "not an image; give a path")


def test_sources_without_content():
    raises(b"", "is empty")
    raises(io.BytesIO(), "is empty")
    raises(io.StringIO("text"), "text mode")
    for size in ((0, 5), (5, 0), (0, 0)):
        raises(Image.new("RGB", size), "no pixels")


def test_a_closed_image():
    image = Image.open(io.BytesIO(encoded(Image.new("L", (30, 30)), "PNG")))
    image.close()
    raises(image, "cannot be decoded")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "JPEG2000"])
@pytest.mark.parametrize("kept", [0.97, 0.5, 0.1])
def test_truncated_files(format, kept, tmp_path):
    data = encoded(Image.fromarray(noise(60, 90, 3)).convert("P" if format == "GIF" else "RGB"), format)
    path = tmp_path / f"cut.{format.lower()}"
    path.write_bytes(data[: int(len(data) * kept)])
    assert str(path) in raises(path, "damaged")


@pytest.mark.parametrize("format", ["EPS", "PDF", "PCX", "TGA", "ICO"])
def test_formats_outside_the_list_are_refused(format):
    raises(encoded(Image.fromarray(noise(40, 40, 3)), format), "not an image that can be read.* PNG, JPEG")


def png_header(width: int, height: int) -> bytes:
    import struct
    import zlib

    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


NO_DATA = b"\0\0\0\0IDAT\x35\xaf\x06\x1e"


def test_the_pixel_cap_is_checked_before_decoding():
    small = ImageProcessor(max_pixels=1000)
    assert "34 x 30" in raises(encoded(Image.new("L", (34, 30)), "PNG"), "cap of 1000", small)
    small.pixels(encoded(Image.new("L", (40, 25)), "PNG"))
    raises(encoded(Image.new("L", (1, 1001)), "PNG"), "cap of 1000", small)
    raises(np.zeros((40, 26), np.uint8), "cap of 1000", small)
    raises(
        png_header(13_000, 13_000) + NO_DATA, "damaged"
    )  # 169 million: under the cap, and Pillow's warning is silent
    raises(png_header(13_400, 13_400) + NO_DATA, "exceeds limit|more than the cap")
    raises(png_header(2**31 - 1, 2**31 - 1) + NO_DATA, "exceeds limit|more than the cap")
    raises(png_header(0, 100) + NO_DATA, "no pixels|damaged")


def test_exceptions_of_decoders_become_image_errors(monkeypatch):
    data = encoded(Image.new("L", (5, 5)), "PNG")
    for kind in (
        TypeError,
        SyntaxError,
        EOFError,
        ValueError,
        OSError,
        OverflowError,
        MemoryError,
        KeyError,
        IndexError,
    ):
        for error in (kind("boom"), kind()):

            def load(self, error=error):
                raise error

            monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
            raises(data, "<image of")


def test_interrupts_are_not_swallowed(monkeypatch):
    def load(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(KeyboardInterrupt):
        ImageProcessor().open(encoded(Image.new("L", (5, 5)), "PNG"))


def test_mutated_files_give_pixels_or_image_errors():
    report = fuzz(range(400), timeout=120)
    assert not report.escaped, report.escaped[0]
    assert sum(report.outcomes.values()) == 400
    read = sum(count for outcome, count in report.outcomes.items() if outcome.endswith(" read"))
    assert 40 < read < 360  # the mutations neither spare nor destroy everything


# --- warnings and threads


def test_warnings_of_pillow_are_silent_and_those_of_others_are_not():
    data = png_header(12_000, 12_000) + NO_DATA
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        with pytest.raises(ImageError, match="damaged"):
            ImageProcessor().open(data)
        assert warnings.filters == before
        Image.open(io.BytesIO(data)).close()  # warns of the size
        warnings.warn("mine", UserWarning, stacklevel=1)
    assert [w.category for w in seen] == [Image.DecompressionBombWarning, UserWarning]


def test_threads_leave_the_warning_filters_as_they_were():
    before = list(warnings.filters)
    images = [encoded(Image.fromarray(noise(20, 30 + i, 3)), "PNG") for i in range(8)]
    results: dict[int, np.ndarray] = {}

    def work(i: int) -> None:
        for _ in range(20):
            results[i] = ImageProcessor(height=8, width=64).pixels(images[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before
    for i, data in enumerate(images):
        np.testing.assert_array_equal(results[i], ImageProcessor(height=8, width=64).pixels(data))


# --- arrays that were normalised elsewhere


def test_as_pixels_takes_what_transformers_gives():
    image = Image.fromarray(noise(20, 30, 3))
    theirs = ViTImageProcessorPil(size={"height": 24, "width": 32})([image, image], return_tensors="np")["pixel_values"]
    ours = ImageProcessor(height=24, width=32)
    expected = np.asarray(ours.normalize(np.stack([ours.pixels(image)] * 2)))
    for array in (theirs, list(theirs), jnp.asarray(theirs), expected, jnp.asarray(expected)):
        pixels = as_pixels(array)
        assert pixels.dtype == np.float32
        np.testing.assert_array_equal(np.asarray(pixels), expected)
    assert as_pixels(theirs.astype(np.float64)).dtype == np.float32
    assert as_pixels(jnp.asarray(theirs, jnp.bfloat16)).dtype == np.float32
    np.testing.assert_array_equal(np.asarray(jax.jit(as_pixels)(theirs)), expected)


def test_as_pixels_takes_a_torch_tensor():
    torch = pytest.importorskip("torch")
    array = np.random.default_rng(0).normal(size=(2, 3, 8, 16)).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(as_pixels(torch.from_numpy(array))), array.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    "shape", [(2, 3, 8, 3), (1, 3, 3, 3), (3, 8, 16), (8, 16, 3), (2, 1, 8, 16), (2, 8, 16, 4), ()]
)
def test_as_pixels_refuses_other_shapes_and_says_which_it_takes(shape):
    with pytest.raises(ImageError, match=r"\[B, 3, H, W\] or \[B, H, W, 3\]"):
        as_pixels(np.zeros(shape, np.float32))


def test_as_pixels_refuses_integers():
    with pytest.raises(ImageError, match="uint8"):
        as_pixels(np.zeros((2, 3, 8, 16), np.uint8))


# --- preprocessor_config.json


PUBLISHED = {  # as on disk for the base and large checkpoints
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ViTFeatureExtractor",
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "size": 384,
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ImageProcessor(height=384, width=384)),
        ({"size": {"height": 32, "width": 512}}, ImageProcessor(height=32, width=512)),
        ({"size": [32, 512]}, ImageProcessor(height=32, width=512)),
        ({"resample": 3, "do_center_crop": False}, ImageProcessor(height=384, width=384, resample=3)),
        ({"resample": None}, ImageProcessor(height=384, width=384, resample=2)),
        ({"image_processor_type": "ViTImageProcessorFast"}, ImageProcessor(height=384, width=384)),
        ({"image_processor_type": "ViTImageProcessorPil"}, ImageProcessor(height=384, width=384)),
        (
            {"feature_extractor_type": "DeiTFeatureExtractor", "do_center_crop": False, "resample": 3},
            ImageProcessor(height=384, width=384, resample=3),
        ),
        (
            {"feature_extractor_type": "DeiTFeatureExtractor", "crop_size": 380, "resample": None},
            ImageProcessor(height=384, width=384, resample=3, crop_size=(380, 380)),
        ),
        ({"do_pad": False, "do_convert_rgb": None, "_processor_class": "x"}, ImageProcessor(height=384, width=384)),
        (
            {"image_mean": 0.25, "do_normalize": False},
            ImageProcessor(384, 384, do_normalize=False, image_mean=(0.25,) * 3),
        ),
        ({"size": 40, "keep_aspect_ratio": True}, ImageProcessor(height=40, width=40, keep_aspect_ratio=True)),
    ],
)
def test_from_dict(changes, expected):
    assert ImageProcessor.from_dict({**PUBLISHED, **changes}) == expected


@pytest.mark.parametrize("kind", ["ViTImageProcessor", "DeiTImageProcessor"])
def test_missing_fields_take_the_defaults_of_transformers(kind):
    theirs = (ViTImageProcessorPil if kind.startswith("ViT") else DeiTImageProcessorPil)()
    image = Image.fromarray(noise(30, 100, 3))
    ours = ImageProcessor.from_dict({"image_processor_type": kind})
    normalised = np.asarray(ours.normalize(ours.pixels(image)[None]))[0]
    np.testing.assert_array_equal(normalised.transpose(2, 0, 1), theirs(image)["pixel_values"][0])


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"size": {"shortest_edge": 384}}, "shortest_edge"),
        ({"size": {"height": 384}}, "size"),
        ({"size": 0}, "size"),
        ({"size": -3}, "size"),
        ({"size": 10**9}, "size"),
        ({"size": "384"}, "size"),
        ({"size": 384.0}, "size"),
        ({"size": True}, "size"),
        ({"size": [1, 2, 3]}, "size"),
        ({"resample": 9}, "resample"),
        ({"resample": "bicubic"}, "resample"),
        ({"resample": True}, "resample"),
        ({"image_mean": [0.5, 0.5]}, "image_mean"),
        ({"image_std": [0.5, 0.5, 0]}, "image_std"),
        ({"image_std": [0.5, 0.5, "x"]}, "image_std"),
        ({"image_mean": float("nan")}, "image_mean"),
        ({"rescale_factor": 0}, "rescale_factor"),
        ({"rescale_factor": 10**400}, "rescale_factor"),
        ({"do_resize": "yes"}, "do_resize"),
        ({"do_pad": True}, "do_pad"),
        ({"do_thumbnail": True}, "do_thumbnail"),
        ({"image_processor_type": "DonutImageProcessor"}, "DonutImageProcessor"),
        ({"image_processor_type": ["ViT"]}, "ViT"),
        ({"keep_aspect_ratio": True, "do_resize": False}, "keep_aspect_ratio"),
        ({"do_center_crop": True, "crop_size": None}, "crop_size"),
    ],
)
def test_from_dict_names_what_it_refuses(changes, key):
    with pytest.raises(ConfigError, match=key) as caught:
        ImageProcessor.from_dict({**PUBLISHED, **changes}, source="model/preprocessor_config.json")
    assert str(caught.value).startswith("model/preprocessor_config.json: ")


@pytest.mark.parametrize(
    "processor",
    [
        ImageProcessor(height=384, width=384, resample=3),
        ImageProcessor(height=40, width=96, keep_aspect_ratio=True, image_mean=(0.1, 0.2, 0.3)),
        ImageProcessor(height=40, width=96, crop_size=(32, 90), do_normalize=False, rescale_factor=1 / 127.5),
    ],
)
def test_a_saved_processor_is_read_back_and_works_in_transformers(processor, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor.to_dict()))
    assert ImageProcessor.from_folder(tmp_path) == processor
    assert ImageProcessor.from_folder(str(tmp_path)) == processor
    theirs = (DeiTImageProcessorPil if processor.crop_size else ViTImageProcessorPil).from_pretrained(tmp_path)
    if not processor.keep_aspect_ratio:
        image = Image.new("L", (50, 20), 77)  # grey: transformers reads it only with do_convert_rgb
        ImageDraw.Draw(image).text((3, 3), "abc", fill=0)
        normalised = np.asarray(processor.normalize(processor.pixels(image)[None]))[0]
        np.testing.assert_array_equal(normalised.transpose(2, 0, 1), theirs(image)["pixel_values"][0])


def test_folders_written_by_transformers(tmp_path):
    from transformers import TrOCRProcessor

    from trocr_jax.tokenizer import character_tokenizer

    theirs = ViTImageProcessorPil(size={"height": 48, "width": 64}, resample=3)
    theirs.save_pretrained(tmp_path / "plain")
    TrOCRProcessor(theirs, character_tokenizer("ab")).save_pretrained(tmp_path / "nested")
    assert (tmp_path / "nested/processor_config.json").exists()
    for folder in ("plain", "nested"):
        assert ImageProcessor.from_folder(tmp_path / folder) == ImageProcessor(height=48, width=64, resample=3)
    # The nested form wins, as in transformers; a processor_config.json without images does not count.
    (tmp_path / "nested/preprocessor_config.json").write_text('{"size": 9}')
    assert ImageProcessor.from_folder(tmp_path / "nested").height == 48
    (tmp_path / "nested/processor_config.json").write_text('{"processor_class": "TrOCRProcessor"}')
    assert ImageProcessor.from_folder(tmp_path / "nested").height == 9


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
        ImageProcessor.from_folder(tmp_path)
    for content in (b"{", b"[1]", b"\xff\xfe", b"[" * 100_000):
        (tmp_path / "preprocessor_config.json").write_bytes(content)
        with pytest.raises(ConfigError, match=r"preprocessor_config\.json"):
            ImageProcessor.from_folder(tmp_path)


def test_without_resizing_the_size_must_fit():
    processor = ImageProcessor(height=20, width=30, do_resize=False)
    values = noise(20, 30, 3)
    np.testing.assert_array_equal(processor.pixels(values), values)
    assert "resize it to 20 x 30" in raises(noise(21, 30, 3), "do_resize is false", processor)
