"""Random PAGE XML and ALTO files that are valid against their schemas, and random texts for their lines."""

from __future__ import annotations

import codecs
import random
import re
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

from lxml import etree

SCHEMAS = Path(__file__).parent / "schemas"
PAGE_2019 = "http://schema.primaresearch.org/PAGE/gts/pagecontent/2019-07-15"
ALTO_4 = "http://www.loc.gov/standards/alto/ns-v4#"
_ALPHABETS = (
    "abcdefg ,.-ABC",
    "\x00\x01\x08\x0b\x0c\x0e\x1b\x1f\x7f\x80\x85\x9f\ufffe\uffff\ufdd0\U0001fffe ab",  # control and non-characters
    "\t\n\r \u00a0\u2028\u3000x",
    "<>&'\"]]>&amp;<!-- -->",
    "שלום עולם אבג דה",
    "مرحبا بالعالم 123",
    "😀👩\u200d👩\u200d👧🏳️\u200d🌈 e\u0301\u0302 ",
    "漢字かな交じり ",
    "\U00010400\U0001d400\U0010ffff z",
)


class RandomPage(NamedTuple):
    """texts: for each line what was read, None for one that failed, with a confidence of the line and of words."""

    kind: str
    content: bytes
    texts: list[tuple[str, float, list[float]] | None]


def schema(kind: str) -> etree.XMLSchema:
    """Of "page" (2019-07-15) or "alto" (4.4); what a schema imports is taken from the same folder."""
    parser = etree.XMLParser()
    parser.resolvers.add(_Local())
    name = {"page": "pagecontent-2019-07-15.xsd", "alto": "alto-4-4.xsd"}[kind]
    return etree.XMLSchema(etree.parse(SCHEMAS / name, parser))


class _Local(etree.Resolver):
    def resolve(self, url: str, public_id: str, context: object) -> object:
        return self.resolve_filename(str(SCHEMAS / url.rpartition("/")[2]), context)


def random_page(seed: int) -> RandomPage:
    rng = random.Random(seed)
    kind = rng.choice(["page", "alto"])
    text = _Alto(rng).page() if kind == "alto" else _Page(rng).page()
    lines = len(re.findall("</(?:pc:|a:)?TextLine", text))
    return RandomPage(kind, _encoded(rng, text), [_read(rng) for _ in range(lines)])


def random_text(rng: random.Random, longest: int = 40) -> str:
    if rng.random() < 0.1:
        return rng.choice(["", " ", "\x00", "\ufeff"])
    alphabet = rng.choice(_ALPHABETS) + rng.choice(_ALPHABETS) * rng.randint(0, 1)
    return "".join(rng.choices(alphabet, k=rng.randint(1, longest)))


def _read(rng: random.Random) -> tuple[str, float, list[float]] | None:
    if rng.random() < 0.15:
        return None
    text = random_text(rng)
    words = [rng.random() for _ in text.split()] if rng.random() < 0.5 else []
    return text, rng.choice([0.0, 1.0, 1e-9, rng.random()]), words


def _encoded(rng: random.Random, text: str) -> bytes:
    kind = rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "iso-8859-1", "none"])
    declaration = f"<?xml version='1.0' encoding=\"{kind.removesuffix('-sig').upper()}\" standalone='yes'?>"
    text = text if kind == "none" else f"{declaration}\n{text}"
    if rng.random() < 0.3:
        text = text.replace("\n", "\r\n")
    if kind == "utf-16":
        return codecs.BOM_UTF16_BE + text.encode("utf-16-be") if rng.random() < 0.5 else text.encode("utf-16")
    return text.encode("utf-8" if kind == "none" else kind, "xmlcharrefreplace")


class _Writer:
    """Elements as text, indented or not, with comments and processing instructions between them."""

    def __init__(self, rng: random.Random, prefix: str) -> None:
        self.rng, self.prefix = rng, prefix
        self.pretty, self.count = rng.random() < 0.7, 0

    def id(self) -> str:
        self.count += 1
        return f"{self.rng.choice(['r', 'l-', 'é_', 'x.'])}{self.count}"

    def box(self) -> tuple[int, int, int, int]:
        rng = self.rng
        return rng.randint(0, 900), rng.randint(0, 900), rng.randint(1, 400), rng.randint(1, 60)

    def element(self, name: str, attributes: dict[str, str], children: list[str] | str = "", level: int = 0) -> str:
        rng, name = self.rng, f"{self.prefix}{name}"
        items = list(attributes.items())
        rng.shuffle(items)
        written = "".join(f"{rng.choice([' ', '  ', chr(10) + ' '])}{k}={quoteattr(v)}" for k, v in items)
        if isinstance(children, str):
            return f"<{name}{written}>{children}</{name}>" if children or rng.random() < 0.5 else f"<{name}{written} />"
        gap = "\n" + "  " * level if self.pretty else ""
        inner = "".join(gap + "  " * self.pretty + self.extra() + child for child in children)
        return f"<{name}{written}>{inner}{gap}</{name}{rng.choice(['', '', ' '])}>"

    def extra(self) -> str:
        return self.rng.choice([""] * 8 + ["<!-- <TextLine> & -->", "<?keep this='<b>'?>"])

    def text(self) -> str:
        """A text that was there, of characters that XML can hold."""
        kept = "".join(c for c in random_text(self.rng, 12) if c.isprintable() and ord(c) & 0xFFFF < 0xFFFE)
        return f"<![CDATA[{kept}]]>" if self.rng.random() < 0.2 and "]]>" not in kept else escape(kept)


class _Page(_Writer):
    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng, rng.choice(["", "pc:"]))

    def page(self) -> str:
        rng = self.rng
        regions = [self.region(2) for _ in range(rng.randint(0, 3))]
        metadata = [self.element("Creator", {}, "a & b".replace("&", "&amp;")), *self.dates()]
        name = f"xmlns{':pc' if self.prefix else ''}"
        size = {"imageFilename": "ü & 1.png", "imageWidth": "1000", "imageHeight": "1000", "custom": 'it\'s "1" > 0'}
        page = self.element("Page", size, regions, 1)
        return self.element(
            "PcGts", {name: PAGE_2019, "pcGtsId": self.id()}, [self.element("Metadata", {}, metadata, 1), page]
        )

    def dates(self) -> list[str]:
        return [self.element(name, {}, "2026-01-01T00:00:00Z") for name in ("Created", "LastChange")]

    def coords(self) -> str:
        x, y, w, h = self.box()
        return self.element("Coords", {"points": f"{x},{y} {x + w},{y} {x + w},{y + h} {x},{y + h}"})

    def equivs(self, most: int) -> list[str]:
        rng, number = self.rng, self.rng.randint(0, most)
        places = rng.sample(range(9), number) if rng.random() < 0.6 else [None] * number
        return [
            self.element(
                "TextEquiv",
                ({} if place is None else {"index": str(place)}) | ({"conf": "0.5"} if rng.random() < 0.5 else {}),
                [self.element("PlainText", {}, "p")] * rng.randint(0, 1) + [self.element("Unicode", {}, self.text())],
                4,
            )
            for place in places
        ]

    def region(self, level: int) -> str:
        rng = self.rng
        inner = [self.region(level + 1)] if level < 4 and rng.random() < 0.2 else []
        lines = [self.line(level + 1) for _ in range(rng.randint(0, 4))]
        children = [self.coords(), *inner, *lines, *self.equivs(1)]
        return self.element("TextRegion", {"id": self.id(), "custom": "a='b'"}, children, level)

    def word(self) -> str:
        glyph = self.element("Glyph", {"id": self.id()}, [self.coords(), *self.equivs(1)], 5)
        return self.element(
            "Word", {"id": self.id()}, [self.coords(), *[glyph] * self.rng.randint(0, 1), *self.equivs(2)], 4
        )

    def line(self, level: int) -> str:
        rng = self.rng
        children = [self.coords()]
        children += [self.element("Baseline", {"points": "0,1 2,1"})] * rng.randint(0, 1)
        children += [self.word() for _ in range(rng.randint(0, 2))] + self.equivs(3)
        children += [self.element("TextStyle", {"bold": "true"})] * rng.randint(0, 1)
        defined = self.element("UserAttribute", {"name": "a", "value": "<&>'"})
        children += [self.element("UserDefined", {}, [defined], level + 1)] * rng.randint(0, 1)
        return self.element("TextLine", {"id": self.id(), "custom": "x {y:1;}"}, children, level)


class _Alto(_Writer):
    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng, rng.choice(["", "a:"]))
        self.lines: list[str] = []

    def page(self) -> str:
        rng = self.rng
        blocks = [self.block() for _ in range(rng.randint(0, 3))]
        name = f"xmlns{':a' if self.prefix else ''}"
        unit = self.element("MeasurementUnit", {}, "pixel")
        file = self.element("fileName", {}, "ü &amp; 1.png")
        description = self.element("Description", {}, [unit, self.element("sourceImageInformation", {}, [file], 2)], 1)
        order = []
        if self.lines and rng.random() < 0.5:
            refs = [self.element("ElementRef", {"ID": self.id(), "REF": line}) for line in self.lines]
            order = [self.element("ReadingOrder", {}, [self.element("OrderedGroup", {"ID": self.id()}, refs, 2)], 1)]
        space = self.element("PrintSpace", {}, blocks, 3)
        page = self.element("Page", {"ID": self.id(), "PHYSICAL_IMG_NR": "1"}, [space], 2)
        layout = self.element("Layout", {}, [page], 1)
        return self.element("alto", {name: ALTO_4, "SCHEMAVERSION": "4.4"}, [description, *order, layout])

    def sides(self) -> dict[str, str]:
        return {k: str(v) for k, v in zip(("HPOS", "VPOS", "WIDTH", "HEIGHT"), self.box(), strict=True)}

    def block(self) -> str:
        lines = [self.line() for _ in range(self.rng.randint(0, 4))]
        return self.element("TextBlock", {"ID": self.id(), **self.sides()}, lines, 4)

    def shape(self) -> str:
        x, y, w, h = self.box()
        points = f"{x},{y} {x + w},{y} {x + w},{y + h}"
        return self.element("Shape", {}, [self.element("Polygon", {"POINTS": points})], 6)

    def line(self) -> str:
        rng, id = self.rng, self.id()
        self.lines.append(id)
        children = [self.shape()] * rng.randint(0, 1)
        for _ in range(rng.randint(1, 4)):
            glyphs = [self.element("Glyph", {"CONTENT": "g"})] * rng.randint(0, 2)
            attributes = {"CONTENT": "a &\"'", "WC": "0.5", "CC": "0 1"} | (
                {"ID": self.id()} if rng.random() < 0.5 else {}
            )
            children.append(self.element("String", attributes, glyphs or "", 6))
            children += [self.element("SP", {"WIDTH": "3"})] * rng.randint(0, 1)
        children += [self.element("HYP", {"CONTENT": "-"})] * rng.randint(0, 1)
        return self.element("TextLine", {"ID": id, "BASELINE": "1,2 3,4", **self.sides()}, children, 5)
