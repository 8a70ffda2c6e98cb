"""`scripts.mesh_losses` starts processes with options that a run takes."""

from __future__ import annotations

import math

import pytest
import tyro

from scripts.mesh_losses import Options, Rows, _table, main, own_options
from train.processes import initialize


def test_a_process_alone_joins_no_others() -> None:
    (own,) = own_options(1, 1234)
    options = tyro.cli(Options, args=own)
    initialize(options.coordinator, process=options.process, processes=options.processes)


def test_each_of_two_is_told_its_number() -> None:
    found = [tyro.cli(Options, args=own) for own in own_options(2, 1234)]
    assert [(one.process, one.processes, one.coordinator) for one in found] == [
        (0, 2, "localhost:1234"),
        (1, 2, "localhost:1234"),
    ]


def test_one_device_is_always_among_the_meshes(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(options: Options, *, processes: int) -> dict[str, Rows]:
        return {mesh: [[1.0, 1.0]] for mesh in options.meshes}

    monkeypatch.setattr("scripts.mesh_losses._start", start)
    assert main(Options(meshes=("data=2",), two=False)) == 0


@pytest.mark.parametrize("first", [[[math.nan, 1.0]], [[1.0, 1.0]]], ids=["first", "last"])
def test_a_loss_that_is_no_number_is_a_difference(first: list[list[float]]) -> None:
    other = [[1.0, 1.0]] if math.isnan(first[0][0]) else [[math.nan, 1.0]]
    assert math.isnan(_table({"1 × 1: ": first, "1 × 2: data=2": other}, [[1.0, 1.0]]))
