"""Sources behind a server of HTTP that knows no more than files: Python's own, which gives no parts of them."""

from __future__ import annotations

import os
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.tiny import save_lines
from trocr_jax.errors import ImageError, SourceError
from trocr_jax.image import ImageProcessor
from trocr_jax.jobs import open_source
from trocr_jax.jobs.decode_worker import Decoder
from trocr_jax.jobs.sources.manifest import Manifest

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


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


def _processor() -> ImageProcessor:
    return ImageProcessor.from_folder(Path(__file__).parent.parent / "trocr_jax" / "models" / "tiny-printed")
