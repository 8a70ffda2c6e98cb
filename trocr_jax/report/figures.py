"""Pictures of curves with matplotlib, for papers and terminals: png, svg or pdf, as the file is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
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
            ax.plot([a for a, _ in points], [b for _, b in points], label=name.replace("$", r"\$"), linewidth=1.5)
        ax.set_ylabel(title)
        ax.grid(alpha=0.3)
        if len(curves) > 1:
            ax.legend(frameon=False)
    axes[-1].set_xlabel(x)
    _save(figure, path)


def plot_bars(groups: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """A panel for each name with a bar for each group, since names may have different units: group -> name -> length,
    which stands beside the bar. Raises as `plot_curves` does."""
    names = list(dict.fromkeys(name for bars in groups.values() for name in bars))
    figure, axes = _figure(path, 1, len(names), height=0.9 + 0.4 * len(groups))
    for ax, name in zip(axes, names, strict=True):
        places = [i for i, bars in enumerate(groups.values()) if name in bars]
        drawn = ax.barh(places, [bars[name] for bars in groups.values() if name in bars], height=0.7)
        ax.bar_label(drawn, fmt="{:,.4g}", padding=3)
        ax.margins(x=0.3)
        ax.set_title(fill(name, 24), fontsize="medium")
        ax.xaxis.set_visible(False)
        ax.spines[["top", "right", "bottom"]].set_visible(False)
        ax.set_yticks(range(len(groups)), [fill(group, 32) for group in groups] if ax is axes[0] else [])
        ax.set_ylim(len(groups) - 0.5, -0.5)  # the first on top
    _save(figure, path)


def plot_evaluation(scores: Mapping[str, Any], path: Path) -> None:
    """Calibration and risk–coverage of each run of metrics.json, and error by length. Raises as `plot_curves` does."""
    runs = scores["runs"]
    sure = [run for run in runs if run["confidence"]]
    panels: dict[str, dict[str, Curve]] = {
        "CER, % (x: characters)": {
            run["name"]: [
                ((b["from"] + b["to"]) / 2, 100 * b["cer"]) for b in run["errors_by_length"] if b["cer"] is not None
            ]
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


def check_picture(path: Path) -> None:
    """Raises OutputError naming the extra if matplotlib is missing, or the file if no picture is called so."""
    figure, _ = _figure(path, 1)
    if path.suffix and path.suffix[1:].lower() not in figure.canvas.get_supported_filetypes():
        raise OutputError(f"{path}: no picture has the suffix {path.suffix}; call it .png, .svg or .pdf")


def _figure(path: Path, rows: int, columns: int = 1, *, height: float = 2.6) -> tuple[Any, list[Any]]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise OutputError(f"{path}: pictures need matplotlib: pip install trocr-jax[plot]") from None
    figure = Figure(figsize=(max(7.0, 2.2 * columns + 3), height * max(rows, 1) + 0.6), layout="constrained")
    return figure, list(figure.subplots(max(rows, 1), max(columns, 1), squeeze=False).flat)


def _save(figure: Any, path: Path) -> None:
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:  # ValueError for a suffix that it does not know
        raise OutputError(f"{path}: cannot be written ({error})") from None
