"""What `benchmarks.jobs_beside` reads with and reads: a full-size model folder with random weights, and drawn lines."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.engine import PRESETS, write_weights
from trocr_jax.config import TrOCRConfig
from trocr_jax.image import ImageProcessor

SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
LETTERS = "etaoinshrdlucmfwypvbgkjqxz"


def model_folder(shape: str, folder: Path) -> None:
    """Weights, a tokenizer of the whole vocabulary, and the settings of the image processor, for both sides."""
    config = TrOCRConfig.preset(PRESETS[shape])
    write_weights(shape, folder)
    write_tokenizer(config.decoder.vocab_size, folder)
    height, width = config.encoder.image_size
    settings = ImageProcessor(height=height, width=width).to_dict()
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def write_tokenizer(size: int, folder: Path) -> None:
    """A byte-level one like RoBERTa's, of `size` tokens. Its words are made up; without merges it only decodes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from trocr_jax.tokenizer import save_tokenizer

    chosen = random.Random(0)
    tokens = dict.fromkeys([*SPECIAL.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())])
    while len(tokens) < size:
        word = "".join(chosen.choices(LETTERS, k=chosen.randint(1, 7)))
        tokens.setdefault(word if chosen.random() < 0.4 else f"Ġ{word}")
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL.values()])
    save_tokenizer(
        PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **SPECIAL), folder
    )


def line_files(folder: Path, lines: int, *, distinct: int = 300) -> list[Path]:
    """Files of so many lines, at most `distinct` of them different: three JPEG for each PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = [_file(number) for number in range(min(lines, distinct))]
    paths = []
    for number in range(lines):
        ending, content = contents[number % len(contents)]
        paths.append(folder / f"line-{number:07}.{ending}")
        paths[-1].write_bytes(content)
    return paths


def _file(number: int) -> tuple[str, bytes]:
    file = io.BytesIO()
    if number % 4:
        _line(number).save(file, "JPEG", quality=90)
        return "jpg", file.getvalue()
    _line(number).save(file, "PNG")
    return "png", file.getvalue()


def _line(number: int) -> Image.Image:
    """Words in PIL's own face on noisy paper, 60 to 120 pixels high and 600 to 2,000 wide."""
    chosen = random.Random(number)
    width, height = chosen.randint(600, 2000), chosen.randint(60, 120)
    font = ImageFont.load_default(0.55 * height)
    image = Image.new("L", (width, height), 235)
    draw, place = ImageDraw.Draw(image), 0.2 * height
    while place < width - height:
        word = "".join(chosen.choices(LETTERS, k=chosen.randint(2, 9)))
        draw.text((place, 0.15 * height), word, fill=30, font=font)
        place += draw.textlength(word + " ", font=font)
    noise = np.random.default_rng(number).normal(0, 4, (height, width))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8)).convert("RGB")
