"""The devices on which a recognizer reads: its programs there, and the threads that start them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike

from trocr_jax.config import TrOCRConfig
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.decoding.types import Decoded
from trocr_jax.errors import DecodeError
from trocr_jax.generation import generate
from trocr_jax.generation_plan import CrossAttention, Numbers, Shape, check_cross_attention, placed_on, plan
from trocr_jax.generation_slots import Flat
from trocr_jax.generation_split import Split
from trocr_jax.generation_stages import Encoded, encode, together
from trocr_jax.generation_stages import decode as decode_rows
from trocr_jax.image import ImageProcessor
from trocr_jax.model import TrOCR
from trocr_jax.model_layout import Layout
from trocr_jax.recognizer_batches import closing_pool, submit, threads
from trocr_jax.recognizer_lanes import Programs, Send
from trocr_jax.sharding import batch_sharding, generation_mesh, generation_shardings, replicated


class Devices:
    """Those of a mesh, or the default one.

    Attributes: split, how they share batches and the model, None without a mesh; shares, of a batch, and where they
    lie; sharing, how many devices share the model.
    """

    def __init__(self, mesh: Mesh | None, *, dtype: DTypeLike, cross_attention: CrossAttention) -> None:
        """Raises DecodeError if they cannot do `cross_attention`."""
        if not isinstance(mesh, Mesh | None):
            raise DecodeError(f"mesh is {mesh!r}: give a Mesh, such as sharding.make_mesh makes of a string")
        self.split = None if mesh is None else Split(generation_mesh(mesh), "data")
        self.shares, self.sharing, self.batch_sharding = 1, 1, None
        if self.split is not None:
            own = self.split.mesh
            self.shares, self.sharing, self.batch_sharding = own.shape["data"], self.split.sharing, batch_sharding(own)
        self._dtype, self._cross_attention = dtype, cross_attention
        self._layout = Layout()
        check_cross_attention(cross_attention, placed_on(self.split))

    def put(self, model: TrOCR) -> TrOCR:
        """The model with its parameters on these devices. Raises DecodeError if it cannot do `cross_attention`."""
        check_cross_attention(self._cross_attention, placed_on(self.split), model.config)
        if self.split is None:
            return model
        return jax.device_put(model, generation_shardings(model, self.split.mesh))

    def laid_out(self, model: TrOCR) -> TrOCR:
        """The model with its weights as one device reads them; on a mesh they stay as they lie."""
        return self._layout.of(model) if self.split is None else model

    def plan(self, decode: DecodeConfig, config: TrOCRConfig) -> tuple[Shape, Numbers]:
        """As `generation_plan.plan`, here."""
        placed = placed_on(self.split)
        return plan(decode, config, placed=placed, cross_attention=self._cross_attention, dtype=self._dtype)

    def programs(self, model: TrOCR, decode: DecodeConfig, image_processor: ImageProcessor | None) -> Programs:
        """Those of a search. image_processor: for pixels of uint8, None for normalised ones."""
        model = self.laid_out(model)
        flat, (shape, numbers) = Flat(model), self.plan(decode, model.config)
        dtype, split = self._dtype, self.split
        if split is not None:  # a constraint's tables would be sent to every device with every search
            numbers = jax.device_put(numbers, replicated(split.mesh))
        # A lane of a CPU is busy until its batch has been read; an accelerator takes the next one meanwhile.
        ended: Callable[[Any], Any] = jax.block_until_ready if self._lanes_wait else lambda found: found

        def at_once(pixels: jax.Array) -> Decoded:
            options: dict[str, Any] = {"image_processor": image_processor, "cross_attention": self._cross_attention}
            return ended(generate(model, pixels, decode, dtype=dtype, **options))

        def encoded(pixels: jax.Array) -> Encoded:
            options: dict[str, Any] = {"image_processor": image_processor, "split": split}
            return ended(encode(flat, pixels, numbers, shape=shape, dtype=dtype, **options))

        def decoded(lines: Encoded, rows: np.ndarray) -> Decoded:
            return ended(decode_rows(flat, lines, rows, numbers, shape=shape, dtype=dtype, split=split))

        return Programs(at_once, encoded, partial(together, split=split), decoded)

    @contextmanager
    def sending(self) -> Iterator[Send]:
        """Pixels go to an accelerator in a thread of their own, while it is busy; on a CPU there is nothing to send."""
        put = partial(jax.device_put, device=self.batch_sharding)
        if self._on_cpu:
            yield lambda filled: partial(put, filled)
            return
        with closing_pool(1, "send") as pool:
            yield lambda filled: submit(pool, put, filled).result

    @contextmanager
    def watching(self) -> Iterator[ThreadPoolExecutor | None]:
        """A thread that waits for results where programs return before them."""
        if self._lanes_wait:
            yield None
            return
        with closing_pool(1, "busy") as pool:
            yield pool

    @property
    def lanes(self) -> int:
        """How many threads start programs: on a CPU two batches are read at the same time, since the steps of one do
        not keep two cores busy (benchmarks/README.md). On a GPU XLA looks after every step of a search whether there is
        another one; the thread that waits for it may be the one that started the search, and a second one gives the
        device what comes next. Devices of a mesh are given one program after the other, all in the same order."""
        return 2 if self.split is None and threads() > 1 else 1

    @property
    def _lanes_wait(self) -> bool:
        return self._on_cpu and self.lanes > 1

    @property
    def _on_cpu(self) -> bool:
        return jax.default_backend() == "cpu"
