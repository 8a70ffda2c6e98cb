"""The built-in model: what it ships, that transformers loads it and reads the same, and how well it reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, VisionEncoderDecoderModel

import trocr_jax
from tests.images import held_out
from train.data.text import ALPHABET
from trocr_jax.checkpoint import resolve
from trocr_jax.metrics import cer

ROOT = Path(__file__).parents[1]
REAL_LINES = ROOT.parent / "shared" / "data" / "real_lines"
DECODE = trocr_jax.DecodeConfig(max_new_tokens=128)


@pytest.fixture(scope="module")
def recognizer() -> trocr_jax.Recognizer:
    return trocr_jax.Recognizer.from_pretrained("tiny-printed")


def manifest(folder: Path) -> tuple[list[Path], list[str]]:
    rows = [json.loads(row) for row in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    return [folder / row["image"] for row in rows], [row["text"] for row in rows]


def test_the_folder_is_at_most_ten_megabytes_and_has_a_card() -> None:
    folder = resolve("tiny-printed")
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 10_000_000
    assert (folder / "README.md").is_file()


def test_the_tokenizer_spells_the_whole_alphabet(recognizer: trocr_jax.Recognizer) -> None:
    ids = recognizer.tokenizer(ALPHABET).input_ids
    assert recognizer.tokenizer.unk_token_id not in ids
    assert recognizer.tokenizer.decode(ids, skip_special_tokens=True) == ALPHABET
    assert max(ids) < recognizer.model.config.decoder.vocab_size
    printable = {chr(c) for c in range(32, 127)}
    assert printable | set("äöüßÄÖÜàâçéèêëîïôœùûüÿÀÉÈÇñ¡¿áíóúãõªº«»„“”‘’‚‹›ìò") <= set(ALPHABET)


def test_it_reads_the_samples(recognizer: trocr_jax.Recognizer) -> None:
    images, texts = manifest(ROOT / "samples")
    assert cer(texts, [r.text for r in recognizer(images, decode=DECODE)]) <= 0.05


def test_it_reads_real_lines(recognizer: trocr_jax.Recognizer) -> None:
    if not REAL_LINES.is_dir():
        pytest.skip("../shared/data/real_lines is not here")
    images, texts = manifest(REAL_LINES)
    read = [r.text for r in recognizer(images, decode=DECODE)]
    assert cer(texts, read) <= 0.06


def lines(count: int) -> list[np.ndarray]:
    renderer = held_out(1)
    return [renderer.line(i, max_chars=48).image for i in range(count)]


def test_transformers_reads_the_same(recognizer: trocr_jax.Recognizer) -> None:
    images = lines(48)
    folder = resolve("tiny-printed")
    network = VisionEncoderDecoderModel.from_pretrained(folder).eval()
    assert network.dtype == torch.float32
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ours = recognizer(images, decode=DECODE, batch_size=16)
    theirs: list[str] = []
    for first in range(0, len(images), 16):
        pixels = np.stack([recognizer.image_processor.pixels(image) for image in images[first : first + 16]])
        values = torch.from_numpy(np.array(recognizer.image_processor.normalize(pixels))).permute(0, 3, 1, 2)
        with torch.inference_mode():
            ids = network.generate(values, max_new_tokens=DECODE.max_new_tokens, do_sample=False, num_beams=1)
        theirs += tokenizer.batch_decode(ids, skip_special_tokens=True)
    assert [r.text for r in ours] == theirs
