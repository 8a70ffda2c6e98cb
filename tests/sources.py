"""A source of each kind with the same lines."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from trocr_jax.image import ImageProcessor
from trocr_jax.jobs.sources import Source, open_source

COUNT = 5
PROCESSOR = ImageProcessor(height=16, width=64, keep_aspect_ratio=True)


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
