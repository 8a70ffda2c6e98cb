"""Images a second that processes which decode get from a server whose every answer takes a while.

    python -m benchmarks.jobs_far [--milliseconds 30] [--decoders 2] [--lines 2000]

The server, on this machine, answers as a plain one of HTTP and as one of S3, after so many milliseconds; the images are
rendered lines as PNG, read as those of a folder by the decoders of a job, which resize them for `tiny-printed`. What
one core can do limits a rate as soon as the wait does not.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import tyro
from PIL import Image

from train.data.render import Renderer
from trocr_jax.checkpoint import resolve
from trocr_jax.image import ImageProcessor
from trocr_jax.jobs.decode_pool import DecodePool
from trocr_jax.jobs.decode_worker import Decoded, Decoder, Limits
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.sources.folder import Folder

DISTINCT = 64  # images


@dataclass(frozen=True)
class Options:
    """Images a second from a server.

    Attributes:
        milliseconds: after which it answers.
        decoders: processes that decode.
        lines: images that are read.
        rounds: the best of so many is printed.
    """

    milliseconds: float = 30.0
    decoders: int = 2
    lines: int = 2000
    rounds: int = 2


def main(options: Options) -> None:
    renderer = Renderer.create(seed=0)
    images = [_png(renderer.line(number, max_chars=64).image) for number in range(DISTINCT)]
    processor = ImageProcessor.from_folder(resolve("tiny-printed"))
    print("| protocol | answers after, ms | decoders | images/s | requests an image |\n| -- | -- | -- | -- | -- |")
    with _server(images, options.milliseconds / 1000) as (port, asked):
        address = f"http://127.0.0.1:{port}"
        os.environ |= {"FSSPEC_S3_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1"}
        os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
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


@contextmanager
def _server(images: list[bytes], seconds: float) -> Iterator[tuple[int, Any]]:
    """Its port, and how often it was asked."""
    context = multiprocessing.get_context("spawn")
    asked, port = context.Value("q", 0), context.Value("i", 0)
    process = context.Process(target=_serve, args=(images, seconds, asked, port), daemon=True)
    process.start()
    try:
        while not port.value:
            time.sleep(0.05)
        yield port.value, asked
    finally:
        process.terminate()
        process.join()


def _serve(images: list[bytes], seconds: float, asked: Any, port: Any) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections are kept

        def do_GET(self) -> None:
            with asked.get_lock():
                asked.value += 1
            time.sleep(seconds)
            content = images[int(self.path.rpartition("/")[2].partition(".")[0]) % len(images)]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", "image/png")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.value = server.server_port
    server.serve_forever()


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    main(tyro.cli(Options))
