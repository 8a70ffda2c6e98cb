"""Arguments to image files: folders, patterns, lists, and their order."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from trocr_jax.errors import SourceError
from trocr_jax.image_file import FORMATS
from trocr_jax.image_paths import SUFFIXES, Input, expand
from trocr_jax.jobs.sources.paths import shards


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with empty files: nothing here opens them."""
    top = ["a.png", "a-1.png", "b.JPG", ".k.png", "page[1].png", "only.dat", "notes.txt"]
    for name in [
        *top,
        "a/x.png",
        "a/y.tif",
        "a/b/z.webp",
        "a/.hidden/h.png",
        "a.d/p.png",
        "wörld/ä.jpeg",
        "empty/r.md",
    ]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def paths(*arguments: str, stdin: bytes = b"") -> list[str]:
    found = list(expand(arguments, io.BytesIO(stdin)))
    assert [entry for entry in found if entry.error] == []
    return [entry.path for entry in found]


def test_a_folder_is_its_images_at_any_depth_sorted_by_path(tree):
    found = paths(str(tree))
    assert found == sorted(found, key=lambda path: Path(path).parts)
    hidden = {"a/.hidden/h.png", ".k.png"}
    images = {str(p) for p in tree.rglob("*") if p.suffix.lower() in SUFFIXES} - {str(tree / name) for name in hidden}
    assert set(found) == images
    assert len(found) == 9


def test_paths_are_as_given(tree):
    assert paths("a") == ["a/b/z.webp", "a/x.png", "a/y.tif"]
    assert paths("./a") == ["./a/b/z.webp", "./a/x.png", "./a/y.tif"]
    assert paths("a/") == ["a/b/z.webp", "a/x.png", "a/y.tif"]
    assert paths("b.JPG", "notes.txt", "b.JPG", "missing") == ["b.JPG", "notes.txt", "b.JPG", "missing"]


def test_patterns(tree):
    assert paths("*.png") == ["a-1.png", "a.png", "page[1].png"]
    assert paths("a/?.*") == ["a/x.png", "a/y.tif"]
    assert paths("**/*.png") == ["a/x.png", "a-1.png", "a.d/p.png", "a.png", "page[1].png"]
    assert paths("only.[d]at") == ["only.dat"]  # a pattern is explicit: any suffix
    assert paths("a*") == ["a/b/z.webp", "a/x.png", "a/y.tif", "a-1.png", "a.d/p.png", "a.png"]  # folders as folders
    everything = paths("a/**")
    assert sorted(everything) == sorted(set(everything)) == ["a/b/z.webp", "a/x.png", "a/y.tif"]  # each once


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tree):
    assert paths("page[1].png") == ["page[1].png"]
    (tree / "page[1].png").unlink()
    (tree / "page1.png").touch()
    assert paths("page[1].png") == ["page1.png"]


def test_lines_on_stdin_are_files_taken_literally(tree):
    assert paths("a.png", "-", "b.JPG", stdin=b"a/x.png\r\n\n*.png\n with space \nlast") == [
        "a.png",
        "a/x.png",
        "*.png",
        " with space ",
        "last",
        "b.JPG",
    ]
    assert [os.fsencode(path) for path in paths("-", stdin=b"caf\xe9.png\n")] == [b"caf\xe9.png"]
    assert paths("-", stdin=b"\xef\xbb\xbfa.png\r\nb.JPG\r\n") == ["a.png", "b.JPG"]  # a list that Windows wrote


def test_what_stands_for_nothing_is_one_error_in_its_place(tree):
    found = list(expand(["a.png", "empty", "*.doc", "-", "b.JPG"], io.BytesIO(b"\n")))
    assert [entry.path for entry in found] == ["a.png", "empty", "*.doc", "-", "b.JPG"]
    assert found[0] == Input("a.png")
    assert [bool(entry.error) for entry in found] == [False, True, True, True, False]
    assert "empty: no image files" in str(found[1].error)
    assert "*.doc: no file matches" in str(found[2].error)
    assert "stdin" in str(found[3].error)


def test_inputs_are_found_lazily():
    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer) -> int:
            buffer[:] = (b"a\n" * len(buffer))[: len(buffer)]
            return len(buffer)

    found = expand(["-"], io.BufferedReader(Endless()))
    assert [next(found).path for _ in range(5)] == ["a"] * 5


def test_links(tree):
    (tree / "a/link.png").symlink_to("x.png")
    (tree / "a/dangling.png").symlink_to("nowhere")
    (tree / "a/loop").symlink_to("..")
    assert paths("a") == ["a/b/z.webp", "a/dangling.png", "a/link.png", "a/x.png", "a/y.tif"]
    (tree / "b").symlink_to("a")
    assert paths("b")[0] == "b/b/z.webp"  # a link that is named is followed


def test_a_folder_that_cannot_be_read_is_an_error_and_the_others_are_read(tree, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("trocr_jax.image_paths.os.scandir", refuse)  # root may read everything
    found = list(expand(["a"], io.BytesIO()))
    assert [entry.path for entry in found] == ["a/b", "a/x.png", "a/y.tif"]
    assert found[0].error == "a/b: the folder cannot be read (Permission denied); check its permissions"


@pytest.mark.parametrize(
    ("pattern", "read"),
    [
        ("a/*/*.png", []),
        ("a/**/*.png", ["a/x.png"]),
        ("a/**/x.png", ["a/x.png"]),  # what glob lists is not told by the last part
        ("a/**/*", ["a/x.png", "a/y.tif"]),  # the folder is a match too
        ("a/**/", ["a/x.png", "a/y.tif"]),
        ("*/b/*", []),
        ("a/**", ["a/x.png", "a/y.tif"]),
    ],
)
def test_a_folder_of_a_pattern_that_cannot_be_read_is_an_error(tree, monkeypatch, pattern, read):
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).rstrip("/").endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read everything
    found = list(expand([pattern], io.BytesIO()))
    assert [entry for entry in found if entry.error] == [
        Input("a/b", "a/b: the folder cannot be read (Permission denied); check its permissions")
    ]
    assert [entry.path for entry in found if not entry.error] == read
    with pytest.raises(SourceError, match="a/b: the folder cannot be read"):
        list(shards((pattern,), ".png"))


def test_a_folder_of_a_pattern_that_cannot_be_searched_is_an_error(tree, monkeypatch):
    lstat = os.lstat

    def refuse(path):
        if os.fspath(path).startswith("a/b/"):
            raise PermissionError(13, "Permission denied")
        return lstat(path)

    monkeypatch.setattr(os, "lstat", refuse)  # of a file in it that the pattern names
    for pattern in ("a/*/z.webp", "*/b/z.webp", "a/**/z.webp"):
        found = list(expand([pattern], io.BytesIO()))
        assert found == [Input("a/b", "a/b: the folder cannot be read (Permission denied); check its permissions")]


def test_a_closed_folder_of_the_file_system_is_not_meant(tree, monkeypatch):
    (tree / "a/lost+found").mkdir()
    scandir = os.scandir

    def refuse(path):
        if "lost+found" in os.fspath(path):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert paths("a/*/*.webp") == paths("a/**/*.webp") == ["a/b/z.webp"]
    assert paths("a") == paths("a/**/*")


def test_suffixes_are_those_of_the_formats_that_are_read():
    known = {suffix for suffix, format in Image.registered_extensions().items() if format in FORMATS}
    assert known >= SUFFIXES
    assert known - SUFFIXES <= {".pfm"}  # floats, no scans
