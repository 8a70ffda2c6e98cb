"""Compiled programs that outlive the process: jax's cache, in a folder of the user."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

FOLDER, LEAST = "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def keep_programs() -> None:
    """Lets jax, which must not be imported yet, keep what it compiles below $XDG_CACHE_HOME or ~/.cache, apart for each
    kind of processor. JAX_COMPILATION_CACHE_DIR names another folder, or none if it is empty."""
    if FOLDER in os.environ:
        return
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ[FOLDER] = str(caches / "trocr_jax" / f"compiled-{_processor()}")
    os.environ.setdefault(LEAST, "0.1")


def _processor() -> str:
    """Of this machine: a home folder may be shared by machines that do not run each other's programs."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    flags = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    text = "\n".join([platform.machine(), platform.processor(), *flags])
    return hashlib.sha256(text.encode()).hexdigest()[:12]
