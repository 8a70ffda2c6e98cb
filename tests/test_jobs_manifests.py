"""Lists of lines: what may stand in a row, and what names it."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.sources import COUNT, PROCESSOR
from tests.tiny import save_lines
from trocr_jax.errors import ImageError, SourceError
from trocr_jax.jobs.decode_worker import Decoder
from trocr_jax.jobs.sources import open_source
from trocr_jax.jobs.sources.manifest import Manifest


@pytest.fixture
def lines(tmp_path: Path) -> list[Path]:
    return save_lines(tmp_path / "lines", COUNT)


@pytest.mark.parametrize("name", ["lines.csv", "lines.tsv"])
def test_long_fields_of_a_manifest(name: str, tmp_path: Path):
    between = "," if name.endswith("csv") else "\t"
    (tmp_path / name).write_text("\n".join(between.join(row) for row in (("path", "text"), ("a.png", "x" * 200_000))))
    (found,) = open_source([str(tmp_path / name)]).inputs()
    assert found.id == "a.png"


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


def test_a_list_may_begin_with_a_mark_and_have_empty_rows(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"path": "1.png"}\n\n{"path": "2.png"}\n')
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfpath,id\r\n1.png,1\r\n\r\n2.png,2\r\n")
    for name in ("a.jsonl", "a.csv"):
        places = [line.place for line in Manifest((str(tmp_path / name),)).inputs()]
        assert places == [str(tmp_path / "1.png"), str(tmp_path / "2.png")]


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


@pytest.mark.parametrize("name", ["list.jsonl", "list.csv", "list.parquet"])
def test_columns_in_capitals(name: str, tmp_path: Path):
    row = {"ID": "a", "FILE_NAME": "c.png"}
    (tmp_path / "list.jsonl").write_text(json.dumps(row))
    (tmp_path / "list.csv").write_text(",".join(row) + "\n" + ",".join(row.values()))
    parquet.write_table(pa.table({key: [value] for key, value in row.items()}), tmp_path / "list.parquet")
    (line,) = open_source([str(tmp_path / name)], "manifest").inputs()
    assert line == ("a", str(tmp_path / "c.png"))
    with pytest.raises(SourceError, match=f"{name}: no column file_name among"):  # what is named is meant
        list(open_source([str(tmp_path / name)], "manifest", path_column="file_name").inputs())


def test_names_that_are_spelt_otherwise_than_those_of_files(tmp_path: Path):
    (tmp_path / "bilder").mkdir()
    nfd = unicodedata.normalize("NFD", "Bär.png")
    (tmp_path / "bilder" / nfd).touch()
    paths = ("bilder\\" + nfd, "bilder/Bär.png", "bilder\\Bär.png")
    (tmp_path / "list.csv").write_text("path\n" + "\n".join(paths), encoding="utf-8")
    source = open_source([str(tmp_path / "list.csv")])
    there = f"no such file, but there is {tmp_path}/bilder/{nfd}"
    for line, form in zip(source.inputs(), ("", " (in Unicode's form NFD)", " (in Unicode's form NFD)"), strict=True):
        with pytest.raises(ImageError) as error:
            Decoder(source, PROCESSOR)(line.id, line.place)
        assert str(error.value).endswith(f"{there}{form}: write it so")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            b"\xef\xbb\xbfNr;path\r\n1;a.png\r\n",
            "a.csv: its columns are divided by ';'; divide them by commas",
        ),
        ("a.csv", b"sep=;\r\nNr;path\r\n1;a.png\r\n", "a.csv: its columns are divided by ';'"),
        ("a.csv", b"id\tpath\n1\ta.png\n", r"a.csv: its columns are divided by '\\t'; divide them by commas"),
        ("a.tsv", b"id,path\n1,a.png\n", "a.tsv: its columns are divided by ','; divide them by tabs"),
        ("a.csv", "path,id\nM\u00fcller.png,1\n".encode("cp1252"), "a.csv: is not UTF-8; save it so, or convert it"),
    ],
)
def test_tables_as_excel_writes_them(name: str, content: bytes, message: str, tmp_path: Path):
    (tmp_path / name).write_bytes(content)
    for column in (None, "path"):  # what another message asked for
        with pytest.raises(SourceError, match=message):
            list(open_source([str(tmp_path / name)], "manifest", path_column=column).inputs())
