"""Jobs whose lines and folder are in an object store that speaks S3."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.s3_server import s3_server
from tests.tiny import save_lines, save_pages, save_tiny
from trocr_jax import jobs
from trocr_jax.cli import main
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.jobs import files, files_remote
from trocr_jax.jobs.store import open_store
from trocr_jax.recognizer import Recognizer

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("s3fs", reason="needs s3fs and moto[server]")
pytest.importorskip("moto.server", reason="needs s3fs and moto[server]")

DECODE = DecodeConfig(max_new_tokens=12)


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A server with the buckets `lines` and `jobs`; its file system. Workers find it by the environment."""
    with s3_server(["lines", "jobs"]) as url, pytest.MonkeyPatch.context() as patch:
        patch.setitem(fsspec.config.conf, "s3", {"endpoint_url": url})
        yield fsspec.filesystem("s3")
        fsspec.filesystem("s3").clear_instance_cache()


def test_of_two_that_create_an_object_one_does(s3):
    store = open_store("s3://jobs/store")
    assert store.create("parts/a", b"1") is True
    assert store.create("parts/a", b"2") is False
    blind = open_store("s3://jobs/store")
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


def test_a_job_in_a_store_is_that_of_a_folder(s3, tmp_path: Path):
    paths = save_lines(tmp_path / "lines", 6)
    for path in paths:
        s3.put_file(str(path), f"lines/{path.name}")
    model = save_tiny(tmp_path / "tiny")
    recognizer = Recognizer.from_pretrained(model)
    choices, resources = jobs.Choices(unit_size=4, batch_size=4), jobs.Resources(decoders=1)
    parts = []
    for source, folder in (("s3://lines", "s3://jobs/job"), (str(tmp_path / "lines"), str(tmp_path / "job"))):
        job = jobs.plan(jobs.open_source([source]), folder, recognizer, model, DECODE, choices=choices)
        counts = jobs.run(job, recognizer, DECODE, resources=resources)
        assert counts is not None
        assert counts.ok == 6
        assert list(jobs.verify(job)) == []
        assert jobs.status(job).counts == counts
        rows = [json.loads(line) for unit in range(2) for line in job.read_part(unit).splitlines()]
        parts.append([{**row, "id": os.path.basename(row["id"]), "configuration": ""} for row in rows])
    assert parts[0] == parts[1]


def test_pages_in_a_store_are_filled_in(s3, tmp_path: Path, capsys):
    save_pages(tmp_path / "scans")
    for path in (tmp_path / "scans").rglob("*.*"):
        s3.put_file(str(path), f"lines/scans/{path.relative_to(tmp_path / 'scans')}")
    model = str(save_tiny(tmp_path / "tiny"))
    fixed = ["--model", model, "--max-new-tokens", "8", "--unit-size", "2", "--batch-size", "2", "--decoders", "1"]
    pages = []
    for name, source in (("far", "s3://lines/scans/page/*.xml"), ("near", str(tmp_path / "scans" / "page" / "*.xml"))):
        job, out = str(tmp_path / name), tmp_path / f"{name}-pages"
        assert main(["jobs", "run", source, "--output", job, *fixed]) == 0
        assert main(["jobs", "merge", job, "--format", "pages", "--output", str(out)]) == 0
        assert "3 pages written, 0 left out" in capsys.readouterr().err
        pages.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert pages[0] == pages[1]
    assert len(pages[0]) == 3
    assert b"<TextEquiv" in pages[0]["a.xml"]


def glob(s3: Any, pattern: str) -> set[tuple[str, bool]]:
    """What fsspec's glob finds, which keeps all that is known of each object."""
    return {(path, info["type"] == "directory") for path, info in s3.glob(pattern, detail=True).items()}


def where_it_begins(pattern: str) -> set[tuple[str, bool]]:
    """The folder in which glob finds all of it, and itself."""
    return {(f"lines/{pattern.removesuffix('/**')}", True)} if pattern.endswith("/**") else set()


def test_a_folder_is_listed_page_by_page(s3, monkeypatch):
    """Nothing but names is kept of what may be millions: what `find` and `isdir` do ends here."""
    names = ["a.png", "b/c.PNG", "b/d.txt", "b/.e.png", ".f/g.png", "h i.png", "ü/j.jpg"]
    for name in names:
        s3.pipe_file(f"lines/pages/{name}", b"x")
    s3.pipe_file("lines/pages.png", b"x")  # beside the folder
    patterns = ["pages/*", "pages/*.png", "pages/?.*", "pages/[!a]*", "pages*", "pages/b/[cd].*", "pages/.*",
                "pages/**", "pages/**/*.png", "pages/**/[bü]", "pages/.f/**", "none/*"]  # fmt: skip
    expected = {pattern: glob(s3, f"lines/{pattern}") for pattern in patterns}
    listed = type(s3)._call_s3
    pages = []

    async def two(self, method, *rest, **options):
        if method == "list_objects_v2":
            options |= {"MaxKeys": min(options.get("MaxKeys", 2), 2)}
            pages.append(options)
        return await listed(self, method, *rest, **options)

    monkeypatch.setattr(type(s3), "_call_s3", two)
    monkeypatch.setattr(type(s3), "call_s3", fsspec.asyn.sync_wrapper(two))
    monkeypatch.setattr(type(s3), "_lsdir", lambda *given, **options: pytest.fail("lists a whole folder"))
    s3.invalidate_cache()
    good = ["a.png", "b/c.PNG", "h i.png", "ü/j.jpg"]
    for folder in ("s3://lines/pages", "s3://lines/pages/"):
        assert list(files.images(folder)) == [f"s3://lines/pages/{name}" for name in good]
    assert len(pages) > 8
    for pattern in patterns:
        found = set(files_remote._matches(s3, f"s3://lines/{pattern}"))
        assert found == expected[pattern] - where_it_begins(pattern), pattern
    assert list(files.images("s3://lines/pages/*")) == [
        f"s3://lines/pages/{name}" for name in ("a.png", "b/c.PNG", "h i.png", "ü/j.jpg")
    ]
    assert list(files.images("s3://lines/pages/**/*.PNG")) == ["s3://lines/pages/b/c.PNG"]
    assert list(files.images("s3://lines/pages.png")) == ["s3://lines/pages.png"]
    assert files.is_folder("s3://lines/pages/b")
    assert not files.is_folder("s3://lines/page")
    assert files.is_folder("s3://lines")
    assert "s3://lines/pages/a.png" in list(files.images("s3://lines"))
