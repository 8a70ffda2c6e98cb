"""Images a second that processes which decode get from a server whose every answer takes a while; and what listing a
folder of S3 takes.

    python -m benchmarks.jobs_far [--milliseconds 30] [--decoders 2] [--lines 2000]
    python -m benchmarks.jobs_far --objects 400000 [--pattern '**/*.png']

The server, on this machine, answers as a plain one of HTTP and as one of S3, after so many milliseconds; the images are
rendered lines as PNG, read as those of a folder by the decoders of a job, which resize them for `tiny-printed`. What
one core can do limits a rate as soon as the wait does not.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import resource
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

import tyro
from PIL import Image

from train.data.render import Renderer
from trocr_jax.checkpoint import resolve
from trocr_jax.image import ImageProcessor
from trocr_jax.jobs import files
from trocr_jax.jobs.decode_pool import DecodePool
from trocr_jax.jobs.decode_worker import Decoded, Decoder, Limits
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.sources.folder import Folder

DISTINCT = 64  # images


@dataclass(frozen=True)
class Options:
    """Images from a server, read or only listed.

    Attributes:
        milliseconds: after which it answers.
        decoders: processes that decode.
        lines: images that are read.
        rounds: the best of so many is printed.
        objects: of a folder that is listed; then nothing is read.
        pattern: by which it is listed; as a folder if none.
    """

    milliseconds: float = 30.0
    decoders: int = 2
    lines: int = 2000
    rounds: int = 2
    objects: int = 0
    pattern: str = ""


def main(options: Options) -> None:
    if options.objects:
        list_objects(options.objects, "/".join(filter(None, ("s3://lines/pages", options.pattern))))
        return
    renderer = Renderer.create(seed=0)
    images = [_png(renderer.line(number, max_chars=64).image) for number in range(DISTINCT)]
    processor = ImageProcessor.from_folder(resolve("tiny-printed"))
    print("| protocol | answers after, ms | decoders | images/s | requests an image |\n| -- | -- | -- | -- | -- |")
    with _server(images, options.milliseconds / 1000) as (address, asked):
        for protocol, root in (("http", f"{address}/lines"), ("s3", "s3://lines")):
            inputs = [Input(str(n), f"{root}/{n}.png") for n in range(options.lines)]
            decoder = Decoder(Folder((root,)), processor)
            with DecodePool(decoder, processor.size, workers=options.decoders, limits=Limits()) as pool:
                pool.submit(inputs[: 8 * options.decoders]).result()
                before, seconds = asked.value, list[float]()
                for _ in range(options.rounds):
                    begun = time.perf_counter()
                    found = pool.submit(inputs).result()
                    seconds.append(time.perf_counter() - begun)
                    if kinds := Counter(str(one) for one in found if not isinstance(one, Decoded)):
                        raise RuntimeError(f"{sum(kinds.values())} images were not read: {kinds.most_common(1)}")
                requests = (asked.value - before) / options.rounds / options.lines
            rate = options.lines / min(seconds)
            row = f"{options.milliseconds:g} | {options.decoders} | {rate:.0f} | {requests:.2f}"
            print(f"| {protocol} | {row} |", flush=True)


def list_objects(count: int, url: str) -> None:
    with _server([], 0.0, count):
        files.is_folder("s3://lines/none")  # loads what it needs
        before, begun = _most_bytes(), time.perf_counter()
        found = sum(1 for _ in files.images(url))
        seconds, each = time.perf_counter() - begun, (_most_bytes() - before) / count
    if found != count:
        raise RuntimeError(f"{found} of {count} objects were listed")
    print(f"{count} objects: {each:.0f} bytes each, {count / seconds:.0f} a second")


def _most_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@contextmanager
def _server(images: list[bytes], seconds: float, objects: int = 0) -> Iterator[tuple[str, Any]]:
    """Its address, and how often it was asked. Where s3fs looks for it."""
    context = multiprocessing.get_context("spawn")
    asked, port = context.Value("q", 0), context.Value("i", 0)
    process = context.Process(target=_serve, args=(images, seconds, objects, asked, port), daemon=True)
    process.start()
    try:
        while not port.value:
            time.sleep(0.05)
        address = f"http://127.0.0.1:{port.value}"
        os.environ |= {"FSSPEC_S3_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1"}
        os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
        yield address, asked
    finally:
        process.terminate()
        process.join()


def _serve(images: list[bytes], seconds: float, objects: int, asked: Any, port: Any) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept

        def do_GET(self) -> None:
            with asked.get_lock():
                asked.value += 1
            time.sleep(seconds)
            if not images:
                self.answer(_page(parse_qs(urlparse(self.path).query), objects), 200 if self.command == "GET" else 404)
                return
            content = images[int(self.path.rpartition("/")[2].partition(".")[0]) % len(images)]
            self.answer(content, 200)

        do_HEAD = do_GET

        def answer(self, content: bytes, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.value = server.server_port
    server.serve_forever()


def _page(query: dict[str, list[str]], objects: int) -> bytes:
    """Of a list of objects, as S3 gives it."""
    prefix = query.get("prefix", [""])[0]
    start = int(query.get("continuation-token", ["0"])[0])
    most = int(query.get("max-keys", ["1000"])[0])
    end = min(start + most, objects) if "*" not in prefix else 0
    rows = "".join(
        f"<Contents><Key>{prefix}{n // 100:08d}/line-{n:09d}.png</Key><LastModified>2026-01-01T00:00:00.000Z"
        f"</LastModified><ETag>&quot;{n:032x}&quot;</ETag><Size>3000</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for n in range(start, end)
    )
    more = f"<NextContinuationToken>{end}</NextContinuationToken>" if 0 < end < objects else ""
    return (
        f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Prefix>{prefix}</Prefix>{rows}{more}'
        f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated></ListBucketResult>"
    ).encode()


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    main(tyro.cli(Options))
