"""The texts of a job whose source are pages, written into copies of their XML files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree.ElementTree import ParseError

from trocr_jax.datasets.crop import Point
from trocr_jax.datasets.pages import Line, outline_of, parse_page
from trocr_jax.datasets.pages_filled import LineText, fill
from trocr_jax.errors import DataError, JobError
from trocr_jax.jobs import files
from trocr_jax.jobs.job import Job
from trocr_jax.jobs.rows import Row
from trocr_jax.jobs.sources import Input, from_description
from trocr_jax.jobs.sources.pages import CORRECTED, WHOLE, Pages, is_there, line_id


class Filled(NamedTuple):
    """The copy of a page and its content; error says why there is none."""

    output: Path
    content: bytes = b""
    error: str | None = None


def filled_pages(job: Job, folder: Path, *, units: Iterable[int]) -> Iterator[Filled]:
    """The pages of which these units have lines, one after another, and of a job with all its units those that have no
    lines. A copy has the place below `folder` that its file has below the folder that holds all of them.

    Raises JobError if the source of the job is another than pages, its rows have no texts, or `folder` lies in a folder
    of it or holds pages of it, which copies could take the place of; SourceError if the source has gone.
    """
    source = from_description(job.plan.configuration["source"])
    if not isinstance(source, Pages):
        raise JobError(f"{job.store.root}: its source is {source.kind}; only pages (PAGE XML, ALTO) can be filled in")
    if "text" not in job.plan.configuration["columns"]:
        raise JobError(f"{job.store.root}: its rows have no column text; pages can be filled in by a job that has it")
    target, units = folder.resolve(), list(units)
    places = {path: _place(path) for path in source.files()}
    folders = [place for place in map(_place, source.paths) if os.path.isdir(place)]
    if any(map(target.is_relative_to, folders)) or any(place.is_relative_to(target) for place in places.values()):
        raise JobError(f"{folder}: holds pages that were read, or lies among them; give a folder outside of the source")
    root = Path(os.path.commonpath([place.parent for place in places.values()])) if places else target
    complete = len(units) == len(job.units)
    seen = set[str]()
    for path, rows in _by_page(job, units):
        seen.add(path)
        output = folder / (places[path].relative_to(root) if path in places else PurePosixPath(path).name)
        yield _filled(path, output, rows, complete=complete)
    if complete:
        for path in places.keys() - seen:
            yield _filled(path, folder / places[path].relative_to(root), [], complete=True)


def _place(path: str) -> Path:
    """Where a file is, with its links resolved; of a URL, as though each protocol were a folder of this machine. Names
    in an object store may have parts that are none of a path."""
    if not files.is_url(path):
        return Path(path).resolve()
    protocol, _, rest = path.partition("://")
    if protocol in ("file", "local"):
        return Path(rest).resolve()
    odd = {"": "%", ".": "%2E", "..": "%2E%2E"}
    return Path("/", protocol, *(odd.get(part, part) for part in rest.split("/")))


def _by_page(job: Job, units: Iterable[int]) -> Iterator[tuple[str, list[tuple[Input, Row]]]]:
    """Lines of a page come one after another, but may be in several units."""
    page, found = None, list[tuple[Input, Row]]()
    for unit in units:
        for input, row in zip(job.inputs(job.whole(unit)), job.rows(unit), strict=True):
            if page is not None and input.place[0] != page:
                yield page, found
                found = []
            page = input.place[0]
            found.append((input, row))
    if page is not None:
        yield page, found


def _filled(path: str, output: Path, rows: list[tuple[Input, Row]], *, complete: bool) -> Filled:
    try:
        with files.open_file(path) as file:
            content = file.read()
        _, lines = parse_page(content)
        texts: dict[int, LineText | None] = {}
        for input, row in rows:
            number = input.place[1]
            if number == WHOLE:
                raise DataError(CORRECTED)
            if not is_there(input.place, lines) or line_id(path, number, lines[number]) != input.id:
                raise DataError(f"has no line {input.id.rpartition('#')[2]} where it was when the job was planned")
            texts[number] = _text(row)
        if complete and len(texts) != len(lines):
            raise DataError(f"has {len(lines)} lines, and the job {len(texts)} of them: it has changed, or was added")
        return Filled(output, fill(content, texts, _outlines(lines)))
    except OSError as error:
        return Filled(output, error=f"{path}: cannot be read ({error.strerror or error})")
    except ParseError as error:
        return Filled(output, error=f"{path}: is no XML ({error})")
    except ValueError as error:  # DataError among them
        return Filled(output, error=f"{path}: {error}")


def _text(row: Row) -> LineText | None:
    if row["text"] is None:
        return None
    return LineText(row["text"], row.get("confidence"), [word["confidence"] for word in row.get("words") or ()])


def _outlines(lines: list[Line]) -> dict[int, list[Point]]:
    found, outline = dict[int, list[Point]](), outline_of(lines)
    for number, line in enumerate(lines):
        try:
            found[number] = list(outline(line))
        except DataError:  # it has none: then it was not read
            continue
    return found
