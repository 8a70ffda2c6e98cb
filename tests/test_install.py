"""uv installs with pip's settings, as pip itself lists them."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from scripts import install


def listed(monkeypatch: pytest.MonkeyPatch, path: Path, text: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What pip says of the settings of a file and of the environment."""
    for name in os.environ:
        if name.startswith(("PIP_", "UV_")):
            monkeypatch.delenv(name)
    path.write_text(text)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(path))
    monkeypatch.setenv("HOME", str(path.parent))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(path.parent))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return install.settings(install.listed())


def wheel(folder: Path, version: str) -> None:
    """Of a package that is nothing but its name."""
    folder.mkdir()
    info = f"nothing_much-{version}.dist-info"
    with zipfile.ZipFile(folder / f"nothing_much-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: nothing-much\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


def test_settings_of_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
[global]
index-url = https://one.invalid/simple
extra-index-url =
    https://two.invalid/simple
    https://three.invalid/simple
constraint = one.txt
retries = 2
quiet = 2
no-cache-dir = off
cache-dir = ~/kept
[install]
constraint = two.txt
no-compile = true
[download]
constraint = three.txt
"""
    environment = {"PIP_INDEX_URL": "https://it's.invalid/simple", "PIP_EXTRA_INDEX_URL": "", "PIP_VERBOSE": "1"}
    found = listed(monkeypatch, tmp_path / "pip.conf", text, environment)
    of_file = {"extra-index-url", "constraint", "retries", "quiet", "no-cache-dir", "cache-dir", "no-compile"}
    told = install.environment({name: found[name] for name in of_file | {"index-url"}})  # /etc/pip.conf may have more
    assert told == {
        "UV_CACHE_DIR": f"{tmp_path}/kept/uv",
        "UV_CONSTRAINT": "two.txt",
        "UV_DEFAULT_INDEX": "https://it's.invalid/simple",
        "UV_EXTRA_INDEX_URL": "https://two.invalid/simple https://three.invalid/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_NO_CACHE": "1",
    }


def test_uv_takes_the_newest_of_what_pip_would_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("uv")
    for number, version in enumerate(("1.0", "2.0", "3.0")):
        wheel(tmp_path / f"wheels-{number}", version)
    (tmp_path / "constraints.txt").write_text("nothing-much<3\n")
    (tmp_path / "index").mkdir()
    text = f"[global]\nindex-url = {tmp_path}/index\nfind-links = {tmp_path}/wheels-0\n {tmp_path}/wheels-1\n"
    text += f" {tmp_path}/wheels-2\n"
    constraint = {"PIP_CONSTRAINT": str(tmp_path / "constraints.txt")}
    told = install.environment(listed(monkeypatch, tmp_path / "pip.conf", text, constraint))
    target = ["--target", str(tmp_path / "site"), "nothing-much"]
    command = [sys.executable, "-m", "uv", "--no-cache", "pip", "install", *target]
    subprocess.run(command, env=os.environ | told, check=True)
    assert [path.name for path in (tmp_path / "site").glob("nothing_much*")] == ["nothing_much-2.0.dist-info"]


def test_where_pip_installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    for name, value in ("require-hashes", "1"), ("no-index", "1"), ("extra-index-url", "HTTP://one.invalid/"):
        listed(monkeypatch, tmp_path / "pip.conf", f"[install]\n{name} = {value}\n", {})
        assert not install.by_uv(".", compiled=False)
        assert f"uv cannot be told its setting {name}" in capfd.readouterr().err
    (tmp_path / "pip.conf").write_text("no section\n")
    assert not install.by_uv(".", compiled=False)
    pytest.importorskip("uv")
    listed(monkeypatch, tmp_path / "pip.conf", "", {})
    assert not install.by_uv("./no-such-folder", compiled=False)
    assert capfd.readouterr().err.endswith("pip tries it again\n")
