"""Interrupts a toy run at random moments until it has ended, and compares what it ends with, bit for bit, with the same
run left alone: parameters, optimiser state, moving average, step, and which samples each step took.

    python -m scripts.kill_training [--kills 50] [--terms 10] [--steps 400]

SIGKILL may come at any moment. After SIGTERM the process has to end by itself with status 0. Every run is a process
forked from one that has imported everything and used no device, so that the moments fall into what is tested:
compilation, restoring, steps, saving, evaluation.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from scripts import toy_training


@dataclass(frozen=True, kw_only=True)
class Options:
    """How often, on how long a run."""

    kills: int = 50
    terms: int = 10
    steps: int = 400
    save_every: int = 7
    eval_every: int = 50
    workers: int = 0
    seed: int = 0
    folder: Path | None = None  # where it happens; a temporary folder if none


def main(options: Options) -> int:
    """0 if every bit is the same."""
    import train.loop  # noqa: F401  before the first fork

    folder = options.folder or Path(tempfile.mkdtemp(prefix="kill-training-"))
    os.environ.setdefault("TOY_CACHE", str(folder / "compiled"))
    toy = toy_training.Options(
        folder=folder / "whole",
        steps=options.steps,
        save_every=options.save_every,
        eval_every=options.eval_every,
        workers=options.workers,
        epoch=64,
        log_samples=True,
    )
    whole, cut = (replace(toy, folder=folder / name, state=folder / f"{name}.json") for name in ("whole", "cut"))
    begun = time.monotonic()
    if _wait(_start(whole)) != 0:
        raise RuntimeError("the uninterrupted run failed")
    print(f"uninterrupted: {time.monotonic() - begun:.0f} s", flush=True)

    rng = random.Random(options.seed)
    signals = [signal.SIGKILL] * options.kills + [signal.SIGTERM] * options.terms
    rng.shuffle(signals)
    phases: Counter[str] = Counter()
    for number, what in enumerate(signals, 1):
        phase, status = _interrupt(cut, what, rng, share=options.steps / (len(signals) + 1))
        name = signal.Signals(what).name
        phases[f"{name} in {phase}"] += 1
        print(f"{number}/{len(signals)}: {name} in {phase}, status {status}, step {_logged(cut.folder)}", flush=True)
        if status == 0 and cut.state is not None and cut.state.exists():
            print(f"the run ended before the last {len(signals) - number} interruptions: raise --steps")
            return 1
        if status != (0 if what == signal.SIGTERM else -signal.SIGKILL):
            print(f"{name} in {phase}: the process ended with status {status}")
            return 1
    if _wait(_start(cut)) != 0:
        print("the last run failed")
        return 1
    same = _same(whole, cut)
    print(f"{options.kills} SIGKILL, {options.terms} SIGTERM in {time.monotonic() - begun:.0f} s: {dict(phases)}")
    print("every bit is the same" if same else "DIFFERENT")
    if same and options.folder is None:
        shutil.rmtree(folder)
    return 0 if same else 1


def _start(toy: toy_training.Options) -> int:
    sys.stdout.flush()
    toy.folder.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with (toy.folder / "stderr").open("a") as file:
                os.dup2(file.fileno(), 2)
                status = toy_training.main(toy)
        finally:
            os._exit(status)
    return pid


def _wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _interrupt(toy: toy_training.Options, what: int, rng: random.Random, *, share: float) -> tuple[str, int]:
    """Half of the moments are times since the start, the others a number of steps further; on the mean a run gets
    less than its `share` of all steps."""
    before, started, pid = _logged(toy.folder), time.monotonic(), _start(toy)
    seconds = rng.uniform(0.05, 8) if rng.random() < 0.5 else 600.0
    steps = rng.randrange(1, max(int(1.5 * share), 2))
    while time.monotonic() - started < seconds and _logged(toy.folder) < before + steps:
        if os.waitpid(pid, os.WNOHANG) != (0, 0):
            return "nothing: it ended by itself", 1
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.1))
    phase = _phase(toy.folder, before)
    os.kill(pid, what)
    return phase, _wait(pid)


def _phase(folder: Path, before: int) -> str:
    """Roughly where a run is, from what it has written."""
    if _logged(folder) == before:
        return "start, restore or compilation"
    newest = max((folder / "checkpoints").glob("[0-9]" * 8), default=None)
    return "steps" if newest is None or (newest / "MANIFEST.json").exists() else "steps while saving"


def _rows(path: Path) -> list[dict[str, object]]:
    """Whole rows of a JSONL file; the last may be cut off by a kill."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def _logged(folder: Path) -> int:
    """Steps in the log of samples, repeated ones too."""
    path = folder / "samples-0.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _same(whole: toy_training.Options, cut: toy_training.Options) -> bool:
    """Bits of the state, and the samples of every step, of every time it was taken."""
    assert whole.state is not None
    assert cut.state is not None
    if json.loads(whole.state.read_text()) != json.loads(cut.state.read_text()):
        print("the final states differ")
        return False
    order = {row["step"]: row["samples"] for row in _rows(whole.folder / "samples-0.jsonl")}
    taken = _rows(cut.folder / "samples-0.jsonl")
    if {row["step"] for row in taken} != set(order) or any(order[row["step"]] != row["samples"] for row in taken):
        print("the order of the data differs")
        return False
    print(f"{len(order)} steps, {len(taken) - len(order)} of them taken again after a kill")
    return True


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
