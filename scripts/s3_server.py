"""An object store that speaks S3, on this machine and in memory (moto), for tests and scripts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from scripts.served import served

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


def s3_server(buckets: Sequence[str]) -> AbstractContextManager[str]:
    """The URL of a server with these buckets, in a process of its own. While the block runs, s3fs finds it by the
    environment, unless fsspec was imported before."""
    return served(["-c", _SERVER, *buckets], lambda url: {**_KEYS, "FSSPEC_S3_ENDPOINT_URL": url}, given=_KEYS)
