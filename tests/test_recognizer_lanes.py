"""Lines are put together by the length that is guessed of their texts; what is read in them stays the same."""

from __future__ import annotations

import io
import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from tests.compilations import count_compilations, nothing_kept
from tests.images import held_out
from tests.tiny import save_lines
from trocr_jax import recognizer_busy, recognizer_lanes, recognizer_lengths
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.decoding.types import Decoded
from trocr_jax.errors import ImageError
from trocr_jax.generation_stages import Encoded
from trocr_jax.image import ImageProcessor
from trocr_jax.recognizer import Recognition, Recognizer
from trocr_jax.recognizer_batches import Batch
from trocr_jax.recognizer_batches import batches as batches_of
from trocr_jax.recognizer_busy import Busy
from trocr_jax.recognizer_devices import Devices
from trocr_jax.recognizer_lanes import WINDOW, WINDOW_LINES, Lanes, Programs, Work
from trocr_jax.recognizer_lengths import LengthGuess

SIZE = 4


@pytest.fixture(scope="module")
def pixels(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    processor = Recognizer.from_pretrained(model).image_processor
    return [processor.pixels(path) for path in save_lines(tmp_path_factory.mktemp("lines"), 150)]


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """It guesses after a few lines, and its windows may take any time."""
    monkeypatch.setattr(recognizer_lengths, "LEAST_LINES", 16)
    monkeypatch.setattr(recognizer_lanes, "WINDOW_SECONDS", math.inf)


def batches(pixels: list[np.ndarray], size: int = SIZE) -> Iterator[Batch]:
    for start in range(0, len(pixels), size):
        yield Batch.of_pixels(pixels[start : start + size])


def as_they_come(model: Path, pixels: list[np.ndarray], decode: DecodeConfig) -> list[Recognition | ImageError]:
    return list(Recognizer.from_pretrained(model).read_batches(batches(pixels), decode, SIZE))


def results(found: list[Recognition | ImageError]) -> list[object]:
    return [str(one) if isinstance(one, ImageError) else (one.text, one.score, one.token_log_probs) for one in found]


@pytest.mark.parametrize(
    "decode",
    [
        DecodeConfig(max_new_tokens=12),
        DecodeConfig(max_new_tokens=12, num_beams=3, num_return_sequences=2),
        DecodeConfig(max_new_tokens=12, do_sample=True, num_return_sequences=2, seed=4),
    ],
    ids=["greedy", "beams", "samples"],
)
def test_a_line_is_read_the_same_in_whatever_company(model, pixels, decode, monkeypatch):
    expected = as_they_come(model, pixels, decode)  # too few for a guess
    assert len({one.text for one in expected if isinstance(one, Recognition)}) > 20
    monkeypatch.setattr(recognizer_lengths, "LEAST_LINES", 16)
    monkeypatch.setattr(recognizer_lanes, "WINDOW_SECONDS", math.inf)
    orders = watch(monkeypatch)
    found = as_they_come(model, pixels, decode)
    assert any(len(order) == recognizer_lanes.WINDOW * SIZE and (np.diff(order) < 0).any() for order in orders)
    assert results(found) == results(expected)


def watch(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The orders in which windows are searched."""
    orders: list[np.ndarray] = []
    guess = LengthGuess.guess

    def watched(self: LengthGuess, means: np.ndarray) -> np.ndarray:
        found = guess(self, means)
        orders.append(np.argsort(found, kind="stable"))
        return found

    monkeypatch.setattr(LengthGuess, "guess", watched)
    return orders


def test_errors_and_pauses_keep_their_places(model, pixels, early):
    def series() -> Iterator[Batch]:
        for number, batch in enumerate(batches(pixels)):
            if number % 5 == 3:
                yield Batch([], [])  # nothing to read for a while
            if number % 7 == 2:
                yield Batch([ImageError(f"error {number}")], [])
            if number % 11 == 4:
                errors: list[ImageError | None] = [None, ImageError(f"between {number}"), *[None] * (SIZE - 1)]
                yield Batch(errors[: len(batch.pixels) + 1], batch.pixels)
            else:
                yield batch

    expected: list[object] = []
    texts = iter(results(as_they_come(model, pixels, DecodeConfig(max_new_tokens=12))))
    for batch in series():
        expected += [next(texts) if error is None else str(error) for error in batch.errors]
    found = list(Recognizer.from_pretrained(model).read_batches(series(), DecodeConfig(max_new_tokens=12), SIZE))
    assert results(found) == expected


def test_programs_are_started_and_pixels_sent_in_other_threads(model, pixels, early, monkeypatch):
    """As for an accelerator, whose results nobody waits for before the next program is started."""
    decode = DecodeConfig(max_new_tokens=12)
    expected = results(as_they_come(model, pixels, decode))
    monkeypatch.setattr(Devices, "_on_cpu", False)
    put, threads = jax.device_put, set[str]()

    def watched(*arguments: Any, **options: Any) -> Any:
        threads.add(threading.current_thread().name.rstrip("0123456789_"))
        return put(*arguments, **options)

    monkeypatch.setattr(jax, "device_put", watched)
    rooms = [pixels[place].copy() for place in range(SIZE)]  # written over as soon as the next batch is asked for

    def series() -> Iterator[Batch]:
        for batch in batches(pixels):
            for room, one in zip(rooms, batch.pixels, strict=False):
                room[:] = one
            yield Batch.of_pixels(rooms[: len(batch.pixels)])

    assert results(list(Recognizer.from_pretrained(model).read_batches(series(), decode, SIZE))) == expected
    assert threads == {"trocr-send"}


def test_between_the_texts_of_a_window_the_next_batches_are_begun(model, pixels, early, monkeypatch):
    monkeypatch.setattr(recognizer_lanes, "WINDOW", 4)
    given = 0

    def series() -> Iterator[Batch]:
        nonlocal given
        for batch in batches(pixels):
            given += 1
            yield batch

    read = Recognizer.from_pretrained(model).read_batches(series(), DecodeConfig(max_new_tokens=12), SIZE)
    seen = [given for _ in read]
    while_given = [seen.count(number) for number in range(24, given)]  # in windows
    assert while_given == [SIZE] * len(while_given)


def test_many_lines_compile_what_a_few_do(model, pixels, early):
    recognizer = Recognizer.from_pretrained(model)
    decode = DecodeConfig(max_new_tokens=9)  # of no other test, whose programs are there already
    with nothing_kept():
        with count_compilations() as first:
            list(recognizer.read_batches(batches(pixels[:8]), decode, SIZE))
        with count_compilations() as later:
            assert len(list(recognizer.read_batches(batches(pixels), decode, SIZE))) == len(pixels)
            list(recognizer.read_batches(batches(pixels[:83]), decode, SIZE))
    assert first
    assert later == []


def test_few_lines_are_read_by_one_program_in_batches_of_few_sizes(model, pixels, early):
    recognizer = Recognizer.from_pretrained(model)
    found = recognizer([Image.fromarray(one) for one in pixels[:3]], DecodeConfig(max_new_tokens=12), batch_size=8)
    assert [one.text for one in found] == [
        one.text
        for one in as_they_come(model, pixels[:3], DecodeConfig(max_new_tokens=12))
        if isinstance(one, Recognition)
    ]


def test_endless_errors_come_out(model, early):
    def series() -> Iterator[Batch]:
        number = 0
        while True:
            yield Batch([ImageError(str(number))], [])
            number += 1

    found = Recognizer.from_pretrained(model).read_batches(series(), None, SIZE)
    assert [str(next(found)) for _ in range(5)] == ["0", "1", "2", "3", "4"]
    found.close()


def test_the_memory_tells_the_length(monkeypatch):
    """The built-in model on lines of held-out typefaces and sentences."""
    monkeypatch.setattr(recognizer_lanes, "WINDOW_SECONDS", math.inf)
    recognizer = Recognizer.from_pretrained("tiny-printed")
    renderer = held_out(0)
    lines = [
        recognizer.image_processor.pixels(Image.fromarray(renderer.line(i, max_chars=64).image)) for i in range(256)
    ]
    decode = DecodeConfig(max_new_tokens=96)
    taken = []
    for _ in range(2):  # the second time it guesses from the start
        before = recognizer.work.steps
        found = [one for one in recognizer.read_batches(batches(lines, 16), decode, 16) if isinstance(one, Recognition)]
        taken.append(recognizer.work.steps - before)
    lengths = np.array([len(one.token_ids) for one in found])
    unsorted = lengths.reshape(-1, 16).max(axis=1).sum()
    best = np.sort(lengths.reshape(-1, 128), axis=1).reshape(-1, 16).max(axis=1).sum()
    assert taken[0] <= unsorted
    assert best <= taken[1] <= 0.9 * unsorted


def test_a_device_is_busy_while_results_are_not_there(monkeypatch):
    now, seconds, waiting = [0.0], list[float](), list[Any]()
    monkeypatch.setattr(recognizer_busy, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("jax.block_until_ready", lambda found: found)
    watcher: Any = SimpleNamespace(submit=lambda function, found: waiting.append(partial(function, found)))
    busy = Busy(watcher, seconds.append)  # programs return at once
    for moment in (0.0, 1.0):
        now[0] = moment
        assert busy.run(lambda given: given, moment) == moment
    for moment in (3.0, 5.0):
        now[0] = moment
        waiting.pop(0)()
        assert sum(seconds) == moment
    now[0] = 100.0  # nothing to do until then
    busy.run(lambda: 0)
    now[0] = 101.0
    waiting.pop(0)()
    assert sum(seconds) == 6.0

    def lasting(inner: Any = None) -> None:
        now[0] += 2
        if inner is not None:
            busy.run(inner)

    busy, seconds[:] = Busy(None, seconds.append), []  # programs return with their results
    busy.run(partial(lasting, lasting))
    assert sum(seconds) == 4.0
    with pytest.raises(ZeroDivisionError):
        busy.run(lambda: 1 / 0)
    busy.run(lasting)
    assert sum(seconds) == 6.0


def test_a_guess_is_the_ridge_regression_of_the_lines():
    rng = np.random.default_rng(0)
    means = rng.normal(size=(200, 6)).astype(np.float32)
    tokens = np.rint(20 + means @ np.array([3, -2, 0, 1, 0, 5])).astype(int)
    guess = LengthGuess()
    for start in range(0, 200, 16):
        assert guess.known == (start >= recognizer_lengths.LEAST_LINES)
        guess.learn(means[start : start + 16], tokens[start : start + 16])
    x = np.c_[means.astype(np.float64), np.ones(200)]
    ridge = math.sqrt(recognizer_lengths.RIDGE * means.var(axis=0, dtype=np.float64).mean() * 200)
    rows = np.r_[x, np.c_[ridge * np.eye(6), np.zeros(6)]]  # as least squares with rows that pull the weights to 0
    weights = np.linalg.lstsq(rows, np.r_[tokens, np.zeros(6)], rcond=None)[0]
    np.testing.assert_allclose(guess.guess(means), x @ weights, rtol=1e-8)
    assert np.corrcoef(guess.guess(means), tokens)[0, 1] > 0.99


def test_enough_is_learnt_once():
    rng = np.random.default_rng(0)
    guess, means = LengthGuess(), rng.normal(size=(2048, 3))
    guess.learn(means, means[:, 0])
    before = guess.guess(means)
    guess.learn(means, -means[:, 0])
    np.testing.assert_array_equal(guess.guess(means), before)


def test_lines_that_are_all_the_same_have_a_guess():
    guess, mean = LengthGuess(), np.array([20.1, -17.7, 0.3, 12.9], np.float32)
    for _ in range(8):
        guess.learn(np.tile(mean, (16, 1)), np.full(16, 5))
    assert np.allclose(guess.guess(mean[None]), 5, atol=0.1)


@pytest.mark.parametrize("kind", ["array", "file"])
def test_a_buffer_that_is_filled_again_has_been_read(kind):
    def series():
        array, file = np.zeros((8, 16, 3), np.uint8), bytearray()
        for number in range(20):
            array[:] = number
            with io.BytesIO() as bmp:
                Image.fromarray(array).save(bmp, "BMP")
                file[:] = bmp.getvalue()
            yield array if kind == "array" else file

    found = [p for batch in batches_of(series(), ImageProcessor(height=8, width=16), 4) for p in batch.pixels]
    assert [int(p[0, 0, 0]) for p in found] == list(range(20))


def lanes(size: int, *, shares: int = 1, work: Work | None = None) -> Lanes:
    nothing: Any = None
    guess: Any = SimpleNamespace(known=True)
    return Lanes(
        nothing, nothing, nothing, lanes=1, sizes=(size,), shares=shares, guess=guess, work=work or Work(),
        watcher=None, keep_pixels=False,
    )  # fmt: skip


def test_a_window_has_so_many_lines_and_seconds_at_most(monkeypatch):
    assert [lanes(size)._whole for size in (16, WINDOW_LINES // 4)] == [WINDOW, 4]
    assert lanes(WINDOW_LINES // 2, shares=2)._whole == 4
    assert lanes(WINDOW_LINES)._guess is None  # windows of one batch: nothing is sorted
    now = [100.0]
    monkeypatch.setattr(recognizer_lanes, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(recognizer_lanes, "WINDOW_SECONDS", 10.0)
    read, found = lanes(16, work=(work := Work())), []
    read._first = (1, 100.0)
    for batches, seconds in ((4, 3), (5, 4), (5, 8), (5, 16), (5, 1000)):  # of which the first was compiled
        work.batches, now[0] = batches, 100.0 + seconds
        found.append(read._window())
    assert found == [1, 8, 5, 2, 1]


@pytest.mark.parametrize("windows", [[8] * 40, [8] * 8 + [2] * 32], ids=["equal", "shorter"])
def test_every_image_is_read_once_though_a_device_is_slow(windows, monkeypatch):
    """Rooms for pixels are filled again while programs wait, and windows come to be fetched before they are begun."""
    nothing: Any = None
    guess: Any = SimpleNamespace(known=True, guess=lambda means: 255 - means[:, 0], learn=lambda means, tokens: None)
    sizes = iter(windows)
    monkeypatch.setattr(Lanes, "_window", lambda self: next(sizes))

    def encode(pixels: np.ndarray) -> Any:
        time.sleep(0.02)
        read: Any = pixels[:, 0, 0].copy()
        return Encoded(read[:, 0], nothing, read)

    def together(each: Any) -> Any:
        assert len(each) == WINDOW  # of one shape, however many batches a window has
        return each[0]._replace(memory=np.concatenate([one.memory for one in each]))

    def decode(encoded: Any, rows: np.ndarray) -> Decoded:
        return Decoded(encoded.memory[rows][:, None], *[np.ones((2, 1), np.int32)] * 6)  # type: ignore[arg-type]

    images = [np.full((1, 1, 3), number, np.uint8) for number in range(80)]
    with ThreadPoolExecutor(1) as pool:
        read = Lanes(
            Programs(nothing, encode, together, decode), pool, lambda filled: lambda: filled, lanes=1, sizes=(2,),
            shares=1, guess=guess, work=Work(), watcher=None, keep_pixels=False,
        )  # fmt: skip
        found = [one.decoded for one in read.read(batches(images, 2))]
    assert np.concatenate([one.token_ids[:, 0] for one in found if one is not None]).tolist() == list(range(80))


def test_what_went_wrong_keeps_no_device_busy(monkeypatch):
    now, seconds = [0.0], list[float]()
    monkeypatch.setattr(recognizer_busy, "time", SimpleNamespace(monotonic=lambda: now[0]))
    busy = Busy(None, seconds.append)
    with pytest.raises(ZeroDivisionError):
        busy.run(lambda: 1 / 0)
    now[0] += 50.0
    busy.run(lambda: None)
    assert sum(seconds) == 0.0
