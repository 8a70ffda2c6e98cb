"""Character error rate of a model folder on rendered lines that training never draws, or on a folder of real ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from os.path import isfile  # which takes a name that is too long for one that is not there
from pathlib import Path
from random import Random

import numpy as np

from train.data.checks import normal_text
from train.data.render import Renderer
from train.data.text import sample_sentence
from trocr_jax.datasets.base import Bad
from trocr_jax.datasets.folder import SUFFIXES, Folder
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.errors import DataError
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


def manifest(path: Path) -> Iterator[tuple[Path, str]]:
    """Pictures and texts of a list in any form that `trocr_jax.datasets.folder` reads; paths count from its folder.
    A text is what training makes of it: NFC, single spaces. Raises DataError naming the file, and the row, that cannot
    be used."""
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: no list of lines; name a file that ends in {', '.join(SUFFIXES)}")
    rows = list(Folder(source=path.parent).read(path))
    if not rows:
        raise DataError(f"{path}: has no rows; give a list of pictures and what they say")
    for row in rows:
        if isinstance(row, Bad):
            raise DataError(f"{path.parent / row.id}: {row.reason}")
        assert isinstance(row.image, Path)  # a list names files
        if not isfile(row.image):
            raise DataError(f"{path}: {row.image}: no such file; its paths count from {path.parent}")
        yield row.image, normal_text(row.text)


def evaluate(model: str, lines: list[tuple[np.ndarray | Path, str]]) -> tuple[float, list[Read]]:
    """Corpus-level CER of greedy search, and every line. A text may have as many tokens as the longest of `lines`, at
    least 128, as far as the model has positions."""
    recognizer = Recognizer.from_pretrained(model)
    longest = max((len(recognizer.tokenizer(text).input_ids) for _, text in lines), default=0)
    tokens = min(max(128, longest + 1), recognizer.model.config.decoder.max_position_embeddings)
    decode = DecodeConfig(max_new_tokens=tokens)
    results = recognizer([image for image, _ in lines], decode=decode, batch_size=32)
    reads = [Read(text, found.text, found.truncated) for (_, text), found in zip(lines, results, strict=True)]
    return cer([r.reference for r in reads], [r.hypothesis for r in reads]), reads
