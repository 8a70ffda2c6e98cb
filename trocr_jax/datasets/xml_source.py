"""XML that is edited where it stands: the places of elements in a file, so that what is not edited stays as it is to
the byte (comments, entities, quotes, order of attributes, white space, encoding)."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from xml.parsers import expat

from trocr_jax.errors import DataError

_BOMS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_UNMARKED = {b"<\0": "utf-16-le", b"\0<": "utf-16-be"}  # XML 1.0, appendix F
_DECLARED = re.compile(rb"<\?xml[^>]*?encoding\s*=\s*[\"']([A-Za-z0-9._-]+)")
_ATTRIBUTE = rb"\s+([^\s=/>]+)\s*=\s*(\"[^\"]*\"|'[^']*')"
_TAG = re.compile(rb"<[^\s/>]+(?:%s)*\s*(/?)>" % _ATTRIBUTE)
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, production 2


@dataclass(slots=True)
class Element:
    """name: as written, with its prefix. start: its first byte. close: the first byte of its end tag; the one behind it
    if it is an empty-element tag. text: its own characters."""

    name: str
    attributes: dict[str, str]
    start: int
    close: int = 0
    text: str = ""
    children: list[Element] = field(default_factory=list)

    @property
    def local(self) -> str:
        return self.name.rpartition(":")[2]

    def walk(self) -> Iterator[Element]:
        """The element and all below it, in the order of the file."""
        waiting = [self]  # elements may be nested deeper than calls may be
        while waiting:
            yield (element := waiting.pop())
            waiting.extend(reversed(element.children))


class Edit(NamedTuple):
    """What stands in place of the bytes from start to stop."""

    start: int
    stop: int
    text: str


class XmlSource:
    """A file and the places of its elements, in bytes of its text as UTF-8.

    Raises DataError for what is no XML, has a character encoding that Python does not know, or declares entities.
    """

    def __init__(self, content: bytes) -> None:
        self._bom = next((bom for bom in _BOMS if content.startswith(bom)), b"")
        declared = _DECLARED.match(content)
        marked = _BOMS.get(self._bom) or _UNMARKED.get(content[:2])
        self._codec = marked or (declared[1].decode() if declared else "utf-8")
        try:
            self.content = content[len(self._bom) :].decode(self._codec).encode()
        except (UnicodeError, LookupError) as error:
            raise DataError(f"is no XML ({error})") from None
        self.root = _parsed(self.content)

    def inside(self, element: Element) -> int | None:
        """The first byte behind its start tag; None for an empty-element tag."""
        tag = _TAG.match(self.content, element.start)
        assert tag is not None
        return None if tag[3] else tag.end()

    def end(self, element: Element) -> int:
        """The first byte behind it."""
        return element.close if self.inside(element) is None else self.content.index(b">", element.close) + 1

    def attribute(self, element: Element, name: str) -> Edit | None:
        """The value of an attribute as it is written, without quotes; None if it has none."""
        tag = _TAG.match(self.content, element.start)
        assert tag is not None
        for found in re.finditer(_ATTRIBUTE, tag[0]):
            if found[1] == name.encode():
                start = element.start + found.start(2) + 1
                return Edit(start, start + len(found[2]) - 2, found[2][1:-1].decode())
        return None

    def before(self, place: int) -> str:
        """The white space in front of a place, if a tag stands before it: how the file is indented."""
        start = place
        while self.content[start - 1 : start].isspace():  # of a whole page, `rstrip` would copy all before it
            start -= 1
        return self.content[start:place].decode() if self.content[start - 1 : start] == b">" else ""

    def edited(self, edits: Sequence[Edit]) -> bytes:
        """The file with these edits, which must not overlap. What its encoding lacks becomes character references."""
        parts, done = list[bytes](), 0
        for start, stop, text in sorted(edits):
            parts += [self.content[done:start], text.encode()]
            done = stop
        whole = b"".join([*parts, self.content[done:]]).decode()
        return self._bom + whole.encode(self._codec, "xmlcharrefreplace")


def legal(text: str) -> str:
    """U+FFFD for characters that XML cannot hold: most control characters, surrogates, U+FFFE and U+FFFF."""
    return _ILLEGAL.sub("\ufffd", text)


def escaped(text: str) -> str:
    """A `legal` text as XML, inside an element or an attribute in double quotes."""
    found = legal(text)
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("\r", "&#13;")):
        found = found.replace(character, entity)
    return found


def _parsed(content: bytes) -> Element:
    parser = expat.ParserCreate("utf-8")  # whatever it declares: it has been decoded
    top = Element("", {}, 0)
    path = [top]

    def start(name: str, attributes: dict[str, str]) -> None:
        element = Element(name, attributes, parser.CurrentByteIndex)
        path[-1].children.append(element)
        path.append(element)

    def end(name: str) -> None:
        path.pop().close = parser.CurrentByteIndex

    def characters(text: str) -> None:
        path[-1].text += text

    def entity(name: str, *_: object) -> None:
        raise DataError(f"declares the entity {name}; write it out, so that elements stand where they are")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.EntityDeclHandler = characters, entity
    parser.buffer_text = True
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        raise DataError(f"is no XML ({error})") from None
    return top.children[0]
