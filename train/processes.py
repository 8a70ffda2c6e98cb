"""What the processes of a run have to agree on: who they are, and when they stop. Importing this imports no jax, which
takes seconds: signals are noted from before that on."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from trocr_jax.errors import ConfigError, DataError, TrOCRError
from trocr_jax.say import tell

if TYPE_CHECKING:
    import jax
    from jax.sharding import Mesh

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LAST_SECONDS = 5.0  # for the others to end too, before a process with an error leaves them
LOST = ("Gloo", "barrier", "Connection reset", "DEADLINE_EXCEEDED", "coordination service")
"""What errors say that come of another process which is not there any more."""


def initialize(coordinator: str | None, *, process: int | None = None, processes: int | None = None) -> None:
    """Joins the processes of a run, before any device is used. `coordinator` is HOST:PORT of process 0, "auto" where
    jax finds it by itself (Slurm, Open MPI, Kubernetes, Cloud TPU), none for a run of one process. Raises ConfigError
    for numbers of processes that would mean nothing."""
    if coordinator in (None, "auto") and (process, processes) != (None, None):
        raise ConfigError(
            "--process and --processes are for --coordinator HOST:PORT; "
            + ("auto finds them by itself" if coordinator else "without it every process would train a run of its own")
        )
    if coordinator is None:
        return
    if coordinator != "auto":
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdecimal():
            raise ConfigError(f"--coordinator {coordinator}: give HOST:PORT of process 0, or auto")
        if process is None or processes is None or not 0 <= process < processes:
            raise ConfigError(
                f"--coordinator {coordinator} with --process {process} of --processes {processes}: give how many "
                "processes there are, and which of them this is, from 0"
            )
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if coordinator == "auto":
        jax.distributed.initialize()
    else:
        jax.distributed.initialize(coordinator, processes, process)


@contextmanager
def together(
    coordinator: str | None, *, process: int | None = None, processes: int | None = None, stop: Stop | None = None
) -> Iterator[None]:
    """`initialize`, and around what a process then does: an error ends it with status 1 within seconds of being told.
    Python's own way out would wait for the other processes, which wait for this one, for minutes; so they see
    connections break, or jax's service misses this process (after 100 s at most), and end too. stop: listens again."""
    initialize(coordinator, process=process, processes=processes)
    if stop is not None:
        stop.listen()
    if coordinator is None:
        yield
        return
    import jax
    from jax.experimental import multihost_utils

    try:
        multihost_utils.sync_global_devices("all are there")  # connects them: before, nothing would break
        yield
    except BaseException as error:  # noqa: BLE001  an interrupt among them
        for line in explained(error):
            tell(line)
        leaving = threading.Thread(target=jax.distributed.shutdown, daemon=True)
        leaving.start()
        leaving.join(LAST_SECONDS)
        if sys.stdout is not None:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
        os._exit(1)


def explained(error: BaseException) -> list[str]:
    """What is told of an error that ends a run: one that says what is wrong and what to do by itself, else where it
    happened, and whether it comes of another process that has ended."""
    if isinstance(error, TrOCRError | FloatingPointError):  # FloatingPointError: a loss that is not finite
        return [str(error)]
    told = ["".join(traceback.format_exception(error)).rstrip("\n")]
    if lost(error):
        told.append(
            "Another process of the run has died or no longer answers: see what it says and start all of them again; "
            "the run goes on from its newest checkpoint"
        )
    return told


def lost(error: BaseException) -> bool:
    """Whether an error looks as if it came of another process that is not there any more."""
    import jax

    return jax.process_count() > 1 and any(sign in str(error) for sign in LOST)


def check_same(description: Any) -> None:
    """Raises DataError, in every process, unless what decides the result of a run, its recipe and its data, as JSON
    values, is the same in all of them."""
    import jax
    import numpy as np
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return
    mine = hashlib.sha256(json.dumps(description, sort_keys=True).encode()).digest()
    all_of_them = np.asarray(multihost_utils.process_allgather(np.frombuffer(mine, np.uint8)))
    others = [i for i, found in enumerate(all_of_them) if found.tobytes() != all_of_them[0].tobytes()]
    if others:
        raise DataError(
            f"processes {others} have another recipe or other data than process 0: tokenizer, typefaces, word lists, "
            "files; make them the same, since every process draws its own part of each batch"
        )


class Stop:
    """Whether the run is to end: a context manager that notes SIGTERM (what a preempted machine is sent), SIGINT and
    SIGHUP (whose terminal has gone) instead of dying of them, but for a second SIGINT."""

    def __init__(self) -> None:
        self.seen = False
        self._before: dict[int, object] = {}
        self._vote: jax.Array | None = None

    def __enter__(self) -> Stop:
        self.listen()
        return self

    def listen(self) -> None:
        """Again after `initialize`: jax.distributed puts its own handler for SIGTERM in the place of ours."""
        for number in SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:  # by nohup: it is to go on
                continue
            before = signal.signal(number, self._note)
            self._before.setdefault(number, before)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def agreed(self, mesh: Mesh) -> bool:
        """Whether to stop now, the same answer in every process. All of them must ask equally often.

        With several processes the answer is to the question asked before this one: by then the all-reduce is over, and
        nobody waits for it.
        """
        import jax
        import numpy as np
        from jax.sharding import NamedSharding, PartitionSpec

        if jax.process_count() == 1:
            return self.seen
        sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        mine = np.full(jax.local_device_count(), self.seen, np.int32)
        before = self._vote
        self._vote = _any(mesh)(jax.make_array_from_process_local_data(sharding, mine))
        return before is not None and bool(np.asarray(before.addressable_data(0)))

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        if number == signal.SIGINT:  # a download, or the decoding of a folder, is waited for
            signal.signal(number, signal.SIG_DFL)
            with suppress(OSError, AttributeError, ValueError):  # it may be closed, or the main thread writing to it
                os.write(sys.stderr.fileno(), b"stops as soon as it is saved; Ctrl-C again ends it at once\n")


def compile_unless(agreed: Callable[[], bool], lowered: jax.stages.Lowered) -> Any:
    """The compiled function, or none if the run is to stop first. Compilation takes minutes for large models, longer
    than a machine that is preempted lives: it happens in a thread, and a single process does not wait for it then.
    Several processes do, since those that were not signalled would wait for the one that left."""
    import jax

    if jax.process_count() > 1:
        return lowered.compile()
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(lowered.compile())
        except BaseException as error:  # noqa: BLE001  raised again where the result is asked for
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()  # the end of the program does not wait for it
    while not agreed():
        with suppress(TimeoutError):
            return future.result(timeout=0.1)
    return None


@functools.cache
def _any(mesh: Mesh) -> Any:
    """Votes, one a device, to their largest, on every device."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    return jax.jit(lambda votes: votes.max(), out_shardings=NamedSharding(mesh, PartitionSpec()))
