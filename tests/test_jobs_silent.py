"""Sources that do not answer: what is read from them has not failed, and is not counted as if it had."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from tests.tiny import save_lines, save_tiny
from trocr_jax.cli import main
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.errors import ImageError
from trocr_jax.image import ImageProcessor
from trocr_jax.jobs import decode_worker, ray
from trocr_jax.jobs.decode_pool import DecodePool
from trocr_jax.jobs.decode_worker import Decoded, Decoder, Limits, _Ahead
from trocr_jax.jobs.job import Job
from trocr_jax.jobs.rows import Failure
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.sources.folder import Folder

DECODE = DecodeConfig(max_new_tokens=12)


class Server(ThreadingHTTPServer):
    """Takes every connection; says nothing until `answers` is set."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.answers = content, threading.Event()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        if not self.server.answers.wait(60):
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (line,) = save_lines(tmp_path / "remote", 1)
    with Server(line.read_bytes()) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_server_that_says_nothing_ends_the_job_and_costs_no_line(tmp_path, server, capsys):
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    rows = [
        {"id": f"line {number}", "path": str(path)} for number, path in enumerate(save_lines(tmp_path / "lines", 4))
    ]
    rows[2]["path"] = url = f"http://127.0.0.1:{server.server_port}/line.png"
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model, job = save_tiny(tmp_path / "tiny"), tmp_path / "job"
    command = ["jobs", "run", str(tmp_path / "list.jsonl"), "--output", str(job), "--model", str(model)]
    command += ["--max-new-tokens", "12", "--batch-size", "2", "--decoders", "1"]
    assert main([*command, "--decode-seconds", "3"]) == 2
    err = capsys.readouterr().err
    assert f"error: line 2 ({url}): its source did not answer within 3 s, 3 times; see to the source" in err
    store = Job.open(str(job)).store
    assert [store.names(folder) for folder in ("parts", "attempts", "leases")] == [[], [], []]
    server.answers.set()
    assert main(command) == 0
    assert "complete. 4 lines: 4 read" in capsys.readouterr().err


class Together(Handler):
    """Answers only as many questions at a time as the server's barrier has room for."""

    def do_GET(self) -> None:
        self.server.barrier.wait(20)  # type: ignore[attr-defined]
        super().do_GET()


@pytest.mark.parametrize("rows", [False, True])
def test_images_of_a_server_are_asked_for_side_by_side(server, rows):
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    server.answers.set()
    server.RequestHandlerClass, server.barrier = Together, threading.Barrier(4)
    root, processor = f"http://127.0.0.1:{server.server_port}", ImageProcessor(height=16, width=64)
    decode = ray._OfARow(ray._Given(), processor) if rows else Decoder(Folder((root,)), processor)
    inputs = [Input(str(number), f"{root}/{number}.png") for number in range(8)]
    with DecodePool(decode, (16, 64), workers=1, limits=Limits(seconds=10.0)) as pool:
        found = pool.submit(inputs).result()
    assert all(isinstance(one, Decoded) for one in found), found


def test_what_had_no_room_beside_others_is_read_alone():
    asked = []

    class Large:
        kind: ClassVar[str] = "folder"

        def read(self, place: str) -> bytes:
            asked.append(place)
            if asked.count(place) == 1 and place != "s3://c":
                raise MemoryError
            return place.encode()

    ahead = _Ahead(Decoder(Large(), ImageProcessor()), 2)  # type: ignore[arg-type]
    names = ["s3://a", "s3://b", "s3://c"]
    ahead.begin(names)
    assert [ahead.read(name) for name in names] == [b"s3://a", b"s3://b", b"s3://c"]
    assert sorted(asked) == [names[0], *names[:2], *names[1:]]
    ahead.begin(names)
    ahead.begin(["d"])  # a source that had gone is there again
    assert ahead.read(names[2]) == b"s3://c"


def test_in_a_pipeline_of_rows_whatever_cannot_be_read_is_a_row(tmp_path):
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    (line,) = save_lines(tmp_path / "lines", 1)
    (tmp_path / "empty").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refused = f"http://127.0.0.1:{closed.getsockname()[1]}/line.png"
    paths = [str(line), str(tmp_path / "empty" / "line.png"), refused, str(line)]
    model = save_tiny(tmp_path / "tiny")
    actor = ray.TranscribeActor(model, DECODE, decoders=1, device_batch=4)
    try:
        found = actor({"image": np.array(paths, object)})
    finally:
        actor.close()
    assert found["status"].tolist() == ["ok", "failed", "failed", "ok"]
    assert found["text"][0] == found["text"][3]
    assert found["error"][1] == f"{paths[1]}: no such file or directory"
    assert found["error"][2].startswith(f"{refused}: ")


def test_a_row_whose_server_says_nothing_is_a_row_too(server):
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    url = f"http://127.0.0.1:{server.server_port}/line.png"
    decode = ray._OfARow(ray._Given(), ImageProcessor(height=16, width=64))
    with DecodePool(decode, (16, 64), workers=1, limits=Limits(seconds=1.0)) as pool:
        (found,) = pool.submit([Input(url, url)]).result()
    assert found == Failure("quarantined", f"{url}: decoding did not end within 1 s; tried 3 times")


def test_an_image_that_is_asked_for_again_costs_no_other(monkeypatch: pytest.MonkeyPatch):
    """What has come of those behind it is not thrown away."""
    monkeypatch.setattr(decode_worker, "PAUSES", (0.0, 0.0))
    asked, lock = Counter[str](), threading.Lock()

    class Server:
        kind = "folder"

        def read(self, place: str) -> bytes:
            with lock:
                asked[place] += 1
            if place == "http://a/1":
                raise OSError(5, "Internal Server Error")
            return b"P5 4 4 255\n" + bytes(16)

        def check(self) -> None: ...

    source: Any = Server()
    decoder = Decoder(source, ImageProcessor())
    ahead: Any = decode_worker._Ahead(decoder, 4)
    decoder, places = replace(decoder, source=ahead), [f"http://a/{number}" for number in range(8)]
    ahead.begin(places)
    for place in places:
        if place == "http://a/1":
            with pytest.raises(ImageError):
                decoder(place, place)
        else:
            decoder(place, place)
    assert [asked[place] for place in places[2:]] == [1] * 6
