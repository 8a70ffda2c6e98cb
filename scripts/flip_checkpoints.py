"""Damages training checkpoints at random, one place at a time, and counts what restoring makes of it.

    python -m scripts.flip_checkpoints [--trials 1000]

Each trial takes a folder with two states, and in the newer one flips a bit or cuts a file short: any file, the manifest
too. Restoring must use the older state and say so, or give back the very bits that were saved. A state with other bits
is a silent failure.
"""

from __future__ import annotations

import contextlib
import io
import random
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from scripts.toy_training import bars, recipe


@dataclass(frozen=True, kw_only=True)
class Options:
    """How many places."""

    trials: int = 1000
    seed: int = 0


def main(options: Options) -> int:
    """0 if nothing was restored wrongly."""
    import jax

    from train.checkpoints import Checkpoints
    from train.optimizer import optimizer
    from train.step import init_state

    what = replace(recipe(), save_every=1)
    like = jax.eval_shape(lambda: init_state(what, optimizer(what)))
    rng, found = random.Random(options.seed), Counter[str]()
    with tempfile.TemporaryDirectory() as temporary:
        sound, copy = Path(temporary) / "sound", Path(temporary) / "copy"
        expected = {step: _leaves(_save(sound, what, step)) for step in (1, 2)}
        for _ in range(options.trials):
            shutil.copytree(sound, copy)
            damage = _damage(copy / "00000002", rng)
            said = io.StringIO()
            with contextlib.redirect_stderr(said), Checkpoints(copy) as checkpoints:
                restored = checkpoints.restore(like)
            assert restored is not None
            step = int(restored[0].step)
            same = step == restored[1].step and _equal(_leaves(restored[0]), expected[step])
            if not same:
                result = "LOADED SILENTLY WRONG"
            elif step == 2:
                result = "the bits that were saved"
            else:
                result = "older state, said aloud" if "damaged" in said.getvalue() else "older state, SILENTLY"
            found[f"{damage}: {result}"] += 1
            shutil.rmtree(copy)
    for name, count in sorted(found.items()):
        print(f"{count:5d}  {name}")
    wrong = sum(count for name, count in found.items() if "SILENTLY" in name)
    print(f"{options.trials} damaged checkpoints, {wrong} loaded silently wrong")
    return 1 if wrong else 0


def _save(folder: Path, what: Any, step: int) -> Any:
    """A state with random values at `step`, in the checkpoints of `folder`."""
    import jax
    import jax.numpy as jnp

    from train.checkpoints import Checkpoints
    from train.loop import describe
    from train.optimizer import optimizer
    from train.step import init_state

    values = np.random.default_rng(step)

    def fill(x: Any) -> Any:
        return jnp.asarray(values.integers(0, 1000, x.shape), x.dtype)

    state = jax.tree.map(fill, jax.eval_shape(lambda: init_state(what, optimizer(what))))
    state = state._replace(step=jnp.int32(step))
    with Checkpoints(folder, run=describe(what, bars)) as checkpoints:
        checkpoints.save(state)
    return state


def _damage(folder: Path, rng: random.Random) -> str:
    """Flips one bit of the folder's bytes, or cuts one file short; says which."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    # half of the places by size, where the arrays are, half by file, where what describes them is
    weights = None if rng.random() < 0.5 else [path.stat().st_size for path in files]
    path = rng.choices(files, weights)[0]
    content = bytearray(path.read_bytes())
    if cut := rng.random() < 0.3:
        del content[rng.randrange(len(content)) :]
    else:
        bit = rng.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    name = path.name if path.name.isupper() or path.suffix == ".json" or path.name.startswith("_") else "arrays"
    return f"{'cut' if cut else 'bit'} {name}"


def _leaves(state: Any) -> list[np.ndarray]:
    import jax

    return [np.asarray(x) for x in jax.tree.leaves(state)]


def _equal(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) and all(
        x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True)
    )


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
