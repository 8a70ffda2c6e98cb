"""A folder of lines in faces that look written, to fine-tune on: train.tsv, validation.tsv (sentences that train.tsv
does not have, in the same faces) and test.tsv (such sentences in faces that train.tsv does not have).

    python -m scripts.make_handwriting FOLDER [--count 300] [--max-chars 48]
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import tyro
from PIL import Image

from train.data.render import Renderer
from train.data.text import sample_sentence


@dataclass(frozen=True)
class Options:
    """Attributes:
    folder: is made.
    count: lines of each list.
    max_chars: characters a line may have.
    seed: of everything.
    """

    folder: tyro.conf.Positional[Path]
    count: int = 300
    max_chars: int = 48
    seed: int = 0


def write(options: Options) -> None:
    train, other = (Renderer.create(split, seed=options.seed, style="handwriting") for split in ("train", "heldout"))
    lists = {"train": train, "validation": replace(train, corpus=other.corpus), "test": other}
    seen: set[str] = set()
    for name, renderer in lists.items():
        (options.folder / name).mkdir(parents=True)
        rows: list[str] = []
        index = 0
        while len(rows) < options.count:
            rng = Random(f"{options.seed}/{name}/{index}")
            index += 1
            text = sample_sentence(renderer.corpus, rng, max_chars=options.max_chars)
            line = None if text in seen else renderer.draw(text, rng)
            if line is None:
                continue
            seen.add(text)
            picture = f"{name}/{len(rows):03}.png"
            Image.fromarray(line.image).save(options.folder / picture)
            rows.append(f"{picture}\t{text}")
        (options.folder / f"{name}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        print(f"{name}: {len(rows)} lines in {len(renderer.faces)} faces")


if __name__ == "__main__":
    write(tyro.cli(Options, description=__doc__))
