"""Training logs as pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from trocr_jax.errors import DataError
from trocr_jax.report.figures import plot_curves

_NO_CURVE = ("step", "time")


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a log.jsonl, or of that in the folder of a run, their numbers alone. Raises DataError naming the line
    that is none."""
    rows = []
    path = path / "log.jsonl" if path.is_dir() else path
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give the log.jsonl of a run") from None
    for number, line in enumerate(lines, 1):
        try:
            row = {name: value for name, value in json.loads(line).items() if type(value) in (int, float)}
        except (ValueError, AttributeError):
            if line.startswith("{"):  # cut short by a kill or a full disk
                continue
            raise DataError(f"{path}:{number}: not a row of a training log") from None
        if "step" not in row:
            raise DataError(f"{path}:{number}: has no step; give the log.jsonl of a run")
        rows.append(row)
    if not rows:
        raise DataError(f"{path}: is empty; the run has logged nothing yet")
    return rows


def plot_logs(files: Sequence[Path], picture: Path) -> None:
    """A panel for each quantity that is logged, over the steps, a line for each log."""
    logs = {str(file): read_log(file) for file in files}
    names = dict.fromkeys(name for rows in logs.values() for row in rows for name in row if name not in _NO_CURVE)
    panels = {
        # a step that was done again after a kill counts once
        name: {
            file: sorted({row["step"]: row[name] for row in rows if name in row}.items()) for file, rows in logs.items()
        }
        for name in names
    }
    plot_curves(panels, picture, x="step")
