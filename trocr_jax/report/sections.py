"""The parts of a report that need no script: tables and plots of metrics.json. Every text is escaped."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from html import escape
from typing import Any

from trocr_jax.metrics.titles import LOWER_IS_BETTER, TITLES
from trocr_jax.report.charts import Series, bars, lines, matrix, visible
from trocr_jax.report.facts import FACTS


def summary(scores: dict[str, Any]) -> str:
    """Every score of every run with its interval, and what the runs were."""
    runs = scores["runs"]
    names = [scores["headline"], *(name for name in TITLES if name != scores["headline"])]
    body = []
    for name in names:
        values = [run["scores"][name]["value"] for run in runs]
        known = [value for value in values if value is not None]
        best = (min if name in LOWER_IS_BETTER else max)(known) if known and len(runs) > 1 else None
        cells = [_cell(run["scores"][name], strong=value == best) for run, value in zip(runs, values, strict=True)]
        body.append(_row([escape(TITLES[name]), *cells], kind="headline" if name == scores["headline"] else ""))
    facts = [[label, *(of(run) for run in runs)] for label, of in FACTS]
    body += [_row(cells, kind="fact") for cells in facts if any(cells[1:])]
    head = "".join(f"<th scope=col>{_swatch(i)}{escape(run['name'])}</th>" for i, run in enumerate(runs))
    about = "".join(
        f"<li><b>{escape(run['name'])}</b>: {escape(' · '.join(filter(None, (run['model'], run['decode']))))}</li>"
        for run in runs
        if run["model"] or run["decode"]
    )
    return (
        f"<section><h2>Summary</h2><div class=scroll><table class=scores><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
        + (f"<ul class=note>{about}</ul>" if about else "")
        + "</section>"
    )


def comparisons(scores: dict[str, Any]) -> str:
    """Pairs of runs on the same lines."""
    if not scores["comparisons"]:
        return ""
    body = []
    for one in scores["comparisons"]:
        better = one["value"] < 0 if one["score"] in LOWER_IS_BETTER else one["value"] > 0
        verdict = "no clear difference" if one["p"] >= 1 - scores["level"] else ("better" if better else "worse")
        body.append(
            _row(
                [
                    f"{escape(one['second'])} − {escape(one['first'])}",
                    escape(TITLES[one["score"]]),
                    "<b>{:+.2f}</b> <small>{:+.2f} … {:+.2f}</small>".format(
                        *(100 * one[side] for side in ("value", "low", "high"))
                    ).replace("-", "−"),
                    f"{one['p']:.3g}",
                    verdict,
                ]
            )
        )
    head = "".join(
        f"<th scope=col>{h}</th>" for h in ("runs", "score", "difference, points", "p", "the first named is")
    )
    return (
        "<section><h2>Paired comparison</h2><div class=scroll><table><thead><tr>"
        f"{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div></section>"
    )


def groups(scores: dict[str, Any]) -> str:
    """The headline score of each set of a protocol."""
    first = scores["runs"][0]["groups"]
    if not first:
        return ""
    name = scores["headline"]
    body = [
        _row(
            [
                escape(group),
                f"{own['lines']:,}",
                *(_cell(run["groups"][group]["scores"][name]) for run in scores["runs"]),
            ]
        )
        for group, own in first.items()
    ]
    head = "".join(f"<th scope=col>{escape(run['name'])}</th>" for run in scores["runs"])
    return (
        f"<section><h2>{escape(TITLES[name])} by set</h2><div class=scroll><table class=scores><thead><tr><th>set</th>"
        f"<th>lines</th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div></section>"
    )


def plots(scores: dict[str, Any]) -> str:
    """Error by length and by confidence, reliability, risk and coverage."""
    runs = scores["runs"]
    sure = [run for run in runs if run["confidence"]]
    first = runs[0]["errors_by_length"]
    labels = [f"{b['from']}–{b['to']}" if b["from"] < b["to"] else str(b["from"]) for b in first]
    length = bars(labels, [_points(run, run["errors_by_length"], "from", "cer") for run in runs],
                  x="characters of the reference", y="CER, %")  # fmt: skip
    figures = [_figure("Error by length", length, runs)]
    if sure:
        curves = {run["name"]: run["confidence"]["risk_coverage"] for run in sure}
        reliability = [
            Series(run["name"], [(b["confidence"], b["accuracy"]) for b in bins], [b["size"] for b in bins])
            for run in sure
            for bins in [run["confidence"]["reliability"]]
        ]
        by_confidence = [
            Series(one.name, [(x, 100 * (1 - right)) for x, right in one.points], one.sizes) for one in reliability
        ]
        risk = [Series(n, [(p["coverage"], 100 * p["wrong_lines"]) for p in curve]) for n, curve in curves.items()]
        rate = [
            Series(n, [(p["coverage"], 100 * p["cer"]) for p in c if p["cer"] is not None]) for n, c in curves.items()
        ]
        figures += [
            _figure("Error by confidence", lines(by_confidence, x="confidence", y="wrong lines, %", square=True), sure),
            _figure(
                "Calibration: how often lines of a confidence are right",
                lines(reliability, x="confidence", y="share that is right", square=True, diagonal=True),
                sure,
            ),
            _figure("Risk and coverage: wrong lines among the most confident",
                    lines(risk, x="share of lines that is kept", y="wrong lines, %", square=True), sure),
            _figure("Risk and coverage: CER of the most confident",
                    lines(rate, x="share of lines that is kept", y="CER, %", square=True), sure),
        ]  # fmt: skip
    return f"<section><h2>Plots</h2><div class=figures>{''.join(figures)}</div></section>"


def confusions(scores: dict[str, Any]) -> str:
    """A matrix of characters and a table of pieces for each run."""
    parts = []
    for run in scores["runs"]:
        table = run["confusions"]["characters"]
        picture = matrix([(c["reference"], c["read"], c["count"]) for c in table])
        pieces = "".join(
            _row([_shown(c["reference"]), _shown(c["read"]), str(c["count"])]) for c in run["confusions"]["pieces"][:15]
        )
        parts.append(
            f"<figure><figcaption>{escape(run['name'])}: the characters that are confused most</figcaption>{picture}"
            f"</figure><figure><figcaption>{escape(run['name'])}: the most frequent mistakes</figcaption><table><thead>"
            f"<tr><th>is</th><th>read as</th><th>times</th></tr></thead><tbody>{pieces}</tbody></table></figure>"
        )
    return f"<section><h2>Confusions</h2><div class=figures>{''.join(parts)}</div></section>"


def _shown(text: str) -> str:
    """A piece of text, with the names of its characters for those that look alike."""
    names = ", ".join(unicodedata.name(c, f"U+{ord(c):04X}").lower() for c in text) or "nothing"
    return f'<code title="{escape(names)}">{"".join(map(visible, text)) or "∅"}</code>'


def _points(run: dict[str, Any], table: list[dict[str, Any]], x: str, y: str) -> Series:
    return Series(run["name"], [(row[x], math.nan if row[y] is None else 100 * row[y]) for row in table])


def _figure(caption: str, picture: str, runs: list[dict[str, Any]]) -> str:
    names = "".join(f"<span>{_swatch(i)}{escape(run['name'])}</span>" for i, run in enumerate(runs))
    legend = f"<div class=legend>{names}</div>" if len(runs) > 1 else ""
    return f"<figure><figcaption>{caption}</figcaption>{picture}{legend}</figure>"


def _swatch(number: int) -> str:
    return f'<i class="swatch s{number % 6}"></i>'


def _cell(score: dict[str, Any], *, strong: bool = False) -> str:
    if score["value"] is None:
        return "∞"
    value = f"{100 * score['value']:.2f} %"
    low, high = (100 * (score[side] or 0.0) for side in ("low", "high"))
    return f"{f'<b>{value}</b>' if strong else value} <small>{low:.2f} … {high:.2f}</small>"


def _row(cells: Iterable[str], *, kind: str = "") -> str:
    first, *others = cells
    return (
        f"<tr{f' class={kind}' if kind else ''}><th scope=row>{first}</th>"
        + "".join(f"<td>{cell}</td>" for cell in others)
        + "</tr>"
    )
