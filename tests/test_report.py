"""The report: texts from outside stay texts, the file stays small, and in a browser it sorts, filters and says nothing
on the console."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from trocr_jax.confidence import Alternative
from trocr_jax.evaluated import Looked, Outcome, Reading, Sample, Samples
from trocr_jax.evaluation.scores import evaluate
from trocr_jax.metrics.titles import TITLES
from trocr_jax.report.charts import Series, _ticks
from trocr_jax.report.lines import rows
from trocr_jax.report.page import page
from trocr_jax.report.sections import comparisons, confusions, summary
from trocr_jax.report.thumbnails import TOTAL, Thumbnail, thumbnail, thumbnails
from trocr_jax.word_boxes import Box

EVIL = "</script><script>window.owned = 1</script><img src=x onerror='window.owned = 2'>\u2028]]>&amp;"


def reading(name: str, texts: list[str], *, looked: bool) -> Reading:
    where = Looked([Box("w", 10, 0, 90, 40)], (200, 40), (1, 20), (0.0, 200.0), [[(3, 0.5), (4, 0.3)]], [1])
    outcomes = [
        Outcome(
            text,
            confidence=(i + 1) / (len(texts) + 1),
            truncated=i == 0,
            characters=[(c, 0.9) for c in text],
            alternatives=[Alternative(text, -1.0, 0.75), Alternative(EVIL, -2.0, 0.25)] if i == 1 else (),
            looked=where if looked else None,
        )
        for i, text in enumerate(texts)
    ]
    return Reading(name, outcomes, 1.0, model=EVIL, decode=EVIL)


def report(folder: Path, count: int = 120) -> str:
    Image.new("L", (200, 40), 220).save(folder / "line.png")
    references = [EVIL, *(f"reference {i} <b>bold</b>" for i in range(1, count))]
    samples = Samples(EVIL, [Sample(f"{i}.png{EVIL}", r, folder / "line.png", EVIL) for i, r in enumerate(references)])
    texts = [EVIL[5:] if i == 0 else r[: len(r) - i % 4] for i, r in enumerate(references)]
    readings = [reading(f"one {EVIL}", texts, looked=True), reading("two", references, looked=False)]
    return page(EVIL, samples, readings, evaluate(samples, readings, min_confidence=0.1, resamples=50))


def test_lines_are_compared_in_the_form_that_is_asked_for(tmp_path):
    Image.new("L", (200, 40), 220).save(tmp_path / "line.png")
    samples = Samples("s", [Sample("0", "cafe\u0301 au", tmp_path / "line.png", "")])
    image = thumbnails([tmp_path / "line.png"])
    lines = [
        rows(samples.samples, [reading("one", [text], looked=False)], image, None, form)[0]
        for text in ("caf\u00e9 au", "caf\u00e9 du")
        for form in (None, "NFC")
    ]
    assert [line["l"] for line in lines] == [8, 7, 8, 7]
    found = [line["o"][0] for line in lines]
    assert [row["e"] for row in found] == [2, 0, 3, 1]
    assert found[1]["d"] == ["caf", "\u00e9", " au"]
    assert found[3]["d"] == ["caf", "\u00e9", " ", ["a", "d"], "u"]


class Elements(HTMLParser):
    """Counts elements, and keeps what handlers and sources attributes have."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.attributes: list[tuple[str, str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.attributes += [(tag, name, value) for name, value in attrs]


def test_texts_from_outside_add_no_element(tmp_path):
    found = Elements(report(tmp_path))
    assert found.counts["script"] == 2
    assert "img" not in found.counts  # those of lines are made by the script
    assert [value for _, name, value in found.attributes if name.startswith("on")] == ["return false"]
    assert [value for _, name, value in found.attributes if name in ("src", "href")] == ["data:,"]


def test_ten_thousand_lines_stay_below_sixty_megabytes(tmp_path):
    """The images are noise, which compresses worst; the rows are a tenth of them, times ten."""
    count = 1000
    rng = random.Random(0)
    for i in range(20):
        noise = Image.frombytes("L", (900, 64), rng.randbytes(900 * 64))
        noise.save(tmp_path / f"{i}.png")
    text = "the quick brown fox jumps over the lazy dog, twice a day"
    where = Looked(
        [Box(w, 1, 0, 2, 3) for w in text.split()], (900, 64), (1, 96), (0.0, 960.0), [[(90, 0.2)] * 5] * len(text),
        [1] * len(text),
    )  # fmt: skip
    outcome = Outcome(text[:-3], 0.5, characters=[(c, 0.5) for c in text], looked=where)
    samples = Samples("many", [Sample(f"some/folder/{i:05}.png", text, None) for i in range(count)])
    readings = [Reading("one", [outcome] * count, 1.0)]
    rows = len(page("many", samples, readings, evaluate(samples, readings, resamples=20)))
    assert 10 * rows + TOTAL < 60_000_000
    copies = [thumbnail(tmp_path / f"{i}.png", TOTAL // 10_000) for i in range(20)]  # each may take so much then
    assert all(0 < len(copy.data) <= TOTAL // 10_000 for copy in copies)


def test_an_image_that_cannot_be_read_has_no_copy(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    assert thumbnails([tmp_path / "bad.png", None, tmp_path / "gone.png"]) == [("", 0, 0)] * 3


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("Chromium and its driver are not installed (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


def test_in_a_browser(browser, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(report(tmp_path), encoding="utf-8")
    browser.get(path.as_uri())

    def run(code: str) -> Any:
        return browser.execute_script(code)

    def choose(id: str, value: str) -> None:
        run(f"const e = document.getElementById('{id}'); e.value = {json.dumps(value)}; "
            "e.dispatchEvent(new Event(e.tagName === 'INPUT' ? 'input' : 'change'))")  # fmt: skip

    def texts(selector: str) -> list[str]:
        return run(f"return [...document.querySelectorAll('{selector}')].map((e) => e.textContent)")

    assert len(texts("#rows > li")) == 50
    assert texts("#where") == ["1 of 3"]
    assert texts("#rows .reference")[0] == EVIL
    assert texts("#rows .id")[0] == f"0.png{EVIL}"
    assert run("return window.owned") is None
    assert run("return document.querySelectorAll('main img').length") == 50
    run("document.getElementById('next').click()")
    assert texts("#rows .reference")[0].startswith("reference 50 ")

    choose("sort", "errors")
    wrong = [int(t.split()[0]) if t != "right" else 0 for t in texts("#rows .head span:nth-child(3)")]
    assert wrong == sorted(wrong, reverse=True)
    assert wrong[0] > 0
    choose("sort", "unsure")
    sure = [float(t.split()[1]) for t in texts("#rows .head span:nth-child(4)")]
    assert sure == sorted(sure)
    choose("show", "wrong")
    assert texts("#count") == ["91 of 120 lines"]
    choose("show", "right")
    assert texts("#count") == ["29 of 120 lines"]
    choose("show", "marked")
    assert 1 <= int(texts("#count")[0].split()[0]) < 30
    choose("show", "all")
    choose("find", "reference 77 ")
    assert texts("#count") == ["1 of 120 lines"]
    assert "".join(texts("#rows li .read")[:1]).startswith("reference 77 ")
    choose("find", "<B>BOLD")
    assert texts("#count") == ["119 of 120 lines"]
    choose("find", "")

    choose("sort", "order")
    run("document.querySelector('#rows .read b').dispatchEvent(new MouseEvent('mouseenter'))")
    assert run("return document.querySelectorAll('.heat').length") == 2
    assert run("return document.querySelectorAll('.box').length") == 50
    for width in (380, 1200):
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        assert run("return document.documentElement.scrollWidth") <= width  # nothing sticks out
    assert run("return window.owned") is None
    assert browser.get_log("browser") == []


def test_the_rate_of_a_line_is_of_its_characters_in_the_form_of_the_scores(browser, tmp_path):
    samples = Samples("s", [Sample("0", "\u1112\u1161\u11ab\u1100\u1173\u11af", None)])  # two syllables in six parts
    readings = [Reading("one", [Outcome("\ud55c")], None)]  # the first of them
    path = tmp_path / "report.html"
    scored = evaluate(samples, readings, unicode_form="NFC", resamples=20)
    path.write_text(page("s", samples, readings, scored), encoding="utf-8")
    browser.get(path.as_uri())
    assert browser.execute_script("return document.querySelector('.head').textContent").endswith("1 wrong, 50.0 %")


def test_a_text_from_right_to_left_ends_at_the_left(browser, tmp_path):
    text = "שלום עולם."
    samples, readings = Samples("s", [Sample("0", text, None)]), [Reading("one", [Outcome(text)], None)]
    path = tmp_path / "report.html"
    path.write_text(page("s", samples, readings, evaluate(samples, readings, resamples=20)), encoding="utf-8")
    browser.get(path.as_uri())
    letters = "[...document.querySelectorAll('.read b')].map((b) => b.getBoundingClientRect().left)"
    found = browser.execute_script(f"return {letters}")
    assert len(found) == len(text)
    assert found == sorted(found, reverse=True)  # the full stop too


def scores(level: float = 0.95, count: int = 12) -> dict[str, Any]:
    """Of two runs: the second reads a third of the lines wrong."""
    samples = Samples("s", [Sample(str(i), "abc", None) for i in range(count)])
    good = [Outcome("abc", truncated=i == 0) for i in range(count)]
    bad = [Outcome("abx" if i % 3 == 0 else "abc") for i in range(count)]
    return evaluate(samples, [Reading("good", good, None), Reading("bad", bad, None)], level=level, resamples=200)


def row_of(page: str, title: str) -> str:
    (row,) = [row for row in re.findall(r"<tr.*?</tr>", page) if f"<th scope=row>{title}" in row]
    return row


def test_the_best_run_is_marked_whether_a_score_is_an_error_or_a_share() -> None:
    page = summary(scores())
    for name, best in (("cer", "0.00"), ("exact", "100.00")):
        assert re.findall(r"<b>([\d.]+) %</b>", row_of(page, f"{TITLES[name]}</th>")) == [best]
    assert "texts cut off</th><td>1</td><td></td>" in page
    alone = scores()
    alone["runs"] = alone["runs"][:1]
    assert "<b>" not in summary(alone).split("</table>")[0]


def test_a_comparison_names_the_second_run_first_and_says_whether_it_is_better() -> None:
    found = scores()
    for one in found["comparisons"]:
        one["p"] = 0.03
    page = comparisons(found)
    assert page.count("<th scope=row>bad − good</th>") == 2
    assert re.findall(r"<td>(better|worse|no clear difference)</td>", page) == ["worse", "worse"]
    assert "no clear difference" in comparisons(found | {"level": 0.99})


def test_lines_are_marked_for_review_below_the_threshold_and_where_nothing_was_read() -> None:
    samples = [Sample(str(i), "ab", None) for i in range(3)]
    where = Looked([Box("ab", 50, 0, 100, 9)], (200, 40), (1, 4), (0.0, 200.0), [[(1, 0.5)]], [2])
    outcomes = [Outcome("ab", 0.5, looked=where), Outcome("ab", 0.49), Outcome("", error="bad")]
    images = [Thumbnail("", 0, 0)] * 3
    found = [row["o"][0] for row in rows(samples, [Reading("a", outcomes, None)], images, 0.5, None)]
    assert [one.get("x", []) for one in found] == [[], ["review"], ["unreadable", "review"]]
    assert found[0]["b"] == [[250, 500]]
    assert found[0]["a"] == [[2, 1, 50]]
    outcome = Outcome("abc", characters=[("a", 0.57), ("b", 0.0), ("c", 1.0)])
    (row,) = rows(samples[:1], [Reading("a", [outcome], None)], images[:1], None, None)
    assert row["o"][0]["k"] == "570099"  # 100 * 0.57 is less than 57
    outcomes = [Outcome("ab")] * 3  # of a system that knows no confidence
    readings, lines = [Reading("a", outcomes, None)], Samples("s", samples)
    for threshold, count in ((0.5, 3), (None, 0)):
        scored = evaluate(lines, readings, min_confidence=threshold, resamples=20)
        assert page("s", lines, readings, scored).count('"x":["review"]') == count


def test_axes_hold_what_is_drawn_and_few_lines_stand_beside_it() -> None:
    for low, high in ((0.0, 1.0), (0.3, 0.9), (3, 17), (0, 0), (-5, 2), (0, 1234)):
        ticks = _ticks(low, high)
        assert ticks[0] <= low <= high <= ticks[-1]
        assert 4 <= len(ticks) <= 10
    assert Series("a", [(0, 1), (1, 2)], [10, 9]).joined() == [(0, 1)]


def test_characters_that_are_not_seen_have_signs_among_the_confusions() -> None:
    samples = Samples("s", [Sample("0", "\u0645\u06cc\u200c\u0631\u0648\u062f a", None)])  # Persian, with a non-joiner
    readings = [Reading("one", [Outcome(samples.samples[0].reference.replace("\u200c", "\u00a0"))], None)]
    found = confusions(evaluate(samples, readings, resamples=20))
    assert r'<code title="zero width non-joiner">\u200c</code>' in found
    assert r'<code title="no-break space">\xa0</code>' in found
