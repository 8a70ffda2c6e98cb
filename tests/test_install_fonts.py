"""`scripts/install-fonts` with an apt that speaks another language."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SAYS = r"""#!/usr/bin/env bash
if [ "${LC_ALL:-}" = C ]; then word=Candidate; else word=Installationskandidat; fi
shift
for package in "$@"; do printf '%s:\n  %s: 1.0\n' "$package" "$word"; done
"""


@pytest.mark.skipif(sys.platform != "linux", reason="apt is of Linux")
def test_packages_are_found_in_any_language(tmp_path: Path) -> None:
    for name, content in {"apt-cache": SAYS, "apt-get": f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'}.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LC_ALL": "de_DE.UTF-8"}
    done = subprocess.run(["scripts/install-fonts"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "fonts-lato" in (tmp_path / "asked").read_text()
