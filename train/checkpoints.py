"""Training states on disk: written by Orbax beside the running steps, whole once their manifest stands there, and the
newest undamaged one read back."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from train import manifest
from train.manifest import Manifest
from train.processes import lost
from train.step import TrainState
from trocr_jax.errors import CheckpointError
from trocr_jax.say import tell

FULL = os.strerror(errno.ENOSPC)


@dataclass(frozen=True)
class Keep:
    """Which states stay: the `last` newest, the `best` with the smallest CER, and those of every `every` steps."""

    last: int = 2
    best: int = 0
    every: int = 0


class Checkpoints:
    """The states of one run, by step. A context manager: leaving it waits for what is still being written.

    run: what a later run must be to go on from these states, JSON values by name. Names that both have are compared:
    a state may be older than a name.
    Several processes use one folder that all of them see, and call every method in the same order.
    """

    def __init__(self, folder: Path, *, run: Mapping[str, Any] | None = None, keep: Keep | None = None) -> None:
        self._folder, self._run, self._keep = folder.absolute(), run, keep or Keep()
        self._orbax = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None
        self._at: int | None = None  # the step that was last saved or restored
        self._damaged: set[Path] = set()

    def __enter__(self) -> Checkpoints:
        # Orbax logs each step through absl, and the traceback of every thread of a failed write, which is raised too.
        logger = logging.getLogger("absl")
        self._level = logger.level
        logger.setLevel(logging.CRITICAL)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()
            with suppress(Exception):  # of a write that failed, which has been told of
                self._orbax.close()
            logging.getLogger("absl").setLevel(self._level)

    def save(self, state: TrainState) -> None:
        """Starts writing; the state may be donated to the next step at once.

        Raises CheckpointError, here or at the next call, if it cannot be written; older states are left as they are.
        """
        self.wait()
        step = int(np.asarray(state.step))
        if step == self._at:
            return
        path = self._folder / f"{step:08d}"
        with self._errors(path):
            if jax.process_index() == 0:
                _remove(path)
                path.mkdir(parents=True)
                size = sum(x.nbytes for x in jax.tree.leaves(state))
                free = shutil.disk_usage(self._folder).free
                if size > free:
                    raise OSError(f"{size / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free")
            self._orbax.save(path / "state", args=ocp.args.StandardSave(_flat(state)))
        self._at = step
        self._writing = self._thread.submit(self._finish, path)

    def score(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds to the state at `step` what an evaluation of it found, for `Keep.best`."""
        self.wait()
        path = self._folder / f"{step:08d}"
        if jax.process_index() == 0:
            with self._errors(path):
                manifest.write(replace(manifest.read(path), metrics=dict(metrics)), path)
                self._tidy()

    def best_step(self) -> int | None:
        """The step of the state that an evaluation found best, the first of equals; none before the first one."""
        self.wait()
        best = _agreed(min(self._scored(), default=(0.0, -1))[1] if jax.process_index() == 0 else -1)
        return None if best == -1 else best

    def wait(self) -> None:
        """Until nothing is being written. Raises CheckpointError if that went wrong."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def restore(
        self, like: TrainState, *, step: int | None = None, best: bool = False
    ) -> tuple[TrainState, Manifest] | None:
        """The newest undamaged state, or the one at `step`, and its manifest; none if nothing was ever saved.

        best: rather the undamaged one that an evaluation found best, if there is one.

        `like`: its structure, arrays or jax.ShapeDtypeStructs; what has a sharding comes back with that one, whatever
        devices it was saved from, and the rest as numpy arrays.
        Damaged states, and those that were never written to their end, are named on stderr and passed over.
        Raises CheckpointError if all are damaged, or if the state is another run's; the message lists what differs.
        """
        self.wait()
        found = _agreed(self._choose(step, best) if jax.process_index() == 0 else -1)
        if found == -1:
            if step is None and not self._whole():
                return None
            if step is None:
                raise CheckpointError(f"{self._folder}: every state is missing or damaged; nothing to go on from")
            others = ", ".join(str(int(path.name)) for path in sorted(self._whole() - self._damaged)) or "none"
            raise CheckpointError(
                f"{self._folder}: the state at step {step} is missing or damaged; there are those at steps {others}"
            )
        path = self._folder / f"{found:08d}"
        saved = manifest.read(path)
        now = {name: value for name, value in (self._run or {}).items() if name in saved.run}
        if changed := list(manifest.differences({name: saved.run[name] for name in now}, now)):
            raise CheckpointError(
                f"{path}: of another run: {'; '.join(changed)}. Go back to what it was, or train in another folder"
            )
        wanted = jax.tree.map(_target, _flat(like))
        flat = self._orbax.restore(path / "state", args=ocp.args.StandardRestore(wanted))
        self._at = found
        leaves = [flat[jax.tree_util.keystr(path)] for path, _ in jax.tree_util.tree_leaves_with_path(like)]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), saved

    def _choose(self, step: int | None, best: bool) -> int:
        """The newest step that is undamaged, or the best, or -1."""
        whole = sorted(self._whole(), reverse=True)
        for path in (self._folder, *self._folder.glob("[0-9]" * 8)):  # not seen is not the same as not there
            try:
                with suppress(FileNotFoundError, NotADirectoryError):
                    os.listdir(path)
            except OSError as error:
                raise CheckpointError(
                    f"{path}: cannot be read ({error.strerror}); mend that, or move it away"
                ) from None
        if step is None:
            for path in sorted(set(self._folder.glob("[0-9]" * 8)) - set(whole)):
                tell(f"{path}: was not written to its end (it has no {manifest.NAME}), and is not used")
        if best:
            ranked = [self._folder / f"{step:08d}" for _, step in sorted(self._scored())]
            whole = ranked + [path for path in whole if path not in ranked]
        for path in whole:
            if step is not None and int(path.name) != step:
                continue
            try:
                manifest.verify(manifest.read(path), path)
            except CheckpointError as error:
                tell(f"damaged checkpoint, it is not used: {error}")
                self._damaged.add(path)
            else:
                return int(path.name)
        return -1

    def _finish(self, path: Path) -> None:
        with self._errors(path):
            self._orbax.wait_until_finished()
            if jax.process_index() == 0:
                found = manifest.digest(path)
                manifest.write(Manifest(int(path.name), dict(self._run or {}), None, found), path)
                self._damaged.discard(path)
                self._tidy()

    def _tidy(self) -> None:
        """Removes what `Keep` does not name, what is damaged, and what was never written to its end."""
        best = {self._folder / f"{step:08d}" for _, step in sorted(self._scored())[: self._keep.best]}
        whole = sorted(self._whole() - self._damaged)
        kept = best | set(whole[-self._keep.last :])
        if self._keep.every:
            kept |= {path for path in whole if int(path.name) % self._keep.every == 0}
        for path in self._folder.glob("[0-9]" * 8):
            if path not in kept:
                _remove(path)

    def _scored(self) -> list[tuple[float, int]]:
        """Metric and step of each undamaged state that has been evaluated."""
        found = []
        for path in sorted(self._whole() - self._damaged):
            try:
                found.append(manifest.read(path))
            except CheckpointError as error:
                tell(f"damaged checkpoint, its score does not count: {error}")
                self._damaged.add(path)
        return [(m.metrics["cer"], m.step) for m in found if "cer" in (m.metrics or {})]  # type: ignore[index]

    def _whole(self) -> set[Path]:
        return {path.parent for path in self._folder.glob("[0-9]" * 8 + f"/{manifest.NAME}")}

    @contextmanager
    def _errors(self, path: Path) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise errors of many kinds, among them for a full disk
            if isinstance(error, CheckpointError):
                raise
            there = ", ".join(str(int(p.name)) for p in sorted(self._whole())) or "none"
            why = "the disk is full" if FULL in str(error) else f"{type(error).__name__}: {str(error)[:300]}"
            if lost(error):
                raise CheckpointError(
                    f"{path}: was not written to its end, since another process of the run has died or no longer "
                    f"answers ({why}); see what it says and start all of them again. States that are whole: {there}"
                ) from None
            raise CheckpointError(
                f"{path}: cannot be written ({why}); make room or mend the disk and start the run again. States that"
                f" are whole: {there}"
            ) from None


def _remove(path: Path) -> None:
    with suppress(IsADirectoryError):
        (path / manifest.NAME).unlink(missing_ok=True)  # first: half removed must not look whole
    shutil.rmtree(path, ignore_errors=True)


def _target(leaf: Any) -> Any:
    """What tells Orbax to restore with a sharding, or as a numpy array."""
    if getattr(leaf, "sharding", None) is not None:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)


def _agreed(step: int) -> int:
    """What process 0 says, in every process."""
    if jax.process_count() == 1:
        return step
    return int(multihost_utils.broadcast_one_to_all(np.int32(step)))


def _flat(state: TrainState) -> dict[str, Any]:
    """Path -> array: Orbax meets no class of ours or of optax."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
