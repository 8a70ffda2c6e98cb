"""Processes that decode images, each driven by a thread, so that no image can do harm to the process that reads."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from trocr_jax.errors import JobError, SourceError
from trocr_jax.jobs.attempts import ATTEMPTS, quarantine
from trocr_jax.jobs.decode_process import DecodeProcess, ProcessDied, SourceSilent
from trocr_jax.jobs.decode_standby import Standby
from trocr_jax.jobs.decode_worker import Decode, Decoded, Decoder, Limits, named
from trocr_jax.jobs.rows import Failure
from trocr_jax.jobs.sources import Input

STARTS = 5
"""Tries to start a process that something else kills (a signal) or holds up; one that fails by itself has two."""
STRETCH_SECONDS = 0.02
"""What the images that a process is asked for at a time may take: others could decode some of them meanwhile."""


class Images:
    """The pixels of some images to be, or why there are none."""

    def __init__(self, inputs: Sequence[Input], known: Mapping[int, Failure], died: Callable[[int, str], int]) -> None:
        self.inputs, self.died = inputs, died
        self._found: list[Decoded | Failure | None] = [known.get(place) for place in range(len(inputs))]
        self._left = len(inputs) - len(known)
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._there = threading.Event()
        self.settle([], [])

    def settle(self, places: Sequence[int], found: Sequence[Decoded | Failure]) -> None:
        with self._lock:
            for place, one in zip(places, found, strict=True):
                self._found[place] = one
            self._left -= len(places)
            if not self._left:
                self._there.set()

    def fail(self, error: BaseException) -> None:
        """There will be none, for a reason that is not theirs."""
        self._error = error
        self._there.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Whether all are there, after so many seconds at most."""
        return self._there.wait(seconds)

    def result(self) -> list[Decoded | Failure]:
        """Of all images, in order; waits for them. Raises SourceError if the source has gone, JobError if no process to
        decode images starts, OSError that `died` has raised."""
        self._there.wait()
        if self._error is not None:
            raise self._error
        return [one for one in self._found if one is not None]


class DecodePool:
    """Decodes images in `workers` processes. A context manager.

    decode: picklable; raises ImageError, or SourceError. size: (H, W) of the pixels that it gives. standby: has
    processes that have been started already.
    """

    def __init__(
        self, decode: Decode, size: tuple[int, int], *, workers: int, limits: Limits, standby: Standby | None = None
    ) -> None:
        self._decode, self._size, self._limits, self._workers = decode, size, limits, workers
        self._standby = standby
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="trocr-decode")
        self._local = threading.local()
        self._lock = threading.Lock()
        self._processes: set[DecodeProcess] = set()
        self._waiting: deque[tuple[Images, deque[int]]] = deque()  # and the places that nobody has been asked for
        self._spare: deque[np.ndarray] = deque()
        self._closed = False
        self._broken: JobError | None = None  # no process starts

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._closed = True
            for process in self._processes:
                process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.close()

    def submit(
        self,
        inputs: Sequence[Input],
        died: Callable[[int, str], int] | None = None,
        known: Mapping[int, Failure] | None = None,
    ) -> Images:
        """Images to be decoded. died: is told which of them a process died of, and how, and returns how often it has
        happened to that one; counted here if None. known: those that must not be tried, and why."""
        known = {} if known is None else known
        images = Images(inputs, known, _counted() if died is None else died)
        places = deque(place for place in range(len(inputs)) if place not in known)
        with self._lock:
            self._waiting.append((images, places))
        for _ in range(min(self._workers, len(places))):
            self._threads.submit(self._work)  # beyond the threads that are at work already it finds nothing to do
        return images

    def give_back(self, pixels: Iterable[np.ndarray]) -> None:
        """Takes pixels that nobody looks at any more, to put those of later images there: memory that is new for every
        image costs several times as much as the copy, since the kernel clears each page of it."""
        self._spare.extend(pixels)

    def _work(self) -> None:
        """In a thread of the pool, until no image waits."""
        while True:
            images = None
            try:
                process = self._process()
                with self._lock:
                    while self._waiting and not self._waiting[0][1]:
                        self._waiting.popleft()
                    if not self._waiting:
                        return
                    images, left = self._waiting[0]
                    count = self._count(process, images.inputs[left[0]])
                    places = [left.popleft() for _ in range(min(count, len(left)))]
                self._read(images, places)
            except BaseException as error:  # noqa: BLE001  it is raised where the images are asked for
                if images is not None:
                    images.fail(error)
                    continue
                with self._lock:
                    failed, self._waiting = self._waiting, deque()
                for images, _ in failed:
                    images.fail(error)
                return

    def _count(self, process: DecodeProcess, first: Input) -> int:
        """Images to ask for at a time."""
        if isinstance(self._decode, Decoder) and self._decode.is_far(first.place):
            return process.slots  # it reads them side by side
        each: float | None = getattr(self._local, "seconds", None)
        return 1 if each is None else max(1, min(process.slots, int(STRETCH_SECONDS / max(each, 1e-6))))

    def _read(self, images: Images, places: list[int]) -> None:
        together = True  # until a process has died, after which each is asked for alone
        silent = Counter[int]()
        while places:
            process, now = self._process(), places if together else places[:1]
            begun = time.monotonic()
            try:
                found = process.decode([images.inputs[place] for place in now], self._spare)
            except ProcessDied as death:
                self._drop(process)
                if self._closed:
                    raise
                together = False
                place = now[death.image]
                if isinstance(death, SourceSilent):
                    silent[place] += 1
                    if silent[place] == ATTEMPTS:
                        raise _lost(images.inputs[place], death) from None
                    continue
                reason = f"{images.inputs[place].id}: {death}"
                if images.died(place, reason) >= ATTEMPTS:
                    images.settle([place], [quarantine([reason] * ATTEMPTS)])
                    places.remove(place)
                continue
            self._local.seconds = (time.monotonic() - begun) / len(now)
            images.settle(now, found)
            places = places[len(now) :]

    def _drop(self, process: DecodeProcess) -> None:
        with self._lock:
            self._processes.discard(process)
        process.close()
        self._local.process = None

    def _process(self) -> DecodeProcess:
        """This thread's process, started if need be."""
        process: DecodeProcess | None = getattr(self._local, "process", None)
        failures = tries = 0
        while process is None:
            with self._lock:
                if self._broken is not None:
                    raise self._broken
                if self._closed:
                    raise ProcessDied("the pool is closed")
                try:
                    process = (self._standby.take() if self._standby is not None else None) or DecodeProcess()
                except OSError as error:  # the system starts no more of them
                    failures += 1
                    if failures == 2:
                        self._broken = JobError(f"a process to decode images does not start: {error.strerror or error}")
                        raise self._broken from error
                    continue
                self._processes.add(process)
            try:
                process.begin(self._decode, self._size, self._limits)
            except ProcessDied as death:
                told = process.told()
                self._drop(process)
                process, tries, failures = None, tries + 1, failures + death.by_itself
                if failures == 2 or tries == STARTS:
                    self._broken = JobError(f"a process to decode images does not start: {death}{told}")
                    raise self._broken from death
            except BaseException:
                self._drop(process)
                raise
        self._local.process = process
        return process


def _lost(input: Input, silence: SourceSilent) -> SourceError:
    return SourceError(
        f"{named(input.id, input.place)}: {silence}, {ATTEMPTS} times; see to the source, or give a slow one "
        "more time by --decode-seconds, and run the job again"
    )


def _counted() -> Callable[[int, str], int]:
    deaths = Counter[int]()

    def died(place: int, reason: str) -> int:
        deaths[place] += 1
        return deaths[place]

    return died
