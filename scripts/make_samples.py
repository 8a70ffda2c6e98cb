"""Draws the sample lines in samples/: our own sentences in typefaces that training never uses, degraded like scans.

Command: python -m scripts.make_samples
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from PIL import Image

from train.data.render import Renderer

TEXTS = (
    "A line of print goes in, its text comes out.",
    "Total: $1,284.50 (incl. 19% VAT), due 2026-12-01",
    "Die Brücke über den Fluß wurde größer als geplant.",
    "L’été dernier, la forêt était pleine d’oiseaux.",
    "Perché la città è così lontana dal mare?",
    "El niño preguntó: «¿Dónde está mañana?»",
    "A manhã começou com pão, café e três canções.",
    "Write to info@example.org or call [+44] 20-7946-0958",
)


def main(folder: Path = Path("samples")) -> None:
    """Writes line_1.png … and manifest.jsonl."""
    folder.mkdir(exist_ok=True)
    renderer = Renderer.create(split="heldout", seed=0)
    rows = []
    for number, text in enumerate(TEXTS, start=1):
        rng = Random(f"sample/{number}")
        while (line := renderer.draw(text, rng)) is None:
            pass
        name = f"line_{number}.png"
        Image.fromarray(line.image).save(folder / name, optimize=True)
        rows.append(json.dumps({"image": name, "text": text}, ensure_ascii=False))
    (folder / "manifest.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
