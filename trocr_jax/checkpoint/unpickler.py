"""PyTorch's `.bin` and `.pt` files without torch: a pickle that may name tensors and dictionaries, and nothing else.

Source of both formats: torch/serialization.py. A pickle is a program; this reader runs it with a table of a dozen
harmless names, so a file that asks for any other function or class is refused before that is called.
"""

from __future__ import annotations

import functools
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from trocr_jax.checkpoint.parameters import StoredTensor
from trocr_jax.errors import CheckpointError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # of the format before torch 1.6
_MAX_PICKLE = 256 << 20  # bytes of names and shapes; the tensors are stored outside the pickle
_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


def read_state_dict(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a saved state dict by name, none read yet.

    Raises CheckpointError if the file is damaged, is no state dict, or names any function or class beyond tensors and
    dictionaries.
    """
    return _tensors_of(path, _load(path, _refuse))


def read_fairseq_model(path: Path) -> dict[str, StoredTensor]:
    """The tensors under the key "model" of a fairseq checkpoint. Its other keys hold settings and optimiser state of
    many classes: those become empty objects that do nothing. Raises CheckpointError."""
    content = _load(path, _inert_class)
    if not isinstance(content, dict) or "model" not in content:
        raise CheckpointError(f"{path}: no fairseq checkpoint: it has no key 'model'")
    return _tensors_of(path, content["model"])


class _Storage(NamedTuple):
    dtype: str
    read: Callable[[int, int], np.ndarray]  # first element, count
    size: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements


class _StorageType(NamedTuple):
    dtype: str


class _Inert:
    """Stands for an object whose class is not wanted. Takes whatever a pickle does to it, and keeps nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __call__(self, *args: object, **kwargs: object) -> _Inert:
        return self

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        pass

    def extend(self, values: object) -> None:
        pass

    def add(self, value: object) -> None:
        pass


def _inert_class(name: str) -> type:
    return type("Inert", (_Inert,), {})  # a new one each time: a pickle may set attributes on it


def _refuse(name: str) -> type:
    raise pickle.UnpicklingError(
        f"it asks for {name!r}, which no file of weights needs and which could run code. If you trust the file, load "
        "it with torch and save it as safetensors"
    )


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: object) -> _Tensor:
    shape, strides = tuple(shape), tuple(strides)
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or any(type(n) is not int or not 0 <= n < 1 << 48 for n in numbers):
        raise pickle.UnpicklingError("a tensor has impossible numbers")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage.size:
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    return _Tensor(storage, offset, shape, strides)


def _rebuild_parameter(data: Any, *rest: object) -> Any:
    return data


# The unpickler written in Python: the one in C allocates whatever table size a damaged memo opcode asks for.
class _RestrictedUnpickler(pickle._Unpickler):
    def __init__(self, file: IO[bytes], unknown: Callable[[str], type], storage: Callable[..., _Storage]) -> None:
        super().__init__(file, encoding="utf-8")
        self._unknown, self._storage = unknown, storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        # Partial objects are made anew for each use: what a pickle sets on one is gone with the file.
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return functools.partial(_rebuild_tensor)
        if module == "torch._utils" and name == "_rebuild_parameter":
            return functools.partial(_rebuild_parameter)
        if module == "torch" and name in _STORAGES:
            return _StorageType(_STORAGES[name])
        if (module, name) == ("torch", "Size"):
            return functools.partial(tuple)
        return self._unknown(f"{module}.{name}")

    def persistent_load(self, key: Any) -> _Storage:
        if not isinstance(key, tuple) or len(key) < 5 or key[0] != "storage" or not isinstance(key[1], _StorageType):
            raise pickle.UnpicklingError("it refers to something that is no tensor storage")
        if type(key[4]) is not int or not 0 <= key[4] < 1 << 48:
            raise pickle.UnpicklingError("a storage has an impossible size")
        if len(key) > 5 and key[5] is not None:
            raise pickle.UnpicklingError("a storage is a view of another, as torch before 0.4 wrote")
        return self._storage(key[1].dtype, str(key[2]), key[4])


def _load(path: Path, unknown: Callable[[str], type]) -> Any:
    try:
        if zipfile.is_zipfile(path):
            return _load_zip(path, unknown)
        with path.open("rb") as file:
            begins = file.read(4)
        if begins == b"PK\3\4":
            raise CheckpointError(f"{path}: is cut off; copy or download it again")
        if begins[:1] != pickle.PROTO:
            raise CheckpointError(f"{path}: holds no PyTorch weights; copy or download it again")
        return _load_legacy(path, unknown)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    except Exception as error:  # noqa: BLE001  a damaged pickle fails in any way: zip, opcodes, arguments
        raise CheckpointError(
            f"{path}: cannot be read as PyTorch weights: {str(error) or 'it ends too early'}"
        ) from None


def _load_zip(path: Path, unknown: Callable[[str], type]) -> Any:
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        found = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(found) != 1:
            raise CheckpointError(f"{path}: no PyTorch weights: the archive has no single data.pkl")
        root = found[0].removesuffix("data.pkl")
        if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
            raise CheckpointError(f"{path}: big-endian weights are not supported")
        if entries[found[0]].file_size > _MAX_PICKLE:
            raise CheckpointError(f"{path}: data.pkl is larger than any list of weights")

        def storage(dtype: str, key: str, count: int) -> _Storage:
            info = entries.get(f"{root}data/{key}")
            width = np.dtype(dtype).itemsize
            if info is None or info.compress_type != zipfile.ZIP_STORED or info.file_size != count * width:
                raise pickle.UnpicklingError(f"storage {key!r} is missing, compressed or of another size")
            return _Storage(dtype, functools.partial(_read_zip_storage, path, info, dtype), count)

        with archive.open(found[0]) as file:
            return _RestrictedUnpickler(file, unknown, storage).load()


def _read_zip_storage(path: Path, info: zipfile.ZipInfo, dtype: str, first: int, count: int) -> np.ndarray:
    try:
        with zipfile.ZipFile(path) as archive:
            content = archive.read(info)  # checks the CRC
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise CheckpointError(f"{path}: {info.filename} is damaged ({error})") from None
    whole = np.frombuffer(content, np.dtype(dtype))
    return whole if count == whole.size else whole[first : first + count].copy()


def _load_legacy(path: Path, unknown: Callable[[str], type]) -> Any:
    """Four pickles (magic number, protocol, system, content), the pickled list of storage keys, then the storages,
    each with its length in front."""
    sizes: dict[str, tuple[str, int]] = {}
    starts: dict[str, int] = {}

    def storage(dtype: str, key: str, count: int) -> _Storage:
        sizes[key] = (dtype, count)
        width = np.dtype(dtype).itemsize

        def read(first: int, count: int) -> np.ndarray:
            with path.open("rb") as file:
                file.seek(starts[key] + first * width)
                content = file.read(count * width)
            if len(content) != count * width:
                raise CheckpointError(f"{path}: the file ends inside a tensor")
            return np.frombuffer(content, np.dtype(dtype))

        return _Storage(dtype, read, count)

    with path.open("rb") as file:
        if _RestrictedUnpickler(file, unknown, storage).load() != _LEGACY_MAGIC:
            raise CheckpointError(f"{path}: no PyTorch weights")
        _, system = (_RestrictedUnpickler(file, unknown, storage).load() for _ in range(2))
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise CheckpointError(f"{path}: big-endian weights are not supported")
        content = _RestrictedUnpickler(file, unknown, storage).load()
        keys = _RestrictedUnpickler(file, unknown, storage).load()
        for key in keys:
            dtype, count = sizes[key]
            (stored,) = struct.unpack("<q", file.read(8))
            if stored != count:
                raise CheckpointError(f"{path}: storage {key!r} has {stored} elements instead of {count}")
            starts[key] = file.tell()
            file.seek(count * np.dtype(dtype).itemsize, 1)
    if sizes.keys() != starts.keys():
        raise CheckpointError(f"{path}: a storage is missing")
    return content


def _tensors_of(path: Path, content: Any) -> dict[str, StoredTensor]:
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]  # as training frameworks wrap it
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: no state dict: the file holds a {type(content).__name__}")
    wrong = [str(name) for name, value in content.items() if not isinstance(value, _Tensor)]
    if wrong:
        raise CheckpointError(f"{path}: no state dict: {', '.join(wrong[:5])} is no tensor")
    return {
        str(name): StoredTensor(tensor.shape, tensor.storage.dtype, functools.partial(_read_tensor, tensor))
        for name, tensor in content.items()
    }


def _read_tensor(tensor: _Tensor) -> np.ndarray:
    if not math.prod(tensor.shape):
        return np.zeros(tensor.shape, np.dtype(tensor.storage.dtype))
    span = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
    flat = tensor.storage.read(tensor.offset, span)
    strides = tuple(step * flat.itemsize for step in tensor.strides)
    return np.ascontiguousarray(as_strided(flat, tensor.shape, strides))
