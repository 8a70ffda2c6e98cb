"""Character error rate of a model folder on rendered lines that training never draws, or on a folder of real ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np

from train.data.render import Renderer
from train.data.text import sample_sentence
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.metrics import cer
from trocr_jax.recognizer import Recognizer


@dataclass(frozen=True)
class Read:
    """One line: what it says and what the model read."""

    reference: str
    hypothesis: str


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


def manifest(path: Path) -> Iterator[tuple[Path, str]]:
    """Rows {"image": file name beside the manifest, "text": …} of a JSONL file."""
    for row in path.read_text(encoding="utf-8").splitlines():
        fields = json.loads(row)
        yield path.parent / fields["image"], fields["text"]


def evaluate(model: str, lines: list[tuple[np.ndarray | Path, str]]) -> tuple[float, list[Read]]:
    """Corpus-level CER of greedy search, and every line."""
    recognizer = Recognizer.from_pretrained(model)
    results = recognizer([image for image, _ in lines], decode=DecodeConfig(max_new_tokens=128), batch_size=32)
    reads = [Read(text, result.text) for (_, text), result in zip(lines, results, strict=True)]
    return cer([r.reference for r in reads], [r.hypothesis for r in reads]), reads
