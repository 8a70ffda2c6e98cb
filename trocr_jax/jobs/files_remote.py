"""What a URL stands for on a file system of fsspec: a file, a folder, or a pattern of them. Of S3 page by page, since
fsspec's own lists keep more than 1 kB of each object, 10 GB of ten million."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from trocr_jax.image_paths import hidden

_MAGIC = re.compile(r"[*?\[]")


def find(system: Any, url: str, suffixes: frozenset[str]) -> list[str]:
    """The files that a URL stands for, sorted, each once, by the rules of `image_paths.expand`: a name that looks like
    a pattern may be one, and a folder that a pattern matches is what is in it. A name with a dot is matched by one with
    a dot."""
    magic = _MAGIC.search(url)
    if magic is None or system.exists(url):
        return sorted(_inside(system, url, suffixes)) if is_folder(system, url) else [url]
    root = url[: magic.start()].rpartition("/")[0]
    dots, root = "/." in url.removeprefix(root), system._strip_protocol(root)
    found, folders = set[str](), set[str]()
    for path, is_a_folder in _matches(system, url):
        if dots or not hidden(path.removeprefix(root)):
            (folders if is_a_folder else found).add(path)
    for folder in folders:
        if not any(str(above) in folders for above in PurePosixPath(folder).parents):
            found.update(_inside(system, folder, suffixes))
    return sorted(found)


def is_folder(system: Any, url: str) -> bool:
    """Of S3 by one name below it: `isdir` lists and keeps them all."""
    if not _is_s3(system):
        return bool(system.isdir(url))
    try:
        return bool(system.info(url)["type"] == "directory")
    except FileNotFoundError:
        return False


def _inside(system: Any, folder: str, suffixes: frozenset[str]) -> Iterator[str]:
    """The files in and below a folder that end in one of the suffixes, but hidden ones."""
    root = system._strip_protocol(folder)
    if _is_s3(system):
        bucket, key, _ = system.split_path(folder)
        paths: Any = (path for path, _ in _listed(system, bucket, key and f"{key.rstrip('/')}/"))
    else:
        paths = system.find(folder)
    for path in paths:
        if os.path.splitext(path)[1].lower() in suffixes and not hidden(path.removeprefix(root)):
            yield path


def _matches(system: Any, pattern: str) -> Iterator[tuple[str, bool]]:
    """What a pattern matches, and whether that is a folder; as `glob` has it."""
    listed = _may_match(system, pattern) if _is_s3(system) else None
    if listed is None:
        for path, info in system.glob(pattern, detail=True).items():
            yield path, info["type"] == "directory"
        return
    from fsspec.utils import glob_translate

    matches = re.compile(glob_translate(system._strip_protocol(pattern))).match
    for path, is_a_folder in listed:
        if matches(path):
            yield path, is_a_folder


def _may_match(system: Any, pattern: str) -> Iterator[tuple[str, bool]] | None:
    """The names in S3 among which those are that match: of one folder, or of all below where a part of the pattern is
    **. None for other patterns, such as a/*/b.png, for which folders are looked into one by one."""
    bucket, key, _ = system.split_path(pattern)
    magic = _MAGIC.search(key)
    if _MAGIC.search(bucket) or magic is None:
        return None
    *above, last = key[key.rfind("/", 0, magic.start()) + 1 :].split("/")
    if "**" in (*above, last):
        return _with_folders(_listed(system, bucket, key[: magic.start()]))
    return None if above or not last else _listed(system, bucket, key[: magic.start()], Delimiter="/")


def _with_folders(files: Iterator[tuple[str, bool]]) -> Iterator[tuple[str, bool]]:
    """And every folder that they are in, once."""
    seen = set[str]()
    for path, _ in files:
        yield path, False
        while (path := path.rpartition("/")[0]) and path not in seen:
            seen.add(path)
            yield path, True


def _listed(system: Any, bucket: str, prefix: str, **options: Any) -> Iterator[tuple[str, bool]]:
    """Names in S3 that begin with a prefix, and whether each is a folder, which only a Delimiter makes."""
    page: dict[str, Any] = {}
    asked = {"Bucket": bucket, "Prefix": prefix, **options, **system.req_kw}
    while not page or page.get("IsTruncated"):
        more = {"ContinuationToken": page["NextContinuationToken"]} if page else {}
        page = system.call_s3("list_objects_v2", **asked, **more)
        yield from ((f"{bucket}/{one['Prefix'].rstrip('/')}", True) for one in page.get("CommonPrefixes", ()))
        yield from ((f"{bucket}/{one['Key']}", False) for one in page.get("Contents", ()) if one["Key"][-1] != "/")


def _is_s3(system: Any) -> bool:
    return "s3" in system.protocol
