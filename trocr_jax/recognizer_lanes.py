"""Batches of pixels to what is found in them, in order, on one or two lanes of the device.

Full batches go in two stages. A window of them is encoded; then its lines are sorted by the length that `LengthGuess`
expects of their texts, and searched in batches of lines that end together. What is found in a line does not depend on
its company. Searches of a window and encodings of a later one take turns: on a CPU the small steps of the one fill what
the large products of the other leave, and no device ever waits for the host. Until enough lines have been read to
guess, and where images are few, batches stay as they come.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from trocr_jax.decoding.types import Decoded
from trocr_jax.errors import DecodeError, ImageError
from trocr_jax.generation_stages import Encoded
from trocr_jax.recognizer_batches import Batch, submit
from trocr_jax.recognizer_busy import Busy
from trocr_jax.recognizer_lengths import LengthGuess

WINDOW = 8
"""Batches whose lines are sorted together."""
WINDOW_LINES = 1024
"""Lines of a window at most, on each device: the memory of three windows is kept, in base 0.9 MB a line (bf16)."""
WINDOW_SECONDS = 10.0
"""What a window may take to read: texts come out some three windows after their images."""


class Found(NamedTuple):
    """A batch and what was found in its images, rows of numpy; None if it has none. pixels: if they were to be kept."""

    errors: list[ImageError | None]
    decoded: Decoded | None
    pixels: list[np.ndarray]


class Programs(NamedTuple):
    """generate: pixels [B, …] to what is found, at once. encode, together, decode: the same in two stages."""

    generate: Callable[[Any], Decoded]
    encode: Callable[[Any], Encoded]
    together: Callable[[tuple[Encoded, ...]], Encoded]
    decode: Callable[[Encoded, np.ndarray], Decoded]


Send = Callable[[np.ndarray], Callable[[], Any]]
"""Begins to bring pixels to the device. What it returns is called in a lane and gives what the programs take."""


class _Given(NamedTuple):
    """A batch, how many of its images are read, and what becomes of them: by one program, or by two."""

    errors: list[ImageError | None]
    lines: int
    pixels: list[np.ndarray]
    generated: Future[Decoded] | None = None
    encoded: Future[Encoded] | None = None
    staged: bool = False  # by two


class _Search(NamedTuple):
    """rows: of the window's images. places: in the batch, of each of them. decoded: of the whole batch."""

    rows: np.ndarray
    places: np.ndarray
    decoded: Future[Decoded]


class _Window(NamedTuple):
    """Batches in order. searches: of its encoded ones, once they have begun. means [n, D]: of the memory of their
    images, if there are several."""

    given: list[_Given]
    searches: list[_Search]
    means: np.ndarray | None


@dataclass
class Work:
    """What has been searched so far. steps: of the batches; those of a batch are the tokens of its longest line. busy:
    seconds in which the device had a program to run, those apart in which the programs were compiled."""

    batches: int = 0
    steps: int = 0
    busy: float = 0.0

    def was_busy(self, seconds: float) -> None:
        self.busy += seconds


def _check(batch: Any) -> None:
    """Raises DecodeError for what is no Batch, or would lose lines."""
    if not isinstance(batch, Batch):
        raise DecodeError(f"a {type(batch).__name__} where a Batch belongs: give a series of Batch(errors, pixels)")
    wanted = sum(error is None for error in batch.errors)
    if wanted != len(batch.pixels):
        raise DecodeError(f"a Batch has pixels of {len(batch.pixels)} images and None in {wanted} places of errors")
    if len(shapes := {np.shape(each) for each in batch.pixels}) > 1:
        one, other, *_ = sorted(shapes)
        raise DecodeError(f"a Batch has images of shapes {list(one)} and {list(other)}: give those of one shape")


class Lanes:
    """See above. Made for one series of batches."""

    def __init__(
        self,
        programs: Programs,
        pool: ThreadPoolExecutor,
        send: Send,
        *,
        lanes: int,
        sizes: Sequence[int],
        shares: int,
        guess: LengthGuess | None,
        work: Work,
        watcher: ThreadPoolExecutor | None,
        keep_pixels: bool,
    ) -> None:
        """send: pixels, before the program that reads them begins. sizes: of the batches that are compiled, ascending.
        shares: of a batch, on devices of their own. guess: what is learnt for windows; without one every batch is read
        as it comes. work: is counted on. watcher: see `Busy`."""
        self._programs, self._pool, self._send = programs, pool, send
        self._lanes, self._sizes, self._shares = lanes, sizes, shares
        self._work, self._keep_pixels = work, keep_pixels
        self._busy = Busy(watcher, work.was_busy)
        self._whole = min(WINDOW, WINDOW_LINES * shares // sizes[-1])  # batches of a window
        self._guess = guess if self._whole > 1 and sizes[-1] > 1 else None
        self._compiled: set[Any] = set()
        self._first = (work.batches, 0.0)  # batches that had been searched when the first one was, and when that was
        # Room for batches, in turn: memory that is new for every batch would cost more than the copy.
        self._rooms: deque[np.ndarray] = deque()
        self._reading: deque[Future[Any]] = deque()  # pixels in rooms
        self._filling: list[_Given] = []
        self._encoded: deque[_Window] = deque()
        self._waiting: deque[Callable[[], None]] = deque()  # searches that have not begun
        self._searched: deque[_Window] = deque()
        self._found: deque[Found] = deque()  # of a window that has been fetched

    def read(self, series: Iterable[Batch]) -> Generator[Found, None, None]:
        """In order. An empty Batch has what waits brought forward, and the oldest fetched."""
        for batch in series:
            _check(batch)
            if not batch.errors:
                self._close()
                self._search(0)
                self._go_on(len(self._waiting))
                self._fetch(max(len(self._searched) - 1, 0))
                yield from self._taken(len(self._found))
                continue
            self._filling.append(self._begin(batch))
            self._go_on(1)
            window = self._window()
            if sum(given.staged for given in self._filling) >= window or len(self._filling) >= 2 * window - 1:
                self._close()
            # Every lane has its next batch before this thread waits for the first: before a window is searched the next
            # has been encoded, and before its texts are fetched the next is searched. What was found in a window comes
            # out a batch at a time, so that in between the device is given the next ones.
            self._search(1 if window > 1 else 0)
            if window == 1:
                self._go_on(len(self._waiting))
            while len(self._searched) > (2 if window > 1 else self._lanes):
                yield from self._taken(len(self._found))
                self._fetch(len(self._searched) - 1)
            yield from self._taken(1)
        self._close()
        self._search(0)
        self._go_on(len(self._waiting))
        while self._searched or self._found:
            yield from self._taken(len(self._found))
            self._fetch(max(len(self._searched) - 1, 0))

    def _window(self) -> int:
        """Batches of the next window."""
        done = self._work.batches - self._first[0]
        if self._guess is None or not self._guess.known or done < 4:
            return 1
        fit = WINDOW_SECONDS * done / max(time.monotonic() - self._first[1], 1e-6)
        return int(min(self._whole, max(fit, 1)))

    def _begin(self, batch: Batch) -> _Given:
        count = len(batch.pixels)
        given = _Given(batch.errors, count, batch.pixels if self._keep_pixels else [])
        if not count:
            return given
        if count > (most := self._sizes[-1]):
            raise DecodeError(f"a Batch holds {count} images and the batch size is {most}: give smaller ones")
        size = next(size for size in self._sizes if size >= count)
        # Copies, because a blank image might be "read" up to the last token and hold up the others.
        filled = self._filled(batch.pixels + batch.pixels[:1] * (size - count))
        if self._guess is not None and size == self._sizes[-1]:
            future = self._run("encode", self._programs.encode, self._send(filled))
            self._reading.append(future)
            return given._replace(encoded=future, staged=True)
        future = self._run(size, self._programs.generate, self._send(filled))
        self._reading.append(future)
        return given._replace(generated=future)

    def _filled(self, pixels: list[np.ndarray]) -> np.ndarray:
        """A copy in a room whose last batch has been read."""
        shape, dtype = (len(pixels), *pixels[0].shape), pixels[0].dtype
        room = np.empty(0, dtype)
        if len(self._reading) > self._lanes:
            jax.block_until_ready(self._reading.popleft().result())
            room = self._rooms.popleft()
        if room.shape != shape or room.dtype != dtype:
            room = np.empty(shape, dtype)
        self._rooms.append(room)
        return np.stack(pixels, out=room)

    def _run(self, name: Any, program: Callable[..., Any], first: Callable[[], Any], *others: Any) -> Future[Any]:
        """program(first(), *others) on a lane, its time counted; the first time here, uncounted, since two lanes would
        compile the same program."""
        if name in self._compiled:
            return submit(self._pool, lambda: self._busy.run(program, first(), *others))
        future: Future[Any] = Future()
        if self._lanes == 1:  # of several devices, to which one thread alone gives programs
            future = submit(self._pool, lambda: program(first(), *others))
            future.result()
        else:
            future.set_result(program(first(), *others))
        self._compiled.add(name)
        return future

    def _close(self) -> None:
        """What has been given is a window."""
        if self._filling:
            self._encoded.append(_Window(self._filling, [], None))
            self._filling = []

    def _search(self, left: int) -> None:
        """Begins the search of the windows that are encoded but for the last `left`."""
        while len(self._encoded) > left:
            window = self._encoded.popleft()
            self._searched.append(self._sorted(window) if any(given.staged for given in window.given) else window)

    def _sorted(self, window: _Window) -> _Window:
        """The window with its searches ready to begin. One batch is searched as soon as it is encoded; several are put
        in order before, and what they were encoded to is left to the searches."""
        staged = [given for given in window.given if given.staged]
        futures = [given.encoded for given in staged if given.encoded is not None]
        size, searches = self._sizes[-1], list[_Search]()
        rows = np.concatenate([place * size + np.arange(given.lines) for place, given in enumerate(staged)])
        order, means, everything = np.arange(len(rows)), None, partial(self._everything, futures)
        if len(staged) > 1 and self._guess is not None:
            means = _means(staged)
            order = np.argsort(self._guess.guess(means), kind="stable")
            everything = partial(_same, everything())
        for batch in _batches(rows[order], size, self._shares):
            self._waiting.append(partial(self._begin_search, everything, batch, searches))
        given = window.given if means is None else [given._replace(encoded=None) for given in window.given]
        return _Window(given, searches, means)

    def _everything(self, futures: list[Future[Encoded]]) -> Encoded:
        """Of all batches of a window. One shape, however many there are."""
        encoded = [future.result() for future in futures]
        return self._programs.together((*encoded, *encoded[:1] * (self._whole - len(encoded))))

    def _begin_search(self, everything: Callable[[], Encoded], batch: _Batch, searches: list[_Search]) -> None:
        found = self._run("decode", self._programs.decode, everything, batch.filled)
        searches.append(_Search(batch.rows, batch.places, found))

    def _go_on(self, count: int) -> None:
        """Begins so many searches, if so many wait."""
        for _ in range(min(count, len(self._waiting))):
            self._waiting.popleft()()

    def _taken(self, count: int) -> Iterator[Found]:
        """So much of what has been fetched, if there is so much."""
        for _ in range(min(count, len(self._found))):
            yield self._found.popleft()

    def _fetch(self, left: int) -> None:
        """What was found in the windows that are searched but for the last `left`."""
        while len(self._searched) > left:
            window = self._searched.popleft()
            if sum(len(search.rows) for search in window.searches) < sum(
                one.lines for one in window.given if one.staged
            ):
                self._go_on(len(self._waiting))
            found = self._together(window)
            done = 0
            for given in window.given:
                decoded = None
                if given.generated is not None:
                    decoded = self._fetched(given.generated.result(), slice(given.lines))
                elif given.staged and found is not None:
                    decoded = Decoded._make(array[done : done + given.lines] for array in found)
                    done += given.lines
                self._found.append(Found(given.errors, decoded, given.pixels))

    def _together(self, window: _Window) -> Decoded | None:
        """What was found in the images of a window that were encoded, in their order."""
        if not window.searches:
            return None
        parts = [self._fetched(search.decoded.result(), search.places) for search in window.searches]
        places = np.argsort(np.concatenate([search.rows for search in window.searches]))
        found = Decoded._make(np.concatenate(arrays)[places] for arrays in zip(*parts, strict=True))
        if self._guess is not None:
            means = window.means if window.means is not None else _means([one for one in window.given if one.staged])
            self._guess.learn(means, np.asarray(found.lengths[:, 0]))
        return found

    def _fetched(self, decoded: Decoded, places: slice | np.ndarray) -> Decoded:
        fetched = Decoded._make(np.asarray(array)[places] for array in jax.device_get(decoded))
        self._work.batches += 1
        if not self._first[1]:  # which compiled
            self._first = (self._work.batches, time.monotonic())
        self._work.steps += int(fetched.lengths.max())
        return fetched


class _Batch(NamedTuple):
    """rows: of the window's images. places: in the batch, of each of them. filled [B]: for every place, which of its
    share's images it reads."""

    rows: np.ndarray
    places: np.ndarray
    filled: np.ndarray


def _batches(rows: np.ndarray, size: int, shares: int) -> Iterator[_Batch]:
    """rows: of the images of some batches, put one behind the other, in the order in which they are to be read. Each
    share of a batch reads images of the same share of those, which lie on its device: nothing moves."""
    each = size // shares
    of_shares = [rows[rows % size // each == share] for share in range(shares)]
    for start in range(0, max(map(len, of_shares)), each):
        parts = [own[start : start + each] for own in of_shares]
        filled = np.zeros((shares, each), np.int32)
        for part, places in zip(parts, filled, strict=True):
            if len(part):  # otherwise any image will do
                local = part // size * each + part % each
                places[:] = np.concatenate([local, np.repeat(local[:1], each - len(part))])
        places = np.concatenate([share * each + np.arange(len(part)) for share, part in enumerate(parts)])
        yield _Batch(np.concatenate(parts), places, filled.reshape(-1))


def _means(staged: list[_Given]) -> np.ndarray:
    """Of the memory of their images [n, D]."""
    found = [(given.encoded.result().means, given.lines) for given in staged if given.encoded is not None]
    return np.concatenate([np.asarray(means)[:lines] for means, lines in found])


def _same(encoded: Encoded) -> Encoded:
    return encoded
