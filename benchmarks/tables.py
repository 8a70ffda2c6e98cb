"""Tables of benchmarks/README.md, or of any Markdown file, as pictures.

python -m benchmarks.tables "Base shapes beside transformers" --plot beams.png
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from itertools import dropwhile, takewhile
from pathlib import Path

from trocr_jax.errors import DataError
from trocr_jax.report.figures import plot_bars

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


def table(text: str, heading: str) -> dict[str, dict[str, float]]:
    """The first table below a heading that begins so: row -> column -> number. Cells without a number are left out;
    further rows of the same name are numbered.

    Raises DataError where there is no such heading or table.
    """
    sections = re.split(r"^#+ ", text, flags=re.M)[1:]
    found = next((s for s in sections if s.startswith(heading)), None)
    if found is None:
        titles = "; ".join(s.split("\n")[0] for s in sections)
        raise DataError(f"no heading begins with {heading!r}; there are: {titles}")
    below = dropwhile(lambda line: not line.startswith("|"), found.splitlines())
    lines = takewhile(lambda line: line.startswith("|"), below)
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    if len(rows) < 3:
        raise DataError(f"no table below the heading {found.splitlines()[0]!r}")
    (_, *columns), _, *body = rows
    found_rows: dict[str, dict[str, float]] = {}
    seen = Counter[str]()
    for name, *cells in body:
        numbers = {column: _NUMBER.search(cell) for column, cell in zip(columns, cells, strict=False)}
        seen[name] += 1
        row = name if seen[name] == 1 else f"{name} ({seen[name]})"
        found_rows[row] = {column: float(match[0].replace(",", "")) for column, match in numbers.items() if match}
    return found_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("heading", help="how the heading above the table begins")
    parser.add_argument("--file", type=Path, default=Path("benchmarks/README.md"))
    parser.add_argument("--columns", nargs="*", help="only these columns")
    parser.add_argument("--plot", type=Path, required=True, help="png, svg or pdf")
    options = parser.parse_args()
    try:
        rows = table(options.file.read_text(encoding="utf-8"), options.heading)
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        if unknown := [column for column in options.columns or () if column not in columns]:
            parser.error(f"--columns {unknown[0]!r}: no such column of numbers; there are: {'; '.join(columns)}")
        rows = {name: {c: row[c] for c in options.columns or columns if c in row} for name, row in rows.items()}
        plot_bars({name: row for name, row in rows.items() if row}, options.plot)
    except (DataError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
