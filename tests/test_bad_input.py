"""Bad input of every kind, through the program: a message that names the file and says what to do; the rest is read."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.tiny import line_image, save_lines, save_tiny, tiny_model
from trocr_jax import checkpoint
from trocr_jax.cli import main
from trocr_jax.errors import CheckpointError, ConfigError, DecodeError, ImageError, TokenizerError
from trocr_jax.recognizer import Recognizer
from trocr_jax.recognizer_batches import Batch


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("native") / "tiny", native=True)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return save_lines(tmp_path, 1)[0]


def encoded(format: str) -> bytes:
    file = io.BytesIO()
    line_image(1).save(file, format)
    return file.getvalue()


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG file whose header announces a size and whose data may not keep the promise."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


# --- images


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (None, "no such file; check the path"),
        (b"", "is empty"),
        (b"Dear Sir or Madam", "not an image that can be read"),
        (encoded("PNG")[:-40], "may be damaged, save or copy it again"),
        (encoded("JPEG")[:200], "may be damaged, save or copy it again"),
        (png(60_000, 60_000, bytes(1000)), "crop or shrink it"),
        (png(0, 20), None),
    ],
    ids=["missing", "empty", "no image", "truncated png", "truncated jpeg", "decompression bomb", "zero width"],
)
def test_a_bad_image(model, good, tmp_path, capfd, content, advice):
    bad = tmp_path / "bad.png"
    if content is not None:
        bad.write_bytes(content)
    assert main(["transcribe", str(bad), str(good), "--model", str(model), "--format", "jsonl"]) == 1
    output, messages = capfd.readouterr()
    first, second = (json.loads(line) for line in output.splitlines())
    assert (first["id"], first["text"]) == (str(bad), None)
    assert first["error"].startswith(f"{bad}: ")
    assert advice is None or advice in first["error"]
    assert f"trocr-jax: {first['error']}" in messages
    assert second["text"] == Recognizer.from_pretrained(model)(good)[0].text
    assert second["error"] is None


def test_a_zero_width_array(model):
    with pytest.raises(ImageError, match="has no pixels"):
        Recognizer.from_pretrained(model)(np.zeros((20, 0), np.uint8))
    with pytest.raises(ImageError, match="has no pixels"):
        Recognizer.from_pretrained(model)(Image.new("L", (0, 20)))


def test_an_image_that_may_not_be_read(model, good, tmp_path, capfd, monkeypatch):
    secret = tmp_path / "secret.png"
    line_image(1).save(secret)

    def refuse(path, *rest):  # root may read everything
        if Path(path) == secret:
            raise PermissionError(13, "Permission denied", str(path))
        return io.FileIO(path)

    monkeypatch.setattr("trocr_jax.image_file.open", refuse, raising=False)
    assert main(["transcribe", str(secret), str(good), "--model", str(model)]) == 1
    output, messages = capfd.readouterr()
    assert f"{secret}: reading is not permitted; check the permissions" in messages
    assert [bool(text) for text in output.split("\n")] == [False, True, False]


def test_a_folder_that_is_named_like_an_image(model, tmp_path, capfd):
    (tmp_path / "folder.png").mkdir()
    assert main(["transcribe", str(tmp_path), "--model", str(model)]) == 1
    assert f"{tmp_path}: no image files in this folder" in capfd.readouterr().err
    with pytest.raises(ImageError, match=r"folder\.png: is a folder"):
        Recognizer.from_pretrained(model)([tmp_path / "folder.png"])


def test_an_empty_folder(model, tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    assert main(["transcribe", str(tmp_path / "empty"), "--model", str(model)]) == 1
    assert f"{tmp_path}/empty: no image files in this folder or below" in capfd.readouterr().err


def test_a_pattern_that_matches_nothing(model, tmp_path, capfd):
    assert main(["transcribe", f"{tmp_path}/*.png", "--model", str(model)]) == 1
    assert f"{tmp_path}/*.png: no file matches this pattern" in capfd.readouterr().err


# --- models


def refused(folder: str | Path, error: type[Exception], *said: str, capfd: pytest.CaptureFixture) -> None:
    """The library raises `error` and the program ends with status 2 and no output; both say all of `said`."""
    with pytest.raises(error) as caught:
        Recognizer.from_pretrained(folder)
    assert main(["transcribe", "a.png", "--model", str(folder)]) == 2
    output, messages = capfd.readouterr()
    assert output == ""
    assert f"trocr-jax: error: {caught.value}" in messages
    for words in said:
        assert words in messages


def copied(source: Path, target: Path) -> Path:
    return Path(shutil.copytree(source, target))


def test_a_wrong_model_name(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused("tiny-prunted", CheckpointError, "tiny-prunted", "built in: tiny-printed", "microsoft/trocr-", capfd=capfd)
    refused("base-printed", CheckpointError, "the published one is called microsoft/trocr-base-printed", capfd=capfd)


def test_a_hub_name_without_network(capfd, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    refused("nobody/no-such-model", CheckpointError, "nobody/no-such-model", "network", capfd=capfd)


def test_a_revision_of_a_local_folder(model):
    with pytest.raises(CheckpointError, match="has no revision"):
        Recognizer.from_pretrained(model, revision="main")


def test_a_folder_without_tokenizer(model, tmp_path, capfd):
    folder = copied(model, tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    refused(folder, TokenizerError, str(folder), "no tokenizer", "Copy the model's tokenizer files", capfd=capfd)


def test_a_folder_without_image_processor(model, tmp_path, capfd):
    folder = copied(model, tmp_path / "model")
    (folder / "preprocessor_config.json").unlink()
    refused(folder, CheckpointError, str(folder), "preprocessor_config.json", capfd=capfd)


def test_a_folder_without_weights(model, tmp_path, capfd):
    folder = copied(model, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    refused(folder, CheckpointError, str(folder), "no weights", "model.safetensors", capfd=capfd)


def test_a_folder_without_configuration(model, tmp_path, capfd):
    folder = copied(model, tmp_path / "model")
    (folder / "config.json").unlink()
    refused(folder, ConfigError, "config.json", capfd=capfd)


@pytest.mark.parametrize("position", [0, 3, 8, 9, 30, 200])
def test_a_corrupt_safetensors_header(model, tmp_path, capfd, position):
    folder = copied(model, tmp_path / "model")
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[position] ^= 0x80
    path.write_bytes(content)
    refused(folder, CheckpointError, "model.safetensors", "copy or download", capfd=capfd)


def test_truncated_weights(model, tmp_path, capfd):
    folder = copied(model, tmp_path / "model")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    refused(folder, CheckpointError, "model.safetensors", "copy or download", capfd=capfd)


def test_one_flipped_bit_in_a_native_folder(native, tmp_path, capfd):
    assert Recognizer.from_pretrained(native)(line_image(0))
    folder = copied(native, tmp_path / "model")
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    name = largest.relative_to(folder).as_posix()
    refused(folder, CheckpointError, f"changed since it was saved: {name}", "copy the checkpoint again", capfd=capfd)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_numbers(tmp_path, capfd, value):
    model = tiny_model()
    kernel = model.decoder.layers[0].fc1.kernel
    kernel[...] = kernel[...].at[2, 3].set(value)
    refused(
        save_tiny(tmp_path / "model", model),
        CheckpointError,
        "decoder.model.decoder.layers.0.fc1.weight holds 1 values that are not finite",
        capfd=capfd,
    )


def test_a_file_instead_of_a_folder(model, capfd):
    refused(model / "model.safetensors", CheckpointError, "is a file; a model is a folder", capfd=capfd)


@pytest.mark.parametrize("name", ["tokenizer.json", "preprocessor_config.json", "config.json"])
def test_a_changed_file_is_said_to_be_that(name: str, native: Path, tmp_path: Path) -> None:
    """And not what is wrong with it, or nothing if it can be read."""
    copy = shutil.copytree(native, tmp_path / "copy")
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-9] + b" " + content[-8:])
    with pytest.raises(CheckpointError, match=f"changed since it was saved: {name}"):
        Recognizer.from_pretrained(copy)


@pytest.mark.parametrize("name", ["processor_config.json", "generation_config.json", "vocab.json"])
def test_files_that_would_be_read_are_in_the_manifest(name: str, native: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(native, tmp_path / "copy")
    (copy / "notes.txt").write_text("nobody's business")
    Recognizer.from_pretrained(copy)
    (copy / name).write_text("{}")
    with pytest.raises(CheckpointError, match=f"not in the manifest: {name}"):
        Recognizer.from_pretrained(copy)


def test_a_model_that_was_saved_without_tokenizer_may_be_given_one(model: Path, tmp_path: Path) -> None:
    checkpoint.save(tiny_model(), tmp_path / "native")
    checkpoint.copy_assets(model, tmp_path / "native")
    Recognizer.from_pretrained(tmp_path / "native")


@pytest.mark.parametrize(
    ("arguments", "options", "error", "said"),
    [
        ((None,), {}, ImageError, "None is no image"),
        ((5,), {}, ImageError, "5 is no image"),
        (([None],), {}, ImageError, "None"),
        (([], {"num_beams": 2}), {}, DecodeError, "give a DecodeConfig"),
        (([],), {"batch_size": 0}, DecodeError, "batch_size is 0"),
        (([],), {"batch_size": np.float32(2)}, DecodeError, "batch_size is"),
    ],
)
def test_arguments_that_cannot_be_used(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], said: str, model: Path
) -> None:
    recognizer = Recognizer.from_pretrained(model)
    assert recognizer([], batch_size=np.int64(2)) == []  # type: ignore[arg-type]
    with pytest.raises(error, match=said):
        recognizer(*arguments, **options)


def test_batches_that_cannot_be_read(model: Path) -> None:
    recognizer = Recognizer.from_pretrained(model)
    for size in (0, True, 1.5):
        with pytest.raises(DecodeError, match=f"batch_size is {size}"):
            recognizer.read_batches([], None, size)  # type: ignore[arg-type]
    large = Batch.of_pixels([np.zeros((*recognizer.image_processor.size, 3), np.uint8)] * 3)
    with pytest.raises(DecodeError, match="holds 3 images and the batch size is 2"):
        list(recognizer.read_batches([large], None, 2))
    one, other = large.pixels[0], large.pixels[0][:, :-1]
    for series, said in (
        ([Batch([None], [one, one])], "pixels of 2 images and None in 1 places of errors"),
        ([Batch([None, None], [one])], "pixels of 1 images and None in 2 places of errors"),
        (Batch([None], [one]), "a list where a Batch belongs"),
        ([[one]], "a list where a Batch belongs"),
        ([Batch([None, None], [one, other])], "images of shapes .* and .*: give those of one shape"),
    ):
        with pytest.raises(DecodeError, match=said):
            list(recognizer.read_batches(series, None, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["nonsense", "int32", bool, object(), "float64", "float8_e4m3fn"])
def test_types_that_are_none_of_floats(dtype: Any, model: Path) -> None:
    with pytest.raises(DecodeError, match="give a type of floats"):
        Recognizer.from_pretrained(model, dtype=dtype)
