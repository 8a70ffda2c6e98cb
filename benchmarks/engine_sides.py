"""The programs that `benchmarks.engine` lets read in turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

import trocr_jax
from benchmarks.engine_onnx import OnnxRuntime


class Engine(Protocol):
    """A program that reads. Every method waits until its result is there."""

    def put(self, pixels: np.ndarray) -> Any:
        """pixels [B, H, W, 3] f32 where and as the other methods want them."""
        ...

    def encode(self, pixels: Any) -> Any: ...

    def decode(self, memory: Any, *, prefill: bool = False) -> np.ndarray:
        """From the encoder's output to token ids [B, tokens], keys and values of cross-attention included; prefill: to
        the first of them."""
        ...

    def read(self, pixels: Any) -> np.ndarray: ...


class Ours:
    """trocr_jax. weights: as `python -m convert quantize` makes them. cache_dtype: of memory, keys and values."""

    def __init__(
        self,
        folder: Path,
        *,
        tokens: int,
        num_beams: int,
        threads: int,
        dtype: str,
        natural: bool = False,
        weights: Literal["int8", "float8"] | None = None,
        cache_dtype: Literal["int8"] | None = None,
    ) -> None:
        import jax
        import jax.numpy as jnp

        from trocr_jax import generation, generation_plan
        from trocr_jax.model_layout import as_read_here
        from trocr_jax.quantization import quantize

        self.dtype = jnp.dtype(dtype)
        model = trocr_jax.checkpoint.load(folder, dtype=self.dtype)
        self.model = as_read_here(model if weights is None else quantize(model, kind=weights))
        self.config = trocr_jax.DecodeConfig(
            num_beams=num_beams,
            max_new_tokens=tokens,
            min_new_tokens=0 if natural else tokens,
            cache_dtype=cache_dtype,
        )
        self.generate, self.array = trocr_jax.generate, jnp.asarray
        shape, self.numbers = generation_plan.plan(self.config, self.model.config, dtype=self.dtype)
        self.scores_bytes = shape.scores_bytes
        self._encode = jax.jit(self._encoder)
        one = replace(self.config, max_new_tokens=1, min_new_tokens=0 if natural else 1)
        first, self.first_numbers = generation_plan.plan(one, self.model.config, dtype=self.dtype)
        first = first._replace(absorbed=shape.absorbed)  # of one token alone it might be another
        self._decode = jax.jit(lambda m, memory, n: generation.decode(m, memory, n, shape, self.dtype))
        self._prefill = jax.jit(lambda m, memory, n: generation.decode(m, memory, n, first, self.dtype))

    def _encoder(self, model: Any, pixels: Any) -> Any:
        from trocr_jax.encoder import cached_micro_batch, in_micro_batches

        size = cached_micro_batch(model.config.encoder, len(pixels), self.scores_bytes)
        return in_micro_batches(partial(model.encode, dtype=self.dtype), pixels, size)

    def put(self, pixels: np.ndarray) -> Any:
        return self.array(pixels)

    def encode(self, pixels: Any) -> Any:
        return self._encode(self.model, pixels).block_until_ready()

    def decode(self, memory: Any, *, prefill: bool = False) -> np.ndarray:
        if prefill:
            return np.asarray(self._prefill(self.model, memory, self.first_numbers).token_ids[:, 0])
        return np.asarray(self._decode(self.model, memory, self.numbers).token_ids[:, 0])

    def read(self, pixels: Any) -> np.ndarray:
        return np.asarray(self.generate(self.model, pixels, self.config, dtype=self.dtype).token_ids[:, 0])


def forced(config: Any, *, tokens: int, num_beams: int) -> dict[str, Any]:
    """Options of transformers' `generate` by which every text has so many tokens."""
    own = {name: getattr(config, name) for name in ("decoder_start_token_id", "pad_token_id", "eos_token_id")}
    ids = {name: getattr(config.decoder, name) if value is None else value for name, value in own.items()}
    return {"max_new_tokens": tokens, "min_new_tokens": tokens, "num_beams": num_beams, "do_sample": False, **ids}


class Transformers:
    """transformers on torch, eager, with its key-value cache; SDPA in the encoder."""

    def __init__(
        self, folder: Path, *, tokens: int, num_beams: int, threads: int, dtype: str, natural: bool = False
    ) -> None:
        import torch
        from transformers import VisionEncoderDecoderModel

        torch.set_num_threads(threads)
        self.torch, self.dtype = torch, getattr(torch, dtype)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = VisionEncoderDecoderModel.from_pretrained(folder, dtype=self.dtype).eval().to(self.device)
        self.options = forced(self.model.config, tokens=tokens, num_beams=num_beams)
        if natural:
            self.options["min_new_tokens"] = 0

    def put(self, pixels: np.ndarray) -> Any:
        tensor = self.torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
        return tensor.to(self.device, self.dtype)

    def encode(self, pixels: Any) -> Any:
        with self.torch.inference_mode():
            memory = self.model.encoder(pixels)
            if self.device == "cuda":
                self.torch.cuda.synchronize()
        return memory

    def decode(self, memory: Any, *, prefill: bool = False) -> np.ndarray:
        from transformers.modeling_outputs import BaseModelOutput

        options = self.options
        if prefill:
            options = options | {"max_new_tokens": 1, "min_new_tokens": min(1, options["min_new_tokens"])}
        with self.torch.inference_mode():
            outputs = BaseModelOutput(last_hidden_state=memory.last_hidden_state)
            return self.model.generate(encoder_outputs=outputs, **options).cpu().numpy()[:, 1:]

    def read(self, pixels: Any) -> np.ndarray:
        with self.torch.inference_mode():
            return self.model.generate(pixels, **self.options).cpu().numpy()[:, 1:]


class CompiledTransformers(Transformers):
    """transformers with torch.compile: the encoder as a whole, the decoder's layers for any length of the past. Its
    TrOCR decoder declares no static cache (`_can_compile_fullgraph` is false), with which `generate` compiles itself.
    """

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        self.model.encoder.forward = self.torch.compile(self.model.encoder.forward, dynamic=False)
        decoder = self.model.decoder.model.decoder
        decoder.forward = self.torch.compile(decoder.forward, dynamic=True)


SIDES: dict[str, Callable[..., Engine]] = {
    "trocr_jax": Ours,
    "trocr_jax-int8": partial(Ours, weights="int8"),
    "trocr_jax-float8": partial(Ours, weights="float8"),  # with fp8 units both factors of a product, in bf16
    "trocr_jax-int8-cache": partial(Ours, cache_dtype="int8"),
    "transformers": Transformers,
    "transformers-compiled": CompiledTransformers,
    "onnxruntime": OnnxRuntime,
    "onnxruntime-int8": partial(OnnxRuntime, int8=True),
}
