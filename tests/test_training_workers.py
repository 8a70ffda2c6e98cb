"""A run whose examples are made by another process leaves nothing of it behind, and outlives it. Run as a program for
that."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests import programs


def test_no_shared_memory_is_left_over(tmp_path: Path) -> None:
    done = programs.run("-m", "tests.test_training_workers", str(tmp_path))
    assert done.stdout.splitlines() == ["2 False", "8 True", "a line that is damaged"]
    assert "leaked" not in done.stderr, done.stderr


def test_a_worker_that_is_killed_costs_no_step(tmp_path: Path) -> None:
    done = programs.run("-m", "tests.test_training_workers", str(tmp_path), "kill")
    lost, saved, logged = done.stdout.splitlines()
    assert lost.startswith("a process that makes examples has died, perhaps because memory was short (")
    assert "--workers 0" in lost
    assert int(saved) >= int(logged) > 0


def killed(folder: Path) -> None:
    """Prints what a run says whose worker is killed, the step that it is saved at, and the last one it has logged."""
    from dataclasses import replace

    from scripts.toy_training import bars, recipe
    from train.curves import read_log
    from train.loop import train
    from trocr_jax.errors import DataError

    log, what = folder / "log.jsonl", recipe(steps=80_000, short=True)
    what = replace(what, eval_every=0, save_every=100_000, log_every=5)

    def kill() -> None:
        while not (log.exists() and '"total"' in log.read_text()):
            time.sleep(0.1)
        threads = Path("/proc/self/task").iterdir()
        for child in " ".join((thread / "children").read_text() for thread in threads).split():
            command = Path("/proc", child, "cmdline")
            if command.exists() and b"spawn_main" in command.read_bytes():
                os.kill(int(child), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    try:
        train(what, folder, workers=1, lines=bars)
    except DataError as error:
        print(error)
    print(max(int(path.parent.name) for path in (folder / "checkpoints").glob("*/MANIFEST.json")))
    print(read_log(log)[-1]["step"])


def main(folder: Path) -> None:
    from scripts.toy_training import FewBars, bars, recipe
    from train.loop import train
    from trocr_jax.errors import DataError

    class Damaged(FewBars):
        def __getitem__(self, index: int) -> Any:
            if index == 13:
                raise DataError("a line that is damaged")
            return super().__getitem__(index)

    for until in (2, None):  # with batches that are made and not taken, and to the end
        outcome = train(recipe(short=True), folder, workers=1, lines=bars, until=until)
        print(outcome.step, outcome.finished)
    try:
        train(recipe(short=True), folder / "damaged", workers=1, lines=lambda s: Damaged(2**40, s.max_chars))
    except DataError as error:
        print(error)


if __name__ == "__main__":
    (killed if sys.argv[2:] else main)(Path(sys.argv[1]))
