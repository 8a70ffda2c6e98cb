"""A few rendered lines are learnt by heart, until real decoding reads them without a mistake: scripts/overfit.py in
small."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.overfit import Options, main, recipe
from tests.test_render import create

pytestmark = pytest.mark.usefixtures("promotion_of_optax")


def test_a_few_lines_are_learnt_by_heart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create("train")
    status = main(Options(tmp_path, lines=6, max_chars=4, steps=120, batch=6, width=80))
    assert "CER 0.00 % on the 6 lines" in capsys.readouterr().out
    assert status == 0


def test_a_run_that_is_stopped_before_it_reads_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 0, "compile_seconds": 9.8}\n')
    monkeypatch.setattr("scripts.overfit.train", lambda *_, **__: None)
    monkeypatch.setattr("scripts.overfit.Renderer.create", lambda **_: None)
    monkeypatch.setattr("scripts.overfit.Selected", lambda source, numbers: list(numbers))
    assert main(Options(tmp_path, lines=6)) == 1
    assert "stopped before the lines were read" in capsys.readouterr().out


def test_few_steps_end_with_a_reading() -> None:
    assert recipe(Options(Path(), steps=4)).eval_every
