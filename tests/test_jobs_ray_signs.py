"""When the driver of `--engine ray` gives up on actors that end, and when it does not."""

from __future__ import annotations

from typing import Any

import pytest

from trocr_jax.errors import JobError

pytest.importorskip("ray", reason="needs Ray: pip install trocr-jax[ray]")
BREAKS = "the device has failed"


def signs(said: list[str]) -> Any:
    from trocr_jax.jobs.ray_room import Actors
    from trocr_jax.jobs.ray_signs import Signs

    return Signs(None, Actors(), 60.0, said.append)


def ended(number: int, *, one_by_one: bool, failure: str = "") -> dict[str, Any]:
    """Actors that loaded for 3 s each and were lost some time ago, the last to begin as the last."""
    from trocr_jax.jobs.ray_bell import SILENT, Sign

    found = {}
    for i in range(number):
        ago = SILENT + (5 * (number - i) if one_by_one else 0)
        found[f"lost{i}"] = Sign(ago, failure == "", failure != "", ago + 3, failure)
    return found


def test_actors_that_end_one_after_the_other_while_they_load():
    from trocr_jax.jobs.ray_bell import Sign
    from trocr_jax.jobs.ray_signs import STARTS

    row = ended(STARTS, one_by_one=True)
    told = signs([])
    told.take(dict([*row.items()][1:]))
    assert not told.check()
    told.take(row)
    with pytest.raises(JobError, match=f"{STARTS} actors in a row have ended before they had anything to read"):
        told.check()
    told = signs([])
    told.take(row | {"next": Sign(0.0, True, False, 2.0)})
    with pytest.raises(JobError, match="in a row"):  # the next of the row is no sign of better things
        told.check()
    told = signs([])
    told.take(row | {"middle": Sign(0.0, True, False, ended(STARTS, one_by_one=True)["lost5"].begun)})
    with pytest.raises(JobError, match="in a row"):  # those that began before it have ended too
        told.check()
    told = signs([])
    told.take(row | {"old": Sign(0.0, True, False, 1000.0)})
    assert not told.check(), "another has loaded for longer than any of them, and lives"
    told.take(row | {"old": Sign(30.0, True, False, 1030.0)})
    with pytest.raises(JobError, match="in a row"):
        told.check()
    told.moved()
    told.take(row)
    assert not told.check(), "a unit has been read since"


def test_actors_that_are_lost_while_they_read_are_not_in_vain():
    from trocr_jax.jobs.ray_bell import SILENT, Sign
    from trocr_jax.jobs.ray_signs import STARTS

    told = signs([])
    told.take({f"lost{i}": Sign(SILENT + 5 * i, True, True, SILENT + 5 * i + 3) for i in range(2 * STARTS)})
    assert not told.check()


def test_a_node_is_lost_with_all_that_load_on_it():
    from trocr_jax.jobs.ray_bell import Sign
    from trocr_jax.jobs.ray_signs import STARTS

    told = signs([])
    lost = ended(3 * STARTS, one_by_one=False)
    told.take(lost | {"new": Sign(0.0, True, False, 1.0)})
    assert not told.check()
    told.take(lost | {"lost0": Sign(0.0, True, False, 50.0)})  # it was only silent
    assert "lost0" not in told._in_vain
    assert "lost1" in told._in_vain


def test_actors_that_fail_one_after_the_other():
    from trocr_jax.jobs.ray_bell import Sign
    from trocr_jax.jobs.ray_signs import STARTS

    said: list[str] = []
    told = signs(said)
    told.take({"now": Sign(0.0, False, True, 3.0, BREAKS)})
    assert said == [f"an actor has failed, and another takes its place: {BREAKS}"], "told at once"
    said.clear()
    row = ended(STARTS, one_by_one=True, failure=f"Traceback\nRuntimeError: {BREAKS}\n")
    told = signs(said)
    told.take(row)
    assert said == [f"an actor has failed, and another takes its place: RuntimeError: {BREAKS}"] * STARTS
    with pytest.raises(RuntimeError, match=f"(?s){STARTS} actors in a row have failed, .*{BREAKS}"):
        told.check()
    told = signs([])
    told.take(row | {"busy": Sign(0.0, True, True, 1000.0)})
    assert not told.check(), "another reads, and has done so for longer"
    told = signs([])
    told.take(row | {"idle": Sign(0.0, False, True, 1000.0)})
    assert told.check(), "another has nothing to do, while they have what is left"
