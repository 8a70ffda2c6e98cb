"""Error rates of a training state on held-out lines, by real decoding: what the loop calls between steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from train.data.line import Line
from train.input import Examples, padded
from train.recipe import Recipe
from train.step import TrainState, model_params, with_params
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.generation import generate
from trocr_jax.metrics import cer, wer
from trocr_jax.sharding import batch_sharding

Evaluate = Callable[[TrainState, Callable[[], bool]], Mapping[str, float] | None]


class Scorer:
    """(state, stopped) -> {"cer": …, "wer": …} of greedy search on `lines`, or none if `stopped` said so on the way.

    Every process of a run calls it, and asks `stopped` equally often.
    """

    def __init__(
        self,
        recipe: Recipe,
        lines: Sequence[Line],
        *,
        examples: Examples,
        decode: Callable[[list[int]], str],
        mesh: Mesh,
        batch_size: int,
    ) -> None:
        self._recipe, self._lines, self._examples, self._decode = recipe, lines, examples, decode
        self._mesh, self._size = mesh, batch_size
        self._search = DecodeConfig(max_new_tokens=examples.max_tokens + 1)
        self._params = jax.jit(lambda state: model_params(recipe, state))

    def __call__(self, state: TrainState, stopped: Callable[[], bool]) -> dict[str, float] | None:
        model = with_params(self._recipe.config, self._params(state))
        hypotheses: list[str] = []
        for group, count in padded(self._lines, self._size):
            if stopped():
                return None
            found = generate(model, self._pixels(group), self._search, dtype=self._recipe.dtype)
            ids = _everywhere(found.token_ids)[:count, 0]
            hypotheses += [self._text(row.tolist()) for row in ids]
        references = [line.text for line in self._lines]
        return {"cer": cer(references, hypotheses), "wer": wer(references, hypotheses)}

    def _pixels(self, lines: list[Line]) -> jax.Array:
        """[B, H, W, C] f32 in [-1, 1] over the devices."""
        grey = np.stack([self._examples(line).pixels for line in lines]).astype(np.float32) / np.float32(127.5) - 1
        pixels = np.repeat(grey[..., None], self._recipe.config.encoder.num_channels, axis=-1)
        return jax.make_array_from_callback(pixels.shape, batch_sharding(self._mesh), lambda index: pixels[index])

    def _text(self, ids: list[int]) -> str:
        end = self._recipe.config.eos_token_id
        return self._decode(ids[: ids.index(end)] if end in ids else ids)


def _everywhere(x: jax.Array) -> np.ndarray:
    """The whole of an array in every process."""
    if jax.process_count() == 1:
        return np.asarray(x)
    gathered: Any = multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(gathered)
