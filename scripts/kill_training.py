"""Interrupts a toy run at random moments until it has ended, and compares what it ends with, bit for bit, with the same
run left alone: parameters, optimiser state, moving average, step, and which samples each step took.

    python -m scripts.kill_training [--kills 50] [--terms 10] [--steps 400]

SIGKILL may come at any moment. After SIGTERM, which reaches it as soon as it listens, the process has to end by itself
with status 0. The moments are spread over the phases of a run: most wait for a phase chosen at random and come at a
random moment of it, the others at a random time. Some runs have to compile everything, some have a worker process,
which ends with the run it belongs to. Every run is a process forked from one that has imported everything and used no
device.
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
from scripts.run_phases import AT_ONCE, PHASES, Board, watch
from train.processes import Stop


@dataclass(frozen=True, kw_only=True)
class Options:
    """How often, on how long a run."""

    kills: int = 50
    terms: int = 10
    steps: int = 400
    save_every: int = 5
    eval_every: int = 10
    cold: float = 0.15  # share of the runs that have to compile everything
    workers: float = 0.1  # share of the runs whose lines are drawn by a worker process
    seed: int = 0
    folder: Path | None = None  # where it happens; a temporary folder if none


def main(options: Options) -> int:
    """0 if every bit is the same."""
    import train.loop  # noqa: F401  before the first fork

    folder = options.folder or Path(tempfile.mkdtemp(prefix="kill-training-"))
    os.environ.setdefault("TOY_CACHE", str(folder / "compiled"))
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # compiles in half the time
    toy = toy_training.Options(
        folder=folder / "whole",
        steps=options.steps,
        save_every=options.save_every,
        eval_every=options.eval_every,
        epoch=64,
        log_samples=True,
    )
    whole, cut = (replace(toy, folder=folder / name, state=folder / f"{name}.json") for name in ("whole", "cut"))
    begun, board = time.monotonic(), Board()
    if _wait(_start(whole, board)) != 0:
        raise RuntimeError("the uninterrupted run failed")
    print(f"uninterrupted: {time.monotonic() - begun:.0f} s", flush=True)

    rng = random.Random(options.seed)
    signals = [signal.SIGKILL] * options.kills + [signal.SIGTERM] * options.terms
    rng.shuffle(signals)
    hit: Counter[tuple[str, str]] = Counter()
    for number, what in enumerate(signals):
        steps = (options.steps - _saved(cut.folder)) // (len(signals) - number + 1)
        phase, status = _interrupt(cut, what, rng, board, options=options, steps=steps)
        name = signal.Signals(what).name
        hit[name, phase] += 1
        now = f"{time.monotonic() - begun:.0f} s"
        print(f"{number + 1}/{len(signals)}: {name} in {phase}, status {status}, step {board.step}, {now}", flush=True)
        if cut.state is not None and cut.state.exists():
            print(f"the run ended before the last {len(signals) - number - 1} interruptions: raise --steps")
            return 1
        if status != (0 if what == signal.SIGTERM else -signal.SIGKILL):
            print(f"{name} in {phase}: the process ended with status {status}, see {cut.folder}/stderr")
            return 1
    if _wait(_start(cut, board)) != 0:
        print(f"the last run failed, see {cut.folder}/stderr")
        return 1
    same = _same(whole, cut)
    print(f"{'phase':24} SIGKILL SIGTERM")
    for phase in dict.fromkeys(phase for _, phase in sorted(hit)):
        print(f"{phase:24} {hit['SIGKILL', phase]:7d} {hit['SIGTERM', phase]:7d}")
    print(f"{options.kills} SIGKILL, {options.terms} SIGTERM in {time.monotonic() - begun:.0f} s")
    print("every bit is the same" if same else "DIFFERENT")
    if same and options.folder is None:
        shutil.rmtree(folder)
    return 0 if same else 1


def _start(toy: toy_training.Options, board: Board) -> int:
    sys.stdout.flush()
    toy.folder.mkdir(parents=True, exist_ok=True)
    board.clear()
    # A process that does not listen yet dies of SIGTERM as every program does: it gets the signal when it listens.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with (toy.folder / "stderr").open("a") as file:
                os.dup2(file.fileno(), 2)
                watch(board)
                with Stop() as stop:
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
                    status = toy_training.train_toy(toy, stop)
        finally:
            os._exit(status)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    return pid


def _wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _interrupt(
    toy: toy_training.Options, what: int, rng: random.Random, board: Board, *, options: Options, steps: int
) -> tuple[str, int]:
    """Starts a run and ends it with signal `what`: the phase it was in, and its status. It gets about `steps` steps,
    those included that it repeats."""
    if rng.random() < options.cold:
        shutil.rmtree(os.environ["TOY_CACHE"], ignore_errors=True)
    toy = replace(toy, workers=int(rng.random() < options.workers))
    wanted = rng.choice([*PHASES, "any"])
    first = _saved(toy.folder) + (0 if wanted in AT_ONCE else rng.randint(0, max(steps, 1)))
    until = time.monotonic() + (rng.uniform(0.05, 15) if wanted == "any" else 600)
    pid = _start(toy, board)
    while time.monotonic() < until and (wanted not in board.phases() or board.step < first * (wanted not in AT_ONCE)):
        if wanted == "any" and board.step >= first + steps:
            break
        if wanted in AT_ONCE and board.step > first:  # it came and went
            break
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return "nothing: it ended by itself", os.waitstatus_to_exitcode(status)
        time.sleep(0.0003)
    if rng.random() < 0.8:  # how long phases last: milliseconds to seconds
        time.sleep(10 ** rng.uniform(-4, -0.3 if wanted in AT_ONCE else -1.5))
    phase = " + ".join(board.phases())
    os.kill(pid, what)
    return phase, _wait(pid)


def _saved(folder: Path) -> int:
    """The step of the newest whole state."""
    whole = (folder / "checkpoints").glob("[0-9]" * 8 + "/MANIFEST.json")
    return max((int(path.parent.name) for path in whole), default=0)


def _rows(path: Path) -> list[dict[str, object]]:
    """Whole rows of a JSONL file; the last may be cut off by a kill."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


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
