"""Every kind of source lists the same lines and gives the same pixels."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from tests.tiny import save_lines
from train.data.render import Renderer
from trocr_jax.errors import ImageError, JobError, SourceError
from trocr_jax.image import ImageProcessor
from trocr_jax.jobs.decode_worker import Decoder
from trocr_jax.jobs.sources import Source, describe, from_description, open_source

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


def test_a_path_that_can_be_none_is_a_line_without_an_image(lines: list[Path], tmp_path: Path):
    decode = Decoder(open_source([str(lines[0].parent)]), PROCESSOR)
    (tmp_path / "circle").symlink_to("circle")
    for path, why in (tmp_path / ("long" * 100), "too long"), (tmp_path / "circle", "symbolic links"):
        with pytest.raises(ImageError, match=why):
            decode("a", str(path))


def test_a_row_of_a_manifest_that_is_too_short_has_no_id_of_its_own(tmp_path: Path):
    (tmp_path / "list.csv").write_text("path,id\na.png,1\nb.png\n")
    found = list(open_source([str(tmp_path / "list.csv")]).inputs())
    assert [input.id for input in found] == ["1", "b.png"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.jsonl", '{"text": "no path"}\n', r"no column path or image .* among \['text'\]"),
        ("list.jsonl", '{"path": "a.png"}\n{"path": \n', "line 2 is no JSON"),
        ("list.csv", "path,id\n,1\n", "row 1 has no path"),
        ("lines.tar", "no archive", "uncompressed tar archive"),
        ("lines.zip", "no archive", "zip archive"),
        ("page.xml", "<a>", "is no XML"),
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
    with pytest.raises(JobError, match="path_column: no option of the source folder"):
        open_source([str(tmp_path)], path_column="a")
    with pytest.raises(SourceError, match="no such file or folder"):
        open_source([str(tmp_path / "missing")])
