"""A few rendered lines are learnt by heart, until real decoding reads them without a mistake: scripts/overfit.py in
small."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.overfit import Options, main
from tests.test_render import create

pytestmark = pytest.mark.usefixtures("promotion_of_optax")


def test_a_few_lines_are_learnt_by_heart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create("train")
    status = main(Options(tmp_path, lines=6, max_chars=4, steps=120, batch=6, width=80))
    assert "CER 0.00 % on the 6 lines" in capsys.readouterr().out
    assert status == 0
