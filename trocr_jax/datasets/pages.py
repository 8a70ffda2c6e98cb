"""Pages with a transcription in PAGE XML or ALTO, cut into lines by their outlines.

PAGE: schema.primaresearch.org/PAGE/gts/pagecontent; ALTO: www.loc.gov/standards/alto. Elements are found by their
local names, so every version of the schemas is read.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path, PurePosixPath
from statistics import median
from typing import ClassVar, NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from PIL import Image

from trocr_jax.datasets.base import IMAGE_SUFFIXES, Bad, Dataset, Record, files_in, split_name
from trocr_jax.datasets.crop import Point, box, coordinate, cut_line, png
from trocr_jax.errors import DataError, ImageError
from trocr_jax.image_file import open_rgb

_ABOVE, _BELOW = 0.75, 0.3  # of the distance of baselines: what a line reaches above and below its baseline
_ASKEW = 0.02  # of one scale to the other; whole millimetres of a small page are 0.01 of it


@dataclass(frozen=True)
class Line:
    """What a file says of a line. An outline or a baseline may be missing: empty. fault: of its coordinates, for which
    it cannot be cut out."""

    id: str
    text: str
    outline: Sequence[Point]
    baseline: Sequence[Point]
    fault: str = ""


class Picture(NamedTuple):
    """What a file says of the picture of its page. width, height: in units of its coordinates; 0 where it does not say.
    unit: pixel or, in ALTO, mm10 (tenths of a millimetre) or inch1200."""

    name: str
    width: float
    height: float
    unit: str = "pixel"

    def pixels(self, page: Image.Image) -> tuple[float, float]:
        """Of a unit, across and down. Raises DataError if the picture has another size than the file says, by more than
        a pixel, or if the unit is another, another ratio of its sides: outlines are in other places then."""
        if self.unit != "pixel":
            if not (self.width and self.height):
                raise DataError(f"its unit is {self.unit}, and its Page has no WIDTH and HEIGHT; export ALTO in pixels")
            across, down = page.width / self.width, page.height / self.height
            if abs(across / down - 1) > _ASKEW:
                raise DataError(
                    f"its picture is {page.width} x {page.height} pixels, the file says {self.width:g} x "
                    f"{self.height:g} {self.unit}, which is another shape: give the picture that it was made from"
                )
            return across, down
        stated = self.width or page.width, self.height or page.height
        if any(abs(said - size) > 1 for said, size in zip(stated, page.size, strict=True)):
            turned = abs(page.width - page.height) > 1 and all(
                abs(said - size) <= 1 for said, size in zip(stated, page.size[::-1], strict=True)
            )
            raise DataError(
                f"its picture is {page.width} x {page.height} pixels, the file says {stated[0]:g} x {stated[1]:g}: "
                f"give the picture that it was made from{', without an EXIF orientation that turns it' * turned}"
            )
        return 1.0, 1.0


@dataclass(frozen=True, kw_only=True)
class Pages(Dataset):
    """PAGE XML and ALTO. Files directly in the source (or in its folder page/) are the split train; folders below it
    are splits with their names. A line without an outline is cut around its baseline."""

    name: ClassVar[str] = "pages"
    where: ClassVar[str] = (
        "Put the XML files there, and each page's picture beside its XML file, one folder up, or in images/; "
        "folders train, validation and test are splits."
    )

    def missing(self) -> list[str]:
        found = [path for paths in self._files().values() for path in paths]
        return [] if found else ["*.xml (PAGE XML or ALTO)"]

    def records(self) -> Mapping[str, Iterable[Record | Bad]]:
        return {split: self._split(paths) for split, paths in self._files().items()}

    def _files(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in (path for path in files_in(self.source, "**/*") if path.suffix.lower() == ".xml"):
            inside = [
                part for part in path.parent.relative_to(self.source).parts if part.lower() not in ("page", "alto")
            ]
            if path.name.lower() not in ("mets.xml", "metadata.xml"):
                found.setdefault(split_name(inside[0]) if inside else "train", []).append(path)
        return found

    def _split(self, paths: list[Path]) -> Iterator[Record | Bad]:
        for path in paths:
            name = path.relative_to(self.source).with_suffix("").as_posix()
            try:
                picture, lines = read_page(path)
                page = open_rgb(find_picture(path, picture.name))
                scale = picture.pixels(page)
            except (DataError, ImageError) as error:
                yield Bad(name, f"{error} (all lines of the page)")
                continue
            outlines = outline_of(lines)
            for number, line in enumerate(lines, 1):
                own, row = f"{name}/{line.id or number}", f"{path}#{line.id or number}"
                try:
                    yield Record(own, line.text, png(cut_line(page, scaled(outlines(line), scale))), page=name, row=row)
                except (DataError, ImageError) as error:
                    yield Bad(own, str(error))


def scaled(outline: Sequence[Point], scale: tuple[float, float]) -> Sequence[Point]:
    """In pixels, without what a quotient of floats leaves below or above a whole one; as it is if it is in pixels."""
    across, down = scale
    if across == down == 1:
        return outline
    return [(round(x * across, 6), round(y * down, 6)) for x, y in outline]


def read_page(xml: Path) -> tuple[Picture, list[Line]]:
    """The picture and the lines of a PAGE XML or ALTO file. Raises DataError."""
    try:
        return parse_page(xml.read_bytes())
    except ElementTree.ParseError as error:
        raise DataError(f"{xml}: is no XML ({error})") from error
    except OSError as error:
        raise DataError(f"{xml}: cannot be read ({error.strerror}); copy it again") from None


def parse_page(content: bytes) -> tuple[Picture, list[Line]]:
    """As `read_page`. Raises ElementTree.ParseError for what is no XML, or in a character encoding that Python does not
    know."""
    try:
        root = ElementTree.fromstring(content)
    except (LookupError, ValueError) as error:
        raise ElementTree.ParseError(str(error)) from None
    return _alto(root) if _local(root) == "alto" else _page(root)


def outline_of(lines: list[Line]) -> Callable[[Line], Sequence[Point]]:
    """Gives the outline of a line of a page with these `lines`; around its baseline if it has none. It raises DataError
    where there is neither, or a coordinate that is no number."""
    spacing = cache(lambda: _spacing(lines))  # of thousands of lines it takes longer than to cut one out

    def outline(line: Line) -> Sequence[Point]:
        if line.fault:
            raise DataError(line.fault)
        return line.outline or _around(line.baseline, spacing())

    return outline


def _page(root: Element) -> tuple[Picture, list[Line]]:
    page = _page_with_lines(root)
    if page is None:
        raise DataError(f"neither PAGE XML nor ALTO: its root is {_local(root)}")
    lines = []
    for element in (e for e in root.iter() if _local(e) == "TextLine"):
        own = {_local(child): child for child in reversed(element)}
        readings = [child for child in element if _local(child) == "TextEquiv"]
        main = min(enumerate(readings), key=lambda e: _index(*e), default=(0, ()))[1]
        unicode = next((e for e in main if _local(e) == "Unicode"), None)
        text = "" if unicode is None else unicode.text or ""
        lines.append(_line(element.get("id", ""), text, *(_points(own.get(kind)) for kind in ("Coords", "Baseline"))))
    size = _size(page.get("imageWidth", "")), _size(page.get("imageHeight", ""))
    return Picture(page.get("imageFilename", ""), *size), lines


def _alto(root: Element) -> tuple[Picture, list[Line]]:
    unit = next((e.text or "" for e in root.iter() if _local(e) == "MeasurementUnit"), "pixel").strip()
    if unit not in ("pixel", "mm10", "inch1200"):
        raise DataError(f"its unit is {unit!r}; export ALTO with the measurement unit pixel")
    name = next((e.text or "" for e in root.iter() if _local(e) == "fileName"), "").strip()
    page, lines = _page_with_lines(root), []
    for element in (e for e in root.iter() if _local(e) == "TextLine"):
        parts, before = list[str](), ""
        for child in element:
            kind = _local(child)
            if kind == "String":
                parts += [" " if before == "String" else "", child.get("CONTENT", "")]  # some programs leave SP out
            elif kind in ("SP", "HYP"):
                parts.append(" " if kind == "SP" else child.get("CONTENT", "-"))
            before = kind if kind in ("String", "SP", "HYP") else before
        polygon = next((e for e in element.findall("{*}Shape/{*}Polygon")), None)
        outline = "" if polygon is None else polygon.get("POINTS", "")
        sides = [element.get(key, "") for key in ("HPOS", "VPOS", "WIDTH", "HEIGHT")]
        lines.append(_line(element.get("ID", ""), "".join(parts), outline, element.get("BASELINE", ""), sides))
    size = (0.0, 0.0) if page is None else (_size(page.get("WIDTH", "")), _size(page.get("HEIGHT", "")))
    return Picture(name, *size, unit), lines


def _page_with_lines(root: Element) -> Element | None:
    """The first page if none has lines. Raises DataError if several have."""
    pages = [element for element in root.iter() if _local(element) == "Page"]
    found = [page for page in pages if any(_local(element) == "TextLine" for element in page.iter())]
    if len(found) > 1:
        raise DataError(f"has {len(found)} pages with lines; write a file for each page, which names its picture")
    return next(iter(found or pages), None)


def _size(text: str) -> float:
    try:
        return max(coordinate(text), 0.0)
    except DataError:
        return 0.0


def _line(id: str, text: str, outline: str, baseline: str, sides: Sequence[str] = ("",)) -> Line:
    """sides: left, top, width and height of the line, for one without an outline."""
    try:
        points = _numbers(outline)
        if not points and all(sides):
            left, top, width, height = map(coordinate, sides)
            points = list(box(left, top, left + width - 1, top + height - 1))
        return Line(id, text.strip(), points, _numbers(baseline))
    except DataError as error:
        return Line(id, text.strip(), (), (), str(error))


def _index(place: int, reading: Element) -> int:
    """The lowest is the text, says the schema; readings without one are in order."""
    index = reading.get("index", "")
    return int(index) if index.isdecimal() else place


def _points(element: Element | None) -> str:
    """points="x,y x,y", or the Point elements of the schema of 2010."""
    if element is None:
        return ""
    points = (e for e in element if _local(e) == "Point")
    return element.get("points") or " ".join(f"{e.get('x') or '?'},{e.get('y') or '?'}" for e in points)


def _numbers(points: str) -> list[Point]:
    """Pairs of numbers, divided by spaces or commas in any of the ways that programs write. Raises DataError."""
    numbers = [coordinate(number) for number in points.replace(",", " ").split()]
    if len(numbers) < 2:  # a baseline may be a height alone
        return []
    if len(numbers) % 2:
        raise DataError(f"its {len(numbers)} coordinates are no pairs")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def find_picture(xml: Path, name: str) -> Path:
    """The picture that a page names, seen from its XML or one folder up (a workspace of OCR-D: page/a.xml, img/a.png),
    else whatever folders stand before the name, or the one with the name of the XML; a name that differs in capitals
    counts where no other is there."""
    wanted, given = picture_name(name), picture_path(name)
    names = [wanted] * bool(wanted) + [xml.stem + suffix for suffix in IMAGE_SUFFIXES]
    beside = xml.parent
    above = beside / ".." if beside.name in ("", "..") else beside.parent  # the parent of "." is "."
    places = [folder / given for folder in (beside, above) if given]
    places += [folder / n for n in names for folder in (beside, above, beside / "images", above / "images")]
    found = next((place for place in places if place.is_file()), None) or _in_other_letters(places)
    if found is None:
        raise no_picture(wanted or f"{xml.stem}.*", xml.name)
    return found


def _in_other_letters(places: list[Path]) -> Path | None:
    """The first that is there but for capitals, as PAGE0001.JPG for page0001.jpg."""
    names: dict[Path, dict[str, str]] = {}
    for folder in {place.parent for place in places}:
        with suppress(OSError):  # it is not there, or may not be listed
            names[folder] = {name.casefold(): name for name in sorted(os.listdir(folder))}
    for place in places:
        name = names.get(place.parent, {}).get(place.name.casefold())
        if name is not None and (place.parent / name).is_file():
            return place.parent / name
    return None


def picture_name(name: str) -> str:
    """Of the file, without folders; empty if a page names none."""
    file = PurePosixPath(name.replace("\\", "/")).name
    return "" if file == ".." else file


def picture_path(name: str) -> str:
    """Of the file, with its folders, seen from one folder above the XML or from there; empty if there are none, or if
    they lead further up or begin at a root."""
    path = PurePosixPath(name.replace("\\", "/").removeprefix("../"))
    if len(path.parts) < 2 or path.is_absolute() or ":" in path.parts[0] or ".." in path.parts:
        return ""
    return str(path)


def no_picture(wanted: str, xml: str) -> DataError:
    return DataError(f"its picture {wanted} is not beside {xml}, one folder up, or in images/")


def _spacing(lines: list[Line]) -> float | None:
    """The usual distance of neighbouring baselines; None for a page with fewer than two."""
    heights = sorted(median(y for _, y in line.baseline) for line in lines if line.baseline)
    steps = [b - a for a, b in pairwise(heights) if b - a > 1]
    return median(steps) if steps else None


def _around(baseline: Sequence[Point], spacing: float | None) -> list[Point]:
    if len(baseline) < 2 or spacing is None:
        raise DataError("it has no outline (Coords, Shape or HPOS…), and no baseline with neighbours to cut it by")
    above = [(x, y - _ABOVE * spacing) for x, y in baseline]
    return above + [(x, y + _BELOW * spacing) for x, y in reversed(baseline)]


def _local(element: Element) -> str:
    return str(element.tag).rpartition("}")[2]
