"""Pictures of curves with matplotlib, for papers and terminals: png, svg or pdf, as the file is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trocr_jax.errors import OutputError
from trocr_jax.report.charts import FEW

Curve = Sequence[tuple[float, float]]


def plot_curves(panels: Mapping[str, Mapping[str, Curve]], path: Path, *, x: str = "") -> None:
    """A panel for each title with its named lines, under each other. Raises OutputError naming the extra if matplotlib
    is missing, or the file if it cannot be written."""
    figure, axes = _figure(path, len(panels))
    for ax, (title, curves) in zip(axes, panels.items(), strict=True):
        for name, points in curves.items():
            ax.plot([a for a, _ in points], [b for _, b in points], label=name, linewidth=1.5)
        ax.set_ylabel(title)
        ax.grid(alpha=0.3)
        if len(curves) > 1:
            ax.legend(frameon=False)
    axes[-1].set_xlabel(x)
    _save(figure, path)


def plot_bars(groups: Mapping[str, Mapping[str, float]], path: Path, *, y: str = "") -> None:
    """Bars beside each other: group -> name -> height. Raises as `plot_curves` does."""
    figure, (ax,) = _figure(path, 1)
    names = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    wide = 0.8 / max(len(names), 1)
    for number, name in enumerate(names):
        places = [i - 0.4 + (number + 0.5) * wide for i, bars in enumerate(groups.values()) if name in bars]
        ax.bar(places, [bars[name] for bars in groups.values() if name in bars], width=wide, label=name)
    ax.set_xticks(range(len(groups)), list(groups))
    ax.set_ylabel(y)
    ax.grid(axis="y", alpha=0.3)
    if len(names) > 1:
        ax.legend(frameon=False)
    _save(figure, path)


def plot_evaluation(scores: Mapping[str, Any], path: Path) -> None:
    """Calibration and risk–coverage of each run of metrics.json, and error by length. Raises as `plot_curves` does."""
    runs = scores["runs"]
    sure = [run for run in runs if run["confidence"]]
    panels: dict[str, dict[str, Curve]] = {
        "CER, % (x: characters)": {
            run["name"]: [((b["from"] + b["to"]) / 2, 100 * (b["cer"] or 0)) for b in run["errors_by_length"]]
            for run in runs
        }
    }
    if sure:
        panels["share right (x: confidence)"] = {
            run["name"]: [
                (b["confidence"], b["accuracy"]) for b in run["confidence"]["reliability"] if b["size"] >= FEW
            ]
            for run in sure
        }
        panels["wrong lines, % (x: coverage)"] = {
            run["name"]: [(p["coverage"], 100 * p["wrong_lines"]) for p in run["confidence"]["risk_coverage"]]
            for run in sure
        }
    plot_curves(panels, path)


def _figure(path: Path, rows: int) -> tuple[Any, list[Any]]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise OutputError(f"{path}: pictures need matplotlib: pip install trocr-jax[plot]") from None
    figure = Figure(figsize=(7, 2.6 * max(rows, 1) + 0.6), layout="constrained")
    return figure, list(figure.subplots(rows, squeeze=False)[:, 0])


def _save(figure: Any, path: Path) -> None:
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:  # ValueError for a suffix that it does not know
        raise OutputError(f"{path}: cannot be written ({error})") from None
