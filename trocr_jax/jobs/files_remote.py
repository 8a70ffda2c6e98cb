"""What a URL stands for on a file system of fsspec: a file, a folder, or a pattern of them. Of S3 and GCS page by page,
since fsspec's own lists keep more than 1 kB of each object, 10 GB of ten million."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
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
    """Of S3 and GCS by one name below it: `isdir` of S3, and of a bucket of GCS, may list and keep them all."""
    pages = _pages(system)
    if pages is None:
        return bool(system.isdir(url))
    bucket, key, _ = system.split_path(url)
    try:
        if not key:
            next(pages(system, bucket, "", ""))  # an empty one too, if it is there
            return True
        return bool(system.info(url)["type"] == "directory")
    except FileNotFoundError:
        return False


def _inside(system: Any, folder: str, suffixes: frozenset[str]) -> Iterator[str]:
    """The files in and below a folder that end in one of the suffixes, but hidden ones."""
    root, pages = system._strip_protocol(folder), _pages(system)
    if pages is None:
        paths: Any = system.find(folder)
    else:
        bucket, key, _ = system.split_path(folder)
        paths = (path for path, _ in _listed(pages, system, bucket, key and f"{key.rstrip('/')}/"))
    for path in paths:
        if os.path.splitext(path)[1].lower() in suffixes and not hidden(path.removeprefix(root)):
            yield path


def _matches(system: Any, pattern: str) -> Iterator[tuple[str, bool]]:
    """What a pattern matches, and whether that is a folder; as `glob` has it."""
    pages = _pages(system)
    bucket, key, _ = system.split_path(pattern) if pages is not None else ("", "", None)
    magic = _MAGIC.search(key)
    if pages is None or magic is None or _MAGIC.search(bucket):
        for path, info in system.glob(pattern, detail=True).items():
            yield path, info["type"] == "directory"
        return
    from fsspec.utils import glob_translate

    slash = "/" * pattern.endswith("/")
    matches = re.compile(glob_translate(system._strip_protocol(pattern) + slash)).match
    for path, is_a_folder in _may_match(pages, system, bucket, key, magic.start()):
        if matches(path + slash * is_a_folder):
            yield path, is_a_folder


def _may_match(pages: _Pages, system: Any, bucket: str, key: str, magic: int) -> Iterator[tuple[str, bool]]:
    """The names among which those are that match: of one folder if the pattern is of its names only, and else of all
    below, since a request that brings a thousand names takes as long as one that looks into a folder."""
    *above, last = key[key.rfind("/", 0, magic) + 1 :].split("/")
    if above or "**" in last:
        return _with_folders(_listed(pages, system, bucket, key[:magic]))
    return _listed(pages, system, bucket, key[:magic], "/")


def _with_folders(files: Iterator[tuple[str, bool]]) -> Iterator[tuple[str, bool]]:
    """And every folder that they are in, once."""
    seen = set[str]()
    for path, _ in files:
        yield path, False
        while (path := path.rpartition("/")[0]) and path not in seen:
            seen.add(path)
            yield path, True


def _listed(pages: _Pages, system: Any, bucket: str, prefix: str, delimiter: str = "") -> Iterator[tuple[str, bool]]:
    """Names that begin with a prefix, and whether each is a folder, which only a delimiter makes."""
    for folders, keys in pages(system, bucket, prefix, delimiter):
        yield from ((f"{bucket}/{folder.rstrip('/')}", True) for folder in folders)
        yield from ((f"{bucket}/{key}", False) for key in keys if key[-1] != "/")


_Pages = Callable[[Any, str, str, str], Iterator[tuple[list[str], list[str]]]]
"""Of a file system, bucket, prefix and delimiter: folders and keys, some at a time."""


def _pages(system: Any) -> _Pages | None:
    return _pages_of_s3 if "s3" in system.protocol else _pages_of_gcs if "gcs" in system.protocol else None


def _pages_of_s3(system: Any, bucket: str, prefix: str, delimiter: str) -> Iterator[tuple[list[str], list[str]]]:
    page: dict[str, Any] = {}
    asked = {"Bucket": bucket, "Prefix": prefix, "Delimiter": delimiter, **system.req_kw}
    while not page or page.get("IsTruncated"):
        more = {"ContinuationToken": page["NextContinuationToken"]} if page else {}
        page = system.call_s3("list_objects_v2", **asked, **more)
        yield (
            [one["Prefix"] for one in page.get("CommonPrefixes", ())],
            [one["Key"] for one in page.get("Contents", ())],
        )


def _pages_of_gcs(system: Any, bucket: str, prefix: str, delimiter: str) -> Iterator[tuple[list[str], list[str]]]:
    asked = {"prefix": prefix or None, "delimiter": delimiter, "fields": "prefixes,items/name,nextPageToken"}
    token: str | None = ""
    while token is not None:
        try:
            page = system.call("GET", "b/{}/o", bucket, json_out=True, pageToken=token or None, **asked)
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "there is no such bucket", bucket) from error
        yield page.get("prefixes", []), [one["name"] for one in page.get("items", ())]
        token = page.get("nextPageToken")
