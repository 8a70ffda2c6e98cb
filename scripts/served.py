"""A server on this machine in a process of its own, for tests and scripts."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager


@contextmanager
def served(
    command: Sequence[str], finds: Callable[[str], Mapping[str, str]], *, given: Mapping[str, str] | None = None
) -> Iterator[str]:
    """The URL that Python with `command` prints as its first line. While the block runs, the environment has what
    `finds` makes of it, also for processes that are started or forked. given: what the server's has besides. Raises
    RuntimeError if it prints none."""
    server = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # clients are killed
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | dict(given or {}),
    )
    assert server.stdout is not None
    before = dict(os.environ)
    try:
        url = server.stdout.readline().decode().strip()
        if not url:
            raise RuntimeError(f"a server did not start; this says why: {shlex.join([sys.executable, *command])}")
        os.environ |= finds(url)
        yield url
    finally:
        os.environ.clear()
        os.environ |= before
        server.kill()
        server.wait()
        server.stdout.close()
