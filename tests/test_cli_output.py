"""Rows come back from every format as they went in, and a file is there whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from tests.test_evaluation import picture
from trocr_jax.cli import main
from trocr_jax.cli.output import COLUMNS, PARQUET_ROWS, Row, open_rows
from trocr_jax.cli.output_file import replace_file
from trocr_jax.cli.transcribe import _spared
from trocr_jax.confidence import Alternative, Confidence
from trocr_jax.errors import OutputError
from trocr_jax.image_paths import Input

TEXT = st.text(max_size=12)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
ROWS = st.lists(
    st.one_of(
        st.tuples(TEXT, TEXT, NUMBER, st.booleans(), st.none(), NUMBER),
        st.tuples(TEXT, st.none(), st.none(), st.none(), TEXT),
    ).map(lambda values: Row(*values)),
    max_size=5,
)
SAMPLE = [Row("a,b.png", 'say "hi",\nyou', -1.5, False), Row("é.png", "", 0.0, True), Row("c.png", error="c.png: bad")]


def write(path: Path, format: str, rows: list[Row]) -> Path:
    with open_rows(str(path), format) as put:
        for row in rows:
            put(row)
    return path


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trocr_jax.cli.output_file.os.fsync", lambda file: None)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows")


@settings(deadline=None, max_examples=60)
@given(ROWS)
def test_jsonl(folder, rows):
    lines = write(folder / "rows.jsonl", "jsonl", rows).read_bytes().splitlines()
    assert [Row(**json.loads(line)) for line in lines] == rows


@settings(deadline=None, max_examples=60)
@given(ROWS)
def test_csv(folder, rows):
    with write(folder / "rows.csv", "csv", rows).open(newline="", encoding="utf-8") as file:
        header, *found = csv.reader(file)
    assert header == ["id", "text", "score", "truncated", "error", "confidence"]
    plain = {None: "", True: "true", False: "false"}
    assert [[*row[:2], row[2] and float(row[2]), *row[3:5], row[5] and float(row[5])] for row in found] == [
        [
            row.id,
            row.text or "",
            "" if row.score is None else row.score,
            plain[row.truncated],
            row.error or "",
            "" if row.confidence is None else row.confidence,
        ]
        for row in rows
    ]


@settings(deadline=None, max_examples=60)
@given(ROWS)
def test_parquet(folder, rows):
    table = parquet.read_table(write(folder / "rows.parquet", "parquet", rows))
    assert table.column_names == list(COLUMNS)
    assert [Row(**row) for row in table.to_pylist()] == rows


@settings(deadline=None, max_examples=60)
@given(st.lists(TEXT, max_size=5))
def test_txt_has_one_line_a_row_whatever_the_text(folder, texts):
    path = write(folder / "rows.txt", "txt", [Row("a", text, 0.0, False) for text in texts])
    found = path.read_bytes().decode()
    assert len(found.splitlines()) == len(texts)
    assert found.splitlines() == [" ".join(text.splitlines()) for text in texts]


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet", "txt"])
def test_lists_are_objects_and_json_in_csv(tmp_path, format):
    path = tmp_path / "rows"
    found = (Alternative('a "b"', -0.5, 0.75), Alternative("a", -1.0, 0.25))
    sure = (Confidence("a", 0.5), Confidence("b", 1.0))
    rows = [Row("a.png", 'a "b"', -0.5, False, None, 0.9, found, sure), Row("b.png", error="b.png: bad")]
    columns = ("id", "text", "alternatives", "words")
    with open_rows(str(path), format, columns) as put:
        for row in rows:
            put(row)
    want = [{"text": 'a "b"', "score": -0.5, "probability": 0.75}, {"text": "a", "score": -1.0, "probability": 0.25}]
    words = [{"text": "a", "confidence": 0.5}, {"text": "b", "confidence": 1.0}]
    if format == "txt":
        assert path.read_text() == 'a "b"\n\n'
        return
    if format == "jsonl":
        read = [json.loads(line) for line in path.read_text().splitlines()]
    elif format == "parquet":
        read = parquet.read_table(path).to_pylist()
    else:
        with path.open(newline="", encoding="utf-8") as file:
            read = [{name: value or None for name, value in row.items()} for row in csv.DictReader(file)]
        read[0] |= {name: json.loads(read[0][name]) for name in ("alternatives", "words")}
    assert read[0] == {"id": "a.png", "text": 'a "b"', "alternatives": want, "words": words}
    assert read[1] == {"id": "b.png", "text": None, "alternatives": None, "words": None}


def test_parquet_is_written_in_groups(tmp_path):
    rows = [Row(str(i), "text", -0.5, False) for i in range(PARQUET_ROWS * 2 + 3)]
    path = write(tmp_path / "rows.parquet", "parquet", rows)
    assert parquet.ParquetFile(path).num_row_groups == 3
    assert parquet.read_table(path).column("id").to_pylist() == [row.id for row in rows]


@pytest.mark.parametrize("format", ["txt", "jsonl", "csv", "parquet"])
def test_lone_surrogates_are_written_as_escapes(tmp_path, format):
    path = write(tmp_path / "rows", format, [Row("caf\udce9.png", "a\ud800", 0.0, False, "caf\udce9.png: bad")])
    assert b"caf\\udce9.png" in path.read_bytes().replace(b"\\\\", b"\\") or format == "txt"


def test_parquet_without_pyarrow_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(OutputError, match=r"pip install trocr-jax\[parquet\]"):
        write(tmp_path / "rows.parquet", "parquet", SAMPLE)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("format", ["txt", "jsonl", "csv", "parquet"])
@pytest.mark.parametrize("before", [None, "old"])
def test_after_an_exception_nothing_has_changed(tmp_path, format, before):
    path = tmp_path / "rows"
    if before:
        path.write_text(before)

    def fail() -> None:
        with open_rows(str(path), format) as put:
            put(SAMPLE[0])
            assert not path.exists() or path.read_text() == before
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (path.read_text() if before else os.listdir(tmp_path)) == (before or [])
    assert len(os.listdir(tmp_path)) == (1 if before else 0)


def test_an_output_that_is_an_input_is_refused(tmp_path, capsys, monkeypatch):
    image, link = tmp_path / "a.png", tmp_path / "b.png"
    image.write_bytes(Path("samples/line_1.png").read_bytes())
    link.symlink_to(image)
    before = image.read_bytes()
    assert main(["transcribe", str(tmp_path), "--output", str(link)]) == 2
    assert "b.png: is one of the inputs; give another name to --output" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"samples/line_1.png\n{image}\n".encode())))
    assert main(["transcribe", "-", "--output", str(image)]) == 2
    assert "a.png: is one of the inputs" in capsys.readouterr().err
    assert image.read_bytes() == before


def test_permissions_are_the_usual_ones_or_those_of_the_file_before(tmp_path):
    mask = os.umask(0o027)
    try:
        path = write(tmp_path / "rows.txt", "txt", SAMPLE)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o604)
    write(path, "txt", SAMPLE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.txt").symlink_to("real/rows.txt")
    write(tmp_path / "link.txt", "txt", SAMPLE)
    assert (tmp_path / "link.txt").is_symlink()
    assert len((tmp_path / "real/rows.txt").read_text().splitlines()) == 3


def test_a_pipe_is_written_and_not_replaced(tmp_path):
    path, read = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()))
    reader.start()
    write(path, "txt", SAMPLE)
    reader.join()
    assert read == [b'say "hi", you\n\n\n']
    assert stat.S_ISFIFO(path.stat().st_mode)


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="no /dev/fd here")
def test_a_pipe_without_a_name_is_written():
    """As a shell gives one for >(...), and /dev/stdout before a |."""
    reading, writing = os.pipe()
    try:
        write(Path(f"/dev/fd/{writing}"), "txt", SAMPLE)
        assert os.read(reading, 99) == b'say "hi", you\n\n\n'
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_named():
    with pytest.raises(OutputError, match="/dev/full: cannot be written"):
        write(Path("/dev/full"), "jsonl", SAMPLE)


def test_a_replaced_link_leaves_what_it_points_to(tmp_path: Path):
    (tmp_path / "blob").write_text("of other revisions too")
    link = tmp_path / "file.json"
    link.symlink_to("blob")
    replace_file(link, b"new")
    assert link.read_text() == "new"
    assert not link.is_symlink()
    assert stat.S_IMODE(link.stat().st_mode) == 0o644
    assert (tmp_path / "blob").read_text() == "of other revisions too"
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="folder: cannot be written"):
        replace_file(tmp_path / "folder", b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blob", "file.json", "folder"]


def test_a_file_is_on_the_disk_before_it_takes_its_place_and_its_owners_alone_till_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda file: done.append("fsync"))
    change, replace = os.fchmod, os.replace
    modes: list[int] = []

    def fchmod(file: int, mode: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(file).st_mode))
        change(file, mode)

    monkeypatch.setattr(os, "fchmod", fchmod)

    def placed(*paths: Path) -> None:
        done.append("replace")
        replace(*paths)

    monkeypatch.setattr(os, "replace", placed)
    replace_file(tmp_path / "x", b"abc")
    assert done == ["fsync", "replace"]
    assert modes == [0o600]
    assert (tmp_path / "x").read_bytes() == b"abc"


def test_an_output_is_an_input_by_whatever_spelling(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    for name, output in (("link.png", "a.png"), ("a.png", "link.png"), ("../" + tmp_path.name + "/a.png", "a.png")):
        with pytest.raises(OutputError, match="is one of the inputs"):
            list(_spared(iter([Input(str(tmp_path / name), None)]), str(tmp_path / output)))
