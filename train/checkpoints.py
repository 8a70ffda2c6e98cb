"""Training states on disk through Orbax: written to one side and renamed when whole, the last two kept."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp

from train.step import TrainState


class Checkpoints:
    """The states of one run, by step. A context manager: leaving it waits for what is still being written."""

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    @property
    def latest_step(self) -> int | None:
        step: int | None = self._manager.latest_step()
        return step

    def save(self, state: TrainState) -> None:
        """Starts writing; the state may be donated to the next step at once."""
        step = int(state.step)
        if step != self.latest_step:
            self._manager.save(step, args=ocp.args.StandardSave(_flat(state)))

    def restore(self, like: TrainState, *, step: int | None = None) -> TrainState:
        """The state at `step`, by default the latest, in the structure of `like`."""
        flat = self._manager.restore(
            self.latest_step if step is None else step, args=ocp.args.StandardRestore(_flat(like))
        )
        leaves = [flat[jax.tree_util.keystr(path)] for path, _ in jax.tree_util.tree_leaves_with_path(like)]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _flat(state: TrainState) -> dict[str, Any]:
    """Path -> array: Orbax meets no class of ours or of optax."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
