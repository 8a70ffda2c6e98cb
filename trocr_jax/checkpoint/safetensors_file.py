"""The safetensors format: eight bytes of header length, a JSON header, the bytes of the tensors.

Source: https://github.com/huggingface/safetensors, section Format. Reading is our own because the header is checked
against the file before anything is allocated, with errors that name the tensor; writing because tensors of a
two-gigabyte model are written one after another instead of being held twice.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trocr_jax.checkpoint.parameters import StoredTensor
from trocr_jax.errors import CheckpointError

_TYPES: dict[str, tuple[str, int]] = {  # name in the header: numpy's name, bytes
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U64": ("uint64", 8),
    "U32": ("uint32", 4),
    "U16": ("uint16", 2),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "F8_E8M0": ("float8_e8m0fnu", 1),
    "C64": ("complex64", 8),
}
_NAMES = {name: header_name for header_name, (name, _) in _TYPES.items()}
_MAX_HEADER = 100_000_000  # the limit of the reference implementation


def read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name, none read yet. Raises CheckpointError if the header is damaged."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(_MAX_HEADER, size - 8):
                raise CheckpointError(f"{path}: no safetensors file, or a truncated one: copy or download it again")
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
        if not isinstance(header, dict):
            raise ValueError("no JSON object")
        header.pop("__metadata__", None)
        entries = [(name, *_entry(name, value)) for name, value in header.items()]
        _check_layout([(start, end, name) for name, _, _, start, end in entries], size - 8 - length)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: the safetensors header is damaged ({error}); copy or download the file again"
        ) from None
    return {
        name: StoredTensor(shape, dtype, functools.partial(_read_tensor, path, 8 + length + start, dtype, shape))
        for name, dtype, shape, start, _ in entries
    }


def write_safetensors(
    path: Path, specs: Mapping[str, tuple[tuple[int, ...], str]], read: Callable[[str], np.ndarray]
) -> None:
    """Writes a file of tensors named and described by `specs` (shape, numpy's type name), each got by `read(name)`.

    The file appears under its name when it is complete. Raises CheckpointError if it cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # without it transformers refuses the file
    offset = 0
    # Wide types first, as the reference implementation: every tensor is then aligned.
    names = sorted(specs, key=lambda name: (-_TYPES[_NAMES[specs[name][1]]][1], name))
    for name in names:
        shape, dtype = specs[name]
        size = math.prod(shape) * _TYPES[_NAMES[dtype]][1]
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                array = np.asarray(read(name), order="C")
                if (array.shape, array.dtype.name) != (tuple(specs[name][0]), specs[name][1]):
                    raise AssertionError(f"{name} is {array.dtype.name} {array.shape}, announced as {specs[name]}")
                file.write(array.reshape(-1).view(np.uint8).data)
        os.replace(partial, path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error})") from None
    finally:
        partial.unlink(missing_ok=True)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name occurs twice")
    return values


def _entry(name: str, value: Any) -> tuple[str, tuple[int, ...], int, int]:
    """A header entry as (numpy's type name, shape, first byte, byte after the last)."""
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"entry {name!r} has not the keys dtype, shape and data_offsets")
    shape, offsets = value["shape"], value["data_offsets"]
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2 or len(shape) > 8:
        raise ValueError(f"entry {name!r} has impossible numbers")
    if not isinstance(value["dtype"], str) or value["dtype"] not in _TYPES:
        raise ValueError(f"entry {name!r} has the unknown type {str(value['dtype'])[:40]!r}")
    dtype, width = _TYPES[value["dtype"]]
    if offsets[1] - offsets[0] != math.prod(shape) * width:
        raise ValueError(f"entry {name!r}: shape and byte range do not agree")
    return dtype, tuple(shape), offsets[0], offsets[1]


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(n) is int and 0 <= n < 1 << 48 for n in values)


def _check_layout(ranges: list[tuple[int, int, str]], size: int) -> None:
    """The tensors must fill the file without gap or overlap."""
    position = 0
    for start, end, name in sorted(ranges):
        if start != position:
            raise ValueError(f"entry {name!r} leaves a gap or overlaps another")
        position = end
    if position != size:
        raise ValueError(f"the tensors end at byte {position} of {size}")


def _read_tensor(path: Path, offset: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    count = math.prod(shape)
    try:
        with path.open("rb") as file:
            file.seek(offset)
            array = np.fromfile(file, np.dtype(dtype), count)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from None
    if array.size != count:
        raise CheckpointError(f"{path}: the file ends inside a tensor: copy or download it again")
    return array.reshape(shape)
