"""What a run shows of itself: TensorBoard, the lines that are read worst, beam search, a profile when asked for."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from scripts.toy_training import Bars, FewBars, recipe
from train import progress
from train.curves import plot_logs, read_log
from train.loop import train
from train.progress import Progress, before_and_after
from train.recipe import Stage, check
from train.worst import CELL, Misread, grid, worst
from trocr_jax.errors import ConfigError, OutputError

pytestmark = pytest.mark.usefixtures("promotion_of_optax")
STEPS = 4
TOY = replace(
    recipe(), stages=(Stage(steps=STEPS, batch_size=4, width=64, max_chars=8),), eval_every=STEPS, eval_beams=2
)


@dataclass(frozen=True)
class Signalling(FewBars):
    """Sends this process SIGUSR1 while the lines of the second step are drawn."""

    def __getitem__(self, index: int) -> Any:
        if index == 4:
            signal.raise_signal(signal.SIGUSR1)
        return super().__getitem__(index)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    held_out = [Bars().line(index, max_chars=8) for index in range(6)]
    before = signal.getsignal(signal.SIGUSR1)
    traced: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "PROFILED", 2)
        patch.setattr(jax.profiler, "start_trace", traced.append)
        patch.setattr(jax.profiler, "stop_trace", lambda: traced.append("stop"))
        train(
            TOY, folder, workers=0, lines=lambda s: Signalling(2**40, s.max_chars), held_out=held_out, tensorboard=True
        )
    assert signal.getsignal(signal.SIGUSR1) is before
    (folder / "traced.json").write_text(json.dumps(traced))
    return folder


def test_held_out_lines_are_read_greedily_and_by_beams(run: Path) -> None:
    (row,) = [row for row in map(json.loads, (run / "log.jsonl").read_text().splitlines()) if "cer" in row]
    assert row["step"] == STEPS
    assert all(row[name] > 0 for name in ("cer", "wer", "beam_cer", "beam_wer"))  # a model that has not learnt


def test_the_worst_lines_are_pictures_and_texts(run: Path) -> None:
    rows = [json.loads(row) for row in (run / f"worst/{STEPS:08d}.jsonl").read_text().splitlines()]
    assert {row["text"] for row in rows} <= {Bars().line(index, max_chars=8).text for index in range(6)}
    rates = [row["errors"] / len(row["text"]) for row in rows]
    assert rates == sorted(rates, reverse=True)
    assert min(rates) > 0
    with Image.open(run / f"worst/{STEPS:08d}.png") as picture:
        assert len(set(np.asarray(picture.convert("L")).ravel().tolist())) > 10


def test_tensorboard_has_the_curves(run: Path) -> None:
    written = b"".join(path.read_bytes() for path in (run / "tensorboard").iterdir())
    for name in (b"total", b"lines_per_second", b"beam_cer", b"worst"):
        assert name in written


def test_a_signal_asks_for_a_profile_of_the_next_steps(run: Path) -> None:
    traced = json.loads((run / "traced.json").read_text())
    assert traced == [str(run / "profile"), "stop"]


def test_a_profile_is_written(tmp_path: Path) -> None:
    with Progress(TOY, tmp_path, profile=range(1, 2)) as seen:
        for step in range(3):
            seen.profile(step)
            jax.block_until_ready(jax.numpy.ones(3) + 1)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_profile_of_steps_that_a_run_does_not_do_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(TOY, tmp_path, profile=range(20, 25)) as seen:
        seen.limits(24, 100)
        assert "no profile" not in capsys.readouterr().err
        seen.limits(25, 100)
        assert "no profile of steps 20:25: this run does steps 25:100" in capsys.readouterr().err
        seen.limits(0, 20)
        assert "no profile of steps 20:25: this run does steps 0:20" in capsys.readouterr().err


def test_a_profile_that_cannot_be_written_ends_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "profile").touch()
    with Progress(TOY, tmp_path, profile=range(1, 3)) as seen:
        for step in range(4):
            seen.profile(step)
    assert capsys.readouterr().err.count(f"{tmp_path / 'profile'}: no profile is written (") == 1  # not every step


def test_curves_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").touch()
    with pytest.raises(OutputError, match="tensorboard: cannot be written"):
        Progress(TOY, tmp_path, tensorboard=True)


def test_without_tensorboard_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ConfigError, match=r"\[tensorboard\]"):
        Progress(TOY, tmp_path, tensorboard=True)


def test_a_row_that_was_cut_short_costs_no_other(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 0, "cer": 0.5, "wer": 0.9}\n{"step": 1, "los')  # as on a full disk
    assert before_and_after(tmp_path) is None
    with Progress(recipe(), tmp_path) as progress:
        progress.evaluation(2, {"cer": 0.25, "wer": 0.5})
    assert before_and_after(tmp_path) == "CER before 50.00 %, after 25.00 %; WER before 90.00 %, after 50.00 %"
    assert [row["step"] for row in read_log(log)] == [0, 2]


def test_a_run_that_ends_before_its_first_row_leaves_an_empty_log(tmp_path: Path) -> None:
    for _ in range(2):
        with Progress(TOY, tmp_path) as seen:
            seen.misread(0, [])  # all were read right
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("log.jsonl", b"")]


def test_steps_that_are_done_again_stand_once_in_a_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, seen = tmp_path / "log.jsonl", dict[str, Any]()
    rows = [{"step": step, "loss": loss} for step, loss in ((10, 3.0), (20, 2.0), (1_234_567, 1.5), (20, 2.5))]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    monkeypatch.setattr("train.curves.plot_curves", lambda panels, picture, x: seen.update(panels))
    plot_logs([log], tmp_path / "log.png")
    assert seen == {"loss": {str(log): [(10, 3.0), (20, 2.5), (1_234_567, 1.5)]}}


def test_files_of_a_run_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "worst").touch()
    line = Misread(np.full((8, 40), 255, np.uint8), "read", "read", 1)
    with Progress(TOY, tmp_path) as progress, pytest.raises(OutputError, match=r"worst.*: cannot be written \(File ex"):
        progress.misread(3, [line])
    (tmp_path / "other" / "log.jsonl").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"log.jsonl: cannot be written \(Is a directory\); make room or mend"):
        Progress(TOY, tmp_path / "other")


def test_what_a_run_has_gained_is_told_of_the_state_that_is_kept(tmp_path: Path) -> None:
    rows = [{"step": 100 * i, "cer": cer, "wer": 2 * cer} for i, cer in enumerate((0.5, 0.1, 0.2, 0.3))]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert before_and_after(tmp_path) == "CER before 50.00 %, after 30.00 %; WER before 100.00 %, after 60.00 %"
    assert before_and_after(tmp_path, 100) == "CER before 50.00 %, after 10.00 %; WER before 100.00 %, after 20.00 %"
    rows[0]["cer"] = 0.05
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = before_and_after(tmp_path, 100)
    assert found is not None
    assert found.endswith("started from reads these lines better, and is not among its states")


def test_which_lines_are_worst() -> None:
    image = np.zeros((8, 40), np.uint8)
    found = worst([image] * 4, ["abcd", "ab", "same", "abcdefgh"], ["abcx", "xy", "same", "abcdefgx"], count=2)
    assert [(line.reference, line.errors) for line in found] == [("ab", 2), ("abcd", 1)]
    assert worst([image], ["x"], ["x"], count=3) == []


def test_the_grid_shows_images_and_escapes_what_its_typeface_lacks() -> None:
    black = np.zeros((20, 4 * CELL[0]), np.uint8)  # too wide: it is made smaller
    coloured = np.full((20, 30, 3), (255, 0, 0), np.uint8)
    lines = [Misread(black, "a", "b", 1), Misread(coloured, "\u4e2d", "", 1), Misread(black, "c", "", 1)]
    sheet = np.asarray(grid(lines))
    assert sheet.shape == (2 * (CELL[1] + 32 + 16), 2 * (CELL[0] + 16), 3)
    assert (sheet[8, 8 : 8 + CELL[0]] == 0).all()
    assert (sheet[8, CELL[0] + 24] == (255, 0, 0)).all()
    escaped = Misread(coloured, "\\u4e2d", "", 1)
    np.testing.assert_array_equal(sheet, np.asarray(grid([lines[0], escaped, lines[2]])))


def test_counts_below_zero_are_refused() -> None:
    with pytest.raises(ConfigError, match="eval_beams is -1"):
        check(replace(TOY, eval_beams=-1))


def test_speeds_are_those_since_the_last_row(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: now[0], time=lambda: 0.0))
    monkeypatch.setattr(progress, "peak", lambda device: 1e9)
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    monkeypatch.setattr(progress, "step_flops", lambda recipe, stage: 1e7 * stage.batch_size)
    first = Stage(steps=10, batch_size=4, width=64, max_chars=8)
    stages = (first, replace(first, batch_size=8))
    with Progress(replace(recipe(), stages=stages), tmp_path) as shown:
        for step in (4, 8):  # the second time at half the speed
            now[0] += step
            shown.waited += 1.0
            shown.steps(step, first, {"total": 1.0})
    one, two = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert (one["lines_per_second"], one["step_time"], one["input_wait"]) == (4.0, 1.0, 0.25)
    assert (two["lines_per_second"], two["step_time"], two["input_wait"]) == (2.0, 2.0, 0.125)
    assert (one["eta"], two["eta"]) == (6 + 20, (2 + 20) * 2)  # a step of the second stage is the work of two
    assert one["mfu"] == 0.01


def test_a_profile_ends_with_the_run_and_a_signal_means_what_it_did(tmp_path, monkeypatch):
    done: list[str] = []
    monkeypatch.setattr("jax.profiler.start_trace", lambda folder: done.append("start"))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: done.append("stop"))
    before = signal.getsignal(signal.SIGUSR1)
    with Progress(recipe(), tmp_path, profile=range(1, 9)) as shown:
        for step in range(3):
            shown.profile(step)
    assert done == ["start", "stop"]
    assert signal.getsignal(signal.SIGUSR1) is before


def test_a_signal_leaves_the_profile_that_was_asked_for(tmp_path, monkeypatch):
    done, step = list[int](), 0
    with Progress(recipe(), tmp_path, profile=range(20, 22)) as shown:
        monkeypatch.setattr("jax.profiler.start_trace", lambda folder: done.append(step))
        monkeypatch.setattr("jax.profiler.stop_trace", lambda: done.append(step))
        for step in range(30):
            if step == 3:
                signal.raise_signal(signal.SIGUSR1)
            shown.profile(step)
    assert done == [3, 8, 20, 22]


@pytest.mark.parametrize(("step", "cer", "worse"), [(0, 0.3, True), (5, 0.3, False), (0, 0.2, False)])
def test_only_the_model_that_a_run_started_from_can_have_read_better(tmp_path, step, cer, worse):
    rows = [{"step": step, "cer": 0.2, "wer": 0.4}, {"step": 10, "cer": cer, "wer": 0.4}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert ("reads these lines better" in (before_and_after(tmp_path) or "")) == worse
