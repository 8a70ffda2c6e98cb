"""Every kind of source lists the same lines and gives the same pixels."""

from __future__ import annotations

import csv
import errno
import glob as globbing
import io
import json
import os
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from tests.tiny import save_lines
from train.data.render import Renderer
from trocr_jax.errors import ImageError, ImageLimitError, JobError, SourceError
from trocr_jax.image import ImageProcessor
from trocr_jax.jobs import files
from trocr_jax.jobs.decode_worker import Decoder
from trocr_jax.jobs.files import file_system
from trocr_jax.jobs.sources import Source, arrow, describe, from_description, images_in_parquet, open_source, tfds
from trocr_jax.jobs.sources.manifest import Manifest
from trocr_jax.jobs.sources.paths import shards
from trocr_jax.jobs.sources.tiff import _kept

COUNT = 5
PROCESSOR = ImageProcessor(height=16, width=64, keep_aspect_ratio=True)


@pytest.fixture
def lines(tmp_path: Path) -> list[Path]:
    return save_lines(tmp_path / "lines", COUNT)


def folder(lines: list[Path], where: Path) -> Source:
    return open_source([str(lines[0].parent)])


def pattern(lines: list[Path], where: Path) -> Source:
    return open_source([str(lines[0].parent / "*.png")])


def jsonl(lines: list[Path], where: Path) -> Source:
    text = "".join(json.dumps({"id": f"no {i}", "image": f"lines/{path.name}"}) + "\n" for i, path in enumerate(lines))
    (where / "list.jsonl").write_text(text)
    return open_source([str(where / "list.jsonl")])


def tsv(lines: list[Path], where: Path) -> Source:
    with (where / "list.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([["text", "picture"], *[["a, b", path.name] for path in lines]])
    return open_source([str(where / "list.tsv")], path_column="picture", root=str(lines[0].parent))


def parquet_manifest(lines: list[Path], where: Path) -> Source:
    parquet.write_table(pa.table({"path": [str(path) for path in lines]}), where / "list.parquet")
    return open_source([str(where / "list.parquet")], "manifest")


def tar(lines: list[Path], where: Path) -> Source:
    for number, part in enumerate((lines[:3], lines[3:])):
        with tarfile.open(where / f"shard-{number}.tar", "w") as archive:
            for path in part:
                archive.add(path, path.name)
                info = tarfile.TarInfo(path.stem + ".txt")
                info.size = 3
                archive.addfile(info, io.BytesIO(b"abc"))
    return open_source([str(where / "shard-*.tar")], "tar")


def archive(lines: list[Path], where: Path) -> Source:
    with zipfile.ZipFile(where / "lines.zip", "w") as file:
        for path in lines:
            file.write(path, f"inside/{path.name}")
        file.writestr("read.me", "no image")
    return open_source([str(where / "lines.zip")])


def parquet_images(lines: list[Path], where: Path) -> Source:
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in lines]
    parquet.write_table(pa.table({"image": images}), where / "images.parquet", row_group_size=2)
    return open_source([str(where / "images.parquet")])


def saved_to_disk(lines: list[Path], where: Path) -> Source:
    (where / "saved").mkdir()
    (where / "saved" / "state.json").write_text("{}")
    table = pa.table({"image": [{"bytes": path.read_bytes(), "path": None} for path in lines]})
    data = where / "saved" / "data-00000-of-00001.arrow"
    with pa.OSFile(str(data), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return open_source([str(where / "saved")])


def tiff(lines: list[Path], where: Path) -> Source:
    first, *others = [Image.open(path) for path in lines]
    first.save(where / "pages.tif", save_all=True, append_images=others)
    return open_source([str(where / "pages.tif")], "tiff")


def page(lines: list[Path], where: Path) -> Source:
    images = [Image.open(path) for path in lines]
    canvas = Image.new("L", (200, 40 * len(images)), "white")
    elements = []
    for number, image in enumerate(images):
        canvas.paste(image, (10, 40 * number + 5))
        left, top, right, bottom = 10, 40 * number + 5, 9 + image.width, 40 * number + 4 + image.height
        points = f"{left},{top} {right},{top} {right},{bottom} {left},{bottom}"
        elements.append(f'<TextLine id="l{number}"><Coords points="{points}"/></TextLine>')
    canvas.save(where / "page.png")
    (where / "page.xml").write_text(f'<PcGts><Page imageFilename="page.png">{"".join(elements)}</Page></PcGts>')
    return open_source([str(where / "page.xml")])


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
    renderer = Renderer.create(split="heldout", seed=0)
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


def test_columns_of_one_name_are_refused(lines: list[Path], tmp_path: Path):
    image = lines[0].read_bytes()
    table = pa.Table.from_arrays([pa.array([image])] * 2, names=["image", "image"])
    parquet.write_table(table, tmp_path / "lines.parquet")
    with pytest.raises(SourceError, match=r"lines.parquet: 2 of its columns are called image; leave one of them out"):
        list(open_source([str(tmp_path / "lines.parquet")], "parquet").inputs())
    (tmp_path / "lines.csv").write_text("path,id,path\na.png,1,b.png\n")
    with pytest.raises(SourceError, match=r"lines.csv: 2 columns are called path; leave one of them out"):
        list(open_source([str(tmp_path / "lines.csv")]).inputs())


@pytest.mark.parametrize("name", ["lines.csv", "lines.tsv"])
def test_long_fields_of_a_manifest(name: str, tmp_path: Path):
    between = "," if name.endswith("csv") else "\t"
    (tmp_path / name).write_text("\n".join(between.join(row) for row in (("path", "text"), ("a.png", "x" * 200_000))))
    (found,) = open_source([str(tmp_path / name)]).inputs()
    assert found.id == "a.png"


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


def test_a_tar_archive_is_read_to_its_end_or_refused(lines: list[Path], tmp_path: Path):
    path = tmp_path / "lines.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for line in lines[:3]:
            archive.add(line, line.name)
    third = next(input for number, input in enumerate(open_source([str(path)]).inputs()) if number == 2)
    header = third.place[1] - tarfile.BLOCKSIZE
    content = bytearray(path.read_bytes())
    content[header : header + 8] = b"damaged!"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=f"lines.tar: .*no header at byte {header}, and not the end.*copy a damaged"):
        list(open_source([str(path)]).inputs())
    path.write_bytes(content[:header])
    with pytest.raises(SourceError, match=f"lines.tar: ends at byte {header} without the blocks of zeros.*copy it aga"):
        list(open_source([str(path)]).inputs())
    path.write_bytes(content[:header] + bytes(1024))
    assert len(list(open_source([str(path)]).inputs())) == 2
    path.write_bytes(path.read_bytes() + content)
    with pytest.raises(SourceError, match=f"lines.tar: goes on behind its end at byte {header}, .*one by one"):
        list(open_source([str(path)]).inputs())


def test_links_in_a_tar_archive_are_refused(lines: list[Path], tmp_path: Path):
    (tmp_path / "again.png").hardlink_to(lines[0])
    with tarfile.open(tmp_path / "lines.tar", "w") as archive:
        archive.add(lines[0], "line.png")
        archive.add(tmp_path / "again.png", "again.png")
    with pytest.raises(SourceError, match=r"lines.tar: again.png is a link to line.png.*--hard-dereference"):
        list(open_source([str(tmp_path / "lines.tar")]).inputs())


def test_files_stored_sparse_in_a_tar_archive_are_refused(tmp_path: Path):
    with (tmp_path / "line.png").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"x")
    subprocess.run(["tar", "--sparse", "-cf", "lines.tar", "line.png"], cwd=tmp_path, check=True)
    with pytest.raises(SourceError, match=r"lines.tar: line.png is stored sparse"):
        list(open_source([str(tmp_path / "lines.tar")]).inputs())


def test_row_groups_that_cannot_be_held_are_refused(lines: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = parquet_images(lines, tmp_path)
    monkeypatch.setattr(images_in_parquet, "GROUP_BYTES", 1000)
    with pytest.raises(SourceError, match=r"images.parquet: the images of its row group 0 are .*row_group_size=1"):
        list(source.inputs())


def test_a_column_of_texts_is_no_column_of_images(lines: list[Path], tmp_path: Path):
    column = pa.array([str(path) for path in lines])
    for values, kind in ((column, "string"), (column.dictionary_encode(), "dictionary")):
        parquet.write_table(pa.table({"image": values}), tmp_path / f"{kind}.parquet")
        with pytest.raises(SourceError, match=f"{kind}.parquet: its column image holds no images but {kind}.*manifest"):
            list(open_source([str(tmp_path / f"{kind}.parquet")]).inputs())
    with pytest.raises(ImageError):  # a job that was planned before goes on
        open_source([str(tmp_path / "string.parquet")]).read([str(tmp_path / "string.parquet"), 0, 0])
    column = pa.array([path.read_bytes() for path in lines], pa.large_binary()).dictionary_encode()
    parquet.write_table(pa.table({"image": column}), tmp_path / "images.parquet")
    assert len(list(open_source([str(tmp_path / "images.parquet")]).inputs())) == COUNT


def test_damage_within_a_file_of_many_images_costs_only_those(lines: list[Path], tmp_path: Path):
    source = parquet_images(lines, tmp_path)
    inputs = list(source.inputs())
    content = bytearray((tmp_path / "images.parquet").read_bytes())
    content[4:12] = bytes(8)  # the header of the first page
    (tmp_path / "images.parquet").write_bytes(content)
    decode = Decoder(source, PROCESSOR)
    with pytest.raises(ImageError, match=r"images.parquet#0: [^\n]*$"):
        decode(inputs[0].id, inputs[0].place)
    assert decode(inputs[-1].id, inputs[-1].place).expected > 0
    system = pytest.importorskip("fsspec").filesystem("memory")
    system.pipe("/damaged.parquet", bytes(content))
    decode = Decoder(open_source(["memory://damaged.parquet"]), PROCESSOR)
    with pytest.raises(ImageError, match=r"^0 \(memory://damaged\.parquet\): [^\n]*$"):  # it is not the network's fault
        decode("0", ["memory://damaged.parquet", *inputs[0].place[1:-1]])
    assert decode("last", ["memory://damaged.parquet", *inputs[-1].place[1:-1]]).expected > 0
    system.rm("/damaged.parquet")
    source = tiff(lines, tmp_path)
    (input, *_) = source.inputs()
    (tmp_path / "pages.tif").write_bytes(b"no TIFF any more")
    with pytest.raises(ImageError, match=r"pages.tif#1: "):
        Decoder(source, PROCESSOR)(input.id, input.place)


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_of_a_zip_archive_is_named(how: int, lines: list[Path], tmp_path: Path):
    path = tmp_path / "lines.zip"
    with zipfile.ZipFile(path, "w", how) as archive:
        archive.write(lines[0], "a.png")
        archive.write(lines[1], "b.png")
        begin = archive.getinfo("b.png").header_offset
    content = bytearray(path.read_bytes())
    content[begin - 60 : begin] = bytes(60)  # the end of the first
    path.write_bytes(content)
    source = open_source([str(path)])
    first, second = source.inputs()
    with pytest.raises(ImageError, match=r"lines\.zip/a\.png: cannot be unpacked \([^\n]+\)$"):
        source.read(first.place)
    assert source.read(second.place) == lines[1].read_bytes()


def test_a_tar_archive_that_was_written_again_is_told_from_the_one_before(tmp_path: Path):
    def write(order: str) -> None:
        with tarfile.open(tmp_path / "lines.tar", "w") as file:
            for name in order:
                member = tarfile.TarInfo(f"{name * 120}.pgm")  # longer than a header holds
                member.size = 11 + 4
                file.addfile(member, io.BytesIO(b"P5 2 2 255 \n"[:11] + name.encode() * 4))

    write("abc")
    source = open_source([str(tmp_path / "lines.tar")])
    inputs = list(source.inputs())
    assert [bytes(source.read(input.place))[-4:] for input in inputs] == [b"aaaa", b"bbbb", b"cccc"]  # type: ignore[arg-type]
    assert bytes(source.read(inputs[1].place[:3]))[-4:] == b"bbbb"  # type: ignore[arg-type]  # planned without checksums
    write("cba")
    assert [bytes(source.read(input.place))[-4:] for input in source.inputs()] == [b"cccc", b"bbbb", b"aaaa"]  # type: ignore[arg-type]
    with pytest.raises(SourceError, match=r"lines\.tar: is another archive than the job was planned with"):
        Decoder(source, PROCESSOR)(inputs[0].id, inputs[0].place)


@pytest.mark.parametrize(
    ("name", "wanted", "message"),
    [
        ("img", None, ""),
        ("scan", "scan", ""),
        ("scan", None, r"no column image or .* among .*; name it with --image-column"),
        ("img", "number", "its feature number holds no images but Scalar"),
    ],
)
def test_features_of_a_data_set(
    name: str, wanted: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from tensorflow_datasets import features

    class Two(list[dict[str, Any]]):
        dataset_info = SimpleNamespace(features={name: features.Image(), "number": features.Scalar(np.int64)})

    monkeypatch.setattr(tfds, "_open", lru_cache(lambda folder, split: (Two([{name: "a"}, {name: "b"}]), 0)))
    source = open_source([str(tmp_path)], "tfds", image_column=wanted)
    if message:
        with pytest.raises(SourceError, match=message):
            list(source.inputs())
    else:
        assert [source.read(input.place) for input in source.inputs()] == ["a", "b"]


def test_data_sets_that_cannot_be_read_are_refused_with_what_to_do(tmp_path: Path):
    (tmp_path / "x.array_record").write_bytes(b"records")
    with pytest.raises(SourceError, match=r"x.array_record: is no folder; give that of a version of a TFDS data set"):
        list(open_source([str(tmp_path / "x.array_record")]).inputs())
    pytest.importorskip("fsspec")
    for kind, advice in (("tfds", "copy it here"), ("huggingface", r"copy it here, or .*\(Dataset.to_parquet\)")):
        with pytest.raises(SourceError, match=f"^memory://set: this kind of source is read from local.*; {advice}"):
            list(open_source(["memory://set"], kind).inputs())


def test_files_of_a_data_set_that_was_saved_there_before_are_left_out(tmp_path: Path):
    def save(name: str, rows: int) -> None:
        table = pa.table({"image": [b"x"] * rows})
        with pa.OSFile(str(tmp_path / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)

    for number in range(4):
        save(f"data-0000{number}-of-00004.arrow", 3)
    for number in range(2):
        save(f"data-0000{number}-of-00002.arrow", 1)
    now = {"_data_files": [{"filename": f"data-0000{number}-of-00002.arrow"} for number in range(2)]}
    (tmp_path / "state.json").write_text(json.dumps(now))
    source = open_source([str(tmp_path)], "huggingface")
    names = [os.path.basename(input.id) for input in source.inputs()]
    assert names == ["data-00000-of-00002.arrow#0", "data-00001-of-00002.arrow#0"]
    (tmp_path / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(SourceError, match=r"data-00001-of-00002\.arrow: is missing, which state\.json names"):
        list(source.inputs())


def test_splits_of_a_data_set_that_was_saved_there_before_are_left_out(tmp_path: Path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        table = pa.table({"image": [b"x"]})
        name = str(tmp_path / split / "data-00000-of-00001.arrow")
        with pa.OSFile(name, "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    source = open_source([str(tmp_path)], "huggingface")
    assert [Path(input.place[0]).parent.name for input in source.inputs()] == ["test", "train"]
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert [Path(input.place[0]).parent.name for input in source.inputs()] == ["train"]
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    with pytest.raises(SourceError, match=r"validation: is missing, which dataset_dict\.json names"):
        list(source.inputs())


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


def test_an_archive_that_was_cut_off_since_is_the_source_s_fault(lines: list[Path], tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "lines.zip", "w") as file:
        for path in lines:
            file.write(path, path.name)
    source = open_source([str(tmp_path / "lines.zip")])
    inputs = list(source.inputs())
    content = (tmp_path / "lines.zip").read_bytes()
    (tmp_path / "lines.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(SourceError, match=r"lines.zip: cannot be read as a zip archive .*; copy it again"):
        Decoder(source, PROCESSOR)(inputs[0].id, inputs[0].place)


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


def test_a_path_that_can_be_none_is_a_line_without_an_image(lines: list[Path], tmp_path: Path):
    decode = Decoder(open_source([str(lines[0].parent)]), PROCESSOR)
    (tmp_path / "circle").symlink_to("circle")
    for path, why in (tmp_path / ("long" * 100), "too long"), (tmp_path / "circle", "symbolic links"):
        with pytest.raises(ImageError, match=why):
            decode("a", str(path))


def test_quotation_marks_are_text_in_a_tsv_and_quote_in_a_csv(tmp_path: Path):
    (tmp_path / "list.tsv").write_text('path\ttext\na.png\t"begins\nb.png\t12"\n\nc.png\t"\n')
    (tmp_path / "list.csv").write_text('path,text\na.png,"a, ""b"""\n\nb.png,12"\n')
    for name, expected in (("list.tsv", ["a.png", "b.png", "c.png"]), ("list.csv", ["a.png", "b.png"])):
        assert [input.id for input in open_source([str(tmp_path / name)]).inputs()] == expected


def test_a_row_without_an_id_has_its_path(tmp_path: Path):
    rows = [{"path": "a"}, {"path": "b", "id": "B"}, {"path": "c", "id": ""}, {"path": "d", "id": None}]
    rows += [{"path": "e", "id": 0}, {"path": "f", "id": 1.5}]
    (tmp_path / "list.jsonl").write_text("\ufeff" + "\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "list.csv").write_text("path,id,text\na,,x\nb,B,x\nc,,x\n")
    for name, expected in (("list.jsonl", ["a", "B", "c", "d", "0", "1.5"]), ("list.csv", ["a", "B", "c"])):
        assert [input.id for input in open_source([str(tmp_path / name)]).inputs()] == expected


def test_a_number_is_the_id_that_is_written(tmp_path: Path):
    written = ["123456789012345678901234567890", "18446744073709551616", "1.10", "1e3", "-0.0", "7"]
    rows = [f'{{"path": "{number}", "id": {id}}}' for number, id in enumerate(written)]
    (tmp_path / "list.jsonl").write_text("\n".join(rows))
    assert [input.id for input in open_source([str(tmp_path / "list.jsonl")]).inputs()] == written


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
        ("page.xml", "<a>", "is no XML"),
        (
            "page.xml",
            f'<PcGts><Page><TextLine><TextEquiv index="{"1" * 5000}"/></TextLine></Page></PcGts>',
            "page.xml: Exceeds the limit.*; correct it",
        ),
        (
            "page.xml",
            f"<alto>{'<Page><TextLine/></Page>' * 2}</alto>",
            "page.xml: has 2 pages with lines; write a file",
        ),
        (
            "page.xml",
            f"<PcGts>{'<Page><TextLine/></Page>' * 3}</PcGts>",
            "page.xml: has 3 pages with lines; write a file",
        ),
    ],
)
def test_what_cannot_be_listed_is_refused(tmp_path: Path, name: str, content: str, message: str):
    (tmp_path / name).write_text(content)
    with pytest.raises(SourceError, match=message):
        list(open_source([str(tmp_path / name)]).inputs())


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


def test_plans_of_before_have_no_checksums_and_go_on(lines: list[Path], tmp_path: Path):
    with tarfile.open(tmp_path / "lines.tar", "w") as tar:
        tar.add(lines[0], "a.png")
    source = open_source([str(tmp_path / "lines.tar")])
    (line,) = source.inputs()
    assert source.read(line.place[:3]) == lines[0].read_bytes()
    for kind in (parquet_images, saved_to_disk):
        source = kind(lines, tmp_path)
        line, *_ = source.inputs()
        assert source.read(line.place[:-1]) == source.read(line.place) == lines[0].read_bytes()


@pytest.mark.parametrize("far", [False, True])
def test_numbers_of_rows_hold_for_the_file_that_was_planned(far: bool, lines: list[Path], tmp_path: Path):
    images = [path.read_bytes() for path in lines[:3]]
    path = f"memory://{tmp_path}/lines.parquet" if far else str(tmp_path / "lines.parquet")

    def write(rows: list[bytes]) -> Source:
        parquet.write_table(pa.table({"image": rows}), tmp_path / "lines.parquet")
        if far:
            file_system(path).pipe(path, (tmp_path / "lines.parquet").read_bytes())
        images_in_parquet._open.cache_clear()  # as in a process that starts later
        images_in_parquet._group.cache_clear()
        return open_source([path])

    source = write(images)
    places = [line.place for line in source.inputs()]
    write(images[::-1])
    with pytest.raises(SourceError, match=r"lines\.parquet: was written again since the job was planned; bring back"):
        source.read(places[0])
    write(images)
    assert [source.read(place) for place in places] == images


def test_rows_of_a_data_set_on_disk_hold_for_the_files_that_were_planned(lines: list[Path], tmp_path: Path):
    source = saved_to_disk(lines, tmp_path)
    line, *_ = source.inputs()
    (path,) = tmp_path.rglob("*.arrow")
    table = pa.ipc.open_stream(path.read_bytes()).read_all()
    with pa.OSFile(str(tmp_path / "new"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table.slice(1))
    (tmp_path / "new").replace(path)
    arrow._open.cache_clear()
    with pytest.raises(SourceError, match=r"\.arrow: was written again since the job was planned"):
        source.read(line.place)


def test_a_list_may_begin_with_a_mark_and_have_empty_rows(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"path": "1.png"}\n\n{"path": "2.png"}\n')
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfpath,id\r\n1.png,1\r\n\r\n2.png,2\r\n")
    for name in ("a.jsonl", "a.csv"):
        places = [line.place for line in Manifest((str(tmp_path / name),)).inputs()]
        assert places == [str(tmp_path / "1.png"), str(tmp_path / "2.png")]


def test_rows_of_a_parquet_file_are_counted_through_its_groups(lines: list[Path], tmp_path: Path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    images = [path.read_bytes() for path in lines[:3]]
    parquet.write_table(pa.table({"image": images}), path := str(tmp_path / "a.parquet"), row_group_size=2)
    source = open_source([path])
    found = list(source.inputs())
    assert [line.id for line in found] == [f"{path}#{number}" for number in range(3)]
    assert [source.read(line.place) for line in found] == images


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


def test_an_image_of_a_row_may_be_a_path(lines: list[Path], tmp_path: Path):
    """As `datasets` writes those that are not embedded."""
    cells = [{"bytes": None, "path": str(lines[0])}, {"bytes": lines[1].read_bytes(), "path": "no such file"}, None]
    parquet.write_table(pa.table({"image": cells}), tmp_path / "lines.parquet")
    source = open_source([str(tmp_path / "lines.parquet")])
    first, second, third = source.inputs()
    assert [source.read(one.place) for one in (first, second)] == [line.read_bytes() for line in lines[:2]]
    with pytest.raises(ImageError, match=r"lines\.parquet: row 2 of group 0: holds no image"):
        source.read(third.place)
    parquet.write_table(pa.table({"image": pa.nulls(2)}), tmp_path / "none.parquet")
    assert len(list(open_source([str(tmp_path / "none.parquet")]).inputs())) == 2


def test_only_the_column_of_images_counts_for_the_size_of_a_group(
    lines: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    rows = {"image": [lines[0].read_bytes()], "text": ["x" * 100_000]}
    parquet.write_table(pa.table(rows), tmp_path / "lines.parquet", use_dictionary=False)
    monkeypatch.setattr(images_in_parquet, "GROUP_BYTES", 50_000)
    assert len(list(open_source([str(tmp_path / "lines.parquet")]).inputs())) == 1


@pytest.mark.parametrize("name", ["list.jsonl", "list.csv", "list.parquet"])
def test_columns_that_are_named(name: str, tmp_path: Path):
    row = {"id": "0", "own": "a", "path": "b.png", "scan": "c.png"}
    (tmp_path / "list.jsonl").write_text(json.dumps(row))
    (tmp_path / "list.csv").write_text(",".join(row) + "\n" + ",".join(row.values()))
    parquet.write_table(pa.table({key: [value] for key, value in row.items()}), tmp_path / "list.parquet")
    options = {"id_column": "own", "path_column": "scan"}
    (line,) = open_source([str(tmp_path / name)], "manifest", **options).inputs()
    assert line == ("a", str(tmp_path / "c.png"))
    with pytest.raises(SourceError, match=f"{name}: no column name among"):
        list(open_source([str(tmp_path / name)], "manifest", id_column="name").inputs())


def test_the_split_of_a_data_set_is_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = list[str]()

    def opened(folder: Path, split: str) -> Any:
        from tensorflow_datasets import features

        asked.append(split)
        (tmp_path / "a").write_text(str(len(asked)))
        files = SimpleNamespace(file_instructions=[SimpleNamespace(filename=tmp_path / "a")])

        class Rows(list[dict[str, Any]]):
            dataset_info = SimpleNamespace(features={"image": features.Image()}, splits={split: files})

        return Rows([{"image": len(asked)}] * len(asked))

    monkeypatch.setattr(tfds, "open_split", opened)
    for count in (1, 2):  # written again meanwhile
        source = open_source([str(tmp_path)], "tfds")
        assert [source.read(input.place) for input in source.inputs()] == [count] * count
    test = open_source([str(tmp_path)], "tfds", split="test")
    first, *_ = test.inputs()
    assert first.id == f"{tmp_path}/test#0"
    assert asked == ["train", "train", "test"]
    tfds._open.cache_clear()
    with pytest.raises(SourceError, match=": test: was written again since the job was planned"):
        test.read(first.place)


def test_archives_by_a_pattern_are_in_the_order_of_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("b.TAR", "a.tar", "[c].tar", "d.txt"):
        (tmp_path / name).touch()
    names = sorted(path.name for path in tmp_path.iterdir())
    glob = globbing.glob
    monkeypatch.setattr(globbing, "glob", lambda *given, **options: sorted(glob(*given, **options), reverse=True))
    found = [Path(path).name for path in shards((str(tmp_path / "*"),), ".tar")]
    assert found == names
    assert list(shards((str(tmp_path / "[c].tar"),), ".tar")) == [str(tmp_path / "[c].tar")]
    below = files.below
    monkeypatch.setattr(files, "below", lambda folder: sorted(below(folder), reverse=True))
    assert [Path(path).name for path in shards((str(tmp_path),), ".tar")] == ["[c].tar", "a.tar", "b.TAR"]


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
