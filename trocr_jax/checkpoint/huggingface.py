"""Folders as transformers writes and reads them: `config.json` and the weights, in one file or in shards."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike

from trocr_jax.checkpoint.assets import (
    CALIBRATION,
    GENERATION,
    PROCESSOR,
    TOKENIZER,
    copy_assets,
    older_options,
    remove,
    token_ids,
    write_json,
)
from trocr_jax.checkpoint.names import EMBED_TOKENS_KEY, OUTPUT_PROJECTION_KEY, canonical_key, stored_name
from trocr_jax.checkpoint.parameters import StoredTensor, Target, build, parameters, report
from trocr_jax.checkpoint.safetensors_file import read_safetensors, write_safetensors
from trocr_jax.checkpoint.unpickler import read_state_dict
from trocr_jax.config import TrOCRConfig, shown
from trocr_jax.errors import CheckpointError, ConfigError
from trocr_jax.model import TrOCR
from trocr_jax.quantization import check_layout, kind_of
from trocr_jax.say import say

_Reader = Callable[[Path], dict[str, StoredTensor]]
_READERS: tuple[tuple[str, _Reader], ...] = (
    ("model.safetensors", read_safetensors),
    ("pytorch_model.bin", read_state_dict),
)


def load_huggingface(folder: str | os.PathLike[str], *, dtype: DTypeLike | None = None) -> TrOCR:
    """The model of a folder with `config.json` and `model.safetensors` or `pytorch_model.bin`, whole or in shards.

    Parameters keep their stored type, or get `dtype`. Raises ConfigError, and CheckpointError that lists every
    missing, unused, misshapen or not finite tensor.
    """
    folder = Path(folder)
    _check_kind(folder)
    return from_tensors(read_config(folder), read_weights(folder), dtype=dtype, where=str(folder))


def _check_kind(folder: Path) -> None:
    """Raises CheckpointError for folders of fine-tuning that hold no model but are taken for one."""
    adapted = (folder / "adapter_config.json").exists()
    if adapted and not ((folder / "config.json").exists() and _weights(folder)):
        raise CheckpointError(
            f"{folder}: holds adapters of PEFT, and no model; save what its merge_and_unload() returns, and give that "
            "folder"
        )
    if adapted:
        say(f"{folder}: adapters of PEFT lie beside the model and are not applied; save what merge_and_unload() gives")
    if (folder / "config.json").exists():
        return
    if inner := sorted(path.name for path in folder.glob("checkpoint-*") if (path / "config.json").exists()):
        raise CheckpointError(f"{folder}: holds no model, but its folders do: give one of {', '.join(inner)}")


_START = "decoder_start_token_id"


def read_config(folder: Path) -> TrOCRConfig:
    """The configuration in `config.json`, with the special tokens of `generation_config.json` as far as it has none at
    its top level: what is set on a model of transformers 5 for `generate` stands there alone, and its decoder keeps its
    defaults. As there, texts whose first token no file names begin with `bos_token_id`, of that file if it is there.
    Raises ConfigError."""
    config = TrOCRConfig.from_json(folder / "config.json")
    stated = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    path = folder / GENERATION
    absent = [n for n in (_START, "bos_token_id", "pad_token_id", "eos_token_id") if stated.get(n) is None]
    ids: dict[str, Any] = {}
    if absent and path.exists():
        ids = _ids_of_generation(path, absent)
    elif _START in absent and stated["decoder"].get(_START) is None and _has_bos(stated):
        ids = {_START: config.bos_token_id}
    if not config.decoder.learned_positions:  # which are made for the decoder's
        ids.pop("pad_token_id", None)
    if _START in absent and _START not in ids and stated["decoder"].get(_START) is None:
        begin = f"texts begin with token {config.decoder_start_token_id}"
        say(f"{folder}: neither config.json nor generation_config.json has {_START}; {begin}")
    try:
        return replace(config, **ids)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _has_bos(stated: Mapping[str, Any]) -> bool:
    return any(part.get("bos_token_id") is not None for part in (stated, stated["decoder"]))


def _ids_of_generation(path: Path, names: list[str]) -> dict[str, Any]:
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        found = {name: given[name] for name in names if given.get(name) is not None}
        if _START in names and given.get("bos_token_id") is not None:
            found.setdefault(_START, given["bos_token_id"])
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}), and config.json has no {names[0]}") from None
    found = {name: value[0] if isinstance(value, list) and len(value) == 1 else value for name, value in found.items()}
    for name, value in found.items():
        if type(value) is not int:
            raise ConfigError(f"{path}: {name} is {shown(value)}; give one integer, there or in config.json")
    return found


def from_tensors(
    config: TrOCRConfig, tensors: Mapping[str, StoredTensor], *, dtype: DTypeLike | None, where: str
) -> TrOCR:
    """A model from tensors under any of the names that `names.canonical_key` understands. Raises CheckpointError."""
    problems: list[str] = []
    known: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        key = canonical_key(name)
        if key in known:
            problems.append(f"{name}: another tensor means the same parameter {key}")
        elif key is not None:
            known[key] = tensor
    if config.decoder.tie_word_embeddings:
        _untie(known, problems)
    return build(config, known, _target, dtype=dtype, problems=problems, where=where)


def save_huggingface(
    model: TrOCR,
    folder: str | os.PathLike[str],
    *,
    assets: str | os.PathLike[str] | None = None,
    torch_dtype: str | None = None,
) -> None:
    """Writes a folder that transformers loads with `VisionEncoderDecoderModel.from_pretrained`.

    `assets` is a folder whose tokenizer, preprocessor, generation settings and calibration are copied along. Files of a
    tokenizer or image processor that was there before are removed where another one takes its place. Generation
    settings that are not copied are written anew, and a calibration that is not copied is removed. The encoder's
    pooler, which TrOCR does not use, is not written (nor is it in the published folders): transformers says that it
    makes a new one.
    torch_dtype: what config.json says that transformers is to compute in; the type of the parameters if none. The
    folder loads again when all of it is there: config.json is written last, and one that was there is removed before
    its weights are replaced. Raises CheckpointError if the folder cannot be written, the model is quantised, or
    `assets` are no folder, ConfigError for a model of `model_layout`.
    """
    check_layout(model)
    folder = Path(folder)
    if kind := kind_of(model):
        raise CheckpointError(
            f"{folder}: the model has {kind} weights, which a folder of transformers cannot hold: write it as a native "
            "folder, or with floats again (trocr_jax.quantization.dequantize; `python -m convert` does it)"
        )
    options = {} if assets is None else older_options(Path(assets))  # whose config.json may be the one that is removed
    arrays = {stored_name(path)[0]: (stored_name(path)[1], array) for path, array in parameters(model).items()}
    specs = {key: (layout.stored_shape(array.shape), array.dtype.name) for key, (layout, array) in arrays.items()}

    def read(key: str) -> np.ndarray:
        layout, array = arrays[key]
        return layout.store(np.asarray(jax.device_get(array)))

    dtypes = {dtype for _, dtype in specs.values()}
    config, weights = model.config, folder / "model.safetensors"
    written = weights.with_name(f"{weights.name}.new")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be made ({error})") from None
    write_safetensors(written, specs, read)
    remove(folder / "config.json")
    try:
        os.replace(written, weights)
    except OSError as error:
        raise CheckpointError(f"{weights}: cannot be written ({error})") from None
    copied = [] if assets is None else copy_assets(Path(assets), folder)
    for group in (TOKENIZER, PROCESSOR):
        if set(group) & set(copied):  # another one's files might be preferred
            for name in set(group) - set(copied):
                remove(folder / name)
    if CALIBRATION not in copied:
        remove(folder / CALIBRATION)
    if GENERATION not in copied:
        write_json(folder / GENERATION, token_ids(config) | options)
    torch_dtype = torch_dtype or (dtypes.pop() if len(dtypes) == 1 else "float32")
    write_json(folder / "config.json", config.to_huggingface(dtype=torch_dtype))


def _weights(folder: Path) -> tuple[Path, _Reader] | None:
    """The file of weights, or the index of its shards, and what reads it."""
    paths = ((folder / f"{name}{end}", reader) for name, reader in _READERS for end in ("", ".index.json"))
    return next(((path, reader) for path, reader in paths if path.is_file()), None)


def read_weights(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a folder by the names in its files, none read yet. Raises CheckpointError."""
    if (found := _weights(folder)) is not None:
        path, reader = found
        return _read_shards(path, reader) if path.suffix == ".json" else reader(path)
    others = sorted(path.name for path in folder.glob("*") if path.suffix in (".h5", ".msgpack", ".onnx", ".ckpt"))
    other = f"; {', '.join(others)} cannot be used" if others else ""
    raise CheckpointError(
        f"{folder}: no weights: expected model.safetensors or pytorch_model.bin, or their .index.json{other}"
    )


def _read_shards(index: Path, reader: Callable[[Path], dict[str, StoredTensor]]) -> dict[str, StoredTensor]:
    try:
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = {str(name): str(file) for name, file in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index}: no index of shards ({type(error).__name__}: {error})") from None
    problems: list[str] = []
    tensors: dict[str, StoredTensor] = {}
    for file in sorted(set(names.values())):
        if Path(file).name != file:
            problems.append(f"{file!r} is no plain file name")
            continue
        try:
            shard = reader(index.parent / file)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        problems += [f"{name} is in two shards" for name in shard.keys() & tensors.keys()]
        problems += [f"{name} is not in {file}" for name, where in names.items() if where == file and name not in shard]
        tensors |= shard
    if problems:
        raise CheckpointError(report(str(index), problems))
    return tensors


def _target(path: str, shape: tuple[int, ...]) -> Target:
    key, layout = stored_name(path)
    return Target(key, layout.stored_shape(shape), lambda array: layout.load(array, shape))


def _untie(known: dict[str, StoredTensor], problems: list[str]) -> None:
    """A tied table may be stored under either name, or under both: then the two must be equal."""
    head = known.pop(OUTPUT_PROJECTION_KEY, None)
    if head is None:
        return
    table = known.setdefault(EMBED_TOKENS_KEY, head)
    if table is head:
        return
    if (table.shape, table.dtype) != (head.shape, head.dtype) or not _equal(table, head):
        problems.append(
            f"{OUTPUT_PROJECTION_KEY} differs from {EMBED_TOKENS_KEY}, but the configuration ties them: "
            "set decoder.tie_word_embeddings to false in config.json"
        )


def _equal(one: StoredTensor, other: StoredTensor) -> bool:
    try:
        a, b = one.read(), other.read()
    except CheckpointError:
        return True  # the damaged one is reported when it is read for use
    return bool(np.array_equal(a.reshape(-1).view(np.uint8), b.reshape(-1).view(np.uint8)))
