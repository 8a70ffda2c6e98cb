"""Character error rate of a model on rendered lines that training never draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import numpy as np

from train.data.render import Renderer
from train.data.text import sample_sentence
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.metrics import cer
from trocr_jax.recognizer import Recognizer


@dataclass(frozen=True)
class Read:
    """One line: what it says and what the model read, cut off at the last token it may have if `truncated`."""

    reference: str
    hypothesis: str
    truncated: bool


def rendered(count: int, *, max_chars: int, sentences: bool = False, seed: int = 0) -> Iterator[tuple[np.ndarray, str]]:
    """Lines in typefaces and of text that are held out of training: the renderer's mixture of running text, loose
    words, figures and random characters, or sentences alone."""
    renderer = Renderer.create(split="heldout", seed=seed)
    for index in range(count):
        if sentences:
            rng = Random(f"{seed}/sentence/{index}")
            line = None
            while line is None:
                line = renderer.draw(sample_sentence(renderer.corpus, rng, max_chars=max_chars), rng)
        else:
            line = renderer.line(index, max_chars=max_chars)
        yield line.image, line.text


def evaluate(model: str, lines: list[tuple[np.ndarray, str]]) -> tuple[float, list[Read]]:
    """Corpus-level CER of greedy search, and every line. A text may have as many tokens as the longest of `lines`, at
    least 128, as far as the model has positions."""
    recognizer = Recognizer.from_pretrained(model)
    longest = max((len(recognizer.tokenizer(text).input_ids) for _, text in lines), default=0)
    tokens = min(max(128, longest + 1), recognizer.model.config.decoder.max_position_embeddings)
    decode = DecodeConfig(max_new_tokens=tokens)
    results = recognizer([image for image, _ in lines], decode=decode, batch_size=32)
    reads = [Read(text, found.text, found.truncated) for (_, text), found in zip(lines, results, strict=True)]
    return cer([r.reference for r in reads], [r.hypothesis for r in reads]), reads
