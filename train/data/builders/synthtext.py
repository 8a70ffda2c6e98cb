"""SynthText: 858,750 photographs with 7,266,866 rendered words, cut into words
(www.robots.ox.ac.uk/~vgg/data/scenetext/). Its ground truth is a MATLAB file, which scipy reads.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from train.data.line import DataError
from trocr_jax.datasets.base import Bad, Dataset, Record
from trocr_jax.datasets.crop import cut_word, png
from trocr_jax.errors import ImageError
from trocr_jax.image_file import open_rgb

_PHOTOGRAPHS = 858_750


@dataclass(frozen=True, kw_only=True)
class SynthText(Dataset):
    """SynthText, word by word; words written askew are turned upright."""

    name: ClassVar[str] = "synthtext"
    where: ClassVar[str] = (
        "Download SynthText.zip from https://www.robots.ox.ac.uk/~vgg/data/scenetext/ and unpack it there: gt.mat "
        "stands beside the folders 1 to 200. Reading gt.mat takes scipy and much memory."
    )

    def missing(self) -> list[str]:
        return [] if (self.source / "gt.mat").is_file() else ["gt.mat"]

    def records(self) -> Mapping[str, Iterable[Record | Bad]]:
        truth = self._load()
        if len(truth["imnames"]) != _PHOTOGRAPHS and not self.partial:
            raise DataError(
                f"{self.source}: not the published synthtext: {len(truth['imnames'])} photographs instead of "
                f"{_PHOTOGRAPHS}. Unpack the archive again, or pass --partial to build what is there"
            )
        return {"train": self._words(truth)}

    def _load(self) -> dict[str, np.ndarray]:
        try:
            from scipy.io import loadmat
        except ImportError:
            raise DataError("reading gt.mat takes scipy: pip install scipy") from None
        try:
            found: dict[str, Any] = loadmat(self.source / "gt.mat", variable_names=["imnames", "wordBB", "txt"])
            return {name: found[name].reshape(-1) for name in ("imnames", "wordBB", "txt")}
        except Exception as error:  # scipy and zlib raise many kinds on a damaged file
            raise DataError(f"{self.source}/gt.mat: cannot be read ({error}); unpack it again") from error

    def _words(self, truth: dict[str, np.ndarray]) -> Iterator[Record | Bad]:
        for names, boxes, texts in zip(truth["imnames"], truth["wordBB"], truth["txt"], strict=True):
            name = str(np.ravel(names)[0])
            words = [word for text in np.ravel(texts) for word in str(text).split()]  # entries are lines and paragraphs
            corners = np.asarray(boxes, np.float64).reshape(
                2, 4, -1
            )  # x and y, corner, word; one word has no last axis
            if corners.shape[2] != len(words):
                yield Bad(name, f"{len(words)} words and {corners.shape[2]} boxes")
                continue
            try:
                page = open_rgb(self.source / name)
            except ImageError as error:
                yield Bad(name, f"{error} (all its words)")
                continue
            for number, word in enumerate(words):
                try:
                    points = [(float(x), float(y)) for x, y in corners[:, :, number].T]
                    image = png(cut_word(page, points))
                except DataError as error:
                    yield Bad(f"{name}-{number}", str(error))
                    continue
                yield Record(f"{name}-{number}", word, image, page=name)
