"""Files and other sources of images: orientation, frames, bad input."""

import io
import mmap
import os
import struct
import threading
import time
import warnings

import numpy as np
import pytest
from PIL import Image

from scripts.fuzz_images import fuzz
from tests.images import encoded, grey, noise, opened, raises
from trocr_jax import image_file
from trocr_jax.errors import ImageError
from trocr_jax.image import ImageProcessor

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


def test_files_are_read_from_their_start_if_they_can_be(tmp_path):
    data = encoded(Image.fromarray(noise(5, 6, 3)), "PNG")
    (tmp_path / "x.png").write_bytes(data)

    class Stream:  # as those of fsspec over HTTP
        def __init__(self) -> None:
            self.read = io.BytesIO(data).read

        def seekable(self) -> bool:
            return False

        def seek(self, place: int) -> None:
            raise ValueError("cannot seek")

    with (tmp_path / "x.png").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        expected = opened(data)
        for source in (mapped, mapped, file, file, Stream()):
            np.testing.assert_array_equal(opened(source), expected)


def test_a_filter_of_warnings_is_there_once():
    with warnings.catch_warnings():
        for _ in range(3):
            opened(Image.fromarray(noise(5, 6)))
            warnings.simplefilter("default", ImportWarning)
            opened(Image.fromarray(noise(5, 6)))
        assert [place for place, entry in enumerate(warnings.filters) if entry is image_file._QUIET] == [0]


def test_the_image_of_the_caller_is_left_alone():
    image = Image.fromarray(noise(4, 9, 4))
    before = image.tobytes()
    ImageProcessor(height=8, width=8).pixels(image)
    assert (image.mode, image.size, image.tobytes()) == ("RGBA", (9, 4), before)
    rgb = Image.fromarray(noise(4, 9, 3))
    result = ImageProcessor().open(rgb)
    result.putpixel((0, 0), (1, 2, 3))
    assert rgb.tobytes() == noise(4, 9, 3).tobytes()


def test_a_view_with_gaps() -> None:
    data = io.BytesIO()
    Image.fromarray(noise(4, 9, 3)).save(data, "PNG")
    doubled = bytes(value for byte in data.getvalue() for value in (byte, 0))
    assert image_file.open_rgb(memoryview(doubled)[::2]).tobytes() == noise(4, 9, 3).tobytes()


def test_paths_that_are_not_image_files(tmp_path):
    missing, empty, text = tmp_path / "missing.png", tmp_path / "empty.png", tmp_path / "notes.txt"
    empty.touch()
    text.write_text("a line of text, not a picture of one")
    assert str(missing) in raises(missing, "no such file; check the path")
    assert str(missing) in raises(str(missing), "no such file")
    assert str(tmp_path) in raises(tmp_path, "is a folder")
    assert str(empty) in raises(empty, "is empty")
    assert str(text) in raises(text, "not an image that can be read")
    raises(text / "below.png", r"cannot be read \(Not a directory\)")
    raises("nul\0byte.png", "nul")
    raises("x" * 5000, "x")
    raises("", "no such file")


def test_a_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    raises(tmp_path / "pipe.png", "not a regular file")
    (tmp_path / "loop.png").symlink_to("loop.png")
    raises(tmp_path / "loop.png", r"loop\.png: cannot be read \(Too many levels of symbolic links\)$")


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
        with pytest.raises(ImageError, match="damaged"):
            ImageProcessor().open(data)
        Image.open(io.BytesIO(data)).close()  # warns of the size
        warnings.warn("mine", UserWarning, stacklevel=1)
    assert [w.category for w in seen] == [Image.DecompressionBombWarning, UserWarning]


def test_threads_leave_the_warnings_of_others_alone():
    images = [encoded(Image.fromarray(noise(20, 30 + i, 3)), "PNG") for i in range(8)]
    results: dict[int, np.ndarray] = {}

    def work(i: int) -> None:
        for _ in range(20):
            results[i] = ImageProcessor(height=8, width=64).pixels(images[i])

    ImageProcessor().pixels(images[0])
    before = list(warnings.filters)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    heard = 0
    while any(thread.is_alive() for thread in threads) or not heard:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            warnings.warn("mine", UserWarning, stacklevel=1)
            time.sleep(0.001)
            warnings.warn("mine", UserWarning, stacklevel=1)
        assert [str(w.message) for w in seen] == ["mine", "mine"]
        heard += 1
    assert warnings.filters == before
    for i, data in enumerate(images):
        np.testing.assert_array_equal(results[i], ImageProcessor(height=8, width=64).pixels(data))
