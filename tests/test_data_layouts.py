"""Each published layout of a data set: built from files as they are published, and read back."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.test_data_build import picture, quarantine, texts, write
from train.data import records
from train.data.build import build
from train.data.builders import Folder, HuggingFace, Iam, MjSynth, Pages, SceneText, Sroie, SynthText
from train.data.line import DataError
from trocr_jax.datasets.base import Bad, Record
from trocr_jax.datasets.crop import box, cut_line, cut_word, png
from trocr_jax.datasets.pages import parse_page
from trocr_jax.errors import SourceError
from trocr_jax.jobs.sources.arrow import Arrow

END_OF_ARROW = b"\xff\xff\xff\xff\0\0\0\0"  # https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format


def iam(root: Path) -> Iam:
    for line in ("a01-000u-00", "a01-000u-01", "b02-001-00", "c03-002-00"):
        form = line[:-3]
        write(root / "lines" / form[:3] / form / f"{line}.png", picture())
    rows = [
        "#--- lines.txt ---#", "a01-000u-00 ok 154 19 408 746 1661 89 A|MOVE|to|stop",
        "b02-001-00 err 1 1 1 1 1 1 no|,",
        "a01-000u-01 ok 156 19 395 932 1850 105 nominating|any", "c03-002-00 ok 1 1 1 1 1 1 test",
    ]  # fmt: skip
    write(root / "ascii/lines.txt", "\n".join(rows))
    write(root / "ascii/forms.txt", "# forms\na01-000u 000 2 prt 7 5 52 36\n")
    write(root / "splits/tr.lst", "a01-000u-00\na01-000u-01\na01-000u-02\n")
    write(root / "splits/va.lst", "b02-001-00\n")
    write(root / "splits/te.lst", "c03-002-00\n")
    return Iam(source=root)


def test_iam(tmp_path: Path) -> None:
    dataset = iam(tmp_path / "in")
    with pytest.raises(DataError, match=r"lines of train: 3 instead of 6161; lines of validation: 1 instead of 966"):
        build(dataset, tmp_path / "out")
    built = build(Iam(source=dataset.source, partial=True), tmp_path / "out")
    assert built.written == {"train": 2, "validation": 1, "test": 1}
    assert texts(built, "train") == ["A MOVE to stop", "nominating any"]
    assert texts(built, "validation") == ["no ,"]
    assert quarantine(built) == {"a01-000u-02": "its text is not in lines.txt"}
    record = records.open(built.folder, "train").record(0)
    assert (record.writer, record.page) == ("000", "a01-000u")


def test_a_text_of_iam_ends_with_its_row(tmp_path: Path) -> None:
    dataset = Iam(source=iam(tmp_path / "in").source, partial=True)
    table = dataset.source / "ascii/lines.txt"
    write(table, table.read_text().replace("any", "any\x0c\u2028more").encode())
    assert [r.text for r in dataset.records()["train"] if isinstance(r, Record)][1] == "nominating any\x0c\u2028more"


def test_iam_from_xml_and_by_the_other_partition(tmp_path: Path) -> None:
    dataset = iam(tmp_path / "in")
    lines = '<line id="a01-000u-00" text="says &amp;quot;A"/><line id="a01-000u-01" text="b"/>'
    write(dataset.source / "xml/a01-000u.xml", f'<form id="a01-000u" writer-id="012"><h>{lines}</h></form>')
    other = Iam(source=dataset.source, partial=True, partition="large-writer-independent")
    with pytest.raises(DataError, match=r"splits/validationset1.txt"):
        other.check()
    for name, line in {"trainset": "a01-000u-00", "validationset1": "a01-000u-01"}.items():
        write(dataset.source / f"splits/{name}.txt", line)
    for name in ("validationset2", "testset"):
        write(dataset.source / f"splits/{name}.txt", "a01-000u-00" if name == "testset" else "b02-001-00")
    with pytest.raises(DataError, match="a01-000u-00 is in both train and test"):
        other.records()
    write(dataset.source / "splits/testset.txt", "c03-002-00")
    found = {split: list(own) for split, own in other.records().items()}
    assert [(r.text, r.writer) for r in found["train"]] == [('says "A', "012")]  # type: ignore[union-attr]
    assert other.note()["text"] == "xml"
    write(dataset.source / "splits/trainset.txt", "a01-000u\n")
    with pytest.raises(DataError, match="'a01-000u' is not the id of a line"):
        other.check()
    write(dataset.source / "splits/trainset.txt", "a01-000u-00")
    write(dataset.source / "xml/a01-000u.xml", '<?xml version="1.0" encoding="foo-1"?><form/>')
    with pytest.raises(DataError, match=r"a01-000u.xml: not XML .unknown encoding"):
        other.records()


@pytest.mark.parametrize("dataset", [Iam, Sroie])
def test_a_split_that_there_is_not(dataset: type[Iam | Sroie], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--only trian: no such split; there are train, "):
        build(dataset(source=tmp_path, only=("train", "trian")), tmp_path / "out")


def test_sroie(tmp_path: Path) -> None:
    page = Image.new("RGB", (100, 60), "white")
    page.paste((10, 20, 30), (10, 5, 50, 25))
    for split in ("train", "test"):
        buffer = io.BytesIO()
        page.save(buffer, "PNG")
        write(tmp_path / f"in/{split}/img/X1.png", buffer.getvalue())
    write(
        tmp_path / "in/train/box/X1.txt",
        "10,5,50,5,50,25,10,25,TOTAL: 1,000\n1,2,3\n200,5,240,5,240,25,200,25,off\n"
        "nan,5,50,5,50,25,10,25,a\n10,inf,50,5,50,25,10,25,b\n10,5,9e5,8e5,8e5,9e5,10,25,c\n",
    )
    with pytest.raises(DataError, match=r"test/box/\*.txt"):
        Sroie(source=tmp_path / "in").check()
    write(tmp_path / "in/test/box/X1.txt", b"0,0,20,0,20,20,0,20,CAF\xc9\r\n")
    with pytest.raises(DataError, match="receipts of train: 1 instead of 626"):
        Sroie(source=tmp_path / "in").check()
    built = build(Sroie(source=tmp_path / "in", partial=True), tmp_path / "out")
    source = records.open(built.folder, "train")
    assert source[0].text == "TOTAL: 1,000"
    assert np.array_equal(source[0].image, np.broadcast_to(np.array([10, 20, 30], np.uint8), (20, 40, 3)))
    assert texts(built, "test") == ["CAFÉ"]
    assert set(quarantine(built)) == {"X1-002", "X1-003", "X1-004", "X1-005", "X1-006"}
    assert "are far from the page" in quarantine(built)["X1-006"]


@pytest.mark.parametrize(("encoding", "text"), [("latin-1", "CAF\xc9 \x85\x0c!"), ("utf-8-sig", "CAF\xc9 \u2028\x85!")])
def test_a_row_of_sroie_ends_at_a_newline_alone(tmp_path: Path, encoding: str, text: str) -> None:
    write(tmp_path / "test/img/X1.png", picture())
    write(tmp_path / "test/box/X1.txt", f"0,0,9,0,9,9,0,9,{text}\r\n0,0,9,0,9,9,0,9,b\n\n".encode(encoding))
    found = list(Sroie(source=tmp_path, only=("test",), partial=True).records()["test"])
    assert [r.text for r in found] == [text, "b"]  # type: ignore[union-attr]


def test_mjsynth(tmp_path: Path) -> None:
    root = tmp_path / "in/mnt/ramdisk/max/90kDICT32px"
    write(root / "lexicon.txt", "apple\nlube\n")
    for split, rows in {
        "train": "./1/1/1_Lube_1.jpg 1\n./1/1/2_Lube_0.jpg 0\n",
        "val": "./1/1/3_APPLE_0.jpg 0\n",
    }.items():
        write(root / f"annotation_{split}.txt", rows)
    write(root / "1/1/1_Lube_1.jpg", picture())
    write(root / "1/1/3_APPLE_0.jpg", picture())
    with pytest.raises(DataError, match=r"missing:\n  - annotation_test.txt\n"):
        MjSynth(source=tmp_path / "in").check()
    write(root / "annotation_test.txt", "./1/1/3_APPLE_0.jpg 0\n./1/1/1_Lube_1.jpg 9\n")
    with pytest.raises(DataError, match=r"words of train: 2 instead of 7224612"):
        MjSynth(source=tmp_path / "in").check()
    built = build(MjSynth(source=tmp_path / "in", partial=True), tmp_path / "out")
    assert texts(built, "train") == ["Lube"]
    assert texts(built, "test") == ["APPLE"]
    reasons = quarantine(built)
    assert "says 'Lube', the lexicon 'apple'" in reasons["1/1/2_Lube_0.jpg"]
    assert "annotation_test.txt:2" in reasons


def test_synthtext(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    page = np.zeros((60, 100, 3), np.uint8)
    page[10:30, 20:60] = (200, 100, 50)
    Image.fromarray(page).save(tmp_path / "p.png")
    upright = np.array([[20, 60, 60, 20], [10, 10, 30, 30]], np.float64)
    askew = np.array([[20, 50, 45, 15], [10, 20, 35, 25]], np.float64)
    names, boxes, words = (np.empty((1, 2), object) for _ in range(3))
    for i, name in enumerate(("p.png", "gone.png")):
        names[0, i] = name
        boxes[0, i] = np.stack([upright, askew], axis=-1) if i == 0 else upright
        words[0, i] = np.array(["one\n two "]) if i == 0 else np.array(["x"])
    scipy_io.savemat(tmp_path / "gt.mat", {"imnames": names, "wordBB": boxes, "txt": words})
    with pytest.raises(DataError, match="2 photographs instead of 858750"):
        build(SynthText(source=tmp_path), tmp_path / "out")
    built = build(SynthText(source=tmp_path, partial=True), tmp_path / "out")
    assert texts(built, "train") == ["one", "two"]
    source = records.open(built.folder, "train")
    assert (source[0].image == (200, 100, 50)).all()
    assert source[0].image.shape == (20, 40, 3)
    assert source[1].image.shape == (16, 32, 3)  # the sides of the slanted word
    assert "gone.png" in quarantine(built)
    write(tmp_path / "gt.mat", b"MATLAB")
    with pytest.raises(DataError, match=r"gt.mat: cannot be read"):
        build(SynthText(source=tmp_path, partial=True), tmp_path / "other")


def test_scene_text_from_lists(tmp_path: Path) -> None:
    write(tmp_path / "in/CUTE80/image/1.png", picture())
    write(tmp_path / "in/CUTE80/gt.txt", "image/1.png RONALDO\n")
    write(tmp_path / "in/IC15/gt.txt", '\ufeffw_1.png, "Genaxis, Theatre"\nbad\n')
    write(tmp_path / "in/IC15/w_1.png", picture())
    with pytest.raises(DataError, match="words of cute80: 1 instead of 288"):
        build(SceneText(source=tmp_path / "in"), tmp_path / "out")
    built = build(SceneText(source=tmp_path / "in", partial=True), tmp_path / "out")
    assert texts(built, "cute80") == ["RONALDO"]
    assert texts(built, "ic15") == ["Genaxis, Theatre"]
    assert list(quarantine(built)) == ["gt.txt:2"]


@pytest.mark.parametrize(
    ("row", "image", "text"),
    [
        ('a.png\t12"', "a.png", '12"'),
        ('a.png\t"12"', "a.png", '"12"'),
        ("my img.png\thello", "my img.png", "hello"),
        ("a.png\ta, b\tc", "a.png", "a, b\tc"),
        ('a.png, "12\\""', "a.png", '12"'),
        ('a.png, 12"', "a.png", '12"'),
        ('a.png "12', "a.png", '"12'),
        ('a.png "', "a.png", '"'),
        ('a.png,"Genaxis, Theatre" ', "a.png", "Genaxis, Theatre"),
    ],
)
def test_a_row_of_scene_text(tmp_path: Path, row: str, image: str, text: str) -> None:
    write(tmp_path / "svt/gt.txt", f"{row}\n\tno picture\n")
    assert list(SceneText(source=tmp_path).records()["svt"]) == [
        Record(image, text, tmp_path / "svt" / image),
        Bad("gt.txt:2", "not a picture and its text: '\\tno picture'"),
    ]


def test_scene_text_from_lmdb(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    (tmp_path / "in/SVT").mkdir(parents=True)
    with lmdb.open(str(tmp_path / "in/SVT"), map_size=1 << 20) as environment, environment.begin(write=True) as data:
        data.put(b"num-samples", b"3")
        data.put(b"image-000000001", picture())
        data.put(b"label-000000001", b"word")
        data.put(b"image-000000002", b"broken")
        data.put(b"label-000000002", b"x")
    with pytest.raises(DataError, match="words of svt: 3 instead of 647"):
        build(SceneText(source=tmp_path / "in"), tmp_path / "out")
    built = build(SceneText(source=tmp_path / "in", partial=True), tmp_path / "out")
    assert texts(built, "svt") == ["word"]
    assert set(quarantine(built)) == {"000000002", "000000003"}


def test_hugging_face_parquet_and_saved_to_disk(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"bytes": picture(), "path": "1.png"}, {"bytes": None, "path": None}]
    table = pyarrow.table({"image": rows, "text": ["one", "two"]})
    (tmp_path / "in/data").mkdir(parents=True)
    for shard in range(2):
        parquet.write_table(table, tmp_path / f"in/data/train-{shard:05}-of-00002.parquet")
    built = build(HuggingFace(source=tmp_path / "in"), tmp_path / "out")
    assert texts(built, "train") == ["one", "one"]
    assert set(quarantine(built)) == {"train-00000001", "train-00000003"}
    with pytest.raises(DataError, match=r"no column 'line' among \['image', 'text'\]; name it with --text-column"):
        build(HuggingFace(source=tmp_path / "in", text_column="line"), tmp_path / "other")

    saved = tmp_path / "saved/test"
    saved.mkdir(parents=True)
    raw = pyarrow.table({"image": [picture()], "line": ["three"]})
    path = str(saved / "data-00000-of-00001.arrow")
    with pyarrow.OSFile(path, "wb") as file, pyarrow.ipc.new_stream(file, raw.schema) as writer:
        writer.write_table(raw)
    built = build(HuggingFace(source=tmp_path / "saved", text_column="line"), tmp_path / "arrow")
    assert texts(built, "test") == ["three"]
    for content, said in ((b"nothing", "is cut off"), (b"nothing" + END_OF_ARROW, "cannot be read")):
        write(saved / "data-00000-of-00001.arrow", content)
        with pytest.raises(DataError, match=rf"arrow: {said}"):
            build(HuggingFace(source=tmp_path / "saved", text_column="line"), tmp_path / "broken")


def test_what_hugging_face_left_out_or_left_behind(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def table(*lines: str) -> Any:
        numbers = range(len(lines))
        columns = {"image": [picture()] * len(lines), "text": list(lines), "id": numbers, "writer": numbers}
        return pyarrow.table(columns)

    def saved(name: str, *batches: str) -> Path:
        path = tmp_path / "saved" / name
        path.parent.mkdir(exist_ok=True)
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table("x").schema) as stream:
            for line in batches:
                stream.write_table(table(line))
        return path

    for number in range(3):
        saved(f"data-{number:05}-of-00003.arrow", "before")
    path = saved("data-00000-of-00001.arrow", "one", "two")
    write(tmp_path / "saved/state.json", b'{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    dataset = HuggingFace(source=tmp_path / "saved")
    assert [record.text for record in dataset.records()["train"] if isinstance(record, Record)] == ["one", "two"]
    content = path.read_bytes()
    end_of_first = len(saved("data-00000-of-00001.arrow", "one").read_bytes()) - len(END_OF_ARROW)
    for cut in (end_of_first, len(content) - 4):
        path.write_bytes(content[:cut])
        with pytest.raises(DataError, match=r"data-00000-of-00001\.arrow: is cut off, its end is missing"):
            build(dataset, tmp_path / "cut")
        with pytest.raises(SourceError, match=r"data-00000-of-00001\.arrow: is cut off, its end is missing"):
            list(Arrow((str(tmp_path / "saved"),)).inputs())

    path.unlink()  # the only one that state.json names
    for left in (tmp_path / "saved").glob("*.arrow"):
        left.unlink()
    with pytest.raises(DataError, match=r"data-00000-of-00001\.arrow: is missing, which state\.json names"):
        build(dataset, tmp_path / "lost")
    (tmp_path / "saved/state.json").unlink()
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_file(file, table("x").schema) as writer:
        writer.write_table(table("one"))
    with pytest.raises(DataError, match=r"data-00000-of-00001\.arrow: is in Arrow's file format; save it with"):
        build(dataset, tmp_path / "format")

    (shards := tmp_path / "in/data").mkdir(parents=True)
    for number in (0, 2):
        parquet.write_table(table("a", "b"), shards / f"train-{number:05}-of-00003-abc.parquet")
    dataset = HuggingFace(source=tmp_path / "in")
    with pytest.raises(DataError, match=r"missing:\n  - .*data/train-00001-of-00003\.parquet, or --partial\n"):
        build(dataset, tmp_path / "out")
    parquet.write_table(table("a"), shards / "train-00001-of-00003-abc.parquet")
    found = [record for record in dataset.records()["train"] if isinstance(record, Record)]
    for field in ("id", "writer"):
        assert [getattr(record, field) for record in found] == ["0", "1", "0", "0", "1"]  # 0 is one too
    (shards / "train-00001-of-00003-abc.parquet").unlink()
    part = HuggingFace(source=tmp_path / "in", partial=True)
    part.check()
    assert len(list(part.records()["train"])) == 4
    for other in ("train-00000-of-00003-def.parquet", "train-00000-of-00003.parquet", "train-00000-of-00001.parquet"):
        parquet.write_table(table("before"), shards / other)
        with pytest.raises(DataError, match=rf"which of two data sets .*train\* is, of .*{other}"):
            build(part, tmp_path / "out")
        (shards / other).unlink()
    assert not (tmp_path / "out").exists()


PAGE = """<PcGts xmlns="http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15">
<Page imageFilename="scans/p1.png">
<TextRegion><TextLine id="l1"><Coords points="10,10 49,10 49,29 10,29"/><TextEquiv><Unicode>first</Unicode></TextEquiv>
<TextEquiv><Unicode>other reading</Unicode></TextEquiv></TextLine>
<TextLine id="l2"><Coords points="10,40 60,40 10,70"/><TextEquiv><Unicode>second</Unicode></TextEquiv></TextLine>
<TextLine id="l3"><Baseline points="10,80 90,80"/><TextEquiv><Unicode>third</Unicode></TextEquiv></TextLine>
<TextLine id="l4"><Coords points="500,10 549,10 549,29"/><TextEquiv><Unicode>outside</Unicode></TextEquiv></TextLine>
<TextLine id="l5"><Coords points="10,10 49,10 49,29"/></TextLine></TextRegion></Page></PcGts>"""
ALTO = """<alto xmlns="http://www.loc.gov/standards/alto/ns-v4#"><Description><MeasurementUnit>pixel</MeasurementUnit>
<sourceImageInformation><fileName>gone.png</fileName></sourceImageInformation></Description><Layout><Page><PrintSpace>
<TextBlock><TextLine ID="t1" HPOS="10" VPOS="10" WIDTH="40" HEIGHT="20"><String CONTENT="two"/><SP/><String
CONTENT="wor"/><HYP CONTENT="-"/></TextLine></TextBlock></PrintSpace></Page></Layout></alto>"""


def test_strings_of_alto_without_a_space_between_are_words() -> None:
    parts = ("a", "b", "<SP/>", "c", "<HYP/>", "d")
    line = "".join(part if part.startswith("<") else f'<String CONTENT="{part}"/>' for part in parts)
    xml = f"<alto><TextLine>{line}</TextLine></alto>"
    assert [line.text for line in parse_page(xml.encode())[1]] == ["a b c-d"]


def test_pages(tmp_path: Path) -> None:
    page = np.full((100, 100), 220, np.uint8)
    page[10:30, 10:50] = 30
    page[40:71, 10:61] = 60
    page[46:50, 55:61] = 0  # outside the triangle of l2, where another line could be
    Image.fromarray(page).save(tmp_path / "p1.png")
    Image.fromarray(page).save(tmp_path / "p2.png")
    write(tmp_path / "page/p1.xml", PAGE)
    write(tmp_path / "page/p2.xml", ALTO)
    write(tmp_path / "page/p3.xml", "<PcGts><")
    write(tmp_path / "page/p4.xml", ALTO.replace(">pixel<", ">mm10<").replace("gone", "p1"))
    built = build(Pages(source=tmp_path), tmp_path / "out")
    source = records.open(built.folder, "train")
    assert texts(built, "train") == ["first", "second", "two wor-"]
    np.testing.assert_array_equal(source[0].image, np.full((20, 40, 3), 30, np.uint8))
    assert source[1].image.shape == (31, 51, 3)
    assert source[1].image.min() == 60  # what is outside the outline has the colour of the paper
    np.testing.assert_array_equal(source[2].image, source[0].image)
    assert source.record(0).page == "page/p1"
    reasons = quarantine(built)
    assert "no outline" in reasons["page/p1/l3"]
    assert "nothing on the page" in reasons["page/p1/l4"]
    assert reasons["page/p1/l5"] == "its text is empty"
    assert "unclosed token" in reasons["page/p3"]
    assert "its unit is mm10, and its Page has no WIDTH and HEIGHT" in reasons["page/p4"]


def test_pages_whose_picture_has_another_size_are_left_out(tmp_path: Path) -> None:
    for number, size in enumerate(("{}='100' {}='100.6'", "{}='0' {}='x'", "{}='200' {}='200'", "{}='' {}='99'")):
        write(tmp_path / f"p{number}.png", picture(width=100, height=101))
        for kind, xml in (("page", PAGE), ("alto", ALTO)):
            stated = size.format(*{"page": ("imageWidth", "imageHeight"), "alto": ("WIDTH", "HEIGHT")}[kind])
            xml = xml.replace("scans/p1.png", f"p{number}.png").replace("gone.png", f"p{number}.png")
            write(tmp_path / f"{kind}{number}.xml", xml.replace("<Page", f"<Page {stated}"))
    write(tmp_path / "two.xml", ALTO.replace("</Page>", "</Page><Page><TextLine/></Page>"))
    write(tmp_path / "p9.png", picture(width=100, height=300))
    turned = PAGE.replace("scans/p1.png", "p9.png").replace("<Page", "<Page imageWidth='300' imageHeight='100'")
    write(tmp_path / "turned.xml", turned)
    reasons = quarantine(build(Pages(source=tmp_path), tmp_path / "out"))
    why = "its picture is 100 x 101 pixels, the file says {}: give the picture that it was made from"
    pages = {
        name: reason.removesuffix(" (all lines of the page)") for name, reason in reasons.items() if "/" not in name
    }
    assert "without an EXIF orientation" in pages.pop("turned")
    assert pages.pop("two").startswith("has 2 pages with lines; write a file for each page")
    assert pages == {
        f"{kind}{number}": why.format(size)
        for kind in ("alto", "page")
        for number, size in ((2, "200 x 200"), (3, "100 x 99"))
    }


def test_a_coordinate_that_is_no_number_costs_its_line_alone(tmp_path: Path) -> None:
    write(tmp_path / "p1.png", picture(width=100, height=100))
    write(tmp_path / "p2.png", picture(width=100, height=100))
    bad = PAGE.replace("10,40 60,40 10,70", "10,40 inf,40 10,70")
    bad = bad.replace('<Coords points="500,10 549,10 549,29"/>', '<Coords><Point x="4"/></Coords>')
    write(tmp_path / "p1.xml", bad.replace("10,80 90,80", "10,80 90"))
    write(tmp_path / "p2.xml", ALTO.replace('HPOS="10"', 'HPOS="nan"'))
    write(tmp_path / "p3.xml", '<?xml version="1.0" encoding="foo-1"?><PcGts/>')
    write(tmp_path / "p4.png", picture(width=100, height=100))
    write(tmp_path / "p4.xml", ALTO.replace('HPOS="10"', 'HPOS="10,5"').replace('VPOS="10"', 'VPOS="10,5"'))
    built = build(Pages(source=tmp_path), tmp_path / "out")
    assert texts(built, "train") == ["first"]
    reasons = quarantine(built)
    assert [reasons[f"p1/l{n}"] for n in (2, 3, 4)] == [
        "its coordinate 'inf' is no number of pixels",
        "its 3 coordinates are no pairs",
        "its coordinate '?' is no number of pixels",
    ]
    assert reasons["p2/t1"] == "its coordinate 'nan' is no number of pixels"
    assert "p3.xml: is no XML (unknown encoding" in reasons["p3"]
    assert reasons["p4/t1"] == "its coordinate '10,5' is no number of pixels"


def test_lines_with_baselines_alone_are_cut_by_their_distance(tmp_path: Path) -> None:
    lines = "".join(
        f'<TextLine><Baseline points="5,{y} 95,{y}"/><TextEquiv><Unicode>{y}</Unicode></TextEquiv></TextLine>'
        for y in (40, 80)
    )
    write(tmp_path / "a.xml", f"<PcGts><Page>{lines}</Page></PcGts>")
    page = np.tile(np.arange(100, dtype=np.uint8)[:, None], (1, 100))
    Image.fromarray(page).save(tmp_path / "a.png")
    source = records.open(build(Pages(source=tmp_path), tmp_path / "out").folder, "train")
    rows = source[0].image[:, 50, 0]
    assert (rows[0], rows[-1]) == (10, 52)  # 0.75 of 40 above, 0.3 below


def quarters() -> Image.Image:
    """Grey levels 0 and 80 above, 160 and 240 below."""
    return Image.fromarray(np.kron(np.array([[0, 80], [160, 240]], np.uint8), np.ones((20, 40), np.uint8)))


def test_a_file_that_cannot_be_read_costs_its_own_lines_alone(tmp_path: Path) -> None:
    Image.new("L", (100, 100), 255).save(tmp_path / "p1.png")
    write(tmp_path / "p1.xml", PAGE)
    write(tmp_path / "test/img/X1.png", picture())
    write(tmp_path / "test/img/X2.png", picture())
    write(tmp_path / "test/box/X2.txt", "0,0,9,0,9,9,0,9,b\n")
    for broken in ("p0.xml", "test/box/X1.txt"):
        (tmp_path / broken).symlink_to("gone")
    bad, *others = Pages(source=tmp_path).records()["train"]
    assert isinstance(bad, Bad)
    assert bad.reason.startswith(f"{tmp_path / 'p0.xml'}: cannot be read (No such file or directory); copy it again")
    assert isinstance(others[0], Record)
    bad, line = Sroie(source=tmp_path, only=("test",), partial=True).records()["test"]
    assert isinstance(bad, Bad)
    assert f"No such file or directory: '{tmp_path / 'test/box/X1.txt'}' (all lines of the receipt)" in bad.reason
    assert isinstance(line, Record)


def test_what_macos_leaves_beside_files_is_none_of_a_data_set(tmp_path: Path) -> None:
    Image.new("L", (100, 100), 255).save(tmp_path / "p1.png")
    write(tmp_path / "p1.xml", PAGE)
    write(tmp_path / "train.tsv", "p1.png\ta\n")
    write(tmp_path / "test/img/X1.png", picture())
    write(tmp_path / "test/box/X1.txt", "0,0,9,0,9,9,0,9,b\n")
    for name in ("._p1.xml", "__MACOSX/._p1.xml", "__MACOSX/p1.xml", "._train.tsv", "test/img/._X1.png", "._a.parquet"):
        write(tmp_path / name, b"\0\5\x16\7")
    pages = {split: list(found) for split, found in Pages(source=tmp_path).records().items()}
    assert pages.keys() == {"train"}
    assert {r.id.partition("/")[0] for r in pages["train"]} == {"p1"}
    assert [r.text for r in Folder(source=tmp_path).records()["train"]] == ["a"]  # type: ignore[union-attr]
    receipts = Sroie(source=tmp_path, only=("test",), partial=True)
    assert not receipts.missing()
    assert [r.text for r in receipts.records()["test"]] == ["b"]  # type: ignore[union-attr]
    assert HuggingFace(source=tmp_path).missing()


def test_names_that_end_in_capitals_are_of_a_data_set_too(tmp_path: Path) -> None:
    Image.new("L", (100, 100), 255).save(tmp_path / "p1.png")
    write(tmp_path / "p0.xml", PAGE)
    write(tmp_path / "p1.XML", PAGE)
    write(tmp_path / "Labels.TSV", 'p1.png\t"a"\n')
    assert {one.id.partition("/")[0] for one in Pages(source=tmp_path).records()["train"]} == {"p0", "p1"}
    assert [r.text for r in Folder(source=tmp_path).records()["train"]] == ['"a"']  # type: ignore[union-attr]


def test_a_word_that_is_written_askew_is_upright() -> None:
    for corners in (
        [(2, 2), (76, 5), (75, 38), (1, 35)],
        [(78, 38), (2, 38), (2, 2), (78, 2)],  # upside down
    ):
        image = np.asarray(cut_word(quarters(), corners)).astype(int)
        seen = [image[y, x] for y in (4, -5) for x in (4, -5)]
        turned = [0, 80, 160, 240] if corners[0] == (2, 2) else [240, 160, 80, 0]
        assert np.abs(np.array(seen) - turned).max() < 20


def test_a_word_does_not_carry_the_colour_profile_of_its_page() -> None:
    page = quarters()
    page.info["icc_profile"] = b"profile" * 1000
    for corners in (box(0, 0, 9, 9), [(1.0, 0.0), (9.0, 2.0), (8.0, 9.0), (0.0, 7.0)]):
        with Image.open(io.BytesIO(png(cut_word(page, corners)))) as stored:
            assert "icc_profile" not in stored.info


def test_an_outline_that_begins_before_the_page_is_where_it_is() -> None:
    page = np.full((40, 80, 3), 30, np.uint8)
    page[10, 15] = 200  # beside the outline, which is at 10 there
    cut = np.asarray(cut_line(Image.fromarray(page), [(-10, 0), (30, 0), (-10, 20)]))
    assert cut.shape == (21, 31, 3)
    assert (cut == 30).all()


def test_the_counts_of_iam_are_those_of_the_copy_that_agrees_most(tmp_path: Path) -> None:
    (tmp_path / "splits").mkdir()
    ids = [f"{chr(97 + n // 10000)}{n // 100 % 100:02}-{n // 100 % 1000:03}-{n % 100:02}" for n in range(6482)]
    (tmp_path / "splits/tr.lst").write_text("\n".join(ids))
    assert Iam(source=tmp_path, only=("train",)).published() == {"lines of train": (6482, 6482)}


def test_a_published_set_is_known_wherever_it_lies(tmp_path: Path) -> None:
    (tmp_path / "evaluation/IIIT5k_3000").mkdir(parents=True)
    (tmp_path / "evaluation/IIIT5k_3000/gt.txt").write_text("1.png a\n")
    assert list(SceneText(source=tmp_path).records()) == ["iiit5k_3000"]
