"""The TPU compiler's estimates beside those of the file. What needs libtpu (extra tpu) is skipped without it."""

from __future__ import annotations

from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import tpu
from benchmarks.chips import target_of
from benchmarks.tpu import Row
from benchmarks.tpu_kernel import bundles_of
from tests.compilations import nothing_kept
from train.ahead.environment import NO_MACHINE

ROW = Row(chip="v5e", program="encoder", batch=32, microseconds=100.0, megabytes=500.0, jax="0.10.2", libtpu="0.0.42.1")


@pytest.mark.parametrize(
    ("microseconds", "megabytes", "status"), [(100.9, 504.0, 0), (101.1, 500.0, 1), (90.0, 506.0, 1)]
)
def test_a_figure_that_rose_ends_with_status_1(
    microseconds: float, megabytes: float, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, found = tmp_path / "tpu.json", [ROW]
    monkeypatch.setattr(tpu, "compiled", lambda chip, program: found[0])
    assert tpu.main(("v5e",), ("encoder",), write=True, file=file) == 0
    assert [asdict(row) for row in tpu.rows(file)] == [asdict(ROW)]
    found[0] = replace(ROW, microseconds=microseconds, megabytes=megabytes)
    assert tpu.main(("v5e",), ("encoder",), file=file) == status
    assert tpu.rows(file) == [ROW]


def test_what_cannot_be_compared_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tpu.json"
    monkeypatch.setattr(tpu, "compiled", lambda chip, program: replace(ROW, program=program))
    assert tpu.main(("v5e",), ("encoder",), file=file) == 2
    assert tpu.main(("v5e",), ("encoder",), write=True, file=tmp_path / "none" / "tpu.json") == 2
    assert capsys.readouterr().err.count("no such file; check --file") == 2
    assert tpu.main(("v5e",), ("encoder",), write=True, file=file) == 0
    assert tpu.main(("v5e",), ("encoder", "greedy step"), file=file) == 1
    assert "greedy step on v5e, 32 lines: not in" in capsys.readouterr().out
    file.write_text('{"chip": 1}\n')
    assert tpu.main(("v5e",), ("encoder",), file=file) == 2
    assert f"{file}: is no file of figures" in capsys.readouterr().err


def test_a_figure_of_another_compiler_is_told_and_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, found = tmp_path / "tpu.json", [ROW]
    monkeypatch.setattr(tpu, "compiled", lambda chip, program: found[0])
    assert tpu.main(("v5e",), ("encoder",), write=True, file=file) == 0
    found[0] = replace(ROW, microseconds=200.0, libtpu="0.0.43")
    assert tpu.main(("v5e",), ("encoder",), file=file) == 0
    assert "encoder on v5e: of jax 0.10.2 and libtpu 0.0.43, so not compared" in capsys.readouterr().out


def test_the_file_has_every_chip_and_program() -> None:
    found = {(row.chip, row.program) for row in tpu.rows()}
    assert found == {(chip, name) for name, program in tpu.PROGRAMS.items() for chip in program.chips}


def test_the_schedule_of_a_kernel_is_found_among_the_others(tmp_path: Path) -> None:
    text = "Schedule analysis:\n\ttotal scheduled bundles:    {}\n 731 bundles: %x = custom-call(%y), {}"
    for name, bundles, call in (
        ("1-TLP-72", 148, 'custom_call_target="tpu_custom_call"'),  # of the whole program
        ("1-copy-66", 1309, ""),
        ("1-read_memory.1-71", 739, 'custom_call_target="tpu_custom_call"'),
    ):
        (tmp_path / f"{name}-schedule-analysis_final_bundles.txt").write_text(text.format(bundles, call))
    assert bundles_of(tmp_path) == 739
    (tmp_path / "1-read_memory.1-71-schedule-analysis_final_bundles.txt").unlink()
    with pytest.raises(RuntimeError, match="0 schedules"):
        bundles_of(tmp_path)


@pytest.mark.skipif(find_spec("libtpu") is None, reason="libtpu is not installed: pip install -e '.[tpu]'")
def test_the_encoder_is_no_slower_than_the_file_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in NO_MACHINE.items():
        monkeypatch.setenv(name, value)
    if any(row.libtpu != version("libtpu") for row in tpu.rows()):
        pytest.skip("benchmarks/tpu.json is another libtpu's: python -m benchmarks.tpu --write")
    with nothing_kept():
        assert tpu.main(("v5e",), ("encoder",)) == 0


def test_a_topology_that_cannot_be_compiled_for_ends_a_program_with_what_to_do() -> None:
    with pytest.raises(SystemExit, match="v5e:no"):
        target_of("v5e:no")
