"""Texts written into PAGE XML and ALTO files whose lines were read; all else in the files stays as it is to the byte.

PAGE: the text becomes the first TextEquiv of its TextLine. Where the schema allows several (2016 and later), texts that
were there stay behind it, their indexes counted on from 1, except empty ones and the same text; where it does not, the
text takes their place. Words, glyphs and regions keep theirs.

ALTO: String elements with SP between them take the place of all String, SP and HYP elements of a TextLine. The box of
the line is shared out by characters, from the right where the text begins from the right: places of words are
estimates. An ID of a String goes to the new String with its number.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from trocr_jax.datasets.crop import Point
from trocr_jax.datasets.xml_source import Edit, Element, XmlSource, escaped, legal
from trocr_jax.errors import DataError

_SEVERAL, _CONF = "2016", "2013"  # the first versions of PAGE with several texts a line, and with confidences
_BEHIND_TEXT = ("TextStyle", "UserDefined", "Labels")
_VERSION = re.compile(r"/PAGE/gts/pagecontent/(\d{4})")


@dataclass(frozen=True)
class LineText:
    """What was read in a line. confidence: of the line. words: of each word (`str.split`); none if not known."""

    text: str
    confidence: float | None = None
    words: Sequence[float] = ()


def fill(content: bytes, texts: Mapping[int, LineText | None], outlines: Mapping[int, Sequence[Point]]) -> bytes:
    """A PAGE or ALTO file with these texts.

    texts: by the number of the line in the file, from 0. A line that is not in it stays as it is, and so does one with
    None, which could not be read; but an ALTO line without any String gets an empty one, which the schema demands.
    outlines: those of ALTO lines; a String has no box where there is none.
    Raises DataError for what is no XML, or if a part of a line that has to go is referred to from elsewhere.
    """
    source = XmlSource(content)
    alto = source.root.local == "alto"
    lines = [element for element in source.root.walk() if element.local == "TextLine"]
    edits = list[Edit]()
    if alto:
        references = {name for e in source.root.walk() for name in e.attributes.get("REF", "").split()}
        for number, text in texts.items():
            edits += _alto(source, lines[number], text, outlines.get(number, ()), references)
    else:
        version = next((m[1] for v in source.root.attributes.values() if (m := _VERSION.search(v))), _SEVERAL)
        for number, text in texts.items():
            if text is not None:
                edits += _page(source, lines[number], text, version)
    return source.edited(edits)


def _page(source: XmlSource, line: Element, read: LineText, version: str) -> Iterator[Edit]:
    there = [child for child in line.children if child.local == "TextEquiv"]
    known = ("", legal(read.text).strip())
    kept = [e for e in there if version >= _SEVERAL and _text(e).strip() not in known]
    kept.sort(key=lambda e: _index(e, there.index(e)))
    prefix = line.name.removesuffix("TextLine")
    conf = "" if read.confidence is None or version < _CONF else f' conf="{_probability(read.confidence)}"'
    index = ' index="0"' if kept else ""
    plain = f"<{prefix}PlainText>{escaped(read.text)}</{prefix}PlainText>" if version < _CONF else ""  # demanded then
    unicode = f"<{prefix}Unicode>{escaped(read.text)}</{prefix}Unicode>"
    written = f"<{prefix}TextEquiv{index}{conf}>{plain}{unicode}</{prefix}TextEquiv>"

    if there and there[0] in kept:
        yield Edit(there[0].start, there[0].start, written + source.before(there[0].start))
    elif there:
        yield Edit(there[0].start, source.end(there[0]), written)
    else:
        yield _added(source, line, written, behind=_BEHIND_TEXT)
    yield from (_removed(source, e) for e in there[1:] if e not in kept)
    for number, element in enumerate(kept, 1):
        if (value := source.attribute(element, "index")) is not None:
            yield Edit(value.start, value.stop, str(number))
        else:
            end_of_name = element.start + 1 + len(element.name.encode())
            yield Edit(end_of_name, end_of_name, f' index="{number}"')


def _alto(
    source: XmlSource, line: Element, read: LineText | None, outline: Sequence[Point], references: set[str]
) -> Iterator[Edit]:
    there = [child for child in line.children if child.local in ("String", "SP", "HYP")]
    strings = [child for child in there if child.local == "String"]
    prefix = line.name.removesuffix("TextLine")
    if read is None:
        if not strings:
            yield _added(source, line, f'<{prefix}String CONTENT=""/>', behind=("SP", "HYP"))
        return
    ids = [e.attributes.get("ID", "") for e in strings]
    written = _strings(prefix, read, outline, ids)
    passed_on = set(ids[: (len(written) + 1) // 2])
    gone = {e.attributes["ID"] for old in there for e in old.walk() if "ID" in e.attributes} - passed_on
    if lost := gone & references:
        raise DataError(
            f"the line {line.attributes.get('ID', '')} has parts that another element refers to ({sorted(lost)[0]}) "
            "and that its new text does not have; remove the references"
        )
    if there:
        yield Edit(there[0].start, source.end(there[0]), source.before(there[0].start).join(written))
    else:
        between = source.before(line.children[-1].start) if line.children else ""
        yield _added(source, line, between.join(written))
    yield from (_removed(source, e) for e in there[1:])


def _strings(prefix: str, read: LineText, outline: Sequence[Point], ids: Sequence[str]) -> list[str]:
    """The elements of a line: String, SP, String … An empty text is one String with nothing in it."""
    text = read.text.strip()
    spans = [match.span() for match in re.finditer(r"\S+", text)] or [(0, 0)]
    sure = read.words if len(read.words) == len(spans) else [read.confidence] * len(spans)
    found = list[str]()
    for number, (start, stop) in enumerate(spans):
        if number:
            found.append(f"<{prefix}SP{_box(text, spans[number - 1][1], start, outline, sides=3)}/>")
        attributes = f' ID="{escaped(ids[number])}"' if number < len(ids) and ids[number] else ""
        attributes += f' CONTENT="{escaped(text[start:stop])}"' + _box(text, start, stop, outline)
        if (confidence := sure[number]) is not None:
            attributes += f' WC="{_probability(confidence)}"'
        found.append(f"<{prefix}String{attributes}/>")
    return found


def _box(text: str, start: int, stop: int, outline: Sequence[Point], *, sides: int = 4) -> str:
    """The attributes of a box: the share that characters have of the box around the outline, in whole pixels. sides=3:
    without the height, as SP of older versions."""
    if not outline:
        return ""
    xs, ys = [x for x, _ in outline], [y for _, y in outline]
    left, width = min(xs), max(xs) + 1 - min(xs)
    if _from_the_right(text):
        start, stop = len(text) - stop, len(text) - start
    edges = [round(left + width * (place / len(text) if text else share)) for place, share in ((start, 0), (stop, 1))]
    sizes = {"HPOS": edges[0], "VPOS": round(min(ys)), "WIDTH": edges[1] - edges[0]}
    sizes["HEIGHT"] = round(max(ys) + 1) - sizes["VPOS"]
    return "".join(f' {name}="{value}"' for name, value in list(sizes.items())[:sides])


def _from_the_right(text: str) -> bool:
    """By the first letter that has a direction (Unicode bidirectional algorithm, rules P2 and P3)."""
    kinds = (unicodedata.bidirectional(character) for character in text)
    return next((kind in ("R", "AL") for kind in kinds if kind in ("L", "R", "AL")), False)


def _text(equiv: Element) -> str:
    return next((child.text for child in equiv.children if child.local == "Unicode"), "")


def _index(equiv: Element, place: int) -> int:
    value = equiv.attributes.get("index", "")
    return int(value) if value.isdecimal() else place


def _probability(value: float) -> str:
    return f"{min(max(value, 0.0), 1.0):.4f}"


def _added(source: XmlSource, line: Element, written: str, *, behind: Sequence[str] = ()) -> Edit:
    """A new element in a line: before the first of those that come `behind` it, else as the last one."""
    if follower := next((child for child in line.children if child.local in behind), None):
        return Edit(follower.start, follower.start, written + source.before(follower.start))
    if line.children:
        place = source.end(line.children[-1])
        return Edit(place, place, source.before(line.children[-1].start) + written)
    if source.inside(line) is None:
        slash = source.content.rindex(b"/", line.start, line.close)
        return Edit(slash, line.close, f">{written}</{line.name}>")
    return Edit(line.close, line.close, written)


def _removed(source: XmlSource, element: Element) -> Edit:
    """Without the white space before it."""
    return Edit(element.start - len(source.before(element.start).encode()), source.end(element), "")
