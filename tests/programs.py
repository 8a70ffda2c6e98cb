"""Tests that are programs of their own, since devices that a CPU pretends to be have to exist before jax is used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax

ROOT = Path(__file__).resolve().parent.parent


def environment(*, devices: int | None = None) -> dict[str, str]:
    """For a program that is compared with another one like it, or whose compiled text is read: LLVM optimises little,
    which takes a third less time, beside the flags that the tests have (`scripts/test`), and what is compiled is kept
    with that of the tests. devices: if the program does not ask for them itself."""
    flags = [*os.environ.get("XLA_FLAGS", "").split(), "--xla_backend_optimization_level=0"]
    if devices is not None:
        flags.append(f"--xla_force_host_platform_device_count={devices}")
    cache = str(jax.config.jax_compilation_cache_dir)  # type: ignore[attr-defined]
    return os.environ | {"XLA_FLAGS": " ".join(flags), "JAX_COMPILATION_CACHE_DIR": cache}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What `python ARGUMENTS` has printed, in the folder of the clone. It has to end well."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment())
    assert done.returncode == 0, done.stderr
    return done
