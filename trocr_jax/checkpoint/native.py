"""Our own checkpoint folder: `config.json`, `params/` written by Orbax, and `MANIFEST.json` with the SHA-256 of every
file, compared before anything is restored (Orbax alone does not notice a flipped bit in array data)."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.typing import DTypeLike

from trocr_jax.attention_quantized import DTYPES
from trocr_jax.checkpoint.assets import (
    ASSETS,
    CALIBRATION,
    GENERATION,
    copy_assets,
    older_options,
    token_ids,
    write_json,
)
from trocr_jax.checkpoint.parameters import Rounded, StoredTensor, Target, build, parameters, report
from trocr_jax.config import TrOCRConfig
from trocr_jax.errors import CheckpointError
from trocr_jax.model import TrOCR
from trocr_jax.quantization import SCALE, check_layout

_MANIFEST = "MANIFEST.json"
_FORMAT = "trocr_jax checkpoint 1"
_SCALE = f".kernel{SCALE}"  # of a layer with a kernel in int8 or float8


def is_native(folder: Path) -> bool:
    """Whether a folder is one of ours, perhaps damaged."""
    return (folder / _MANIFEST).exists() or (folder / "params").is_dir()


def save_native(model: TrOCR, folder: str | os.PathLike[str], *, assets: str | os.PathLike[str] | None = None) -> None:
    """Writes a native folder, complete or not at all. An older native folder of that name is replaced, with the
    programs that were compiled for it.

    `assets` is a folder whose tokenizer, preprocessor, generation settings and calibration are copied along.
    Raises CheckpointError if the folder cannot be written, or holds anything else, ConfigError for a model of
    `model_layout`.
    """
    check_layout(model)
    folder = Path(folder).absolute()
    _check_replaceable(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be made ({error})") from None
    try:
        written = partial / "new"
        written.mkdir()
        _write_parameters(written / "params", model)
        (written / "config.json").write_text(model.config.to_json(), encoding="utf-8")
        if assets is not None:
            copy_assets(Path(assets), written)
            if options := older_options(Path(assets)):
                write_json(written / GENERATION, token_ids(model.config) | options)
        (written / _MANIFEST).write_text(_manifest_text(_hashes(written, _files(written))), encoding="utf-8")
        if folder.exists():
            os.replace(folder, partial / "old")
        os.replace(written, folder)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written ({error})") from None
    finally:
        if not folder.exists() and (partial / "old").exists():
            os.replace(partial / "old", folder)
        shutil.rmtree(partial, ignore_errors=True)


def _check_replaceable(folder: Path) -> None:
    """Nothing is there, an empty folder, or a native one without a file of somebody else. Raises CheckpointError."""
    if not folder.exists():
        return
    try:
        there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else [folder.name]
        ours = folder.is_dir() and f'"{_FORMAT}"' in (folder / _MANIFEST).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        ours = False
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read ({error})") from None
    if not there:
        return
    if not ours:
        what = "is a damaged native checkpoint, or none" if is_native(folder) else "exists and is no native checkpoint"
        raise CheckpointError(f"{folder}: {what}; choose another name or remove it")
    own = {_MANIFEST, "config.json", "params", *ASSETS}
    if foreign := [name for name in there if name not in own and not name.startswith("compiled-")]:
        raise CheckpointError(
            f"{folder}: holds {foreign[0]}, which is no part of a checkpoint and would be lost with the one that is "
            "there; move it away, or choose another name"
        )


def put_file(folder: str | os.PathLike[str], name: str, content: str) -> None:
    """Writes a file beside the parameters of a native folder and its checksum into the manifest, which is compared
    first. At no moment is the folder one that does not load. Raises CheckpointError."""
    folder = Path(folder).absolute()
    _verify(folder)
    files = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["files"]
    try:
        # A file that no manifest names is not compared: first it goes out of the manifest, then it changes.
        _replace(folder / _MANIFEST, _manifest_text({key: value for key, value in files.items() if key != name}))
        _replace(folder / name, content)
        _replace(folder / _MANIFEST, _manifest_text(files | _hashes(folder, [name])))
    except OSError as error:
        raise CheckpointError(f"{folder / name}: cannot be written ({error})") from None


def _replace(path: Path, content: str) -> None:
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        name = file.name
        try:
            file.write(content)
            file.close()
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise


def load_native(folder: str | os.PathLike[str], *, dtype: DTypeLike | None = None) -> TrOCR:
    """The model of a native folder, after comparing every file with the manifest.

    Parameters keep their stored type, or get `dtype`; those of a quantised model keep their stored type. Raises
    CheckpointError that lists every changed or missing file, or every missing, unused, misshapen or not finite
    parameter; ConfigError.
    """
    folder = Path(folder).absolute()
    _verify(folder)
    config = TrOCRConfig.from_json(folder / "config.json")
    arrays = dict(_read_parameters(folder))
    tensors = {  # each array is let go when it is read, so that the model is not held twice
        path: StoredTensor(array.shape, array.dtype.name, functools.partial(arrays.pop, path))
        for path, array in arrays.items()
    }
    kernels = frozenset(path.removesuffix(_SCALE) for path in tensors if path.endswith(_SCALE))
    stored = {tensors[f"{path}.kernel"].dtype for path in kernels if f"{path}.kernel" in tensors}
    rounded = Rounded(kernels, next((name for name in DTYPES.values() if stored == {name}), "int8"))
    return build(config, tensors, _target, dtype=dtype, problems=[], where=str(folder), rounded=rounded)


def _target(path: str, shape: tuple[int, ...]) -> Target:
    return Target(path, shape, lambda array: array)


def _write_parameters(path: Path, model: TrOCR) -> None:
    """Raises OSError."""
    tree: dict[str, Any] = {}
    arrays = parameters(model)
    size, free = sum(array.nbytes for array in arrays.values()), shutil.disk_usage(path.parent).free
    if size > free:  # Orbax would leave threads behind that fail one after the other
        raise OSError(f"{size / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free")
    for name, array in arrays.items():
        *parents, last = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = array
    try:
        with _quiet(), ocp.PyTreeCheckpointer() as checkpointer:
            checkpointer.save(path, tree)
    except Exception as error:  # noqa: BLE001  Orbax and TensorStore raise errors of many kinds
        full = os.strerror(errno.ENOSPC) in str(error)
        raise OSError("the disk is full" if full else f"{type(error).__name__}: {str(error)[:300]}") from None


def _read_parameters(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    try:
        with _quiet(), ocp.PyTreeCheckpointer() as checkpointer:
            tree = checkpointer.metadata(folder / "params").item_metadata.tree
            restore = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            content = checkpointer.restore(folder / "params", restore_args=restore)
    except Exception as error:  # noqa: BLE001  Orbax and TensorStore raise errors of many kinds
        raise CheckpointError(f"{folder / 'params'}: cannot be restored ({type(error).__name__}: {error})") from None
    for path, array in jax.tree_util.tree_leaves_with_path(content):
        yield ".".join(str(part.key) for part in path), array


def _verify(folder: Path) -> None:
    path = folder / _MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
        manifest = json.loads(text)
        files = {str(name): str(digest) for name, digest in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: missing or damaged ({type(error).__name__}: {error}); copy the checkpoint again"
        ) from None
    if text != _manifest_text(files):
        raise CheckpointError(f"{path}: damaged, or written by another version; copy the checkpoint again")
    present = set(_files(folder))
    problems = [f"missing: {name}" for name in sorted(files.keys() - present)]
    problems += [f"not in the manifest: {name}" for name in sorted(present - files.keys()) if _is_ours(name, files)]
    found = _hashes(folder, sorted(files.keys() & present))
    problems += [f"changed since it was saved: {name}" for name, digest in found.items() if digest != files[name]]
    if problems:
        advice = "copy the checkpoint again, or save it anew after an intended change"
        raise CheckpointError(f"{report(str(folder), problems)}{'; ' if len(problems) == 1 else chr(10)}{advice}")


def _is_ours(name: str, files: Iterable[str]) -> bool:
    """Whether an extra file would be read as part of the model; a note laid beside it is nobody's business, a
    calibration changes no text, and a model that was saved without tokenizer and image processor may be given some."""
    own = {*ASSETS} - {CALIBRATION}
    return name.startswith("params/") or (name in own and not own.isdisjoint(files))


def _files(folder: Path) -> list[str]:
    """Every file but the manifest, relative to the folder."""
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in found if name != _MANIFEST)


def _hashes(folder: Path, names: list[str]) -> dict[str, str]:
    def digest(name: str) -> str:
        with (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    try:
        with ThreadPoolExecutor(4) as pool:  # hashing releases the interpreter's lock
            return dict(zip(names, pool.map(digest, names), strict=True))
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read ({error})") from None


def _manifest_text(files: dict[str, str]) -> str:
    """The one way to write a manifest: whatever reads the same but is written otherwise is damaged."""
    return json.dumps({"format": _FORMAT, "files": files}, indent=2, sort_keys=True) + "\n"


@contextmanager
def _quiet() -> Iterator[None]:
    """Orbax logs each step through absl, warnings about small files included, and the traceback of every thread of a
    failed write, which is raised too."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
