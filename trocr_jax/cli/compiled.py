"""Compiled programs that outlive the process: jax's cache, beside the model or in a folder of the user."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from trocr_jax.errors import CheckpointError
from trocr_jax.say import say

FOLDER, LEAST = "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"

# What jax says.
_UNREADABLE = re.compile(r"Error reading persistent compilation cache entry for '([^']+)': (.*)", re.DOTALL)


def keep_programs(model: str) -> None:
    """Lets jax, which must not be imported yet, keep what it compiles: in the folder that `trocr-jax compile` has made
    beside the model, if it is there, else below $XDG_CACHE_HOME or ~/.cache. Both are apart for each kind of processor.
    JAX_COMPILATION_CACHE_DIR names another folder, or none if it is empty. Without a home, or one that can be written,
    nothing is kept."""
    if FOLDER in os.environ or use_programs(model):
        return
    with suppress(OSError, RuntimeError):  # RuntimeError: no home
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = caches / "trocr_jax" / f"compiled-{_processor()}"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.R_OK | os.X_OK):
            _use(folder, least=_least(folder))


def use_programs(model: str) -> bool:
    """As `keep_programs`, but nowhere if the model has no such folder. Returns whether it has. Says so if it has those
    of other processors only."""
    folder = beside(model)
    if folder is None or FOLDER in os.environ:
        return False
    if os.path.isdir(folder):
        _use(folder, least=_least(folder))
        return True
    if others := sorted(path for path in folder.parent.glob(f"compiled-{'[0-9a-f]' * 12}") if path.is_dir()):
        say(
            f"{others[0]}: compiled for another kind of processor, or number of cores, and not used here; trocr-jax "
            f"compile --model {model} compiles for this one"
        )
    return False


def make_programs(model: str) -> Path:
    """That folder, not made yet, in which jax shall keep everything. Raises CheckpointError."""
    folder = beside(model)
    if folder is None or not (folder.parent / "config.json").is_file():
        raise CheckpointError(
            f"{model}: no folder of a model, beside which programs are kept; of others `transcribe` keeps them in your "
            "cache. `python -m convert` writes a folder"
        )
    _use(folder, least="0")
    os.environ[LEAST] = "0"
    return folder


def beside(model: str) -> Path | None:
    """The folder of compiled programs of a model in a local folder, whether it is there or not."""
    folder = Path(os.path.expanduser(model))
    return folder / f"compiled-{_processor()}" if os.path.isdir(folder) else None


def _least(folder: Path) -> str:
    """jax warns of each program that it cannot write: where it cannot, it shall not try."""
    return "0.1" if os.access(folder, os.W_OK) else "1e9"


def _use(folder: Path, *, least: str) -> None:
    """least: seconds that a program that is kept takes to compile."""
    os.environ[FOLDER] = str(folder)
    own = LEAST in os.environ
    os.environ.setdefault(LEAST, least)
    # Their paths below the folder, a GPU's only, would be part of every program's key: the folder could not move.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES", "none")
    shown = warnings.showwarning

    def show(message: Warning | str, *where: Any, **options: Any) -> None:
        if found := _UNREADABLE.match(str(message)):
            message = f"{folder}: a compiled program ({found[1]}) cannot be read ({found[2]}) and is compiled again"
            with suppress(OSError):
                for kept in _damaged(list(folder.glob(f"{found[1]}-*-cache"))):
                    kept.unlink()  # perhaps cut off by a full disk or a kill: jax never replaces it
                    message = f"{folder}: a compiled program ({found[1]}) is damaged and made anew"
                    if not own:
                        _keep_all()
        shown(message, *where, **options)

    warnings.showwarning = show


def _damaged(programs: list[Path]) -> list[Path]:
    """Those that cannot be unpacked, of programs of one name, one of which jax could not read; all if they all can."""

    def whole(path: Path) -> bool:
        try:
            from jax._src.compilation_cache import decompress_executable

            return bool(decompress_executable(path.read_bytes()))
        except Exception:  # noqa: BLE001  of which kind, the library knows that packed it
            return False

    return [path for path in programs if not whole(path)] or programs


def _keep_all() -> None:
    """What is removed was kept, however little time it took to compile."""
    import jax

    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _processor() -> str:
    """Of this machine: a home folder may be shared by machines that do not run each other's programs, or that have
    another number of cores, for which programs are divided."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    flags = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = "\n".join([platform.machine(), platform.processor(), str(cores), *flags])
    return hashlib.sha256(text.encode()).hexdigest()[:12]
