"""A run whose examples are made by another process leaves nothing of it behind. Run as a program for that."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests import programs

ROOT = Path(__file__).resolve().parent.parent


def test_no_shared_memory_is_left_over(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.test_training_workers", str(tmp_path)]
    environment = programs.environment()
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["2 False", "8 True"]
    assert "leaked" not in done.stderr, done.stderr


def main(folder: Path) -> None:
    from scripts.toy_training import bars, recipe
    from train.loop import train

    for until in (2, None):  # with batches that are made and not taken, and to the end
        outcome = train(recipe(), folder, workers=1, lines=bars, until=until)
        print(outcome.step, outcome.finished)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
