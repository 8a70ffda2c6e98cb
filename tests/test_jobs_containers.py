"""Files of many images: archives, Parquet, `datasets` on disk, TFDS."""

from __future__ import annotations

import glob as globbing
import io
import json
import os
import subprocess
import tarfile
import zipfile
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.sources import COUNT, PROCESSOR, parquet_images, saved_to_disk, tiff
from tests.tiny import save_lines
from trocr_jax.errors import ImageError, SourceError
from trocr_jax.jobs import files
from trocr_jax.jobs.decode_worker import Decoder
from trocr_jax.jobs.files import file_system
from trocr_jax.jobs.sources import Source, arrow, images_in_parquet, open_source, tfds
from trocr_jax.jobs.sources.paths import shards


@pytest.fixture
def lines(tmp_path: Path) -> list[Path]:
    return save_lines(tmp_path / "lines", COUNT)


def test_columns_of_one_name_are_refused(lines: list[Path], tmp_path: Path):
    image = lines[0].read_bytes()
    table = pa.Table.from_arrays([pa.array([image])] * 2, names=["image", "image"])
    parquet.write_table(table, tmp_path / "lines.parquet")
    with pytest.raises(SourceError, match=r"lines.parquet: 2 of its columns are called image; leave one of them out"):
        list(open_source([str(tmp_path / "lines.parquet")], "parquet").inputs())
    (tmp_path / "lines.csv").write_text("path,id,path\na.png,1,b.png\n")
    with pytest.raises(SourceError, match=r"lines.csv: 2 columns are called path; leave one of them out"):
        list(open_source([str(tmp_path / "lines.csv")]).inputs())


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


def test_rows_of_a_parquet_file_are_counted_through_its_groups(lines: list[Path], tmp_path: Path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    images = [path.read_bytes() for path in lines[:3]]
    parquet.write_table(pa.table({"image": images}), path := str(tmp_path / "a.parquet"), row_group_size=2)
    source = open_source([path])
    found = list(source.inputs())
    assert [line.id for line in found] == [f"{path}#{number}" for number in range(3)]
    assert [source.read(line.place) for line in found] == images


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
