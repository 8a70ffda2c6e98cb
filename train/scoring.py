"""Error rates of a training state on held-out lines, by real decoding: what the loop calls between steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from train.data.line import Line
from train.input import Examples, padded
from train.objective import normalized
from train.recipe import Recipe
from train.step import TrainState, model_params, with_params
from train.worst import Misread, worst
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.generation import generate
from trocr_jax.metrics import cer, wer
from trocr_jax.sharding import batch_sharding

Evaluate = Callable[[TrainState, Callable[[], bool]], Mapping[str, float] | None]


class Scorer:
    """(state, stopped) -> {"cer": …, "wer": …} of greedy search on `lines`, with `recipe.eval_beams` also "beam_cer"
    and "beam_wer" of a beam search, or none if `stopped` said so on the way.

    shown: is called with the number of steps done and the lines that greedy search misread most, `recipe.eval_worst`.
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
        shown: Callable[[int, Sequence[Misread]], None] | None = None,
    ) -> None:
        self._recipe, self._lines, self._examples, self._decode = recipe, lines, examples, decode
        self._mesh, self._size, self._shown = mesh, batch_size, shown
        tokens = examples.max_tokens + 1
        self._searches = {"": DecodeConfig(max_new_tokens=tokens)}
        if recipe.eval_beams:
            self._searches["beam_"] = DecodeConfig(max_new_tokens=tokens, num_beams=recipe.eval_beams)
        self._params = jax.jit(lambda state: model_params(recipe, state))

    def __call__(self, state: TrainState, stopped: Callable[[], bool]) -> dict[str, float] | None:
        model = with_params(self._recipe.config, self._params(state))
        hypotheses: dict[str, list[str]] = {name: [] for name in self._searches}
        for group, count in padded(self._lines, self._size):
            if stopped():
                return None
            pixels = self._pixels(group)
            for name, search in self._searches.items():
                found = generate(model, pixels, search, dtype=self._recipe.dtype)
                hypotheses[name] += [self._text(row.tolist()) for row in _everywhere(found.token_ids)[:count, 0]]
        references = [line.text for line in self._lines]
        if self._shown is not None and self._recipe.eval_worst:
            images = [line.image for line in self._lines]
            lines = worst(images, references, hypotheses[""], count=self._recipe.eval_worst)
            self._shown(int(_everywhere(state.step)), lines)
        rates = {"cer": cer, "wer": wer}
        return {name + kind: rate(references, hypotheses[name]) for name in hypotheses for kind, rate in rates.items()}

    def _pixels(self, lines: list[Line]) -> jax.Array:
        """[B, H, W, C] f32 over the devices, as inference sees them."""
        found = np.stack([self._examples(line).pixels for line in lines])
        channels = self._recipe.config.encoder.num_channels
        pixels = np.asarray(normalized(jnp.asarray(found), channels, processor=self._recipe.processor))
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
