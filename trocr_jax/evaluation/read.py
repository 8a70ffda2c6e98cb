"""Lines through a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.errors import ImageError
from trocr_jax.evaluated import Outcome, Sample
from trocr_jax.evaluation.outcome import outcome
from trocr_jax.recognizer import Recognizer


def read(
    recognizer: Recognizer,
    samples: Sequence[Sample],
    decode: DecodeConfig | None = None,
    batch_size: int | None = None,
    *,
    attention: bool = False,
    progress: Callable[[Outcome], None] = lambda _: None,
) -> tuple[list[Outcome], float]:
    """What a recognizer makes of each sample, and the seconds that it took. An image that cannot be read is an outcome
    with an error and an empty text."""
    found, begun = list[Outcome](), time.perf_counter()
    for result in recognizer.read(_images(samples), decode, batch_size, attention=attention):
        found.append(Outcome("", error=str(result)) if isinstance(result, ImageError) else outcome(result))
        progress(found[-1])
    return found, time.perf_counter() - begun


def _images(samples: Sequence[Sample]) -> Iterable[bytes | str | ImageError]:
    for sample in samples:
        if sample.image is None:
            yield ImageError(f"{sample.id}: no picture is known for it")
        else:
            yield sample.image if isinstance(sample.image, bytes) else str(sample.image)
