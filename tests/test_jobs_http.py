"""Sources behind a server of HTTP that knows no more than files: Python's own, which gives no parts of them."""

from __future__ import annotations

import json
import os
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.tiny import save_lines, save_tiny
from trocr_jax.cli import main
from trocr_jax.errors import ImageError, SourceError
from trocr_jax.image import ImageProcessor
from trocr_jax.jobs import open_source
from trocr_jax.jobs.decode_worker import Decoder
from trocr_jax.jobs.sources.manifest import Manifest

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


class Quiet(SimpleHTTPRequestHandler):
    """A name that begins with `broken-` is never given: an error of the server, or an answer that breaks off."""

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if name.startswith("broken-500"):
            self.send_error(500)
        elif name.startswith("broken-off"):
            self.send_response(200)
            self.send_header("Content-Length", "9999")
            self.end_headers()
            self.wfile.write(b"\x89PNG")
        else:
            super().do_GET()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Its address; it gives what is in tmp_path."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as serving:
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def test_archives_need_a_server_that_gives_parts_of_them(server: str, tmp_path: Path) -> None:
    """No line of a whole archive fails because of its server."""
    lines = save_lines(tmp_path / "lines", 2)
    with tarfile.open(tmp_path / "lines.tar", "w") as tar, zipfile.ZipFile(tmp_path / "lines.zip", "w") as zipped:
        for path in lines:
            tar.add(path, path.name)
            zipped.write(path, path.name)
    source = open_source([f"{server}/lines.tar"])
    first = next(iter(source.inputs()))  # of so small a one, planning asks for the whole
    with pytest.raises(SourceError, match=r"lines\.tar: its server gives whole files only.*\(Range\); copy it here"):
        Decoder(source, _processor())(*first)
    with pytest.raises(SourceError, match=r"lines\.zip: its server gives whole files only.*\(Range\); copy it here"):
        list(open_source([f"{server}/lines.zip"]).inputs())


def test_a_file_that_is_not_there_is_said_to_be_missing(server: str) -> None:
    url = f"{server}/Scans/Nope.png"
    with pytest.raises(ImageError) as raised:
        Decoder(Manifest((f"{server}/list.jsonl",)), _processor())("row 17", url)
    assert str(raised.value) == f"row 17 ({url}): {os.strerror(2).lower()}"


def test_a_job_goes_on_where_a_server_breaks_off_for_some_of_its_images(server: str, tmp_path: Path) -> None:
    """Also where such a line is the first of its unit, or the last that is left."""
    good = [f"{server}/lines/{path.name}" for path in save_lines(tmp_path / "lines", 4)]
    bad = [f"{server}/broken-{what}.png" for what in ("500", "off")]
    rows = [bad[0], *good, bad[1]]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps({"path": path}) + "\n" for path in rows))
    output = tmp_path / "job"
    command = ["jobs", "run", f"{server}/list.jsonl", "--output", str(output), "--unit-size", "5", "--decoders", "1"]
    command += ["--model", str(save_tiny(tmp_path / "model")), "--max-new-tokens", "8"]
    assert main(command) == 1
    (last,) = output.glob("parts/*1.jsonl")
    last.unlink()
    (output / "_SUCCESS").unlink()
    assert main(command) == 1  # a process that has read nothing else
    read = [json.loads(line) for part in sorted(output.glob("parts/*.jsonl")) for line in part.read_text().splitlines()]
    status = {row["id"]: row["status"] for row in read}
    assert status == {path: "failed" if path in bad else "ok" for path in rows}


def _processor() -> ImageProcessor:
    return ImageProcessor.from_folder(Path(__file__).parent.parent / "trocr_jax" / "models" / "tiny-printed")
