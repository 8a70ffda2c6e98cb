"""An object store that speaks the part of Google Cloud Storage's JSON API that gcsfs asks for, on this machine and in
memory, for tests and scripts: no package that answers `ifGenerationMatch` and gives lists in pages can be installed.

What it answers follows https://cloud.google.com/storage/docs/json_api/v1. tests/test_jobs_stores.py asks Google's own
testbench instead (github.com/googleapis/storage-testbench) if `STORAGE_EMULATOR_HOST` is the URL of one.
"""

from __future__ import annotations

import json
import sys
import threading
from base64 import b64encode
from collections.abc import Sequence
from contextlib import AbstractContextManager
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from scripts.served import served

PAGE = 1000
"""Names in an answer to a list, as Google's."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    objects: dict[str, dict[str, bytes]]
    lock = threading.Lock()

    def do_GET(self) -> None:
        bucket, key = self._address()
        if bucket not in self.objects:
            return self._answer(404, {})
        if key is None:
            return self._answer(200, {"kind": "storage#bucket", "name": bucket})
        if not key:
            return self._list(bucket)
        content = self.objects[bucket].get(key)
        if content is None:
            return self._answer(404, {})
        if self._asked("alt") != "media":
            return self._answer(200, _described(bucket, key, content))
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        if "Range" in self.headers and int(first) >= len(content):
            return self._answer(416, {})
        part = content[int(first) : int(last) + 1 if last else None]
        return self._answer(206 if "Range" in self.headers else 200, part)

    def do_POST(self) -> None:
        bucket, _ = self._address()
        _, described, content = self.rfile.read(int(self.headers["Content-Length"])).split(b"--==0==", 2)
        key = json.loads(described.partition(b"\n\n")[2])["name"]
        content = content.partition(b"\n\n")[2].removesuffix(b"\n--==0==--")
        if bucket not in self.objects:
            return self._answer(404, {})
        with self.lock:
            if self._asked("ifGenerationMatch") == "0" and key in self.objects[bucket]:
                return self._answer(412, {})
            self.objects[bucket][key] = content
        return self._answer(200, _described(bucket, key, content))

    def do_DELETE(self) -> None:
        bucket, key = self._address()
        found = self.objects.get(bucket, {}).pop(key or "", None)
        self._answer(404 if found is None else 204, b"" if found is not None else {})

    def log_message(self, *given: Any) -> None:
        pass

    def _address(self) -> tuple[str, str | None]:
        """The bucket, and the key: empty for all objects, None for the bucket itself."""
        bucket, *key = urlsplit(self.path).path.partition("/b/")[2].split("/", 2)
        return unquote(bucket), unquote("".join(key[1:])) if key else None

    def _asked(self, name: str) -> str:
        return parse_qs(urlsplit(self.path).query).get(name, [""])[0]

    def _list(self, bucket: str) -> None:
        prefix, delimiter, after = (self._asked(name) for name in ("prefix", "delimiter", "pageToken"))
        names: dict[str, bool] = {}  # whether it is a folder
        for key in sorted(self.objects[bucket], key=str.encode):
            if key.startswith(prefix):
                folder, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
                names[f"{prefix}{folder}{delimiter}" if found else key] = bool(found)
        left = [name for name in names if name.encode() > after.encode()]
        page = left[: int(self._asked("maxResults") or PAGE)]
        answer: dict[str, Any] = {
            "kind": "storage#objects",
            "prefixes": [name for name in page if names[name]],
            "items": [_described(bucket, name, self.objects[bucket][name]) for name in page if not names[name]],
        }
        self._answer(200, answer | ({"nextPageToken": page[-1]} if len(left) > len(page) else {}))

    def _answer(self, status: int, content: bytes | dict[str, Any]) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _described(bucket: str, key: str, content: bytes) -> dict[str, Any]:
    digest = b64encode(md5(content).digest()).decode()
    return {"kind": "storage#object", "bucket": bucket, "name": key, "size": str(len(content)), "md5Hash": digest}


def gcs_server(buckets: Sequence[str]) -> AbstractContextManager[str]:
    """The URL of a server with these buckets, in a process of its own. While the block runs, gcsfs finds it by the
    environment, unless it was imported before."""
    return served(
        ["-m", "scripts.gcs_server", *buckets],
        lambda url: {"STORAGE_EMULATOR_HOST": url, "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"},
    )


def main(buckets: Sequence[str]) -> None:
    _Handler.objects = {bucket: {} for bucket in buckets}
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
