"""Random PAGE 2019 and ALTO 4.4 files with random texts filled in: valid against the schemas, the texts where they
belong, everything else as it was.

    python -m scripts.page_check --pages 1000
"""

from __future__ import annotations

import argparse
import copy
import re
from collections import Counter

from lxml import etree

from tests.random_pages import RandomPage, random_page, schema
from trocr_jax.datasets.pages import parse_page
from trocr_jax.datasets.pages_filled import LineText, fill


def check(page: RandomPage, schemas: dict[str, etree.XMLSchema]) -> None:
    """Raises AssertionError."""
    before = etree.fromstring(page.content)
    schemas[page.kind].assertValid(before)  # or it would say nothing
    texts = {i: None if t is None else LineText(t[0], t[1], t[2]) for i, t in enumerate(page.texts)}
    _, lines = parse_page(page.content)
    assert len(lines) == len(texts)
    filled = fill(page.content, texts, {i: line.outline for i, line in enumerate(lines)})
    after = etree.fromstring(filled)
    schemas[page.kind].assertValid(after)
    tag = "{*}TextLine"
    for old, new, text in zip(before.iter(tag), after.iter(tag), page.texts, strict=True):
        if text is None:
            assert etree.tostring(old, method="c14n") == etree.tostring(new, method="c14n")
        elif page.kind == "alto":
            assert " ".join(e.get("CONTENT") for e in new.iterfind("{*}String")) == legal(" ".join(text[0].split()))
        else:
            equivs = new.findall("{*}TextEquiv")
            assert equivs[0].findtext("{*}Unicode") == legal(text[0])
            assert abs(float(equivs[0].get("conf")) - text[1]) < 1e-4
            assert equivs[0].get("index") == ("0" if equivs[1:] else None)
            ranked = sorted(equivs[1:], key=lambda e: int(e.get("index")))
            assert [int(e.get("index")) for e in ranked] == [*range(1, len(equivs))]
            others = sorted(old.iterfind("{*}TextEquiv"), key=lambda e: int(e.get("index", 0)))
            kept = [e.findtext("{*}Unicode") for e in others]
            kept = [t for t in kept if t.strip() and t.strip() != legal(text[0]).strip()]
            assert [e.findtext("{*}Unicode") for e in ranked] == kept
    assert outside(before) == outside(after)
    if not texts or all(text is None for text in texts.values()):
        assert filled == page.content
    again = fill(filled, texts, {i: line.outline for i, line in enumerate(lines)})
    assert again == filled


def outside(root: etree._Element) -> bytes:
    """All but the texts of lines, in canonical form, comments and processing instructions included."""
    root = copy.deepcopy(root)
    for line in root.iter("{*}TextLine"):
        for child in list(line.iterchildren("{*}TextEquiv", "{*}String", "{*}SP", "{*}HYP")):
            line.remove(child)
    # white space goes with what it indents; that of other text was compared to the byte
    return re.sub(rb"\s+", b"", etree.tostring(root, method="c14n"))


def legal(text: str) -> str:
    """The characters of XML 1.0, production 2; others as U+FFFD."""
    return "".join(
        c if c in "\t\n\r" or 0x20 <= ord(c) <= 0xD7FF or 0xE000 <= ord(c) <= 0xFFFD or ord(c) > 0xFFFF else "\ufffd"
        for c in text
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    schemas = {kind: schema(kind) for kind in ("page", "alto")}
    found: Counter[str] = Counter()
    for seed in range(options.seed, options.seed + options.pages):
        page = random_page(seed)
        try:
            check(page, schemas)
        except AssertionError:
            raise SystemExit(f"page {seed} ({page.kind}) is not as it should be") from None
        found[page.kind] += 1
        found["lines"] += len(page.texts)
        found["failed lines"] += page.texts.count(None)
    print(", ".join(f"{name} {count}" for name, count in found.items()) + ": valid, and nothing else changed")


if __name__ == "__main__":
    main()
