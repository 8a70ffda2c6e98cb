"""Compiled programs that outlive the process: jax's cache, in a folder of the user."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

FOLDER, LEAST = "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"

_DAMAGED = re.compile(r"Error reading persistent compilation cache entry for '([^']+)'")  # what jax says


def keep_programs() -> None:
    """Lets jax, which must not be imported yet, keep what it compiles below $XDG_CACHE_HOME or ~/.cache, apart for each
    kind of processor. JAX_COMPILATION_CACHE_DIR names another folder, or none if it is empty."""
    if FOLDER in os.environ:
        return
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = caches / "trocr_jax" / f"compiled-{_processor()}"
    os.environ[FOLDER] = str(folder)
    os.environ.setdefault(LEAST, "0.1")
    shown = warnings.showwarning

    def show(message: Warning | str, *where: Any, **options: Any) -> None:
        if found := _DAMAGED.match(str(message)):  # by a full disk, or a kill; jax never replaces it
            for kept in folder.glob(f"{found[1]}-*-cache"):
                with suppress(OSError):
                    kept.unlink()
            message = f"{folder}: a compiled program ({found[1]}) is damaged and made anew"
        shown(message, *where, **options)

    warnings.showwarning = show


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
