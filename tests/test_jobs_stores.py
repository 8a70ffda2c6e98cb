"""Jobs whose lines and folder are in an object store: one that speaks S3, and one as Google Cloud Storage."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from scripts.gcs_server import gcs_server
from scripts.s3_server import s3_server
from tests.tiny import save_lines, save_pages, save_tiny
from trocr_jax import jobs
from trocr_jax.cli import main
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.jobs import files, files_remote
from trocr_jax.jobs.store import open_store
from trocr_jax.recognizer import Recognizer

fsspec = pytest.importorskip("fsspec")

DECODE = DecodeConfig(max_new_tokens=12)
BUCKETS = ["lines", "jobs", "empty"]
TESTBENCH = "STORAGE_EMULATOR_HOST" in os.environ  # Google's, which has these buckets; it gives a list in one page


@pytest.fixture(scope="module", params=["s3", "gs"])
def system(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The file system of a server with the buckets `lines` and `jobs`. Workers find it by the environment."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "s3":
            for name in ("s3fs", "moto.server"):
                pytest.importorskip(name, reason="needs s3fs and moto[server]")
            with s3_server(BUCKETS) as url:
                patch.setitem(fsspec.config.conf, "s3", {"endpoint_url": url})
                yield fsspec.filesystem("s3")
        elif importlib.util.find_spec("gcsfs") is None:  # what the server sets has to be there when it is imported
            pytest.skip("needs gcsfs")
        else:
            with nullcontext() if TESTBENCH else gcs_server(BUCKETS):
                yield fsspec.filesystem("gs")
        fsspec.filesystem(request.param).clear_instance_cache()


@pytest.fixture
def url(system: Any) -> str:
    """What names in this store begin with."""
    return f"{'s3' if 's3' in system.protocol else 'gs'}://"


def test_of_two_that_create_an_object_one_does(url):
    store = open_store(f"{url}jobs/store")
    assert store.create("parts/a", b"1") is True
    assert store.create("parts/a", b"2") is False
    blind = open_store(f"{url}jobs/store")
    blind.exists = lambda name: False  # type: ignore[method-assign]  # the other has come in between
    assert blind.create("parts/a", b"3") is False
    assert store.read("parts/a") == b"1"
    assert store.read_range("parts/a", 0, 1) == b"1"
    store.replace("parts/b", b"4")
    store.append("log", b"5")
    store.append("log", b"6")
    assert store.names("parts") == ["a", "b"]
    assert store.names("nothing") == []
    assert store.read("log") == b"56"
    store.remove("parts/b")
    store.remove("parts/b")
    assert not store.exists("parts/b")
    with pytest.raises(FileNotFoundError):
        store.read("parts/b")


def test_a_bucket_that_is_not_there_is_said_to_be(url):
    with pytest.raises(FileNotFoundError, match=r"(?i)bucket|no such"):
        open_store(f"{url}nowhere/job").create("plan.json", b"1")


def test_a_job_in_a_store_is_that_of_a_folder(system, url, tmp_path: Path):
    paths = save_lines(tmp_path / "lines", 6)
    for path in paths:
        system.put_file(str(path), f"lines/six/{path.name}")
    model = save_tiny(tmp_path / "tiny")
    recognizer = Recognizer.from_pretrained(model)
    choices, resources = jobs.Choices(unit_size=4, batch_size=4), jobs.Resources(decoders=1)
    parts = []
    for source, folder in ((f"{url}lines/six", f"{url}jobs/job"), (str(tmp_path / "lines"), str(tmp_path / "job"))):
        job = jobs.plan(jobs.open_source([source]), folder, recognizer, model, DECODE, choices=choices)
        counts = jobs.run(job, recognizer, DECODE, resources=resources)
        assert counts is not None
        assert counts.ok == 6
        assert list(jobs.verify(job)) == []
        assert jobs.status(job).counts == counts
        rows = [json.loads(line) for unit in range(2) for line in job.read_part(unit).splitlines()]
        parts.append([{**row, "id": os.path.basename(row["id"]), "configuration": ""} for row in rows])
    assert parts[0] == parts[1]


def test_pages_in_a_store_are_filled_in(system, url, tmp_path: Path, capsys):
    save_pages(tmp_path / "scans")
    for path in (tmp_path / "scans").rglob("*.*"):
        system.put_file(str(path), f"lines/scans/{path.relative_to(tmp_path / 'scans')}")
    model = str(save_tiny(tmp_path / "tiny"))
    fixed = ["--model", model, "--max-new-tokens", "8", "--unit-size", "2", "--batch-size", "2", "--decoders", "1"]
    pages = []
    for name, source in (("far", f"{url}lines/scans/page/*.xml"), ("near", str(tmp_path / "scans" / "page" / "*.xml"))):
        job, out = str(tmp_path / name), tmp_path / f"{name}-pages"
        assert main(["jobs", "run", source, "--output", job, *fixed]) == 0
        assert main(["jobs", "merge", job, "--format", "pages", "--output", str(out)]) == 0
        assert "3 pages written, 0 left out" in capsys.readouterr().err
        pages.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert pages[0] == pages[1]
    assert len(pages[0]) == 3
    assert b"<TextEquiv" in pages[0]["a.xml"]


def glob(system: Any, pattern: str) -> set[tuple[str, bool]]:
    """What fsspec's glob finds, which keeps all that is known of each object."""
    return {(path, info["type"] == "directory") for path, info in system.glob(pattern, detail=True).items()}


def where_it_begins(pattern: str) -> set[tuple[str, bool]]:
    """The folder in which glob finds all of it, and itself."""
    return {(f"lines/{pattern.removesuffix('/**')}", True)} if pattern.endswith("/**") else set()


def test_a_folder_is_listed_page_by_page(system, url, monkeypatch):
    """Nothing but names is kept of what may be millions: what `find` and `isdir` do ends here."""
    names = ["a.png", "b/c.PNG", "b/d.txt", "b/.e.png", ".f/g.png", "h i.png", "ü/j.jpg"]
    for name in names:
        system.pipe_file(f"lines/pages/{name}", b"x")
    system.pipe_file("lines/pages.png", b"x")  # beside the folder
    patterns = ["pages/*", "pages/*.png", "pages/?.*", "pages/[!a]*", "pages*", "pages/b/[cd].*", "pages/.*", "none/*",
                "pages/*/*", "*/?.png", "pages/*/c.PNG", "p*/b", "pages/*/", "*/", "pages/*/.e.png", "pages/**",
                "pages/**/*.png", "pages/**/[bü]", "pages/.f/**", "page*/**/b"]  # fmt: skip
    system.invalidate_cache()
    expected = {pattern: glob(system, f"lines/{pattern}") for pattern in patterns}
    name = "_call_s3" if url == "s3://" else "_call"
    ask = getattr(type(system), name)
    pages = []

    async def two(self, method, *rest, **options):
        if method == "list_objects_v2":
            options |= {"MaxKeys": min(options.get("MaxKeys", 2), 2)}
            pages.append(options)
        elif rest[:1] == ("b/{}/o",):
            options |= {"maxResults": min(options.get("maxResults", 2), 2)}
            pages.append(options)
        return await ask(self, method, *rest, **options)

    monkeypatch.setattr(type(system), name, two)
    monkeypatch.setattr(type(system), name[1:], fsspec.asyn.sync_wrapper(two))
    for method in ("_lsdir", "_find", "_ls"):
        if hasattr(system, method):
            monkeypatch.setattr(type(system), method, lambda *given, **options: pytest.fail("lists a whole folder"))
    system.invalidate_cache()
    good = ["a.png", "b/c.PNG", "h i.png", "ü/j.jpg"]
    for folder in (f"{url}lines/pages", f"{url}lines/pages/"):
        assert list(files.images(folder)) == [f"{url}lines/pages/{name}" for name in good]
    assert len(pages) > 8 or (TESTBENCH and url == "gs://")
    for pattern in patterns:
        found = set(files_remote._matches(system, f"{url}lines/{pattern}"))
        assert found == expected[pattern] - where_it_begins(pattern), pattern
    assert list(files.images(f"{url}lines/pages/*")) == [
        f"{url}lines/pages/{name}" for name in ("a.png", "b/c.PNG", "h i.png", "ü/j.jpg")
    ]
    assert list(files.images(f"{url}lines/pages/**/*.PNG")) == [f"{url}lines/pages/b/c.PNG"]
    assert list(files.images(f"{url}lines/pages.png")) == [f"{url}lines/pages.png"]
    assert files.is_folder(f"{url}lines/pages/b")
    assert not files.is_folder(f"{url}lines/page")
    assert files.is_folder(f"{url}lines")
    assert files.is_folder(f"{url}empty")
    assert not files.is_folder(f"{url}none")
    assert f"{url}lines/pages/a.png" in list(files.images(f"{url}lines"))
