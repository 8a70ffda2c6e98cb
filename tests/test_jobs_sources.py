"""Every kind of source lists the same lines and gives the same pixels."""

from __future__ import annotations

import errno
import json
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from tests.images import held_out
from tests.sources import (
    COUNT,
    PROCESSOR,
    archive,
    folder,
    jsonl,
    page,
    parquet_images,
    parquet_manifest,
    pattern,
    saved_to_disk,
    tar,
    tiff,
    tsv,
)
from tests.tiny import save_lines
from trocr_jax.errors import ImageError, ImageLimitError, JobError, SourceError
from trocr_jax.image import ImageProcessor
from trocr_jax.jobs import files
from trocr_jax.jobs.decode_worker import Decoder
from trocr_jax.jobs.files import file_system
from trocr_jax.jobs.sources import Source, describe, from_description, open_source
from trocr_jax.jobs.sources.pages import _page
from trocr_jax.jobs.sources.paths import shards
from trocr_jax.jobs.sources.tiff import _kept


@pytest.fixture
def lines(tmp_path: Path) -> list[Path]:
    return save_lines(tmp_path / "lines", COUNT)


@pytest.mark.parametrize(
    "make",
    [folder, pattern, jsonl, tsv, parquet_manifest, tar, archive, parquet_images, saved_to_disk, tiff, page],
)
def test_pixels_are_those_of_the_files(make: Callable[[list[Path], Path], Source], lines: list[Path], tmp_path: Path):
    source = from_description(json.loads(json.dumps(describe(make(lines, tmp_path)))))  # as another host makes it
    found = list(source.inputs())
    assert len(found) == len({input.id for input in found}) == COUNT
    source.check()
    for input, path in zip(found, lines, strict=True):
        place = json.loads(json.dumps(input.place))
        decoded = Decoder(source, PROCESSOR)(input.id, place)
        np.testing.assert_array_equal(decoded.pixels, PROCESSOR.pixels(path))
        assert decoded.expected > 0


def test_longer_lines_are_expected_to_take_longer(tmp_path: Path):
    """What batches are sorted by: in any typeface, scanned alike or not, edges grow with the letters."""
    renderer = held_out(0)
    lines = [renderer.line(index, max_chars=64) for index in range(96)]
    for index, line in enumerate(lines):
        Image.fromarray(line.image).save(tmp_path / f"{index:02}.png")
    source = open_source([str(tmp_path)])
    for size in (ImageProcessor(height=40, width=960, keep_aspect_ratio=True), ImageProcessor(height=384, width=384)):
        decode = Decoder(source, size)
        found = [decode(input.id, input.place).expected for input in source.inputs()]
        places = [
            np.argsort(np.argsort(np.array(values), kind="stable"))
            for values in (found, [len(line.text) for line in lines])
        ]
        assert np.corrcoef(places[0], places[1])[0, 1] > 0.75


@pytest.mark.parametrize("named", [False, True])
def test_a_gone_source_is_told_from_a_gone_image(named: bool, lines: list[Path], tmp_path: Path):
    decode = Decoder(open_source([str(path) for path in lines] if named else [str(lines[0].parent)]), PROCESSOR)
    lines[0].unlink()
    with pytest.raises(ImageError, match="no such file"):
        decode("a", str(lines[0]))
    lines[0].parent.rename(tmp_path / "elsewhere")
    with pytest.raises(SourceError, match="has gone"):
        decode("b", str(lines[1]))


def test_an_image_is_not_missed_where_its_folder_has_gone(lines: list[Path], tmp_path: Path):
    """Paths of a manifest may be on another disk than the manifest."""
    manifest = tmp_path / "lists" / "list.jsonl"
    manifest.parent.mkdir()
    manifest.write_text("".join(json.dumps({"path": str(path)}) + "\n" for path in lines))
    decode = Decoder(open_source([str(manifest)]), PROCESSOR)
    for path in lines[:-1]:
        path.unlink()
    with pytest.raises(ImageError, match="no such file"):
        decode("a", str(lines[0]))
    lines[-1].unlink()  # as of a disk that is not mounted
    with pytest.raises(SourceError, match=f"{lines[0].parent}: it is empty or closed; bring it back, or delete it"):
        decode("a", str(lines[0]))
    lines[0].parent.rmdir()
    with pytest.raises(ImageError, match="no such file"):
        decode("a", str(lines[0]))


def test_a_folder_that_cannot_be_read_is_named(lines: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    closed = lines[0].parent / "closed"
    closed.mkdir()
    (lines[0].parent / "a.tar").write_bytes(bytes(1024))
    scandir = os.scandir

    def refuse(path: str) -> object:
        if path == str(closed):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read what is closed
    for kind in ("folder", "tar", "huggingface"):
        with pytest.raises(SourceError, match=r"cannot be read \(Permission denied\)"):
            list(open_source([str(lines[0].parent)], kind).inputs())
    decode = Decoder(open_source([str(closed)], "folder"), PROCESSOR)
    with pytest.raises(SourceError, match="it is empty or closed"):
        decode("a", str(closed / "a.png"))


def test_hidden_files_are_left_out(lines: list[Path], tmp_path: Path):
    names = ["./a.png", "./._a.png", "b/../c.png", ".d/e.png", "__MACOSX/b/._f.png", "__MACOSX/g.png"]
    with zipfile.ZipFile(tmp_path / "lines.zip", "w") as zipped, tarfile.open(tmp_path / "lines.tar", "w") as tar:
        for name in names:
            zipped.write(lines[0], name)
            tar.add(lines[0], name)
    for name in ("lines.zip", "lines.tar"):
        inputs = open_source([str(tmp_path / name)]).inputs()
        assert [Path(input.id).name for input in inputs] == ["a.png", "c.png"]

    (lines[0].parent / "__MACOSX").mkdir()
    (lines[0].parent / "__MACOSX" / "a.png").write_bytes(b"")
    assert len(list(open_source([str(lines[0].parent)]).inputs())) == COUNT

    folder = tmp_path / ".named"
    memory = file_system(f"memory://{folder}")
    for name in ("a.tar", "._a.tar", ".b/c.tar", "__MACOSX/d.tar", "e/f.tar"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((tmp_path / "lines.tar").read_bytes())
        memory.pipe(f"{folder}/{name}", b"")
    found = [str(folder / "a.tar"), str(folder / "e/f.tar")]
    assert list(shards((str(folder),), ".tar")) == found
    assert list(shards((f"memory://{folder}",), ".tar")) == [f"memory://{path.lstrip('/')}" for path in found]


def test_a_file_that_was_written_again_is_listed_and_read_as_it_is_now(lines: list[Path], tmp_path: Path):
    images = [line.read_bytes() for line in lines[:5]]

    def rows(count: int) -> Any:
        parquet.write_table(pa.table({"image": images[:count]}), tmp_path / "lines.parquet")
        return open_source([str(tmp_path / "lines.parquet")], "parquet")

    def zipped(count: int) -> Any:
        with zipfile.ZipFile(tmp_path / "lines.zip", "w") as archive:
            for number, image in enumerate(images[:count]):
                archive.writestr(f"{'x' * count}{number}.png", image)
        return open_source([str(tmp_path / "lines.zip")])

    def arrow(count: int) -> Any:
        (tmp_path / "set").mkdir(exist_ok=True)
        table = pa.table({"image": images[:count]})
        new = tmp_path / "new"
        with pa.OSFile(str(new), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
        new.replace(tmp_path / "set" / "data.arrow")
        return open_source([str(tmp_path / "set")], "huggingface")

    for write in (rows, zipped, arrow):
        for count in (2, 5, 1):
            source = write(count)
            assert [source.read(found.place) for found in source.inputs()] == images[:count]


@pytest.mark.parametrize("pattern", ["*", "a*", "**", "?.png", "c/.*", "b[[]1]/*", "b[1]/k.png", "b[1]", "c/*/y.png"])
def test_a_pattern_of_urls_matches_what_one_of_paths_does(pattern: str, tmp_path: Path):
    memory = file_system(f"memory://{tmp_path}")
    names = ("a.png", "z.txt", ".h.png", "c/x.png", "c/.i.png", "c/d/y.png", "c/.e/w.png", "b[1]/k.png", "c-/n.png")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
        memory.pipe(f"{tmp_path}/{name}", b"")
    paths = [entry.id for entry in open_source([str(tmp_path / pattern)], "folder").inputs()]
    urls = [entry.id for entry in open_source([f"memory:/{tmp_path / pattern}"], "folder").inputs()]
    assert paths
    assert urls == sorted(f"memory://{path.lstrip('/')}" for path in paths)


@pytest.mark.parametrize("path", ["{}/f.png", "file://{}/f.png", "local://{}/f.png"])
def test_a_pipe_is_no_image_by_any_name(path: str, tmp_path: Path):
    os.mkfifo(tmp_path / "f.png")
    with pytest.raises(PermissionError, match="is not a regular file"):  # and is not waited for
        files.read(path.format(tmp_path))


def test_a_name_may_look_like_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("file:a.png").write_bytes(b"of that name")
    Path("a.png").write_bytes(b"another")
    assert files.read("file:a.png") == b"of that name"


def test_a_damaged_tiff_costs_one_line(lines: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tiff(lines, tmp_path)
    source = open_source([str(tmp_path)], "tiff")
    content = (tmp_path / "pages.tif").read_bytes()
    (tmp_path / "half.tif").write_bytes(content[: len(content) // 2])  # its first page could be read
    (tmp_path / "empty.tif").write_bytes(b"")
    eight, nine = (struct.pack("<HHIH", 258, 3, 1, bits) for bits in (8, 9))  # bits of a sample
    assert eight in content
    (tmp_path / "nine.tif").write_bytes(content.replace(eight, nine))
    Image.new("1", (2000, 1000)).save(tmp_path / "large.tif", compression="group4")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500_000)
    inputs = list(source.inputs())
    assert [Path(input.id).name for input in inputs] == [
        *("empty.tif#1", "half.tif#1", "large.tif#1", "nine.tif#1"),
        *(f"pages.tif#{page}" for page in range(1, COUNT + 1)),
    ]
    decode = Decoder(source, PROCESSOR)
    reasons = [(ImageError, "is no TIFF file"), (ImageError, "cannot be decoded"), (ImageLimitError, ".*exceeds limit")]
    reasons += [(ImageError, "is damaged, or a TIFF of a kind that Pillow cannot read")]
    for input, (kind, why) in zip(inputs, reasons, strict=False):
        with pytest.raises(kind, match=f"{input.id}: {why}"):
            decode(input.id, input.place)
    assert decode(inputs[-1].id, inputs[-1].place).expected > 0
    with pytest.raises(SourceError, match=r"gone.tif: cannot be read"):
        list(open_source([str(tmp_path / "*.tif"), str(tmp_path / "gone.tif")], "tiff").inputs())


def test_lines_of_a_page_of_another_size_fail(lines: list[Path], tmp_path: Path):
    source = page(lines, tmp_path)
    xml = tmp_path / "page.xml"
    xml.write_text(xml.read_text().replace("<Page", '<Page imageWidth="400"'))
    decode, inputs = Decoder(source, PROCESSOR), list(source.inputs())
    for input in inputs:
        with pytest.raises(ImageError, match=r"page.xml: line .: its picture is 200 x .* the file says 400 x"):
            decode(input.id, input.place)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.jsonl", '{"text": "no path"}\n', r"no column path or image .* among \['text'\]"),
        ("list.jsonl", '{"path": "a.png"}\n{"path": \n', "line 2 is no JSON"),
        ("list.jsonl", '{"path": "a"}\n{"path": "b", "id": true}\n', "list.jsonl: row 2 has an id that is neither"),
        ("list.jsonl", '{"path": "a", "id": [1]}\n', "list.jsonl: row 1 has an id that is neither text nor a number"),
        ("list.csv", "path,id\n,1\n", "row 1 has no path"),
        ("list.csv", '"path\na.png\n', "list.csv: row 1 cannot be divided .*; put a text"),
        ("list.csv", "path,text\na.png,a\nb.png,b, c\n", "list.csv: row 2 has 3 columns, and the header 2; put a text"),
        ("list.csv", "path,id\na.png,1\n\nb.png\n", "list.csv: row 2 has 1 columns, and the header 2; put a text"),
        ("list.csv", 'path,text\na.png,a\nb.png,"b\nc.png,c\n', "list.csv: row 2 cannot be divided .*; put a text"),
        ("list.csv", 'path,text\na.png,"a" b\nb.png,b\n', "list.csv: row 1 cannot be divided .*; put a text"),
        ("list.tsv", "path\ttext\na.png\ta\tb\n", "list.tsv: row 1 has 3 columns, and the header 2; divide columns by"),
        ("lines.tar", "no archive", "uncompressed tar archive"),
        ("lines.zip", "no archive", "zip archive"),
    ],
)
def test_what_cannot_be_listed_is_refused(tmp_path: Path, name: str, content: str, message: str):
    (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=message):
        list(open_source([str(tmp_path / name)]).inputs())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<a>", "is no XML .*; correct it, or leave it out"),
        ("<a/>", "neither PAGE XML nor ALTO: its root is a; correct it"),
        (f'<PcGts><Page><TextLine><TextEquiv index="{"1" * 5000}"/></TextLine></Page></PcGts>', "Exceeds the limit"),
        (f"<alto>{'<Page><TextLine/></Page>' * 2}</alto>", "has 2 pages with lines; write a file"),
        (f"<PcGts>{'<Page><TextLine/></Page>' * 3}</PcGts>", "has 3 pages with lines; write a file"),
        ("<alto><MeasurementUnit>em</MeasurementUnit></alto>", "its unit is 'em'; export ALTO"),
    ],
)
def test_a_page_that_cannot_be_divided_is_one_line_that_fails(tmp_path: Path, content: str, message: str):
    page = tmp_path / "page.xml"
    page.write_text(content)
    source = open_source([str(page)])
    (line,) = source.inputs()
    assert line.id == str(page)
    with pytest.raises(ImageError, match=rf"page\.xml: {message}"):
        source.read(line.place)
    page.write_text("<PcGts><Page><TextLine/></Page></PcGts>")
    Image.new("L", (9, 9)).save(tmp_path / "page.png")
    _page.cache_clear()  # as in a process that decodes later
    with pytest.raises(ImageError, match=r"page\.xml: has been corrected since the job was planned; plan another job"):
        open_source([str(page)]).read(line.place)


def test_wrong_usage_is_refused(tmp_path: Path):
    with pytest.raises(JobError, match="no source"):
        open_source([])
    with pytest.raises(JobError, match=r"--source nonsense: no such kind; there are folder, manifest"):
        open_source([str(tmp_path)], "nonsense")
    with pytest.raises(JobError, match="--path-column: no option of the source folder, which has none"):
        open_source([str(tmp_path)], path_column="a")
    with pytest.raises(SourceError, match="no such file or folder"):
        open_source([str(tmp_path / "missing")])
    (tmp_path / "some.tar").touch()
    (tmp_path / "lines.csv").mkdir()
    assert open_source([str(tmp_path), str(tmp_path / "lines.csv")]).kind == "folder"
    with pytest.raises(JobError, match=r"some\.tar: is of the kind tar by its name, and .* of the kind folder; a job"):
        open_source([str(tmp_path), str(tmp_path / "some.tar")])
    assert open_source([str(tmp_path), str(tmp_path / "some.tar")], "tar").kind == "tar"


@pytest.mark.parametrize("name", ["lines.tar.gz", "lines.arrow", "list.jsonl.gz", "lines.array_record-00000-of-00001"])
def test_files_that_are_no_images_by_their_name(name, tmp_path):
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(SourceError, match="its name does not say what it is; give --source"):
        open_source([str(tmp_path / name)])
    assert len(list(open_source([str(tmp_path / name)], "folder").inputs())) == 1


def test_one_tiff_is_held_at_a_time(lines: list[Path], tmp_path: Path):
    from PIL import Image

    for name in ("a", "b"):
        Image.open(lines[0]).convert("L").save(tmp_path / f"{name}.tif")
    source = open_source([str(tmp_path)], "tiff")
    for line in source.inputs():
        source.read(line.place)
    assert list(_kept) == [str(tmp_path / "b.tif")]


def test_a_bucket_may_be_a_pattern_of_which_one_image_is_missing(lines: list[Path]):
    system = pytest.importorskip("fsspec").filesystem("memory")
    for number in (1, 2):
        system.pipe(f"/bucket-{number}/a.png", lines[0].read_bytes())
    source = open_source(["memory://bucket-*/a.png"])
    first, second = source.inputs()
    system.rm("/bucket-1/a.png")
    decode = Decoder(source, PROCESSOR)
    with pytest.raises(ImageError, match="no such file"):
        decode(first.id, first.place)
    assert decode(second.id, second.place).expected > 0


@pytest.mark.parametrize(
    ("inside", "kind"),
    [
        ("state.json", "huggingface"),
        ("dataset_dict.json", "huggingface"),
        ("features.json", "tfds"),
        ("a.png", "folder"),
    ],
)
def test_what_a_folder_is_tells_a_file_in_it(tmp_path: Path, inside, kind):
    (tmp_path / inside).touch()
    assert open_source([str(tmp_path)]).kind == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.NDJSON", "manifest"), ("a.tsv", "manifest"), ("a.xml", "pages"), ("*.zip", "zip"), ("a.tif", "folder")],
)
def test_what_a_name_is_tells_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name, kind):
    monkeypatch.chdir(tmp_path)
    Path(name).touch()
    assert open_source([name]).kind == kind
