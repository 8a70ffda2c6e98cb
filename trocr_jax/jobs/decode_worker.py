"""A process that decodes images for a job, one after another, and may be killed by any of them: it shares nothing with
the process that it works for (`decode_process`) but a socket and the memory that pixels are written to.

It loads numpy and PIL but not jax, so that another one is there in half a second.
"""

from __future__ import annotations

import errno
import mmap
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

import numpy as np

from trocr_jax.errors import ImageError, ImageLimitError, SourceError
from trocr_jax.image import ImageProcessor
from trocr_jax.image_file import open_picture, without_pillow_warnings
from trocr_jax.jobs.files import is_url, why
from trocr_jax.jobs.sources import Read, Source
from trocr_jax.jobs.wire import Wire

LEAST_ROOM = 1 << 20
"""Bytes without which no image can be decoded: a plain line of 1,000 x 100 pixels in RGB, and what it is made into."""

OF_A_FILE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
OF_ITSELF = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO, None)
"""Errors that a file has whatever becomes of its source: a name that is too long, a circle of links, a socket; and, of
libraries that read it and not of the system, damage."""
PAUSES = (0.5, 2.0)
"""Seconds before what stands behind a URL and could not be read is asked for again."""
OTHERS = 4
"""Images of a server that are asked for at most where it does not give one."""
NOT_TO_BLAME = ("tfds", "rows")
"""Sources that are not to blame for what is not read in time: one that decodes images while it reads them, and rows of
somebody's pipeline, which goes on without one."""
SIDE_BY_SIDE = ("folder", "manifest", "tar", "rows")
"""Sources that may be asked for several images at a time, as they are for those that come by URL: these take many times
as long to come as to decode."""
STACK = 1 << 20
"""Bytes of the stack of a thread that reads: of the memory that an image may take."""


class Limits(NamedTuple):
    """What one image may take: seconds from request to pixels, and bytes beyond what the process has at its start."""

    seconds: float = 30.0
    memory: int = 2 << 30


class Decoded(NamedTuple):
    """pixels: uint8 [H, W, 3]. expected: a number that grows with the length of the text to be expected."""

    pixels: np.ndarray
    expected: float


Decode = Callable[[str, Any], Decoded]


class Shared(NamedTuple):
    """Memory that two processes map. in_hand: [1] int64, number of the image that is being decoded, of those that were
    asked for. reading: [1] int64, 1 while its source is read, else 0. pixels: uint8 [slots, H, W, 3], of each."""

    in_hand: np.ndarray
    reading: np.ndarray
    pixels: np.ndarray

    @staticmethod
    def bytes(slots: int, shape: tuple[int, ...]) -> int:
        return 16 + slots * int(np.prod(shape))

    @classmethod
    def of(cls, memory: mmap.mmap, shape: tuple[int, ...]) -> Shared:
        """shape: (H, W, 3)."""
        in_hand, reading = (np.frombuffer(memory, np.int64, 1, offset) for offset in (0, 8))
        return cls(in_hand, reading, np.frombuffer(memory, np.uint8, offset=16).reshape(-1, *shape))


@dataclass(frozen=True)
class Decoder:
    """What a worker does with an image. Picklable.

    others: places of other images, to ask whether a server is to blame; those that come with an image, and one that has
    been read."""

    source: Source
    processor: ImageProcessor
    others: deque[Any] = field(default_factory=lambda: deque(maxlen=OTHERS), compare=False, repr=False)

    def __call__(self, id: str, place: Any) -> Decoded:
        """Raises ImageError for this image, SourceError if the source as a whole has gone."""
        try:
            image = self._read(place)
        except SourceError:
            raise
        except OSError as error:
            if _is_of_itself(error) or self._others_can_be_read(place):
                self.source.check()
                raise ImageError(f"{named(id, place)}: {why(error)}") from error
            raise SourceError(f"{named(id, place)}: {why(error)}; see to the source and run the job again") from error
        try:
            picture = open_picture(image, max_pixels=self.processor.max_pixels)
        except ImageError as error:
            what, _, reason = str(error).partition(": ")  # bytes have no name
            raise type(error)(f"{id}: {reason}" if what.startswith("<") else str(error)) from error
        if server(place) is not None:
            self.others.appendleft(place)
        pixels = self.processor.fit(picture, id)
        return Decoded(pixels, _strokes(pixels))

    def _read(self, place: Any) -> Any:
        """What stands behind a URL is asked for again: one answer says little of a server."""
        for pause in () if server(place) is None else PAUSES:
            try:
                found = self.source.read(place)
                return found() if callable(found) else found
            except SourceError:
                raise
            except OSError as error:
                left = signal.getitimer(signal.ITIMER_REAL)[0]  # of the time for this image, 0 without a limit
                if _is_of_itself(error) or 0 < left < 2 * pause:
                    raise
            time.sleep(pause)
        found = self.source.read(place)
        return found() if callable(found) else found

    def _others_can_be_read(self, place: Any) -> bool:
        """Whether the server of an image that it does not give gives another one."""
        own = server(place)
        for other in [other for other in self.others if own is not None and other != place and server(other) == own]:
            with suppress(Exception):
                found = self.source.read(other)
                _ = found() if callable(found) else found
                return True
        return False

    def is_far(self, place: Any) -> bool:
        """Whether the image there and others are read side by side."""
        return self.source.kind in SIDE_BY_SIDE and server(place) is not None


class _Ahead:
    """A decoder's source, asked for several images at a time in as many threads if they are far."""

    def __init__(self, decoder: Decoder, threads: int) -> None:
        self._source, self._is_far = decoder.source, decoder.is_far
        self._threads = ThreadPoolExecutor(threads, "trocr-read")
        self._coming = deque[tuple[Any, Future[Read]]]()

    def begin(self, places: list[Any]) -> None:
        """Reads these if one of them is far. What has been begun before and was not asked for is forgotten."""
        for _, left in self._coming:
            left.cancel()
        self._coming.clear()
        if not any(map(self._is_far, places)):
            return
        with suppress(RuntimeError):  # no memory for a thread: what is not begun is read when it is asked for
            self._coming.extend((place, self._threads.submit(self._source.read, place)) for place in places)

    def read(self, place: Any) -> Read:
        for number, (begun, coming) in enumerate(self._coming):
            if begun is place:
                del self._coming[number]
                with suppress(MemoryError):  # perhaps for those beside it
                    return coming.result()
                break
        return self._source.read(place)

    def check(self) -> None:
        self._source.check()


@dataclass(frozen=True)
class _Noted:
    """A source that notes in `Shared.reading` when it is waited for: it may be what does not answer, not an image."""

    source: Source
    reading: np.ndarray

    def read(self, place: Any) -> Read:
        with self._asked():
            return self.source.read(place)

    def check(self) -> None:
        with self._asked():
            self.source.check()

    @contextmanager
    def _asked(self) -> Iterator[None]:
        self.reading[0] = 1
        try:
            yield
        finally:
            self.reading[0] = 0


def _own(decoder: Decode) -> Decoder | None:
    """The decoder, if it is one of those here."""
    from trocr_jax.jobs import decode_worker  # this is __main__, and what was unpickled is of that module

    return decoder if isinstance(decoder, decode_worker.Decoder) else None


def _is_of_itself(error: OSError) -> bool:
    return isinstance(error, OF_A_FILE) or error.errno in OF_ITSELF


def server(place: Any) -> str | None:
    """Of an image behind a URL, the part of it that names the server or bucket; None for one that is none."""
    first = place[0] if isinstance(place, list | tuple) and place else place
    if not isinstance(first, str) or not is_url(first):
        return None
    scheme, _, rest = first.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def named(id: str, place: Any) -> str:
    """An image as errors name it: with its path or URL, where that is not in its id. place: is it, begins with it, or
    is something else."""
    path = place[0] if isinstance(place, list | tuple) and place else place
    return f"{id} ({path})" if isinstance(path, str) and path not in id else id


def _strokes(pixels: np.ndarray) -> int:
    """Edges between light and dark in the row that has most of them, of some ten: whatever the typeface, they grow with
    the letters (rank correlation with the tokens of rendered lines 0.83; of the width of the ink 0.69)."""
    rows = pixels[:: max(len(pixels) // 10, 1), :, 1]
    rows = np.ascontiguousarray(rows)  # of bytes that lie together everything below takes half the time
    dark = rows < (int(rows.max()) + int(rows.min()) + 1) // 2
    return max(int(np.count_nonzero(edges)) for edges in dark[:, 1:] != dark[:, :-1])


def serve(wire: Wire, memory: int, stderr: int) -> None:
    """Decodes what it is asked for until the other end closes.

    The first message is (decoder, limits, shape of an image's pixels), answered by None; then come [(id, place)],
    answered by a (kind, message or expected length) each, up to the first whose source has gone.
    memory: descriptor of the memory of `Shared`, as large as that when the first message comes. stderr: descriptor of
    where stderr goes from the answer to it on.
    """
    decoder, limits, shape = wire.receive()
    shared = Shared.of(mmap.mmap(memory, 0), shape)
    _limit_memory(limits.memory)
    ahead = None
    if (own := _own(decoder)) is not None:
        threading.stack_size(STACK)
        ahead = _Ahead(own, len(shared.pixels))
        noted = ahead if own.source.kind in NOT_TO_BLAME else _Noted(cast(Any, ahead), shared.reading)
        decoder = replace(own, source=cast(Any, noted))
    try:
        bytearray(max(4 * shared.pixels[0].size, LEAST_ROOM))
    except MemoryError:
        sys.exit(f"no image can be decoded in {limits.memory >> 20} MiB; give more by --decode-memory")
    os.dup2(stderr, 2)
    wire.send(None)
    while True:
        answers: list[tuple[str, Any]] = []
        asked = wire.receive()
        if ahead is not None:
            ahead.begin([place for _, place in asked])
            cast(Decoder, decoder).others.extendleft(place for _, place in asked[1:OTHERS])
        for number, (id, place) in enumerate(asked):
            shared.in_hand[0] = number
            signal.setitimer(signal.ITIMER_REAL, limits.seconds)  # the kernel ends the process, whatever it is doing
            answers.append(_answer(decoder, id, place, shared.pixels[number]))
            if answers[-1][0] == "source":
                break
        signal.setitimer(signal.ITIMER_REAL, 0)
        wire.send(answers)


def _answer(decoder: Decode, id: str, place: Any, room: np.ndarray) -> tuple[str, Any]:
    try:
        pixels, expected = decoder(id, place)
        room[:] = pixels
        return "pixels", float(expected)
    except SourceError as error:
        return "source", str(error)
    except (ImageLimitError, MemoryError) as error:
        if not _of_memory(error):
            return "quarantined", str(error)
        why = f" ({error})" if isinstance(error, MemoryError) and str(error) else ""
        return "quarantined", f"{id}: took more memory than --decode-memory allows{why}"
    except ImageError as error:
        return "failed", str(error)
    except Exception as error:  # noqa: BLE001  whatever a damaged archive or picture makes its reader raise
        return "failed", f"{id}: cannot be read ({type(error).__name__}: {error})"


def _of_memory(error: BaseException | None) -> bool:
    return error is not None and (isinstance(error, MemoryError) or _of_memory(error.__cause__))


def _limit_memory(more: int) -> None:
    """Allocations beyond that fail. Linux counts address space, which is what a large image asks for first."""
    try:
        with open("/proc/self/statm", "rb") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        now = 2 << 30
    for what, limit in ((resource.RLIMIT_AS, now + more), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(what)[1]  # which only root may raise
        resource.setrlimit(what, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def main() -> None:
    """Serves the socket and memory whose descriptors the arguments name; the third is where errors go."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # sent to a whole group: the other end decides
        signal.signal(number, signal.SIG_IGN)
    wire, memory, stderr = map(int, sys.argv[1:])
    try:
        with without_pillow_warnings():
            serve(Wire(socket.socket(fileno=wire)), memory, stderr)
    except (EOFError, ConnectionError):
        os._exit(0)


if __name__ == "__main__":
    main()
