"""Damaged and hostile checkpoints: refused with an error that names what is wrong, and without running anything."""

import argparse
import errno
import io
import json
import os
import pickle
import random
import shutil
import struct
import zipfile

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch
from flax import nnx

from convert.fairseq import load_fairseq
from scripts.fuzz_checkpoints import attempt, make_folder
from tests.small_models import FAMILIES, save_transformers
from tests.tiny import save_tiny, tiny_model
from trocr_jax import checkpoint
from trocr_jax.checkpoint.parameters import count_not_finite, parameters
from trocr_jax.checkpoint.safetensors_file import read_safetensors
from trocr_jax.checkpoint.unpickler import read_fairseq_model, read_state_dict
from trocr_jax.errors import CheckpointError, TrOCRError
from trocr_jax.model import TrOCR


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    folder = tmp_path_factory.mktemp("native") / "model"
    checkpoint.save(TrOCR(FAMILIES["bridge"], rngs=nnx.Rngs(0)), folder)
    return folder


def test_one_flipped_bit_in_any_native_file(native, tmp_path):
    files = sorted(path for path in native.rglob("*") if path.is_file())
    assert {"MANIFEST.json", "config.json"} < {path.name for path in files}
    rng = random.Random(0)
    checkpoint.load(native)
    for path in files:
        for _ in range(3):
            copy = tmp_path / "copy"
            shutil.copytree(native, copy)
            damaged = copy / path.relative_to(native)
            data = bytearray(damaged.read_bytes())
            if not data:
                data = bytearray(b"\1")  # an empty marker file: something in it
            else:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            damaged.write_bytes(data)
            with pytest.raises(CheckpointError) as error:
                checkpoint.load(copy)
            assert damaged.relative_to(copy).as_posix() in str(error.value) or path.name == "MANIFEST.json"
            shutil.rmtree(copy)


def test_every_bit_of_the_manifest(native):
    """The manifest vouches for the others, and nothing for the manifest but its form."""
    path = native / "MANIFEST.json"
    original = path.read_bytes()
    rng = random.Random(1)
    bits = rng.sample(range(8 * len(original)), 200) + list(range(8 * 60))
    try:
        for bit in bits:
            data = bytearray(original)
            data[bit // 8] ^= 1 << bit % 8
            path.write_bytes(data)
            with pytest.raises(CheckpointError):
                checkpoint.load(native)
    finally:
        path.write_bytes(original)


def test_missing_and_added_files_are_listed(native, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(native, copy)
    (copy / "params" / "_METADATA").unlink()
    (copy / "params" / "d" / "extra").write_bytes(b"x")
    (copy / "config.json").write_text((copy / "config.json").read_text().replace('"relu"', '"gelu"') + " ")
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(copy)
    for line in (
        "missing: params/_METADATA",
        "not in the manifest: params/d/extra",
        "changed since it was saved: config",
    ):
        assert line in str(error.value)
    (copy / "MANIFEST.json").unlink()
    with pytest.raises(CheckpointError, match=r"MANIFEST.json: missing or damaged"):
        checkpoint.load(copy)


def test_native_folder_with_nan(tmp_path):
    model = TrOCR(FAMILIES["base"], rngs=nnx.Rngs(0))
    model.decoder.layers[1].fc1.kernel[...] = model.decoder.layers[1].fc1.kernel[...].at[0, 0].set(jnp.nan)
    checkpoint.save(model, tmp_path / "nan")
    with pytest.raises(CheckpointError, match=r"decoder.layers.1.fc1.kernel holds 1 values that are not finite"):
        checkpoint.load(tmp_path / "nan")


def test_native_folder_of_another_configuration(tmp_path):
    model = TrOCR(FAMILIES["base"], rngs=nnx.Rngs(0))
    model.config = FAMILIES["bridge"]
    checkpoint.save(model, tmp_path / "x")
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(tmp_path / "x")
    assert "missing: bridge.kernel [24, 32]" in str(error.value)
    assert "encoder.layers.0.attention.query.bias" in str(error.value)


def header(entries, size):
    text = json.dumps(entries).encode() if isinstance(entries, dict) else entries
    return len(text).to_bytes(8, "little") + text + bytes(size)


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated"),
        (b"\x08\0\0\0", "truncated"),
        (b"\xff" * 16, "truncated"),
        (b"version https://git-lfs.github.com/spec/v1\n", "truncated"),
        (header(b"{", 0), "header is damaged"),
        (header(b"[]", 0), "no JSON object"),
        (header(b"\xff\xff", 0), "header is damaged"),
        (header(b"[" * 100_000, 0), "header is damaged"),
        (header(b'{"a": {}, "a": {}}', 0), "occurs twice"),
        (header({"a": F32}, 7), "end at byte 8 of 7"),
        (header({"a": F32}, 9), "end at byte 8 of 9"),
        (header({"a": F32, "b": {**F32, "data_offsets": [4, 12]}}, 12), "gap or overlaps"),
        (header({"a": {**F32, "data_offsets": [4, 12]}}, 12), "gap or overlaps"),
        (header({"a": {**F32, "shape": [3]}}, 8), "shape and byte range"),
        (header({"a": {**F32, "shape": [-2]}}, 8), "impossible numbers"),
        (header({"a": {**F32, "shape": [2.0]}}, 8), "impossible numbers"),
        (header({"a": {**F32, "shape": [True, 2]}}, 8), "impossible numbers"),
        (header({"a": {**F32, "shape": [10**30]}}, 8), "impossible numbers"),
        (header({"a": {**F32, "data_offsets": [8, 0]}}, 8), "shape and byte range"),
        (header({"a": {**F32, "dtype": "F7"}}, 8), "unknown type 'F7'"),
        (header({"a": {**F32, "dtype": ["F32"]}}, 8), "unknown type"),
        (header({"a": {"dtype": "F32", "shape": [2]}}, 8), "has not the keys"),
        (header({"a": 5}, 8), "has not the keys"),
    ],
)
def test_damaged_safetensors(content, message, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        read_safetensors(path)
    assert str(path) in str(error.value)


def test_file_that_shrinks_after_its_header_was_read(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(header({"a": F32}, 8))
    tensors = read_safetensors(path)
    path.write_bytes(header({"a": F32}, 4))
    with pytest.raises(CheckpointError, match="ends inside a tensor"):
        tensors["a"].read()


def test_mutated_checkpoints(tmp_path):
    """A slice of what `scripts/fuzz_checkpoints.py` does at length."""
    originals = make_folder(tmp_path)
    outcomes = {attempt(tmp_path, originals, seed)[1] for seed in range(250)}
    assert {"ConfigError", "CheckpointError", "loads"} == outcomes


class Runs:
    """An object whose unpickling calls a function, as hostile files do."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.fixture
def trap(tmp_path):
    return tmp_path / "was-run"


HOSTILE = {
    "os.system": lambda trap: Runs(os.system, f"touch {trap}"),
    "eval": lambda trap: Runs(eval, f"__import__('os').mkdir({str(trap)!r})"),
    "exec": lambda trap: Runs(exec, f"import os; os.mkdir({str(trap)!r})"),
    "os.mkdir": lambda trap: Runs(os.mkdir, str(trap)),
}


@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
@pytest.mark.parametrize("name", HOSTILE)
def test_pickle_that_runs_code(name, form, trap, tmp_path):
    content = {"encoder.layernorm.weight": torch.zeros(2), "x": HOSTILE[name](trap)}
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(FAMILIES["base"].to_json())
    path = folder / "pytorch_model.bin"
    if form == "plain":
        path.write_bytes(pickle.dumps(content["x"]))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    for read in (lambda: checkpoint.load(folder), lambda: read_state_dict(path)):
        with pytest.raises(CheckpointError, match="which no file of weights needs and which could run code") as error:
            read()
        assert str(path) in str(error.value)
    assert not trap.exists()
    if form == "plain":  # a reader without restrictions does run it
        pickle.loads(path.read_bytes())
        assert trap.exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"(S'{trap}'\nios\nmkdir\n.",  # INST
        b"(cos\nmkdir\nS'{trap}'\no.",  # OBJ
        b"cbuiltins\ngetattr\n(cos\nsep\nS'mkdir'\ntR(S'{trap}'\ntR.",
        b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93(\x8c\x04{trap}tR.",  # STACK_GLOBAL
        b"\x80\x04\x8c\x0btorch._utils\x8c\x1e_rebuild_tensor_v2.__globals__\x93.",  # dotted name
        b"ctorch._utils\n_rebuild_tensor_v2\n}S'func'\ncos\nmkdir\nsb(S'{trap}'\ntR.",  # BUILD on a global
        b"cfunctools\npartial\n(cos\nmkdir\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n.",
        b"ctorch.storage\n_load_from_bytes\n(S'x'\ntR.",
        b"\x82\x01.",  # EXT1
        b"S'key'\nQ.",  # persistent id that is no storage
    ],
    ids=range(11),
)
def test_opcodes_that_reach_for_functions(opcodes, trap, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(zipped(opcodes.replace(b"{trap}", str(trap).encode()), {}))
    with pytest.raises(CheckpointError, match=str(path)):
        read_state_dict(path)
    assert not trap.exists()


@pytest.mark.parametrize("name", HOSTILE)
def test_fairseq_settings_do_not_run_code(name, trap, tmp_path):
    """Classes of the settings are unknown here and become inert; functions too."""
    payload = HOSTILE[name](trap)
    path = tmp_path / "model.pt"
    content = {"args": argparse.Namespace(task=payload), "cfg": [payload], "model": {"a": torch.ones(2)}}
    torch.save(content, path)
    assert np.array_equal(read_fairseq_model(path)["a"].read(), np.ones(2, np.float32))
    torch.save({"model": {"a": payload}}, path)
    with pytest.raises(CheckpointError, match="a is no tensor"):
        read_fairseq_model(path)
    with pytest.raises(TrOCRError):
        load_fairseq(path)
    assert not trap.exists()


def zipped(pickled, storages):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in storages.items():
            archive.writestr(f"archive/data/{name}", data)
    return stream.getvalue()


def tensor_pickle(*, numel=4, offset=0, shape=(2, 2), strides=(2, 1), storage="FloatStorage"):
    """{"a": tensor} as torch.save writes it, the numbers as given."""

    def integer(n):
        return b"J" + struct.pack("<i", n)

    def tuple_of(numbers):
        return b"(" + b"".join(map(integer, numbers)) + b"t"

    persistent = b"(Vstorage\nctorch\n" + storage.encode() + b"\nV0\nVcpu\n" + integer(numel) + b"tQ"
    arguments = b"(" + persistent + integer(offset) + tuple_of(shape) + tuple_of(strides) + b"I00\n}t"
    return b"\x80\x02}Va\nctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


def test_handmade_tensor_is_read(tmp_path):
    """The damaged ones below differ from this in one number each."""
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(zipped(tensor_pickle(), {"0": np.arange(4, dtype=np.float32).tobytes()}))
    assert np.array_equal(read_state_dict(path)["a"].read(), [[0, 1], [2, 3]])


@pytest.mark.parametrize(
    "numbers",
    [
        {"offset": 1},
        {"offset": -1},
        {"shape": (3, 2)},
        {"shape": (-2, 2)},
        {"shape": (2, 2, 2)},
        {"strides": (2, -1)},
        {"strides": (3, 1)},
        {"strides": (1 << 30, 1)},
        {"shape": (1 << 30, 1 << 30), "strides": (0, 0), "offset": 4},
        {"numel": 5},
        {"numel": -4},
        {"storage": "DoubleStorage"},
    ],
    ids=str,
)
def test_tensor_outside_its_storage(numbers, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(zipped(tensor_pickle(**numbers), {"0": bytes(16)}))
    with pytest.raises(CheckpointError, match=str(path)):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\3\4" + bytes(99), "is cut off; copy or download"),
        (b"<html>404</html>", "holds no PyTorch weights; copy or"),
    ],
)
def test_what_is_no_whole_torch_file(content, said, tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"pytorch_model\.bin: {said}"):
        read_state_dict(tmp_path / "pytorch_model.bin")


def test_damaged_bytes_of_a_torch_file(tmp_path):
    """The archive's own checksums cover the tensors."""
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.arange(1000.0)}, path)
    data = bytearray(path.read_bytes())
    at = data.index(np.arange(1000, dtype=np.float32).tobytes())
    data[at + 100] ^= 4
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        read_state_dict(path)["a"].read()


def test_memo_index_of_a_damaged_pickle_costs_no_memory(tmp_path):
    """LONG_BINPUT with a huge index makes the unpickler in C allocate tens of gigabytes."""
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(zipped(b"\x80\x02}r\xf0\xff\xff\xff.", {}))
    assert read_state_dict(path) == {}


def test_tensor_repeated_without_limit_is_not_expanded(tmp_path):
    """Stride 0 makes any size out of one number; only a shape that the model wants is read."""
    source = save_transformers("base", tmp_path / "source")
    (source / "model.safetensors").unlink()
    (source / "pytorch_model.bin").write_bytes(
        zipped(tensor_pickle(shape=(1 << 30, 1 << 30), strides=(0, 0)), {"0": bytes(16)})
    )
    with pytest.raises(CheckpointError, match="only 1 tensors"):
        checkpoint.load(source)


def test_unreadable_file(tmp_path):
    source = save_transformers("base", tmp_path / "source")
    (source / "model.safetensors").unlink()
    (source / "model.safetensors").symlink_to("nowhere")
    with pytest.raises(CheckpointError, match="no weights"):
        checkpoint.load(source)
    (source / "pytorch_model.bin").mkdir()
    with pytest.raises(CheckpointError, match="no weights"):
        checkpoint.load(source)


def test_saving_where_nothing_can_be_written(tmp_path):
    model = TrOCR(FAMILIES["base"], rngs=nnx.Rngs(0))
    (tmp_path / "file").write_text("x")
    for save in (checkpoint.save, checkpoint.save_huggingface):
        with pytest.raises(CheckpointError, match=str(tmp_path / "file")):
            save(model, tmp_path / "file" / "model")
    assert parameters(model)


@pytest.mark.parametrize("noticed", ["before", "while it is written"])
def test_a_full_disk_leaves_the_folder_that_was_there(native, tmp_path, monkeypatch, noticed):
    folder = shutil.copytree(native, tmp_path / "model")
    model = checkpoint.load(folder)

    def fails(*arguments, **options):  # as TensorStore does
        raise ValueError(f"RESOURCE_EXHAUSTED: Failed to write: {os.strerror(errno.ENOSPC)} [os_error_code='28']")

    if noticed == "before":
        monkeypatch.setattr(shutil, "disk_usage", lambda path: argparse.Namespace(free=1000))
    else:
        monkeypatch.setattr(ocp.PyTreeCheckpointer, "save", fails)
    why = "MB are needed and 0 MB are free" if noticed == "before" else "the disk is full"
    with pytest.raises(CheckpointError, match=rf"model: cannot be written \(.*{why}\)"):
        checkpoint.save_native(model, folder)
    checkpoint.load(folder)
    assert os.listdir(tmp_path) == ["model"]


def test_a_folder_that_cannot_be_replaced_is_still_there(native, tmp_path, monkeypatch):
    folder = shutil.copytree(native, tmp_path / "model")
    model, replace = checkpoint.load(folder), os.replace

    def fail_once(source, target):
        if os.path.basename(source) == "new":
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_once)
    with pytest.raises(CheckpointError, match="Input/output error"):
        checkpoint.save_native(model, folder)
    checkpoint.load(folder)
    assert os.listdir(tmp_path) == ["model"]


def test_a_value_that_a_type_has_no_room_for(tmp_path):
    model = TrOCR(FAMILIES["base"], rngs=nnx.Rngs(0))
    assert model.encoder.norm is not None
    bias = model.encoder.norm.bias
    bias[...] = bias[...].at[2].set(1e5)
    checkpoint.save(model, tmp_path / "model")
    assert checkpoint.load(tmp_path / "model", dtype="bfloat16")
    with pytest.raises(CheckpointError, match=r"encoder\.norm\.bias holds 1 values too large for float16"):
        checkpoint.load(tmp_path / "model", dtype="float16")


def test_both_nans_of_float8_are_counted():
    assert count_not_finite(np.array([np.nan, -np.nan, 1.0], ml_dtypes.float8_e4m3fn)) == 2


def test_what_may_be_laid_beside_a_native_model(tmp_path):
    """A calibration beside any, a tokenizer beside one that was saved without."""
    whole, bare = save_tiny(tmp_path / "whole", native=True), tmp_path / "bare"
    checkpoint.save(tiny_model(), bare)
    for folder in (whole, bare):
        (folder / "calibration.json").write_text("{}")
        checkpoint.load(folder)
        (folder / "vocab.txt").write_text("a\n")
    checkpoint.load(bare)
    with pytest.raises(CheckpointError, match=r"not in the manifest: vocab\.txt"):
        checkpoint.load(whole)
