"""Data sets in the layouts in which people have them: built, read back, and refused with what is missing."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from train.data import records
from train.data.__main__ import main
from train.data.build import Built, _ArrayRecords, build
from train.data.builders import DATASETS, Folder, SceneText
from train.data.checks import TextLimit
from train.data.line import DataError
from trocr_jax.datasets.base import Bad, Dataset, Record, read_text, rows_of
from trocr_jax.tokenizer import character_tokenizer


def picture(*, width: int = 40, height: int = 16, value: int = 200, mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height), value if mode == "L" else (value, 0, 255 - value)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def quarantine(built: Built) -> dict[str, str]:
    rows = [json.loads(row) for row in built.report.read_text().splitlines()]
    return {row["id"]: row["reason"] for row in rows}


def texts(built: Built, split: str) -> list[str]:
    source = records.open(built.folder, split)
    return [source[i].text for i in range(len(source))]


# --- a folder: the checks that all data sets share ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(5):
        write(tmp_path / "in" / f"{number}.png", picture(value=40 * number, mode="RGB" if number == 4 else "L"))
    rows = ["0.png\tzero", "1.png\t e\u0301t\u00e9  1 ", '2.png\tsays "two"', "3.png\tthree", "4.png\tfour, in colour"]
    write(tmp_path / "in/train.tsv", "\n".join(rows) + "\n")
    return tmp_path


def test_a_folder_is_written_and_read_back(folder: Path) -> None:
    built = build(Folder(source=folder / "in"), folder / "out")
    assert built.written == {"train": 5}
    assert built.quarantined == {"train": 0}
    source = records.open(folder / "out", "train")
    assert texts(built, "train") == ["zero", "été 1", 'says "two"', "three", "four, in colour"]
    assert source.record(3).image == (folder / "in/3.png").read_bytes()
    assert source.record(3).id == "3.png"
    np.testing.assert_array_equal(source[3].image, np.full((16, 40), 120, np.uint8))
    assert source[4].image.shape == (16, 40, 3)
    again = pickle.loads(pickle.dumps(source))
    assert again[1].text == "été 1"
    with pytest.raises(IndexError, match="record 5 of 5"):
        source[5]
    with pytest.raises(DataError, match="no split 'test'; it has train"):
        records.open(built.folder, "test")
    with pytest.raises(DataError, match="was built before"):
        build(Folder(source=folder / "in"), folder / "out")


def test_nothing_is_left_of_a_build_that_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.move", full)
        with pytest.raises(DataError, match=r"No space left on device\); it was removed"):
            build(Folder(source=folder / "in"), folder / "out")
    (folder / "out" / "folder").rmdir()
    (folder / "out").rmdir()  # there is nothing in it
    with pytest.raises(DataError, match="no record can be used"):
        build(Folder(source=folder / "in"), folder / "out", limit=TextLimit(1))
    assert not (folder / "out").exists()
    assert build(Folder(source=folder / "in"), folder / "out").written == {"train": 5}
    assert [path.name for path in (folder / "out").iterdir()] == ["folder"]


def test_bad_records_are_listed_and_the_rest_is_kept(folder: Path) -> None:
    write(folder / "in/cut.png", picture()[:40])
    write(folder / "in/thin.png", picture(height=2))
    with (folder / "in/train.tsv").open("a") as file:
        for name, text in {
            "cut.png": "a", "thin.png": "a", "gone.png": "a", "0.png": "again", "1.png": " ",
        }.items():  # fmt: skip
            file.write(f"{name}\t{text}\n")
        file.write("empty.png\t \nodd.png\tbell \x07\nlong.png\t" + "x" * 20 + "\n")
    built = build(Folder(source=folder / "in"), folder / "out", limit=TextLimit(16))
    assert built.written == {"train": 5}
    assert built.quarantined == {"train": 8}
    reasons = quarantine(built)
    assert "not an image" in reasons["cut.png"] or "cannot be decoded" in reasons["cut.png"]
    assert "40 x 2 pixels" in reasons["thin.png"]
    assert "No such file" in reasons["gone.png"]
    assert reasons["0.png"] == reasons["1.png"] == "its id came before"
    assert reasons["empty.png"] == "its text is empty"
    assert "U+0007" in reasons["odd.png"]
    assert "20 characters, more than 16" in reasons["long.png"]
    details = json.loads((built.folder / "build.json").read_text())
    assert details["splits"]["train"]["quarantined"] == 8
    assert details["splits"]["train"]["longest"] == 15


def test_a_tokenizer_measures_and_refuses(folder: Path) -> None:
    limit = TextLimit(6, character_tokenizer("zerothfu ,in"), "toy")
    built = build(Folder(source=folder / "in"), folder / "out", limit=limit)
    reasons = quarantine(built)
    assert texts(built, "train") == ["zero", "three"]  # five characters and the end token
    assert "no token for ['1', 'é']" in reasons["1.png"]
    assert set(reasons) == {"1.png", "2.png", "4.png"}
    assert "no token for ['c', 'l']" in reasons["4.png"]


def test_equal_data_have_equal_fingerprints_and_others_do_not(folder: Path) -> None:
    prints = [records.open(build(Folder(source=folder / "in"), folder / f"out{i}").folder, "train") for i in range(2)]
    assert prints[0].fingerprint() == prints[1].fingerprint()
    write(folder / "in/2.png", picture(value=81))
    changed = records.open(build(Folder(source=folder / "in"), folder / "out2").folder, "train").fingerprint()
    assert changed["records"] == 5
    assert changed != prints[0].fingerprint()


def test_damage_to_a_built_data_set_is_noticed(folder: Path) -> None:
    built = build(Folder(source=folder / "in"), folder / "out")
    shard = next(built.folder.glob("*.array_record-*"))
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=rf"{shard.name}: missing or damaged \(it is cut off\)"):
        records.open(built.folder, "train")
    picture = content.rindex(b"\x89PNG")
    shard.write_bytes(content[:picture] + bytes([content[picture] ^ 1]) + content[picture + 1 :])
    opened = records.open(built.folder, "train")
    assert all(opened.record(index).text for index in range(len(opened) - 1))
    with pytest.raises(DataError, match=rf"record {len(opened) - 1} of train: damaged \(.*; build the data set again"):
        opened.record(len(opened) - 1)
    shard.unlink()
    with pytest.raises(DataError, match=rf"{shard.name}: missing or damaged"):
        records.open(built.folder, "train")
    shard.write_bytes(content)
    (features := built.folder / "features.json").rename(features.with_suffix(".gone"))
    with pytest.raises(DataError, match="cannot be opened"):
        records.open(built.folder, "train")
    (built.folder / "build.json").write_text("{")
    with pytest.raises(DataError, match="build the data set again"):
        records.open(built.folder, "train")
    with pytest.raises(DataError, match="python -m train data build"):
        records.open(folder / "in", "train")


@pytest.mark.parametrize(
    ("name", "content", "split", "expected"),
    [
        ("test.jsonl", '{"file_name": "0.png", "text": "a b", "writer": "w7"}\n\n', "test", ["a b"]),
        ("manifest.csv", 'text,image\n"a, ""b""",0.png\n', "train", ['a, "b"']),
        ("labels.tsv", "image\ttext\tpage\n0.png\tx\tp1\n", "train", ["x"]),
    ],
)
def test_lists_are_read_in_every_form(tmp_path: Path, name: str, content: str, split: str, expected: list[str]) -> None:
    write(tmp_path / "0.png", picture())
    write(tmp_path / name, content)
    assert texts(build(Folder(source=tmp_path), tmp_path / "out"), split) == expected


@pytest.mark.parametrize("name", ["train.tsv", "train.csv"])
def test_a_row_with_more_columns_than_the_header_is_bad(tmp_path: Path, name: str) -> None:
    rows = ["image,text", "0.png,a", "1.png,b, c", "2.png"]
    write(tmp_path / name, "\n".join(rows).replace(",", "\t" if name == "train.tsv" else ","))
    good, long, short = Folder(source=tmp_path).records()["train"]
    assert isinstance(good, Record)
    assert good.text == "a"
    advice = "a text holds no tab" if name == "train.tsv" else "put a text with a comma into quotation marks"
    assert long == Bad(f"{name}:3", f"3 columns, and the header has 2; {advice}")
    assert isinstance(short, Bad)
    assert "no text in" in short.reason


def test_a_text_in_json_that_is_no_string_is_told_as_such(tmp_path: Path) -> None:
    rows = [{"image": "0.png", "text": text} for text in (1234, 1.5, True, ["a"], None)] + [{"image": 7, "text": "a"}]
    write(tmp_path / "train.jsonl", "\n".join(map(json.dumps, rows)))
    found = list(Folder(source=tmp_path).records()["train"])
    assert found == [
        Bad("train.jsonl:1", 'the text is 1234 without quotation marks; write "1234"'),
        Bad("train.jsonl:2", 'the text is 1.5 without quotation marks; write "1.5"'),
        Bad("train.jsonl:3", 'the text is true without quotation marks; write "true"'),
        Bad("train.jsonl:4", 'the text is ["a"]; write it as one string in quotation marks'),
        Bad("train.jsonl:5", "no text in ['image', 'text']"),
        Bad("train.jsonl:6", 'the picture is 7 without quotation marks; write "7"'),
    ]


def test_zero_names_a_line_a_writer_and_a_page_too(tmp_path: Path) -> None:
    rows = [{"id": value, "image": "0.png", "text": "a", "writer": value, "page": value} for value in (0, "", None)]
    write(tmp_path / "train.jsonl", "\n".join(map(json.dumps, rows)))
    fields = [(r.id, r.writer, r.page) for r in Folder(source=tmp_path).records()["train"] if isinstance(r, Record)]
    assert fields == [("0", "0", "0"), ("0.png", "", ""), ("0.png", "", "")]


ENDS = "a\u2028b\u0085c\x0cd"  # str.splitlines divides it


def test_rows_end_at_newlines_alone(tmp_path: Path) -> None:
    assert [rows_of(text) for text in ("", "\n", "a", "a\n", "a\n\nb\n")] == [[], [""], ["a"], ["a"], ["a", "", "b"]]
    write(tmp_path / "text", f"{ENDS}\r\nb\rc\n".encode())
    assert rows_of(read_text(tmp_path / "text")) == [ENDS, "b", "c"]
    write(tmp_path / "in/train.tsv", f"0.png\t{ENDS}\r\n1.png\tx\r\n".encode())
    write(tmp_path / "in/test.jsonl", f'{{"image": "0.png", "text": "{ENDS}"}}\n'.replace("\x0c", "").encode())
    found = {split: list(own) for split, own in Folder(source=tmp_path / "in").records().items()}
    assert [r.text for r in found["train"]] == [ENDS, "x"]  # type: ignore[union-attr]
    assert [r.text for r in found["test"]] == [ENDS.replace("\x0c", "")]  # type: ignore[union-attr]
    write(tmp_path / "sets/svt/gt.txt", f"1.png\t{ENDS}\n2.png {ENDS}\n".encode())
    dataset = SceneText(source=tmp_path / "sets", partial=True)
    assert dataset.published() == {"words of svt": (2, 647)}
    assert [r.text for r in dataset.records()["svt"]] == [ENDS, ENDS]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.jsonl", "{oops", r"train.jsonl:1: not JSON"),
        ("train.tsv", "0.png a\n", r"train.tsv:1: 1 columns .* begin with a header that names them, image and text"),
        ("train.tsv", "0.png\t \n", r"split train: no record can be used; 1 were left out:\n  - 1 x its text is empty"),
        ("train.csv", b"0.png,\xff\n", r"train.csv: byte 6 is not UTF-8"),
    ],
)
def test_lists_that_cannot_be_used_leave_nothing_behind(tmp_path: Path, name: str, content: Any, message: str) -> None:
    write(tmp_path / name, content)
    with pytest.raises(DataError, match=message):
        build(Folder(source=tmp_path), tmp_path / "out")
    assert not list(tmp_path.rglob("*.array_record*"))


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "synthetic"])
def test_an_empty_source_is_told_what_to_put_there(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["build", name, "--source", str(tmp_path), "--output", str(tmp_path / "out")]
    assert main(arguments) == 1
    assert f"{name} is not complete; missing:\n  - " in capsys.readouterr().err
    arguments[3] = str(tmp_path / "nowhere")
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert "not a folder" in said
    assert DATASETS[name].where in said


def test_the_command_line_builds_and_counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "build",
        "folder",
        "--source",
        str(folder / "in"),
        "--output",
        str(folder / "out"),
        "--max-length",
        "8",
    ]
    assert main([*arguments, "--tokenizer", "tiny-printed"]) == 0
    assert "train: 3 records, 2 left out" in capsys.readouterr().out
    assert main(["build", "nothing"]) == 2
    assert "iam,sroie" in capsys.readouterr().err


def test_counts_on_disk_are_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.data.build.open_split", lambda *_: range(4))
    with pytest.raises(DataError, match=r"5\} records were written and .*4\} are on disk"):
        build(Folder(source=folder / "in"), folder / "out")
    assert not list((folder / "out").rglob("*.array_record*"))


def test_a_stop_while_counts_are_checked_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise SystemExit(143)

    monkeypatch.setattr("train.data.build.open_split", stopped)
    with pytest.raises(SystemExit):
        build(Folder(source=folder / "in"), folder / "out")
    assert not (folder / "out/folder/1.0.0").exists()


def test_every_data_set_says_where_its_files_come_from() -> None:
    kinds: list[type[Dataset]] = list(DATASETS.values())
    assert len({kind.name for kind in kinds}) == len(kinds) == 9
    assert all(kind.where.endswith(".") for kind in kinds)


def test_a_quotation_mark_that_is_never_closed_is_told(tmp_path):
    (tmp_path / "train.csv").write_text('image,text\n1.png,"Yes, he said\n2.png,plain\n', encoding="utf-8")
    with pytest.raises(DataError, match="cannot be divided into columns"):
        list(Folder(source=tmp_path).records()["train"])


def test_other_texts_have_another_fingerprint(tmp_path: Path) -> None:
    """Of as many records with the same pictures, and as many characters: also where one moves to its neighbour."""
    found = set[str]()
    for number, said in enumerate(("ab\tc", "ac\tb", "a\tbc")):
        source = tmp_path / str(number)
        for name in ("1.png", "2.png"):
            write(source / name, picture())
        write(
            source / "train.tsv",
            "".join(f"{name}.png\t{text}\n" for name, text in zip("12", said.split("\t"), strict=True)),
        )
        built = build(Folder(source=source), tmp_path / f"built-{number}")
        found.add(json.loads((built.folder / records.BUILD).read_text())["splits"]["train"]["sha256"])
    assert len(found) == 3


def built(folder: Path, limit: TextLimit | None = None, **row: str) -> Any:
    write(folder / "in/0.png", picture())
    write(folder / "in/train.jsonl", json.dumps({"image": "0.png", "text": "a", **row}))
    return records.open(build(Folder(source=folder / "in"), folder / "out", limit=limit).folder, "train")


def test_fingerprints_know_where_a_field_ends(tmp_path: Path) -> None:
    rows = [{"text": "a", "writer": "bc", "page": "d"}, {"text": "ab", "writer": "c", "page": "d"},
            {"text": "a", "writer": "b", "page": "cd"}]  # fmt: skip
    assert len({built(tmp_path / str(i), None, **row).fingerprint()["sha256"] for i, row in enumerate(rows)}) == 3


def test_a_build_keeps_by_what_its_texts_were_measured(tmp_path: Path) -> None:
    tokenizer = character_tokenizer("abe\u0301\u00e9 ")
    source = built(tmp_path, TextLimit(9, tokenizer, "toy"), text="a  e\u0301")
    assert source.built_within(TextLimit(9, tokenizer, "toy"))
    assert source.built_within(TextLimit(10, tokenizer, "toy"))
    assert not source.built_within(TextLimit(8, tokenizer, "toy"))
    assert not source.built_within(TextLimit(9, tokenizer, "other"))


def test_a_disk_that_is_full_while_records_are_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to write: No space left on device")

    monkeypatch.setattr(_ArrayRecords, "download_and_prepare", full)
    with pytest.raises(DataError, match=r"out: cannot be written .*; the disk is full"):
        built(tmp_path)


@pytest.mark.parametrize("field", ["image", "writer", "page"])
def test_a_field_that_is_no_valid_unicode_is_left_out_and_listed(tmp_path: Path, field: str) -> None:
    write(tmp_path / "in/0.png", picture())
    write(tmp_path / "in/1.png", picture())
    rows = [{"image": "0.png", "text": "a", field: "x\ud800"}, {"image": "1.png", "text": "b"}]
    write(tmp_path / "in/train.jsonl", "\n".join(map(json.dumps, rows)))
    found = build(Folder(source=tmp_path / "in"), tmp_path / "out")
    assert (found.written, found.quarantined) == ({"train": 1}, {"train": 1})
