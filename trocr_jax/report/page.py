"""report.html: one file with its style, its script and its data, for a browser that is offline."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources
from typing import Any

import orjson

from trocr_jax.evaluated import Reading, Samples
from trocr_jax.metrics.titles import TITLES
from trocr_jax.report.lines import rows
from trocr_jax.report.sections import comparisons, confusions, groups, plots, summary
from trocr_jax.report.thumbnails import thumbnails
from trocr_jax.say import printable

# The page may run its own script and style and show its own images; nothing else is loaded, whatever a text says.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def page(title: str, samples: Samples, readings: Sequence[Reading], scores: dict[str, Any]) -> str:
    """The text of report.html. scores: what `trocr_jax.evaluation.scores.evaluate` gave for the same readings."""
    images = thumbnails([sample.image for sample in samples.samples])
    data = {
        "runs": [printable(reading.name) for reading in readings],
        "rows": rows(samples.samples, readings, images, scores["min_confidence"], scores["unicode_form"]),
    }
    body = [
        f"<header><h1>{escape(title)}</h1><p class=note>{_about(samples, scores)}</p></header>",
        summary(scores),
        comparisons(scores),
        groups(scores),
        plots(scores),
        confusions(scores),
        _LINES,
    ]
    return _PAGE.format(
        policy=_POLICY,
        title=escape(title),
        style=_asset("report.css"),
        body="\n".join(part for part in body if part),
        data=in_script(data),
        script=_asset("report.js"),
    )


def in_script(value: Any) -> str:
    """JSON that cannot end the script element it stands in, whatever its texts say."""
    text = orjson.dumps(value).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _about(samples: Samples, scores: dict[str, Any]) -> str:
    level = f"{100 * scores['level']:g} %"
    text = f"{escape(samples.name)} · {scores['lines']:,} lines · intervals at {level} over lines"
    if scores["unicode_form"]:
        text += f" · texts in {escape(scores['unicode_form'])}"
    if samples.left_out:
        text += f" · {len(samples.left_out)} left out, the first: {escape(samples.left_out[0].reason)}"
    return text + f" · ordered by {escape(TITLES[scores['headline']])}"


def _asset(name: str) -> str:
    return resources.files("trocr_jax.report").joinpath(name).read_text(encoding="utf-8")


_LINES = """<section id=lines><h2>Lines</h2>
<form id=controls onsubmit="return false">
<label>Find <input id=find type=search placeholder="in id, text or reference"></label>
<label>Run <select id=run></select></label>
<label>Show <select id=show><option value=all>all lines<option value=wrong>with mistakes<option value=right>without
mistakes<option value=marked>marked<option value=differ>where runs differ</select></label>
<label>Sort <select id=sort><option value=order>in order<option value=errors>most mistakes<option value=rate>highest
error rate<option value=unsure>least confident<option value=sure>most confident<option value=long>longest</select>
</label>
</form>
<p id=count class=note role=status></p><ol id=rows></ol>
<nav id=pages><button id=back type=button>← Back</button><span id=where></span>
<button id=next type=button>Next →</button></nav>
</section>"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}"><meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,"><title>{title}</title>
<style>
{style}</style></head>
<body><main>
{body}
</main>
<script type="application/json" id="data">{data}</script>
<script>
{script}</script></body></html>
"""
