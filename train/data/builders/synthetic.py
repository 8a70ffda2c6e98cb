"""Rendered lines written ahead, for machines whose processors have no time to draw while a model trains."""

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from PIL import Image

from train.data.corpus import Split
from train.data.fonts import Style
from train.data.render import Renderer
from trocr_jax.datasets.base import Bad, Dataset, Record
from trocr_jax.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Synthetic(Dataset):
    """Lines 0 to `count` of the renderer's split train, and `heldout` of its held-out split: typefaces and text that
    training never sees. No files are needed but those of scripts/install-fonts.

    Attributes:
        count: lines for training.
        heldout: lines in held-out typefaces, of held-out text.
        seed: line i is a function of the seed and i.
        max_chars: characters a line may have.
        style: in which faces and colours.
    """

    source: Path = Path("/")
    count: int = 100_000
    heldout: int = 1_000
    seed: int = 0
    max_chars: int = 72
    style: Style = "printed"

    name: ClassVar[str] = "synthetic"
    where: ClassVar[str] = "Install the typefaces and texts with scripts/install-fonts."

    def missing(self) -> list[str]:
        return []

    def check(self) -> None:
        for name, least in {"count": 1, "heldout": 0, "max_chars": 1}.items():
            if getattr(self, name) < least:
                raise DataError(f"{name} is {getattr(self, name)}; give at least {least}")
        super().check()

    def records(self) -> Mapping[str, Iterable[Record | Bad]]:
        counts: dict[Split, int] = {"train": self.count, "heldout": self.heldout}
        return {split: self._split(split, count) for split, count in counts.items() if count}

    def note(self) -> dict[str, str]:
        return {"seed": str(self.seed), "max_chars": str(self.max_chars), "style": self.style}

    def _split(self, split: Split, count: int) -> Iterator[Record | Bad]:
        renderer = Renderer.create(split, seed=self.seed, style=self.style)
        for index in range(count):
            line = renderer.line(index, max_chars=self.max_chars)
            buffer = io.BytesIO()
            Image.fromarray(line.image).save(buffer, "PNG", compress_level=1)
            yield Record(f"{split}-{index:09}", line.text, buffer.getvalue())
