"""What one sees of a run: a line on stderr, log.jsonl, TensorBoard if asked for, pictures of the lines that are read
worst, a profile of some steps: those asked for at the start, and five from when the process gets SIGUSR1."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TextIO

import jax
import numpy as np

from train.board import Board
from train.flops import peak, step_flops
from train.recipe import Recipe, Stage, spans
from train.worst import Misread, grid, write
from trocr_jax.errors import CheckpointError, OutputError
from trocr_jax.say import tell

PROFILED = 5  # steps, when a profile is asked for by a signal
HELD = 10  # tries, a second apart, to be the only run in a folder


class Progress:
    """Logs of one run; silent in every process but the first. A context manager. Raises OutputError for a log that
    cannot be written, CheckpointError for one that another run holds."""

    def __init__(self, recipe: Recipe, folder: Path, *, tensorboard: bool = False, profile: range = range(0)) -> None:
        self._recipe, self._folder, self._profiles = recipe, folder, [profile]
        self._speaks = jax.process_index() == 0
        self._log: TextIO | None = None
        self._board: Board | None = None
        if self._speaks:
            if tensorboard:
                with writing(folder / "tensorboard"):
                    self._board = Board(folder / "tensorboard")
            with writing(folder / "log.jsonl"):
                self._log = _open_log(folder / "log.jsonl")
                _hold(self._log)
        device_peak = peak(jax.devices()[0])
        self._peak = None if device_peak is None else device_peak * jax.device_count()
        self._profiling, self._wanted = False, False
        self._handler: Any = None
        self.begin(0)

    def __enter__(self) -> Progress:
        if threading.current_thread() is threading.main_thread():  # no other may
            self._handler = signal.signal(signal.SIGUSR1, self._asked)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGUSR1, self._handler)
        if self._profiling:
            self._profile_with(jax.profiler.stop_trace)
        if self._board is not None:
            self._board.close()
        if self._log is not None:
            with suppress(OSError):  # a full disk, which has been said
                self._log.close()

    def begin(self, step: int) -> None:
        """Time counts from here: what came before (compilation, evaluation) belongs to no step."""
        self._since, self._started, self.waited = step, time.perf_counter(), 0.0

    def limits(self, first: int, last: int) -> None:
        """The steps that are to be done; says so if those of the profile are not among them."""
        for asked in self._profiles:
            if asked and not range(max(asked.start, first), min(asked.stop, last)):
                self._say(f"no profile of steps {asked.start}:{asked.stop}: this run does steps {first}:{last}")

    def profile(self, step: int) -> None:
        """To be called before each step (the first is 0)."""
        if self._wanted and not self._profiling:
            self._profiles.append(range(step, step + PROFILED))
            self._wanted = False
        own = [profile for profile in self._profiles if step in profile]
        if own and not self._profiling:
            self._profiling = self._profile_with(lambda: jax.profiler.start_trace(str(self._folder / "profile")))
            if self._profiling:
                self._say(f"step {step}  profile of {len(own[-1])} steps in {self._folder / 'profile'}")
        elif not own and self._profiling:
            self._profiling = False
            self._profile_with(jax.profiler.stop_trace)

    def steps(self, step: int, stage: Stage, losses: Mapping[str, float]) -> None:
        """The state of things after `step` steps; a speed is the mean since the last call."""
        seconds = (time.perf_counter() - self._started) / max(step - self._since, 1)
        work = step_flops(self._recipe, stage)
        row = {name: round(value, 5) for name, value in losses.items()}
        row |= {
            "step": step,
            "lines_per_second": round(stage.batch_size / seconds, 1),
            "step_time": round(seconds, 4),
            "input_wait": round(self.waited / seconds / max(step - self._since, 1), 3),
            "eta": round(_work_left(self._recipe, step) / work * seconds),
        }
        if self._peak is not None:
            row["mfu"] = round(work / seconds / self._peak, 4)
        self._write(row)
        self._say(
            f"step {step}/{self._recipe.total_steps}  loss {row['total']:.4f}  {row['lines_per_second']} lines/s  "
            f"{row['step_time']} s/step  input {row['input_wait']:.0%}  "
            + (f"MFU {row['mfu']:.1%}  " if "mfu" in row else "")
            + f"ETA {timedelta(seconds=int(row['eta']))}"
        )
        self.begin(step)

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """What reading held-out lines found."""
        self._write({"step": step} | {name: round(value, 5) for name, value in metrics.items()})
        self._say(f"step {step}  " + "  ".join(f"{name} {value:.4f}" for name, value in metrics.items()))

    def misread(self, step: int, lines: Sequence[Misread]) -> None:
        """The lines that were read worst: FOLDER/worst/STEP.png and .jsonl, and in TensorBoard."""
        if not (self._speaks and lines):
            return
        path = self._folder / "worst" / f"{step:08d}"
        with writing(path):
            write(lines, path)
        self._say(f"step {step}  worst lines in {path}.png")
        if self._board is not None:
            with writing(self._folder / "tensorboard"):
                self._board.picture("worst", np.asarray(grid(lines)), step)

    def compiled(self, step: int, seconds: float) -> None:
        """A step of a new shape has been compiled."""
        self._write({"step": step, "compile_seconds": round(seconds, 1)})
        self._say(f"step {step}  compiled in {seconds:.1f} s")

    def _profile_with(self, act: Callable[[], None]) -> bool:
        """Whether it could be done. No run ends because it has no profile."""
        try:
            act()
        except (OSError, RuntimeError) as error:
            self._profiles = []
            tell(f"{self._folder / 'profile'}: no profile is written ({error}); the run goes on")
            return False
        return True

    def _asked(self, number: int, frame: FrameType | None) -> None:
        self._wanted = True

    def _write(self, row: dict[str, float]) -> None:
        if self._log is not None:
            with writing(Path(self._log.name)):
                print(json.dumps(row | {"time": round(time.time())}), file=self._log, flush=True)
        if self._board is not None:
            with writing(self._folder / "tensorboard"):
                self._board.scalars({name: value for name, value in row.items() if name != "step"}, int(row["step"]))

    def _say(self, text: str) -> None:
        if self._speaks:
            tell(text)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what writes a file of a run. Raises OutputError that names it for a full disk and its like."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); make room or mend the disk and start the run"
            " again: it goes on from its newest checkpoint"
        ) from None


def _open_log(path: Path) -> TextIO:
    """To be written on; a row that a full disk or a kill has cut short stays a line of its own."""
    cut = False
    if path.is_file():
        with path.open("rb") as before:
            size = before.seek(0, os.SEEK_END)
            before.seek(max(size - 1, 0))
            cut = before.read() not in (b"", b"\n")
    file = path.open("a", encoding="utf-8")
    if cut:
        file.write("\n")
    return file


def _hold(log: TextIO) -> None:
    """Keeps other runs out of a folder, as long as this process lives. Raises CheckpointError where one is there."""
    for tries in range(HELD):
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if tries < HELD - 1:  # processes that make examples may outlive by a moment the one that was killed
                time.sleep(1)
        except OSError as error:
            tell(f"{log.name}: cannot be locked ({error.strerror}): nothing notices a second run in this folder")
            return
        else:
            return
    log.close()
    raise CheckpointError(
        f"{log.name}: another run is training in this folder; wait for its end, or name another --folder. Processes of "
        "one run are told of each other by --coordinator"
    )


def log_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a log; what was cut short is left out."""
    for row in path.read_text(encoding="utf-8").split("\n"):
        with suppress(ValueError):
            yield json.loads(row)


def before_and_after(folder: Path, step: int | None = None) -> str | None:
    """What the first evaluation in log.jsonl of a run found and that at `step`, or the last, as a sentence, and whether
    it was better in the beginning; none if there were not two."""
    found = {row["step"]: row for row in log_rows(folder / "log.jsonl") if "cer" in row}
    if len(found) < 2:
        return None
    first, last = found[min(found)], found.get(max(found) if step is None else step, found[max(found)])
    said = "; ".join(
        f"{name.upper()} before {100 * first[name]:.2f} %, after {100 * last[name]:.2f} %" for name in ("cer", "wer")
    )
    worse = first["step"] == 0 and first["cer"] < last["cer"]
    return said + worse * ". The model that the run started from reads these lines better, and is not among its states"


def _work_left(recipe: Recipe, step: int) -> float:
    """Operations of all steps from `step` on."""
    return sum(
        step_flops(recipe, span.stage) * (span.last_step - max(step, span.first_step))
        for span in spans(recipe)
        if span.last_step > step
    )
