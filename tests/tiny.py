"""Tiny models with random weights for tests, and line images for them."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from PIL import Image, ImageDraw

from trocr_jax import checkpoint
from trocr_jax.config import DecoderConfig, EncoderConfig, TrOCRConfig
from trocr_jax.image import ImageProcessor
from trocr_jax.model import TrOCR
from trocr_jax.tokenizer import character_tokenizer, save_tokenizer

ALPHABET = "abcdefghijklmnopqrstuvwxyzäöüß ,.\"'0123456789"
HEIGHT, WIDTH = 16, 64


def tiny_config(vocab_size: int = 4 + len(ALPHABET)) -> TrOCRConfig:
    return TrOCRConfig(
        encoder=EncoderConfig(
            image_size=(HEIGHT, WIDTH),
            patch_size=(HEIGHT, 8),
            hidden_size=16,
            num_layers=1,
            num_heads=2,
            intermediate_size=32,
        ),
        decoder=DecoderConfig(
            vocab_size=vocab_size,
            hidden_size=16,
            num_layers=1,
            num_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
            cross_attention_hidden_size=16,
        ),
    )


def tiny_model(seed: int = 3, *, scale: float = 20.0, config: TrOCRConfig | None = None) -> TrOCR:
    """Weights `scale` times as large as usual, so that the text depends on the image."""
    model = TrOCR(config or tiny_config(), rngs=nnx.Rngs(seed))
    return jax.tree.map(lambda array: array * np.float32(scale) if array.ndim > 1 else array, model)


def save_tiny(folder: Path, model: TrOCR | None = None, *, native: bool = False) -> Path:
    """A model folder with everything that a Recognizer needs."""
    assets = folder.with_name(folder.name + "-assets") if native else folder
    assets.mkdir(parents=True, exist_ok=True)
    save_tokenizer(character_tokenizer(ALPHABET), assets)
    processor = ImageProcessor(height=HEIGHT, width=WIDTH, keep_aspect_ratio=True)
    (assets / "preprocessor_config.json").write_text(json.dumps(processor.to_dict()), encoding="utf-8")
    model = tiny_model() if model is None else model
    if native:
        checkpoint.save(model, folder, assets=assets)
    else:
        checkpoint.save_huggingface(model, folder)
    return folder


def line_image(seed: int) -> Image.Image:
    """Some strokes on white, of a width that depends on the seed."""
    random = np.random.default_rng(seed)
    width = int(random.integers(20, 120))
    image = Image.new("L", (width, 24), 255)
    draw = ImageDraw.Draw(image)
    for _ in range(width // 6):
        x, y = random.integers(0, width), random.integers(0, 24)
        draw.line((int(x), int(y), int(x + random.integers(-8, 9)), int(random.integers(0, 24))), fill=0, width=2)
    return image


def save_lines(folder: Path, count: int, *, first: int = 0) -> list[Path]:
    """`count` PNG files, named so that they sort by number."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"line-{first + i:03}.png" for i in range(count)]
    for i, path in enumerate(paths):
        line_image(first + i).save(path)
    return paths


def save_pages(folder: Path) -> None:
    """Two pages with a picture each, one page without a line."""
    folder.mkdir()
    for name, version, count in (("a", "2013-07-15", 3), ("b", "2019-07-15", 2), ("c", "2019-07-15", 0)):
        Image.effect_noise((120, 90), 80).convert("RGB").save(folder / f"{name}.png")
        tops = [20 * i for i in range(count)]
        lines = "".join(
            f'<TextLine id="l{i}"><Coords points="0,{y} 110,{y} 110,{y + 18} 0,{y + 18}"/></TextLine>'
            for i, y in enumerate(tops)
        )
        name_space = f"http://schema.primaresearch.org/PAGE/gts/pagecontent/{version}"
        xml = f'<PcGts xmlns="{name_space}"><Page imageFilename="{name}.png">{lines}</Page></PcGts>'
        (folder / "page").mkdir(exist_ok=True)
        (folder / "page" / f"{name}.xml").write_text(xml)
