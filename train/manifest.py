"""What makes a training checkpoint whole: MANIFEST.json, written last, with the SHA-256 of every file and of itself."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# the same files and digests as a model folder's
from trocr_jax.checkpoint.native import _files as files_of
from trocr_jax.checkpoint.native import _hashes as hashes_of
from trocr_jax.errors import CheckpointError
from trocr_jax.jobs.store import sync_folder

NAME = "MANIFEST.json"
PARTIAL = f".{NAME}"  # one that is being written; a killed run leaves it behind
FORMAT = "trocr_jax training state 1"


@dataclass(frozen=True)
class Manifest:
    """step: how many are done; run: what a run must be to go on from here, JSON values; metrics: of an evaluation of
    this state, if there was one; files: name -> SHA-256."""

    step: int
    run: Mapping[str, Any]
    metrics: Mapping[str, float] | None
    files: Mapping[str, str]


def digest(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder but the manifest."""
    return hashes_of(folder, [name for name in files_of(folder) if name != PARTIAL])


def write(manifest: Manifest, folder: Path) -> None:
    """All of it or nothing, a power cut or not: older states are removed once it is there."""
    partial = folder / PARTIAL
    with partial.open("w", encoding="utf-8") as file:
        file.write(_text(asdict(manifest)))
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / NAME)
    sync_folder(folder)


def read(folder: Path) -> Manifest:
    """The manifest alone. Raises CheckpointError if it is damaged."""
    path = folder / NAME
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        manifest = Manifest(**{name: content[name] for name in ("step", "run", "metrics", "files")})
        whole = text == _text(asdict(manifest)) and int(folder.name) == manifest.step
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged ({type(error).__name__}: {error})") from None
    if not whole:
        raise CheckpointError(f"{path}: damaged, or of another folder")
    return manifest


def verify(manifest: Manifest, folder: Path) -> None:
    """Compares every file. Raises CheckpointError listing those that are missing, new or changed."""
    found = digest(folder)
    problems = [f"{name} is missing" for name in sorted(manifest.files.keys() - found.keys())]
    problems += [f"{name} is not in the manifest" for name in sorted(found.keys() - manifest.files.keys())]
    both = sorted(found.keys() & manifest.files.keys())
    problems += [f"{name} has changed" for name in both if found[name] != manifest.files[name]]
    if problems:
        raise CheckpointError(f"{folder}: {'; '.join(problems)}")


def differences(saved: Any, now: Any, name: str = "") -> Iterator[str]:
    """What differs between two descriptions of a run, JSON values: one line each."""
    if isinstance(saved, Mapping) and isinstance(now, Mapping):
        for key in sorted(saved.keys() | now.keys()):
            yield from differences(saved.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif isinstance(saved, list) and isinstance(now, list) and len(saved) == len(now):
        for number, (a, b) in enumerate(zip(saved, now, strict=True)):
            yield from differences(a, b, f"{name}[{number}]")
    elif saved != now:
        yield f"{name} was {json.dumps(saved)} and is {json.dumps(now)}"


def _text(content: dict[str, Any]) -> str:
    """The one way to write it; what reads the same but is written otherwise is damaged."""
    content = {"format": FORMAT} | content
    own = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps(content | {"sha256": own}, indent=1, sort_keys=True) + "\n"
