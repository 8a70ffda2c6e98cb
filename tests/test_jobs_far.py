"""What sources and stores ask of a file system behind a URL, without a server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trocr_jax.errors import SourceError
from trocr_jax.jobs import files, files_remote, open_source
from trocr_jax.jobs.store_remote import RemoteStore

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/", recursive=True)


def test_an_error_without_a_number_is_of_the_network_only_behind_a_url():
    for path, number in (("s3://b/a", 5), ("/b/a", None)):
        with pytest.raises(OSError, match="no more") as raised, files.network(path):
            raise OSError("no more")
        assert raised.value.errno == number


def test_a_part_of_a_file_is_as_long_as_was_asked(memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a").write_bytes(b"0123456789")
    memory.pipe("/b/a", b"0123456789")
    for path in (str(tmp_path / "a"), "memory://b/a"):
        assert files.read_range(path, 2, 3) == b"234"
        with pytest.raises(FileNotFoundError, match="the archive ends before byte 11"):
            files.read_range(path, 8, 3)
    monkeypatch.setattr(type(memory), "cat_file", lambda *given, **options: b"0123456789")
    with pytest.raises(SourceError, match="gives whole files only"):
        files.read_range("memory://b/a", 2, 3)


def test_what_cannot_be_entered_or_read_has_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a").write_bytes(b"")
    assert not files.has_gone(str(tmp_path))
    assert not files.has_gone(str(tmp_path / "a"))
    assert files.has_gone(str(tmp_path / "b"))
    for lacking, path in ((os.X_OK, tmp_path), (os.R_OK, tmp_path / "a")):  # root may do all
        monkeypatch.setattr(os, "access", lambda path, mode, lacking=lacking: not mode & lacking)
        assert files.has_gone(str(path))


def test_an_image_of_a_folder_that_was_deleted_is_missing(tmp_path: Path):
    (tmp_path / "other").mkdir()
    with pytest.raises(FileNotFoundError):
        files.read(str(tmp_path / "gone" / "deeper" / "a.png"))


def test_urls_in_a_list_stay_urls(tmp_path: Path):
    (tmp_path / "list.csv").write_text("path\ns3://b/a.png\n/c/a.png\nd/a.png\n")
    places = [line.place for line in open_source([str(tmp_path / "list.csv")], root="/r").inputs()]
    assert places == ["s3://b/a.png", "/c/a.png", "/r/d/a.png"]
    assert files.join("s3://b/r/", "d/a.png") == "s3://b/r/d/a.png"


def test_files_of_this_machine_by_url(tmp_path: Path):
    for name in ("b.png", "a.PNG", "sub/c.png", "sub/.d.png", "e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    found = list(open_source([f"file://{tmp_path}"]).inputs())
    assert [line.id for line in found] == [f"file://{tmp_path}/{name}" for name in ("a.PNG", "b.png", "sub/c.png")]
    assert [files.read(line.place) for line in found] == [b"a.PNG", b"b.png", b"sub/c.png"]


def test_a_url_that_looks_like_a_pattern_is_that_file(memory):
    for name in ("a[1].png", "a1.png", "b*/x.png", "bc/y.png"):
        memory.pipe(f"/p/{name}", b"")
    assert list(files.images("memory://p/a[1].png")) == ["memory://p/a[1].png"]
    assert list(files.images("memory://p/b*")) == ["memory://p/b*/x.png"]


def test_markers_of_folders_and_neighbours_are_no_images():
    """As a console of S3 writes them."""
    keys = ["six.png/", "six.png/a.png", "six.png2/b.png"]

    class System:
        protocol, req_kw = ("s3",), dict[str, Any]()

        def call_s3(self, method: str, *, Prefix: str, **options: Any) -> Any:
            return {"Contents": [{"Key": key} for key in keys if key.startswith(Prefix)]}

        def split_path(self, url: str) -> tuple[str, str, None]:
            bucket, _, key = url.removeprefix("s3://").partition("/")
            return bucket, key, None

        def _strip_protocol(self, url: str) -> str:
            return url.removeprefix("s3://").rstrip("/")

    for folder in ("s3://lines/six.png", "s3://lines/six.png/"):
        found = list(files_remote._inside(System(), folder, frozenset({".png"})))
        assert found == ["lines/six.png/a.png"]
    assert ("lines/six.png/", False) not in files_remote._listed(files_remote._pages_of_s3, System(), "lines", "")


def test_a_store_asks_anew_what_is_there(memory, monkeypatch: pytest.MonkeyPatch):
    """A file system remembers listings, and other hosts change them."""
    store, asked = RemoteStore("memory://job"), list[str]()
    monkeypatch.setattr(store._system, "invalidate_cache", lambda *given: asked.append("anew"), raising=False)
    store.exists("a")
    store.names("parts")
    assert asked == ["anew", "anew"]


def test_what_is_there_is_not_written_again(memory, monkeypatch: pytest.MonkeyPatch):
    """Where a store cannot put an object only if there is none."""
    store = RemoteStore("memory://job")
    pipe = store._system.pipe_file

    def old(url: str, content: bytes, mode: str = "overwrite") -> None:
        if mode == "create":
            raise NotImplementedError
        pipe(url, content)

    monkeypatch.setattr(store._system, "pipe_file", old)
    assert store.create("parts/a", b"1") is True
    assert store.create("parts/a", b"2") is False
    assert store.read("parts/a") == b"1"


def test_whatever_lies_in_a_folder_of_a_store_can_be_removed(memory):
    store = RemoteStore("memory://job")
    store.create("plan/a..b", b"1")
    for name in store.names("plan"):
        store.remove(f"plan/{name}")
    assert store.names("plan") == []


def test_logs_whose_names_begin_alike_are_apart(memory):
    one, other = RemoteStore("memory://job"), RemoteStore("memory://job")
    one.append("events/host-10", b"1")
    other.append("events/host-1", b"2")
    assert other.names("events") == ["host-1", "host-10"]
    assert other.read("events/host-1") == b"2"


def test_a_missing_bucket_is_not_made(memory, monkeypatch: pytest.MonkeyPatch):
    """Where names begin with a bucket there are no folders to be made."""
    store, made = RemoteStore("memory://job"), list[str]()

    def missing(url: str, content: bytes, **options: Any) -> None:
        raise FileNotFoundError(2, "The specified bucket does not exist", url)

    monkeypatch.setattr(store._system, "pipe_file", missing)
    monkeypatch.setattr(store._system, "makedirs", lambda url, **options: made.append(url))
    monkeypatch.setattr(type(store._system), "_strip_protocol", lambda *given: "bucket/job")
    with pytest.raises(FileNotFoundError, match="bucket does not exist"):
        store.replace("a", b"")
    assert made == []
