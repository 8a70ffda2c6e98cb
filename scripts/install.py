"""Installs this clone, editable, into the environment whose Python runs this. uv does it, with pip's own settings; pip,
which takes longer, where there is no uv, where it fails, or where pip has a setting that it cannot be told.

    python scripts/install.py [EXTRAS]
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PIP = [sys.executable, "-m", "pip"]

NAMES = {
    "cache-dir": "UV_CACHE_DIR",
    "cert": "SSL_CERT_FILE",
    "constraint": "UV_CONSTRAINT",
    "extra-index-url": "UV_EXTRA_INDEX_URL",
    "find-links": "UV_FIND_LINKS",
    "index-url": "UV_DEFAULT_INDEX",
    "no-cache-dir": "UV_NO_CACHE",
}
"""What settings of pip are called in the environment of uv."""
OF_PIP_ALONE = {
    "break-system-packages",
    "compile",
    "config-file",
    "default-timeout",
    "disable-pip-version-check",
    "log",
    "no-color",
    "no-compile",
    "no-input",
    "no-python-version-warning",
    "no-warn-script-location",
    "progress-bar",
    "quiet",
    "require-virtualenv",
    "retries",
    "root-user-action",
    "timeout",
    "verbose",
}
"""Those that change nothing in what is installed."""


def listed() -> str:
    """What `pip config list` says, which is nothing where pip is told to be quiet. Raises CalledProcessError where pip
    cannot read its settings."""
    loud = os.environ | {"PIP_QUIET": "0", "PIP_VERBOSE": "0"}
    return subprocess.run([*PIP, "config", "list"], env=loud, capture_output=True, text=True, check=True).stdout


def settings(lines: str) -> dict[str, str]:
    """lines: of `pip config list`, like `global.index-url='URL'`. Those for every command, or for `install`, by name;
    what comes from the environment counts most, and what is empty not at all."""
    found = dict[str, str]()
    for wanted in ("global", "install", ":env:"):
        for line in lines.splitlines():
            key, _, value = line.partition("=")
            section, _, name = key.rpartition(".")
            if section == wanted and ast.literal_eval(value):
                found[name] = ast.literal_eval(value)
    return found


def environment(of_pip: dict[str, str]) -> dict[str, str]:
    """The same for uv. Raises KeyError with the name of a setting that it cannot be told."""
    told = dict[str, str]()
    for name in of_pip.keys() - OF_PIP_ALONE:
        if "http://" in of_pip[name].lower():
            raise KeyError(f"{name} over http")  # pip leaves out what it does not trust, uv takes it
        told[NAMES[name]] = " ".join(of_pip[name].split())
    if "UV_CACHE_DIR" in told:  # beside what pip keeps there
        told["UV_CACHE_DIR"] = os.environ.get("UV_CACHE_DIR") or os.path.expanduser(told["UV_CACHE_DIR"]) + "/uv"
    if "UV_NO_CACHE" in told:
        told["UV_NO_CACHE"] = "1"  # pip keeps nothing even where this is "off"
    if "UV_FIND_LINKS" in told:
        told["UV_FIND_LINKS"] = told["UV_FIND_LINKS"].replace(" ", ",")
    if told.keys() & {"UV_EXTRA_INDEX_URL", "UV_FIND_LINKS"}:
        told["UV_INDEX_STRATEGY"] = "unsafe-best-match"  # the newest of all of them, as pip takes it
    return told


def by_uv(what: str, compiled: bool) -> bool:
    """Whether it is installed."""
    try:
        told = environment(settings(listed()))
    except subprocess.CalledProcessError:
        return False  # pip will say the same when it installs
    except KeyError as error:
        print(f"pip installs, which is slower: uv cannot be told its setting {error.args[0]}", file=sys.stderr)
        return False
    got = subprocess.run([*PIP, "install", "--quiet", "--only-binary=:all:", "uv>=0.8"], check=False)
    if got.returncode:
        print("pip installs, which is slower: uv could not be had", file=sys.stderr)
        return False
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable]
    command += ["--compile-bytecode"] if compiled else []
    # Some set the first for their own projects; a project around this clone has settings for uv, and not for pip.
    told |= {"UV_NO_EDITABLE": "0", "UV_NO_CONFIG": "1"}
    done = subprocess.run([*command, "--editable", what], env=os.environ | told, cwd=ROOT, check=False)
    if done.returncode:
        print("pip tries it again", file=sys.stderr)
    return done.returncode == 0


def main(extras: str = "") -> int:
    what = f".[{extras}]" if extras else "."
    # Not compiled where Python may keep what it compiles when it is imported, which is a small part.
    compiled = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    if by_uv(what, compiled):
        return 0
    command = [*PIP, "install", "--quiet", "--compile" if compiled else "--no-compile", "--editable", what]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
