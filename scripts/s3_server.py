"""An object store that speaks S3, on this machine and in memory (moto), for tests and scripts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_SERVER = """
import sys, time
import boto3
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
server.start()
url = "http://127.0.0.1:%d" % server.get_host_and_port()[1]
for bucket in sys.argv[1:]:
    boto3.client("s3", endpoint_url=url, region_name="us-east-1").create_bucket(Bucket=bucket)
print(url, flush=True)
time.sleep(1e6)
"""
_KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}


@contextmanager
def s3_server(buckets: Sequence[str]) -> Iterator[str]:
    """The URL of a server with these buckets, in a process of its own. While the block runs, s3fs finds it by the
    environment, in processes that are started or forked too, unless fsspec was imported before."""
    command = [sys.executable, "-c", _SERVER, *buckets]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ | _KEYS)
    assert server.stdout is not None
    before = dict(os.environ)
    try:
        url = server.stdout.readline().decode().strip()
        os.environ |= {**_KEYS, "FSSPEC_S3_ENDPOINT_URL": url}
        yield url
    finally:
        os.environ.clear()
        os.environ |= before
        server.kill()
        server.wait()
        server.stdout.close()
