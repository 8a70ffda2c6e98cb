"""The processes that decode images for a job: they are asked for several at a time, and one alone pays for a death."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from typing import Any

import numpy as np
import pytest

from tests.decoders import SIZE, Decoding, Given, Numbers, Stopped, ToBeMade
from tests.poison import Poison
from trocr_jax.errors import JobError, SourceError
from trocr_jax.image import ImageProcessor
from trocr_jax.jobs import decode_process
from trocr_jax.jobs.decode_pool import STARTS, DecodePool, Images
from trocr_jax.jobs.decode_process import DecodeProcess, ProcessDied
from trocr_jax.jobs.decode_worker import Decoded, Decoder, Limits
from trocr_jax.jobs.rows import Failure
from trocr_jax.jobs.sources import Input
from trocr_jax.jobs.wire import Wire

PROCESSOR = ImageProcessor(height=4, width=6)


class Deaths:
    """Counts them, as a job does."""

    def __init__(self) -> None:
        self.places = Counter[int]()
        self.reasons: list[str] = []

    def __call__(self, place: int, reason: str) -> int:
        self.places[place] += 1
        self.reasons.append(reason)
        return self.places[place]


def asked(pool: DecodePool, names: list[str], deaths: Deaths) -> Images:
    """Of a pool of one process that knows how quick it is, and so is asked for several at a time."""
    pool.submit([Input("warm-0", None)]).result()
    return pool.submit([Input(f"{name}-{number}", None) for number, name in enumerate(names)], deaths)


def check_decoded(found: list[Decoded | Failure], places: list[int]) -> None:
    for place in places:
        one = found[place]
        assert isinstance(one, Decoded)
        assert one.expected == place
        np.testing.assert_array_equal(one.pixels, np.full((*SIZE, 3), place, np.uint8))


def test_only_the_image_in_hand_is_charged_with_a_death(tmp_path):
    names = ["plain"] * 40
    names[5], names[9] = "segfault", "once"
    deaths = Deaths()
    with DecodePool(Poison(Numbers(), str(tmp_path)), SIZE, workers=1, limits=Limits()) as pool:  # type: ignore[arg-type]
        found = asked(pool, names, deaths).result()
    assert deaths.places == {5: 3, 9: 1}
    failure = found[5]
    assert isinstance(failure, Failure)
    assert (failure.status, failure.error.count("segfault-5"), "tried 3 times" in failure.error) == (
        "quarantined",
        1,
        True,
    )
    check_decoded(found, [place for place in range(40) if place != 5])


def test_images_are_asked_for_several_at_a_time_if_they_are_quick(monkeypatch):
    sizes: list[int] = []
    decode = decode_process.DecodeProcess.decode

    def counted(process: decode_process.DecodeProcess, inputs: list[Input], spare: Any) -> list[Decoded | Failure]:
        sizes.append(len(inputs))
        return decode(process, inputs, spare)

    monkeypatch.setattr(decode_process.DecodeProcess, "decode", counted)
    with DecodePool(Numbers(), SIZE, workers=1, limits=Limits()) as pool:
        check_decoded(asked(pool, ["plain"] * 64, Deaths()).result(), list(range(64)))
        assert (sizes[0], sum(sizes)) == (1, 65)
        assert max(sizes) > 1
    sizes.clear()
    with DecodePool(Numbers(seconds=0.05), SIZE, workers=1, limits=Limits()) as pool:
        asked(pool, ["plain"] * 4, Deaths()).result()
        assert sizes == [1] * 5


def test_time_is_limited_for_each_image_and_not_for_all(monkeypatch):
    monkeypatch.setattr(decode_process, "GRACE", 0.3)
    monkeypatch.setattr("trocr_jax.jobs.decode_pool.STRETCH_SECONDS", 100.0)
    deaths = Deaths()
    with DecodePool(Numbers(seconds=0.3), SIZE, workers=1, limits=Limits(seconds=1.0)) as pool:
        begun = time.monotonic()
        found = asked(pool, ["plain"] * 8, deaths).result()
        assert time.monotonic() - begun > 1.3, "all together take longer than one may"
    check_decoded(found, list(range(8)))
    assert not deaths.places


def test_a_process_that_is_stopped_is_killed(monkeypatch):
    monkeypatch.setattr(decode_process, "GRACE", 0.2)
    deaths = Deaths()
    with DecodePool(Numbers(), SIZE, workers=1, limits=Limits(seconds=0.5)) as pool:
        found = asked(pool, ["plain", "plain", "stop", "plain"], deaths).result()
    assert deaths.places == {2: 3}
    assert all("stop-2: decoding did not end within 0.5 s" in reason for reason in deaths.reasons)
    assert isinstance(found[2], Failure)
    check_decoded(found, [0, 1, 3])


def test_known_failures_are_not_tried_and_a_lost_source_ends_all(tmp_path):
    log = tmp_path / "log"
    known = {1: Failure("quarantined", "known")}
    with DecodePool(Numbers(log=str(log)), SIZE, workers=2, limits=Limits()) as pool:
        inputs = [Input(f"plain-{number}", None) for number in range(3)]
        found = pool.submit(inputs, known=known).result()
        assert found[1] == known[1]
        check_decoded(found, [0, 2])
        assert pool.submit([], known={}).wait(0)
        assert pool.submit(inputs[:2], known={0: known[1], 1: known[1]}).wait(0)
        assert "plain-1" not in log.read_text().split()
        with pytest.raises(SourceError, match="gone-3: gone"):
            pool.submit([*inputs, Input("gone-3", None)]).result()
        check_decoded(pool.submit(inputs).result(), [0, 1, 2])


def test_deaths_that_cannot_be_counted_are_told():
    def full(place: int, reason: str) -> int:
        raise OSError(28, "No space left on device")

    with DecodePool(Poison(Numbers()), SIZE, workers=1, limits=Limits()) as pool:  # type: ignore[arg-type]
        with pytest.raises(OSError, match="No space left"):
            pool.submit([Input("segfault-0", None)], full).result()
        found = pool.submit([Input("plain-0", None), Input("segfault-1", None)]).result()  # counted by the pool
    check_decoded(found, [0])
    assert isinstance(found[1], Failure)
    assert "tried 3 times" in found[1].error


def never(place: int, reason: str) -> int:
    raise AssertionError(reason)


def test_an_image_has_not_died_of_a_source_that_is_silent():
    decoder = Decoder(Given(), PROCESSOR)  # type: ignore[arg-type]
    with DecodePool(decoder, SIZE, workers=1, limits=Limits(seconds=3.0)) as pool:
        begun = time.monotonic()
        with pytest.raises(SourceError) as raised:
            pool.submit([Input("a", "plain"), Input("b", ["silent.tar", 7]), Input("c", "plain")], never).result()
        assert time.monotonic() - begun > 9.0, "it is tried three times"
        (found,) = pool.submit([Input("a", "plain")], never).result()
        assert not isinstance(found, Failure)
    assert str(raised.value) == (
        "b (silent.tar): its source did not answer within 3 s, 3 times; see to the source, or give a slow one more "
        "time by --decode-seconds, and run the job again"
    )


def test_a_source_that_is_stopped_where_no_alarm_ends_it_is_silent_too(monkeypatch):
    monkeypatch.setattr(decode_process, "GRACE", 0.2)
    decoder = Decoder(Stopped(), PROCESSOR)  # type: ignore[arg-type]
    with (
        DecodePool(decoder, SIZE, workers=1, limits=Limits(seconds=0.3)) as pool,
        pytest.raises(SourceError, match=r"^a: its source did not answer within 0\.3 s"),
    ):
        pool.submit([Input("a", "a")], never).result()


@pytest.mark.parametrize("source", [Decoding(), ToBeMade()])
def test_an_image_that_its_source_decodes_may_take_too_long(source):
    """Of a data set of TFDS, of a page."""
    decoder = Decoder(source, PROCESSOR)
    with DecodePool(decoder, SIZE, workers=1, limits=Limits(seconds=0.5)) as pool:
        found = pool.submit([Input("a", "plain"), Input("b", ["silent.tar", 7])]).result()
    assert not isinstance(found[0], Failure)
    assert found[1] == Failure("quarantined", "b: decoding did not end within 0.5 s; tried 3 times")


def test_limits_that_others_have_set_are_kept():
    """Only root may raise a hard limit, and clusters set some."""
    code = """
import resource
from trocr_jax.jobs.decode_worker import _limit_memory
limits = (resource.RLIMIT_AS, 1 << 36), (resource.RLIMIT_CORE, 0)
for what, most in limits:
    resource.setrlimit(what, (most, most))
_limit_memory(1 << 40)
assert [resource.getrlimit(what) for what, _ in limits] == [(1 << 36, 1 << 36), (0, 0)]
_limit_memory(1 << 30)
assert resource.getrlimit(resource.RLIMIT_AS)[0] < 1 << 32
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_message_that_comes_in_pieces_outlasts_a_timeout():
    ours, theirs = socket.socketpair()
    wire = Wire(ours)
    whole, other = socket.socketpair()
    Wire(whole).send(["x" * 1000])
    content = other.recv(1 << 16)
    theirs.sendall(content[:3])
    with pytest.raises(TimeoutError):
        wire.receive(0.05)
    theirs.sendall(content[3:500])
    with pytest.raises(TimeoutError):
        wire.receive(0.05)
    theirs.sendall(content[500:] + content)
    assert wire.receive(1.0) == wire.receive(1.0) == ["x" * 1000]
    for end in (ours, theirs, whole, other):
        end.close()


def test_a_process_that_waits_for_images_is_not_ended_by_time_or_a_signal_for_all():
    with DecodePool(Numbers(), SIZE, workers=1, limits=Limits(seconds=0.5)) as pool:
        pool.submit([Input("plain-0", None)], never).result()
        (process,) = pool._processes
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # as a terminal, or a scheduler, sends them
            os.kill(process._process.pid, number)
        time.sleep(0.8)
        pool.submit([Input("plain-1", None)], never).result()
        assert pool._processes == {process}


def test_files_where_one_works_are_no_modules(tmp_path, monkeypatch):
    (tmp_path / "queue.py").write_text("raise SystemExit('this is no queue')")
    monkeypatch.chdir(tmp_path)
    with DecodePool(Numbers(), SIZE, workers=1, limits=Limits()) as pool:
        check_decoded(pool.submit([Input("plain-0", None)], never).result(), [0])


@pytest.mark.parametrize(("by_itself", "starts"), [(False, STARTS), (True, 2)])
def test_processes_that_something_kills_at_their_start_end_the_job(monkeypatch, by_itself, starts):
    tries: list[int] = []

    def begin(process: DecodeProcess, *given: Any) -> None:
        tries.append(1)
        raise ProcessDied("decoding ended the process by signal 9 (SIGKILL)", by_itself=by_itself)

    monkeypatch.setattr(DecodeProcess, "begin", begin)
    with DecodePool(Numbers(), SIZE, workers=1, limits=Limits()) as pool:
        found = pool.submit([Input("plain-0", None)])
        assert found.wait(60)
        with pytest.raises(JobError, match=r"does not start: .*SIGKILL"):
            found.result()
        assert len(tries) == starts
        with pytest.raises(JobError, match="does not start"):
            pool.submit([Input("plain-0", None)]).result()
        assert len(tries) == starts
        assert not pool._processes


def test_memory_that_is_shared_has_room_for_few_large_images():
    process = DecodeProcess()
    try:
        process.begin(Numbers(), (1000, 1000), Limits())
        assert process.slots == 1
        process.decode([Input("plain-3", None)], deque())
    finally:
        process.close()
