"""Penalties and filters on the scores of the next token, composed with `chain`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jax

from trocr_jax.decoding.types import Context, Processor


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Chain:
    """One processor after the other; its state is the tuple of theirs."""

    processors: tuple[Processor, ...] = ()

    def init(self, batch: int, beams: int) -> tuple[Any, ...]:
        return tuple(init(p, batch, beams) for p in self.processors)

    def advance(self, state: tuple[Any, ...], tokens: jax.Array) -> tuple[Any, ...]:
        return tuple(advance(p, s, tokens) for p, s in zip(self.processors, state, strict=True))

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        for processor, state in zip(self.processors, context.state, strict=True):
            scores = processor(scores, context._replace(state=state))
        return scores


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Function:
    """A function of scores and context as a processor without numbers: another function compiles anew."""

    function: Processor = field(metadata={"static": True})

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        return self.function(scores, context)


def chain(*processors: Processor) -> Chain:
    """The processors in the order given."""
    return Chain(tuple(p if hasattr(p, "__dataclass_fields__") else Function(p) for p in processors))


identity = chain()


def init(processor: Processor, batch: int, beams: int) -> Any:
    """The first state of a processor; () if it has none."""
    return processor.init(batch, beams) if hasattr(processor, "init") else ()


def advance(processor: Processor, state: Any, tokens: jax.Array) -> Any:
    """The state of a processor behind tokens [B, K]."""
    return processor.advance(state, tokens) if hasattr(processor, "advance") else state


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Temperature:
    """scores / temperature (transformers' TemperatureLogitsWarper)."""

    temperature: float

    def __call__(self, scores: jax.Array, context: Context) -> jax.Array:
        return scores / self.temperature
