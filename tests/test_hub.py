"""Downloads from a stand-in for the Hugging Face hub, in a process of its own: the other tests run offline."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.small_models import save_transformers
from trocr_jax import checkpoint

ROOT = Path(__file__).resolve().parent.parent
COMMITS = {"main": "a" * 40, "refs/pr/3": "b" * 40}
RESOLVE = """
import sys, json
import trocr_jax.checkpoint.hub as hub
hub._SECONDS = 2
from trocr_jax import checkpoint
from trocr_jax.errors import CheckpointError
results = []
for name, revision in json.loads(sys.argv[1]):
    try:
        folder = checkpoint.resolve(name, revision=revision)
        checkpoint.load(name, revision=revision)
        results.append(sorted(path.name for path in folder.iterdir()))
    except CheckpointError as error:
        results.append(str(error))
print(json.dumps(results))
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """The four requests that a snapshot takes: the commit of a revision, its files, the head of a file, the file."""

    repositories: dict[str, dict[str, Path]]  # name -> commit -> folder
    is_mute: threading.Event  # while set, requests are taken and not answered
    over: threading.Event

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, has_body):
        if self.is_mute.is_set():
            self.over.wait(60)
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        api = path.startswith("/api/models/")
        owner, model, *rest = path.removeprefix("/api/models/").strip("/").split("/")
        commits = self.repositories.get(f"{owner}/{model}", {})
        revision = "/".join(rest[1:]) or "main" if api else rest[1]
        commit = COMMITS.get(revision, revision)
        headers, body = {"X-Repo-Commit": commit}, b""
        if commit not in commits:
            headers["X-Error-Code"] = "RevisionNotFound" if commits else "RepoNotFound"
            return self.send(404, headers, b"{}")
        files = {
            path.relative_to(commits[commit]).as_posix(): path
            for path in sorted(commits[commit].rglob("*"))
            if path.is_file()
        }
        if api and rest[:1] == ["tree"]:
            listing = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": self.digest(file)}
                for name, file in files.items()
            ]
            body = json.dumps(listing).encode()
        elif api:
            siblings = [{"rfilename": name} for name in files]
            body = json.dumps({"id": f"{owner}/{model}", "sha": commit, "siblings": siblings}).encode()
        else:
            file = files["/".join(rest[2:])]
            body = file.read_bytes()
            headers["ETag"] = f'"{self.digest(file)}"'
        return self.send(200, headers, body, has_body)

    @staticmethod
    def digest(path):
        return hashlib.sha1(path.read_bytes()).hexdigest()

    def send(self, status, headers, body, has_body=True):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body)), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.end_headers()
        if has_body:
            self.wfile.write(body)


@pytest.fixture
def hub(tmp_path):
    good = save_transformers("base", tmp_path / "good")
    (good / "tokenizer.json").write_text("{}")
    (good / "training_log.txt").write_text("not needed")
    (good / "flax_model.msgpack").write_bytes(b"not needed")
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.json").write_text((good / "config.json").read_text())
    torch.save(load_file(good / "model.safetensors"), old / "pytorch_model.bin")
    native = tmp_path / "native"
    checkpoint.save(checkpoint.load(good), native, assets=good)
    (native / "README.md").write_text("not needed")
    repositories = {
        "some/model": {COMMITS["main"]: old, COMMITS["refs/pr/3"]: good},
        "some/native": {COMMITS["main"]: native},
    }
    Hub.repositories, Hub.is_mute, Hub.over = repositories, threading.Event(), threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE" and "proxy" not in k.lower()}
    environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONPATH": str(ROOT),
    }

    def resolve(*models, **more):
        command = [sys.executable, "-c", RESOLVE, json.dumps(models)]
        done = subprocess.run(
            command, env={**environment, **more}, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    yield resolve, Hub.is_mute
    Hub.over.set()
    server.shutdown()
    server.server_close()


def test_download_cache_and_errors(hub):
    resolve, is_mute = hub
    new, old, native, unknown, no_revision = resolve(
        ("some/model", "refs/pr/3"),
        ("some/model", None),
        ("some/native", None),
        ("some/other", None),
        ("some/model", "v9"),
    )
    assert new == ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
    assert old == ["config.json", "pytorch_model.bin"]
    assert native == ["MANIFEST.json", "config.json", "generation_config.json", "params", "tokenizer.json"]
    assert "RepositoryNotFoundError" in unknown
    assert "some/model at revision v9: not in the local cache" in no_revision
    assert resolve(("some/model", "refs/pr/3"), HF_HUB_OFFLINE="1") == [new]
    is_mute.set()
    cached, absent = resolve(("some/model", "refs/pr/3"), ("some/third", None))
    assert cached == new
    assert "Timeout" in absent
