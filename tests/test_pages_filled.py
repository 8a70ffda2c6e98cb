"""Texts written into PAGE XML and ALTO: valid, in their places, and nothing else touched."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from scripts.page_check import check
from tests.random_pages import random_page, schema
from tests.tiny import save_pages, save_tiny
from trocr_jax.cli import main
from trocr_jax.datasets.pages import Picture, find_picture, outline_of, parse_page, scaled
from trocr_jax.datasets.pages_filled import LineText, fill
from trocr_jax.errors import DataError, ImageError
from trocr_jax.jobs import files
from trocr_jax.jobs.pages_filled import _filled, _place, _text
from trocr_jax.jobs.sources import Source, open_source
from trocr_jax.jobs.sources.pages import Pages, _page, _picture, _urls, is_there

PAGE = "http://schema.primaresearch.org/PAGE/gts/pagecontent/"
ALTO = "http://www.loc.gov/standards/alto/ns-v{}#"


@pytest.mark.parametrize("seed", range(0, 100, 10))
def test_random_pages(seed):
    schemas = {kind: schema(kind) for kind in ("page", "alto")}
    for number in range(seed, seed + 10):
        check(random_page(number), schemas)


def page(line: str, version: str = "2019-07-15") -> bytes:
    start = f'<?xml version="1.0"?>\n<!-- & --><PcGts xmlns="{PAGE}{version}"><Page imageFilename="a.png"><TextRegion>'
    return f"{start}\n\t<TextLine id='l' custom=\"&#x41;\">{line}</TextLine ></TextRegion></Page></PcGts>\n".encode()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(
            '\n\t\t<Coords points="0,0 1,1"/>\n\t',
            '\n\t\t<Coords points="0,0 1,1"/>\n\t\t{}\n\t',
            id="first",
        ),
        pytest.param("<TextEquiv><Unicode/></TextEquiv>", "{}", id="empty"),
        pytest.param("<TextEquiv conf='1'><Unicode>a &lt; b</Unicode></TextEquiv>", "{}", id="same"),
        pytest.param("<Coords/><TextStyle/><Labels/>", "<Coords/>{}<TextStyle/><Labels/>", id="before what follows"),
        pytest.param(
            "<TextEquiv ><Unicode>old</Unicode></TextEquiv>",
            '<TextEquiv index="0" conf="0.2500"><Unicode>a &lt; b</Unicode></TextEquiv>'
            '<TextEquiv index="1" ><Unicode>old</Unicode></TextEquiv>',
            id="kept",
        ),
        pytest.param(
            "<TextEquiv index='5'><Unicode>v</Unicode></TextEquiv> "
            "<TextEquiv index='2'><Unicode>i</Unicode></TextEquiv> "
            "<TextEquiv index='3'><Unicode> </Unicode></TextEquiv>",
            '<TextEquiv index="0" conf="0.2500"><Unicode>a &lt; b</Unicode></TextEquiv>'
            "<TextEquiv index='2'><Unicode>v</Unicode></TextEquiv> "
            "<TextEquiv index='1'><Unicode>i</Unicode></TextEquiv>",
            id="ranked",
        ),
    ],
)
def test_a_line_of_page(before, after):
    alone = '<TextEquiv conf="0.2500"><Unicode>a &lt; b</Unicode></TextEquiv>'
    assert fill(page(before), {0: LineText("a < b", 0.25)}, {}) == page(after.format(alone))


@pytest.mark.parametrize(
    ("version", "after"),
    [
        ("2010-03-19", "<TextEquiv><PlainText>new</PlainText><Unicode>new</Unicode></TextEquiv>"),
        ("2013-07-15", '<TextEquiv conf="0.5000"><Unicode>new</Unicode></TextEquiv>'),
        (
            "2017-07-15",
            '<TextEquiv index="0" conf="0.5000"><Unicode>new</Unicode></TextEquiv>'
            '<TextEquiv index="1"><Unicode>old</Unicode></TextEquiv>',
        ),
    ],
)
def test_versions_of_page_keep_their_rules(version, after):
    old = "<TextEquiv><Unicode>old</Unicode></TextEquiv>"
    assert fill(page(old, version), {0: LineText("new", 0.5)}, {}) == page(after, version)


def test_the_lowest_index_is_the_text():
    two = "<TextEquiv index='4'><Unicode>second</Unicode></TextEquiv>"
    two += "<TextEquiv index='1'><Unicode>first</Unicode></TextEquiv>"
    assert [line.text for line in parse_page(page(two))[1]] == ["first"]


def alto(line: str, version: int = 4, attributes: str = 'HPOS="10" VPOS="5" WIDTH="100" HEIGHT="20"') -> bytes:
    start = f"<a:alto xmlns:a='{ALTO.format(version)}'><a:Layout><a:TextLine ID=\"l\" {attributes}>"
    return f"{start}{line}</a:TextLine></a:Layout></a:alto>".encode("utf-16")


def test_a_line_of_alto():
    before = "<a:Shape/>\r\n <a:String ID='w1' CONTENT='old'><a:Glyph ID='g' CONTENT='o'/></a:String>\r\n <a:SP/>"
    before += "<!-- c --><a:HYP CONTENT='-'/>\r\n"
    after = (
        "<a:Shape/>\r\n "
        '<a:String ID="w1" CONTENT="a&amp;b" HPOS="10" VPOS="5" WIDTH="30" HEIGHT="20" WC="0.5000"/>\r\n '
        '<a:SP HPOS="40" VPOS="5" WIDTH="20"/>\r\n '
        '<a:String CONTENT="cdefg" HPOS="60" VPOS="5" WIDTH="50" HEIGHT="20" WC="1.0000"/><!-- c -->\r\n'
    )
    text = LineText("a&b  cdefg", 0.25, [0.5, 1.0])
    outline = parse_page(alto(before))[1][0].outline
    assert fill(alto(before), {0: text}, {0: outline}) == alto(after)
    assert fill(alto(before), {0: None}, {0: outline}) == alto(before)


def test_words_from_right_to_left_have_their_places_from_the_right():
    text = LineText("(שלום אב", None)
    filled = fill(alto("<a:String CONTENT=''/>"), {0: text}, {0: [(0, 0), (79, 0), (79, 9)]}).decode("utf-16")
    assert '<a:String CONTENT="(שלום" HPOS="30" VPOS="0" WIDTH="50" HEIGHT="10"/>' in filled
    assert '<a:String CONTENT="אב" HPOS="0" VPOS="0" WIDTH="20" HEIGHT="10"/>' in filled


def test_alto_lines_without_strings():
    bare = f'<alto xmlns="{ALTO.format(3)}"><TextLine VPOS="1" /><TextLine></TextLine><TextLine/></alto>'.encode()
    filled = fill(bare, {0: LineText("a"), 1: LineText("  "), 2: None}, {})
    assert filled == bare.replace(
        b'<TextLine VPOS="1" /><TextLine></TextLine><TextLine/>',
        b'<TextLine VPOS="1" ><String CONTENT="a"/></TextLine><TextLine><String CONTENT=""/></TextLine>'
        b'<TextLine><String CONTENT=""/></TextLine>',
    )


def test_what_cannot_be_filled_in_is_named():
    text = {0: LineText("a")}
    strings = b"<String ID='w1' CONTENT=''/><String ID='w2' CONTENT=''/>"
    order = b"<alto><R REF='w2 l'/><TextLine ID='l'>" + strings + b"</TextLine></alto>"
    with pytest.raises(DataError, match=r"line l has parts that another element refers to \(w2\)"):
        fill(order, text, {})
    assert b'ID="w2"' in fill(order, {0: LineText("a b")}, {})
    with pytest.raises(DataError, match="declares the entity e"):
        fill(b"<!DOCTYPE PcGts [<!ENTITY e '<TextLine/>'>]><PcGts><Page>&e;</Page></PcGts>", text, {})
    with pytest.raises(DataError, match="is no XML"):
        fill(b"<?xml version='1.0' encoding='klingon'?><PcGts/>", text, {})
    with pytest.raises(DataError, match="is no XML"):
        fill(b"<PcGts><Page>", text, {})


def test_elements_may_be_nested_deeply():
    deep = 20_000
    start = f'<PcGts xmlns="{PAGE}2019-07-15"><Page imageFilename="a.png">'.encode() + b"<TextRegion>" * deep
    found = fill(start + b"<TextLine/>" + b"</TextRegion>" * deep + b"</Page></PcGts>", {0: LineText("a")}, {})
    assert b"<Unicode>a</Unicode>" in found


def test_a_job_fills_its_pages_in(tmp_path, capsys):
    model = save_tiny(tmp_path / "tiny")
    save_pages(tmp_path / "scans")
    source, job, out = tmp_path / "scans" / "page", str(tmp_path / "job"), tmp_path / "out"
    outside = (source / "b.xml").read_text().replace("110,20 110,38", "").replace('points="0,20', 'points="900,900')
    (source / "b.xml").write_text(outside)  # its second line is not on the page
    fixed = ["--model", str(model), "--max-new-tokens", "8", "--unit-size", "2", "--batch-size", "2", "--decoders", "1"]
    assert main(["jobs", "run", str(source / "*.xml"), "--output", job, *fixed]) == 1
    capsys.readouterr()
    assert main(["jobs", "merge", job]) == 0
    rows = {row["id"]: row["text"] for row in map(json.loads, capsys.readouterr().out.splitlines())}

    assert main(["jobs", "merge", job, "--format", "pages", "--output", str(out)]) == 0
    assert "3 pages written, 0 left out" in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == ["a.xml", "b.xml", "c.xml"]
    for name in "abc":
        _, lines = parse_page((out / f"{name}.xml").read_bytes())
        assert [line.text for line in lines] == [
            (rows[f"{source / name}.xml#{line.id}"] or "").strip() for line in lines
        ]
    assert rows[f"{source / 'b.xml'}#l1"] is None
    assert (out / "b.xml").read_text().count("<TextEquiv") == 1
    assert (out / "c.xml").read_bytes() == (source / "c.xml").read_bytes()

    (source / "a.xml").write_text("<PcGts><Page>")
    (source / "c.xml").write_text((source / "b.xml").read_text())
    assert main(["jobs", "merge", job, "--format", "pages", "--output", str(tmp_path / "again")]) == 1
    err = capsys.readouterr().err
    assert f"{source / 'a.xml'}: is no XML" in err
    assert f"{source / 'c.xml'}: has 2 lines, and the job 0 of them" in err
    assert [path.name for path in (tmp_path / "again").iterdir()] == ["b.xml"]
    assert main(["jobs", "merge", job, "--format", "pages", "--output", str(source)]) == 2
    assert "holds pages that were read, or lies among them; give a folder outside" in capsys.readouterr().err
    for output in ([], ["--output", ""]):  # a variable of a script that is not set
        assert main(["jobs", "merge", job, "--format", "pages", *output]) == 2
        assert "needs --output FOLDER" in capsys.readouterr().err


def cut(source: Source, place: Any) -> Image.Image:
    found = source.read(place)
    assert callable(found)
    return cast(Image.Image, found())


def test_pages_behind_urls_are_those_of_a_folder(tmp_path):
    system = pytest.importorskip("fsspec").filesystem("memory")
    save_pages(tmp_path / "scans")
    (tmp_path / "scans" / "images").mkdir()
    (tmp_path / "scans" / "b.png").rename(tmp_path / "scans" / "images" / "b.png")
    (tmp_path / "scans" / "c.png").rename(tmp_path / "scans" / "page" / "c.png")
    pages = f"memory://{tmp_path.name}"
    system.put(str(tmp_path / "scans"), f"/{tmp_path.name}", recursive=True)
    local, far = open_source([str(tmp_path / "scans")], "pages"), open_source([pages], "pages")
    inputs, places = list(local.inputs()), [input.place for input in far.inputs()]
    assert [input.id.removeprefix(str(tmp_path / "scans")) for input in inputs] == [
        input.id.removeprefix(pages) for input in far.inputs()
    ]
    assert len(places) == 5
    for input, place in zip(inputs, places, strict=True):
        assert cut(local, input.place).tobytes() == cut(far, place).tobytes()
    system.rm(f"/{tmp_path.name}/a.png")
    system.pipe(f"/{tmp_path.name}/images/b.png", b"no image")
    _page.cache_clear()
    with pytest.raises(ImageError, match=r"page/a.xml: its picture a.png is not beside a.xml, one folder up, or"):
        far.read(places[0])
    with pytest.raises(ImageError, match=rf"{pages}/images/b.png: not an image that can be read"):
        cut(far, places[3])
    system.rm(f"/{tmp_path.name}", recursive=True)


@pytest.mark.parametrize(
    ("xml", "name", "places"),
    [
        ("s3://b/page/a.xml", "c:\\x\\p #1.png", ["b/page/p #1.png", "b/p #1.png", "b/page/images/p #1.png",
                                                "b/images/p #1.png"]),
        ("http://h/d/a.xml", "p #1?.png", ["h/d/p%20%231%3F.png", "h/p%20%231%3F.png", "h/d/images/p%20%231%3F.png",
                                         "h/images/p%20%231%3F.png"]),
        ("s3://b/a.xml", "a.png", ["b/a.png", "b/images/a.png"]),
        ("http://h/a.xml", "a.png", ["h/a.png", "h/images/a.png"]),
        ("s3://b/c//a.xml", "a.png", ["b/c//a.png", "b/c/a.png", "b/c//images/a.png", "b/c/images/a.png"]),
        ("http://h/a%20b.xml", "..", ["h/a%20b.png", "h/images/a%20b.png", "h/a%20b.jpg"]),
    ],
)  # fmt: skip
def test_where_the_picture_behind_a_url_may_be(xml, name, places):
    """Never above a host or a bucket."""
    found = [url.partition("://")[2] for url in _urls(xml, name)]
    assert found[: len(places)] == places
    assert len(found) == len(places) or name == ".."
    assert all(url.startswith(xml.partition("//")[0]) for url in _urls(xml, name))


def test_a_page_without_its_picture_is_asked_for_once(monkeypatch):
    """Some servers say of what is not there that it may not be read."""
    asked, refused = list[str](), PermissionError(13, "403")

    def read(path: str) -> bytes:
        asked.append(path)
        if path.endswith(".xml"):
            return page('<Coords points="0,0 9,0 9,9 0,9"/>')
        if path == "xx://b/images/a.png":
            return b"picture"
        raise refused if "403" in path else FileNotFoundError(path)

    monkeypatch.setattr(files, "read", read)
    source = Pages(("xx://b",))
    for path in ("xx://b/c/a.xml", "xx://b/403/a.xml"):
        _page.cache_clear()
        assert callable(source.read([path, 0]))
        assert asked[-1] == "xx://b/images/a.png"
    for path, count in (("xx://d/e/a.xml", 5), ("xx://d/403/a.xml", 5)):
        asked.clear()
        for _ in range(3):
            with pytest.raises(PermissionError if "403" in path else ImageError, match=r"403|its picture a.png is not"):
                source.read([path, 0])
        assert len(asked) == count * (3 if "403" in path else 1)


def test_lines_that_changed_places_are_noticed(tmp_path, capsys):
    """Where lines have no ids, numbers stay as they were."""
    save_pages(tmp_path / "scans")
    xml, job = tmp_path / "scans" / "page" / "a.xml", str(tmp_path / "job")
    first, second = "0,0 110,0 110,18 0,18", "0,20 110,20 110,38 0,38"
    xml.write_text(re.sub(' id="l."', "", xml.read_text()))
    model = str(save_tiny(tmp_path / "tiny"))
    assert main(["jobs", "run", str(xml), "--output", job, "--model", model, "--max-new-tokens", "4"]) == 0
    source = open_source([str(xml)])
    inputs = list(source.inputs())
    xml.write_text(xml.read_text().replace(first, "-").replace(second, first).replace("-", second))
    with pytest.raises(ImageError, match=r"a.xml: line 1: is not where it was when the job was planned"):
        cut(source, inputs[0].place)
    cut(source, inputs[0].place[:2])  # as earlier versions planned it
    cut(source, inputs[2].place)
    capsys.readouterr()
    merge = ["jobs", "merge", job, "--format", "pages", "--output", str(tmp_path / "out")]
    assert main(merge) == 1
    assert f"{xml}: has no line 1 where it was when the job was planned" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sources", "refused"),
    [
        (["scans"], ["scans/page", "scans/page/new", "scans/new", "."]),
        (["scans/*.xml", "scans/page/*.xml"], ["scans/page", "scans", "."]),
        (["file://{}/scans"], ["scans/page", "scans/page/new", "scans/new", "."]),
    ],
)
def test_copies_never_take_the_place_of_what_was_read(tmp_path, monkeypatch, capsys, sources, refused):
    model = save_tiny(tmp_path / "tiny")
    save_pages(tmp_path / "scans")
    (tmp_path / "scans" / "a.xml").write_bytes((tmp_path / "scans" / "page" / "a.xml").read_bytes())  # of one name
    monkeypatch.chdir(tmp_path)
    fixed = ["--source", "pages", "--model", str(model), "--max-new-tokens", "4", "--decoders", "1"]
    sources = [source.format(tmp_path) for source in sources]
    assert main(["jobs", "run", *sources, "--output", "job", *fixed]) == 0
    before = {path: path.read_bytes() for path in tmp_path.glob("scans/**/*.xml")}
    for target in refused:
        assert main(["jobs", "merge", "job", "--format", "pages", "--output", target]) == 2
        assert f"error: {target}: holds pages that were read, or lies among them" in capsys.readouterr().err
    for _ in range(2):
        assert main(["jobs", "merge", "job", "--format", "pages", "--output", "out"]) == 0
    assert len(list(tmp_path.glob("out/**/*.xml"))) == len(before) == 4
    assert {path: path.read_bytes() for path in before} == before


def test_a_page_that_has_gone_costs_no_other(tmp_path, capsys):
    model = save_tiny(tmp_path / "tiny")
    save_pages(tmp_path / "scans")
    for name in "ab":
        (tmp_path / "scans" / name).mkdir()
        (tmp_path / "scans" / "page" / f"{name}.xml").rename(tmp_path / "scans" / name / f"{name}.xml")
    job, scans = str(tmp_path / "job"), tmp_path / "scans"
    fixed = ["--source", "pages", "--model", str(model), "--max-new-tokens", "4", "--decoders", "1"]
    assert main(["jobs", "run", str(scans), "--output", job, *fixed]) == 0
    (scans / "a" / "a.xml").unlink()  # its folder is empty now, as that of a disk that is not mounted
    assert main(["jobs", "merge", job, "--format", "pages", "--output", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert f"{scans / 'a' / 'a.xml'}: cannot be read (No such file or directory)" in err
    assert "2 pages written, 1 left out" in err


def test_names_of_objects_are_no_paths():
    """Copies of them stay in the folder that they are written to, each in its own place."""
    names = ["s3://b/a/x.xml", "s3://b/a//x.xml", "s3://b/../../x.xml", "s3://b/a/./x.xml", "gs://b/a/x.xml"]
    places = [str(_place(name)) for name in names]
    odd = ["/s3/b/a/%/x.xml", "/s3/b/%2E%2E/%2E%2E/x.xml", "/s3/b/a/%2E/x.xml"]
    assert places == ["/s3/b/a/x.xml", *odd, "/gs/b/a/x.xml"]


def test_a_page_that_is_no_xml_costs_no_other(tmp_path, capsys):
    model = save_tiny(tmp_path / "tiny")
    save_pages(tmp_path / "scans")
    bad, job = tmp_path / "scans" / "page" / "bad.xml", str(tmp_path / "job")
    bad.write_text("<PcGts><Page>")
    options = ["--model", str(model), "--max-new-tokens", "4", "--batch-size", "2", "--decoders", "1"]
    assert main(["jobs", "run", str(bad.parent / "*.xml"), "--output", job, *options]) == 1
    capsys.readouterr()
    assert main(["jobs", "merge", job]) == 0
    rows = [*map(json.loads, capsys.readouterr().out.splitlines())]
    assert [row["id"] for row in rows if row["status"] != "ok"] == [str(bad)]
    assert len(rows) == 6
    error = f"{bad}: is no XML (no element found: line 1, column 13); correct it, or leave it out"
    assert [row["error"] for row in rows if row["status"] == "failed"] == [error]
    out = tmp_path / "out"
    for content, message in (("<PcGts><Page>", "is no XML"), ("<PcGts><Page/></PcGts>", "has been corrected since")):
        bad.write_text(content)
        assert main(["jobs", "merge", job, "--format", "pages", "--output", str(out)]) == 1
        assert f"{bad}: {message}" in capsys.readouterr().err
    assert sorted(path.name for path in out.iterdir()) == ["a.xml", "b.xml", "c.xml"]


def test_only_pages_can_be_filled_in(tmp_path, capsys):
    model = save_tiny(tmp_path / "tiny")
    save_pages(tmp_path / "scans")
    job = str(tmp_path / "job")
    assert main(["jobs", "run", str(tmp_path / "scans"), "--output", job, "--model", str(model), "--plan-only"]) == 0
    options = ["--format", "pages", "--output", str(tmp_path / "out"), "--incomplete"]
    assert main(["jobs", "merge", job, *options]) == 2
    assert "its source is folder; only pages (PAGE XML, ALTO) can be filled in" in capsys.readouterr().err


def test_a_line_that_is_not_there_any_more():
    assert not is_there(["a.xml", 1], [])
    assert not is_there(["a.xml", 1, "12345678"], [])


def test_other_encodings_stay_as_they_are():
    start = '<?xml version="1.0" encoding="ISO-8859-1"?><!-- é --><PcGts><Page><TextLine>'
    end = "</TextLine></Page></PcGts>\r\n \n"
    filled = fill((start + end).encode("latin-1"), {0: LineText("é 中\r\x01")}, {})
    text = "<TextEquiv><Unicode>é &#20013;&#13;\ufffd</Unicode></TextEquiv>".replace("\ufffd", "&#65533;")
    assert filled == (start + text + end).encode("latin-1")
    marked = b"\xef\xbb\xbf" + page("")
    assert fill(marked, {0: LineText("a")}, {}).startswith(b"\xef\xbb\xbf<?xml")
    assert fill(b"\n <PcGts><TextLine/></PcGts>", {}, {}) == b"\n <PcGts><TextLine/></PcGts>"


def test_probabilities_of_words():
    text = LineText("a b", 1.25, [0.5])  # of another number than there are words
    filled = fill(alto(""), {0: text}, {}).decode("utf-16")
    assert filled.count('WC="1.0000"') == 2
    assert 'conf="0.0000"' in fill(page(""), {0: LineText("a", -0.5)}, {}).decode()
    filled = fill(alto("<a:String CONTENT=''/>"), {0: LineText("سلا م")}, {0: [(0, 0), (49, 0), (49, 9)]}).decode(
        "utf-16"
    )
    assert 'CONTENT="م" HPOS="0"' in filled
    assert "ID=" not in filled.partition(">")[2].partition("</a:TextLine>")[0].partition(">")[2].partition(">")[2]


def test_parts_of_a_word_that_are_referred_to():
    glyph = b"<alto><R REF='g'/><TextLine ID='l'><String ID='w' CONTENT='a'><Glyph ID='g'/></String></TextLine></alto>"
    with pytest.raises(DataError, match=r"line l has parts that another element refers to \(g\)"):
        fill(glyph, {0: LineText("a")}, {})


def test_readings_without_an_index_come_in_their_order():
    """Those with one are before those that it is greater than."""
    one, two = (
        "<TextEquiv{}><Unicode>{}</Unicode></TextEquiv>".format(*given) for given in ((" index='7'", "u"), ("", "v"))
    )
    filled = fill(page(one + two), {0: LineText("new")}, {}).decode()
    assert "<TextEquiv index='2'><Unicode>u" in filled
    assert '<TextEquiv index="1"><Unicode>v' in filled


def test_a_picture_may_differ_by_a_pixel():
    canvas = Image.new("L", (100, 50))
    for width, height in ((101, 49), (0, 0), (99, 0), (100.9, 50)):
        assert Picture("a", width, height).pixels(canvas) == (1, 1)
    for width, height in ((102, 50), (100, 48), (98, 0), (101.5, 50)):
        with pytest.raises(DataError, match="its picture is 100 x 50 pixels"):
            Picture("a", width, height).pixels(canvas)
    with pytest.raises(DataError, match="without an EXIF orientation"):
        Picture("a", 50, 100).pixels(canvas)


@pytest.mark.parametrize(("unit", "inch"), [("mm10", 254), ("inch1200", 1200)])
def test_lines_of_alto_in_millimetres_and_inches_are_those_of_pixels(tmp_path: Path, unit: str, inch: int):
    scan = Image.effect_noise((600, 300), 80)  # 300 pixels an inch
    line = '<TextLine HPOS="{}" VPOS="{}" WIDTH="{}" HEIGHT="{}"><Shape><Polygon POINTS="{}"/></Shape></TextLine>'
    sides, outline = (60, 30, 300, 60), (60, 30, 240, 90, 240, 30)
    cuts = []
    for name, kind, units in (("a", "pixel", 300), ("b", unit, inch)):
        scan.save(tmp_path / f"{name}.png")

        def numbers(pixels: tuple[int, ...], units: int = units) -> list[str]:
            return [f"{pixel * units / 300:g}" for pixel in pixels]

        width, height = numbers(scan.size)
        lines = line.format(*numbers(sides), "") + line.format(*numbers(sides), " ".join(numbers(outline)))
        (tmp_path / f"{name}.xml").write_text(
            f"<alto><Description><MeasurementUnit>{kind}</MeasurementUnit></Description><Layout>"
            f'<Page WIDTH="{width}" HEIGHT="{height}">{lines}</Page></Layout></alto>'
        )
        source = open_source([str(tmp_path / f"{name}.xml")])
        cuts.append([np.asarray(cut(source, line.place)) for line in source.inputs()])
    for pixels, units in zip(*cuts, strict=True):
        height, width = pixels.shape[:2]
        larger = {units.shape[0] - height, units.shape[1] - width}
        assert larger <= {0, 1}  # a box ends a unit before the next, no pixel
        np.testing.assert_array_equal(units[: height - 1, : width - 1], pixels[:-1, :-1])
    with pytest.raises(DataError, match="600 x 300 pixels, the file says 600 x 400 mm10, which is another shape"):
        Picture("a", 600, 400, "mm10").pixels(scan)
    with pytest.raises(DataError, match="its unit is mm10, and its Page has no WIDTH and HEIGHT; export ALTO in"):
        Picture("a", 0, 300, "mm10").pixels(scan)
    exact = [(9.9999999, 0.1 + 0.2)]
    assert scaled(exact, Picture("a", 600, 300).pixels(scan)) == exact  # not rounded


def test_a_picture_of_another_name_than_the_page_says(tmp_path: Path):
    (tmp_path / "a.jpg").touch()
    assert find_picture(tmp_path / "a.xml", "renamed.tif") == tmp_path / "a.jpg"
    (tmp_path / "B.JPG").touch()
    (tmp_path / "b.png").mkdir()
    for named in ("b.jpg", "renamed.tif"):
        assert find_picture(tmp_path / "b.xml", named) == tmp_path / "B.JPG"
    (tmp_path / "b.jpg").touch()
    assert find_picture(tmp_path / "b.xml", "b.jpg") == tmp_path / "b.jpg"
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "named.tif").touch()
    assert find_picture(tmp_path / "a.xml", "c:\\x\\named.tif") == tmp_path / "images" / "named.tif"


@pytest.mark.parametrize("xml", ["a.xml", "./a.xml", "../page/a.xml", "b/../a.xml", "../a.xml"])
def test_a_picture_one_folder_up_from_where_one_works(tmp_path: Path, monkeypatch, xml):
    (tmp_path / "scans" / "page" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "scans" / "page")
    above = tmp_path if xml == "../a.xml" else tmp_path / "scans"
    (above / "a.jpg").touch()
    assert find_picture(Path(xml), "a.jpg").resolve() == above / "a.jpg"


def test_a_picture_in_the_folder_that_the_page_names(tmp_path: Path):
    """As in a workspace of OCR-D: folders of pages and of pictures side by side, in each of them the same names."""
    system = pytest.importorskip("fsspec").filesystem("memory")
    for folder in ("img", "img-binary", "page"):
        (tmp_path / folder).mkdir()
        if folder != "page":
            Image.new("L", (100, 50), len(folder)).save(tmp_path / folder / "a.png")
    xml = tmp_path / "page" / "a.xml"
    for named in ("img/a.png", "img-binary/a.png", "img-binary\\a.png", "../img-binary/a.png"):
        expected = tmp_path / named.replace("\\", "/").removeprefix("../")
        assert find_picture(xml, named) == expected
        assert _picture(str(xml), named)[1] == str(expected)
    system.put(str(tmp_path), "/workspace", recursive=True)
    assert _picture("memory://workspace/page/a.xml", "img-binary/a.png")[1] == "memory://workspace/img-binary/a.png"
    system.rm("/workspace", recursive=True)
    (tmp_path / "page" / "a.png").touch()
    for named in (f"{tmp_path}/img/a.png", "c:\\img\\a.png", "https://example.org/img/a.png", "../../img/a.png"):
        assert find_picture(xml, named) == tmp_path / "page" / "a.png"


def test_lists_of_files_are_no_pages(tmp_path: Path):
    for name in ("a.xml", "mets.xml", "METS.XML", "metadata.xml"):
        (tmp_path / name).write_bytes(page('<Coords points="0,0 9,0 9,9"/>'))
    assert [Path(path).name for path in Pages((str(tmp_path),)).files()] == ["a.xml"]


def test_a_line_whose_baseline_has_moved_is_another():
    one, two = (f'<Baseline points="0,{height} 90,{height}"/>' for height in (10, 20))
    (before,), (after,) = parse_page(page(one))[1], parse_page(page(two))[1]
    from trocr_jax.jobs.sources.pages import _checksum

    assert is_there(["a.xml", 0, _checksum(before)], [before])
    assert not is_there(["a.xml", 0, _checksum(before)], [after])


def test_coordinates_that_are_none_are_named():
    (line,) = parse_page(page('<Coords points="0,0 9,x"/><Baseline points="0,1 9,1"/>'))[1]
    with pytest.raises(DataError, match="x"):
        outline_of([line])(line)


def test_a_server_that_fails_is_not_one_without_the_picture(monkeypatch: pytest.MonkeyPatch):
    from trocr_jax.jobs import files

    def read(url: str) -> bytes:
        raise OSError(5, "Internal Server Error", url)

    monkeypatch.setattr(files, "read", read)
    with pytest.raises(OSError, match="Internal Server Error"):
        _picture("xx://b/c/a.xml", "a.png")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_two_bytes_a_character_need_no_mark(encoding):
    """As XML 1.0, appendix F tells them; the parser that reads the lines does."""
    content = '<?xml version="1.0"?><PcGts><Page><TextLine>{}</TextLine></Page></PcGts>'
    assert len(parse_page(content.format("").encode(encoding))[1]) == 1
    filled = fill(content.format("").encode(encoding), {0: LineText("é")}, {})
    assert filled == content.format("<TextEquiv><Unicode>é</Unicode></TextEquiv>").encode(encoding)


def test_pages_of_which_a_part_is_read(tmp_path: Path):
    """By --incomplete: the other lines stay as they are."""
    lines = '<TextLine id="m"><Coords points="0,0 9,0 9,9"/></TextLine>'
    (tmp_path / "a.xml").write_bytes(page("").replace(b"</TextRegion>", lines.encode() + b"</TextRegion>"))
    (_, second) = Pages((str(tmp_path),)).inputs()
    row: dict[str, Any] = {"text": "new", "confidence": 0.5}
    found = _filled(str(tmp_path / "a.xml"), tmp_path / "out", [(second, row)], complete=False)
    assert found.error is None
    assert found.content.count(b"<TextEquiv") == 1
    found = _filled(str(tmp_path / "a.xml"), tmp_path / "out", [(second, row)], complete=True)
    assert found.error is not None
    assert "has 2 lines, and the job 1 of them" in found.error


def test_words_have_their_own_confidence():
    words = [{"text": "a", "confidence": 0.1}, {"text": "b", "confidence": 0.2}]
    assert _text({"text": "a b", "confidence": 0.5, "words": words}) == LineText("a b", 0.5, [0.1, 0.2])
    assert _text({"text": "a b"}) == LineText("a b", None, [])
    assert _text({"text": None, "confidence": None, "words": None}) is None
