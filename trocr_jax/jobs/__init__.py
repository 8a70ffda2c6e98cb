"""Bulk transcription: millions of lines, any number of processes and hosts on one folder, every line exactly once.

    source = jobs.open_source(["scans/"])
    job = jobs.plan(source, "job", recognizer, "tiny-printed")
    counts = jobs.run(job, recognizer)

docs/jobs.md describes the folder, the faults that are borne, and how to add a source, a store or an engine.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trocr_jax.jobs.host import Choices as Choices
    from trocr_jax.jobs.host import plan as plan
    from trocr_jax.jobs.host import retry_failed as retry_failed
    from trocr_jax.jobs.host import run as run
    from trocr_jax.jobs.job import Job as Job
    from trocr_jax.jobs.job_status import status as status
    from trocr_jax.jobs.sources import open_source as open_source
    from trocr_jax.jobs.stop import Stop as Stop
    from trocr_jax.jobs.verification import verify as verify
    from trocr_jax.jobs.worker import Resources as Resources

# Loaded at first use: the processes that decode images import from here and need no jax.
_HOMES = {
    "Choices": "host",
    "Job": "job",
    "Resources": "worker",
    "Stop": "stop",
    "open_source": "sources",
    "plan": "host",
    "retry_failed": "host",
    "run": "host",
    "status": "job_status",
    "verify": "verification",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trocr_jax.jobs' has no attribute {name!r}")
    return getattr(importlib.import_module(f"trocr_jax.jobs.{_HOMES[name]}"), name)
