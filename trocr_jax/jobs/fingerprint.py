"""What has to be the same wherever a line of a job is read: model, search and software, as JSON values."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from trocr_jax.checkpoint import ASSETS
from trocr_jax.decoding.constraints import Lexicon
from trocr_jax.errors import JobError

PACKAGES = ("trocr-jax", "jax", "jaxlib", "flax", "numpy", "pillow", "transformers", "tokenizers")
"""Packages whose code has a say in what is read."""
LISTED = 40
"""Values of two lists of which all are shown if the lists differ; of more it is the first one that differs."""
_MODEL_FILES = ("config.json", "MANIFEST.json", *ASSETS, "*.safetensors", "*.bin", "*.index.json", "params/**/*")


def model_fingerprint(folder: Path) -> str:
    """sha256 over the files of a model that are read: names and contents."""
    found = {path for pattern in _MODEL_FILES for path in folder.glob(pattern) if path.is_file()}
    digest = hashlib.sha256()
    for path in sorted(found):
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def software() -> dict[str, str]:
    """Versions of PACKAGES."""
    return {name: found for name in PACKAGES if (found := _version(name))}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def short(value: Any) -> str:
    """16 hexadecimal digits of the sha256 of JSON values."""
    return sha256(dumps(value, orjson.OPT_SORT_KEYS))[:16]


def dumps(value: Any, option: int = 0) -> bytes:
    """JSON by orjson, with its options; a line by json where a file name is no Unicode, which orjson does not take."""
    try:
        return orjson.dumps(value, option=option)
    except TypeError:
        return json.dumps(value, sort_keys=True).encode() + b"\n"


def loads(content: bytes) -> Any:
    """What `dumps` has written. Raises ValueError."""
    try:
        return orjson.loads(content)
    except ValueError:
        return json.loads(content)


def describe(value: Any) -> Any:
    """A configuration as JSON values: a dataclass by its name and the fields that it is made of, an array by its
    checksum, a lexicon by that of its words. Raises JobError for what cannot be told apart by value."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Lexicon):
        return {"Lexicon": sha256("\n".join(value.entries()).encode()), "separator": value.separator}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        return {"kind": type(value).__qualname__, **{name: describe(v) for name, v in fields.items()}}
    if isinstance(value, Mapping):
        return [[describe(key), describe(item)] for key, item in value.items()]
    if isinstance(value, frozenset | set):
        return sorted(map(describe, value), key=orjson.dumps)
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        array = np.asarray(value)
        return {"array": list(array.shape), "dtype": str(array.dtype), "sha256": sha256(array.tobytes())}
    raise JobError(
        f"a {type(value).__qualname__} in the decode configuration cannot be compared when a job goes on; "
        "make it a frozen dataclass of numbers, strings and arrays"
    )


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def differences(planned: Any, asked: Any, name: str = "") -> Iterator[str]:
    """One line for each value of two configurations that differs."""
    if isinstance(planned, Mapping) and isinstance(asked, Mapping):
        for key in dict.fromkeys([*planned, *asked]):
            yield from differences(planned.get(key), asked.get(key), f"{name}.{key}" if name else str(key))
    elif planned != asked:
        if isinstance(planned, list) and isinstance(asked, list) and len(planned) + len(asked) > LISTED:
            pairs = enumerate(zip_longest(planned, asked))  # names that a shell has made of a pattern may be thousands
            number, (planned, asked) = next(found for found in pairs if found[1][0] != found[1][1])
            name = f"{name}[{number}]"
        yield f"{name}: {_shown(planned)} in the plan, {_shown(asked)} now"


def _shown(value: Any) -> str:
    return "nothing" if value is None else dumps(value).decode().strip()
