"""From a name to a folder: built-in, local, or a repository on the Hugging Face hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from trocr_jax.checkpoint.assets import ASSETS
from trocr_jax.errors import CheckpointError
from trocr_jax.presets import PRESETS

_MODELS = Path(__file__).resolve().parent.parent / "models"
BUILT_IN: dict[str, Path] = {"tiny-printed": _MODELS / "tiny-printed"}

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
_NATIVE = ("MANIFEST.json", "params/**")
_SECONDS = 10  # for the hub to answer
_BIN_WEIGHTS = ("pytorch_model*.bin", "pytorch_model.bin.index.json")


def resolve(name: str | os.PathLike[str], *, revision: str | None = None) -> Path:
    """The folder of a model: a built-in name, a local folder, or a repository "owner/name" of the hub.

    A repository is downloaded into the hub's cache, of which an earlier download serves when there is no network;
    `revision` is a branch, tag or commit of it, such as "refs/pr/3". Nothing but such a name makes a connection.
    Raises CheckpointError that says which names there are.
    """
    if not isinstance(name, str | os.PathLike) or not os.fspath(name):
        raise CheckpointError(f"the model is {name!r}: give its name, or the path of a folder")
    text = os.fspath(name)
    path = Path(os.path.expanduser(text))  # that of pathlib raises where there is no home
    if isinstance(name, str) and name in BUILT_IN and not os.path.isdir(path):
        path = BUILT_IN[name]
    if os.path.isdir(path):  # which, unlike that of pathlib, says no to a name that is too long
        if revision is not None:
            raise CheckpointError(f"{text}: is a local folder and has no revision {revision!r}; leave that out")
        return path
    if os.path.exists(path):
        raise CheckpointError(
            f"{text}: is a file; a model is a folder with config.json (python -m convert turns a fairseq .pt into one)"
        )
    if isinstance(name, str) and _REPOSITORY.fullmatch(name):
        return _download(name, revision)
    hint = f"the published one is called microsoft/trocr-{text}; " if text in PRESETS else ""
    raise CheckpointError(
        f"{text}: no such model or folder; {hint}built in: {', '.join(BUILT_IN)}. Others: a local folder, or a "
        "repository of the Hugging Face hub such as microsoft/trocr-base-printed"
    )


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    at = "" if revision is None else f" at revision {revision}"
    reason: Exception | None = None
    try:
        # Asked first with a time limit: snapshot_download has none and waits for a mute network for ever (2.4.0).
        HfApi().model_info(name, revision=revision, timeout=_SECONDS)
    except Exception as error:  # noqa: BLE001  no network, wrong name, no permission: the cache may still have it
        reason = error
    cached_only = reason is not None
    try:
        patterns = ["config.json", *ASSETS, *_WEIGHTS, *_NATIVE]
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=cached_only))
        if not any(folder.glob("model*.safetensors")) and not (folder / "params").is_dir():
            patterns = list(_BIN_WEIGHTS)
            snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=cached_only)
    except Exception as error:  # noqa: BLE001  as above, or the network went away, or the disk is full
        shown = error if reason is None else reason
        text = " ".join(str(shown).split())
        raise CheckpointError(
            f"{name}{at}: not in the local cache, and the hub cannot give it ({type(shown).__name__}: {text}). "
            f"Check the name and the network, or give a local folder. Built in: {', '.join(BUILT_IN)}"
        ) from None
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{name}{at}: the repository has no config.json, so it is no model of transformers")
    return folder
