"""One training example, and where examples come from."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trocr_jax.errors import DataError as DataError

ENDLESS = 2**40
"""Length of a source that never ends: more lines than any run reads."""


@dataclass(frozen=True)
class Line:
    """One training example: `image` is uint8 [height, width] (grey) or [height, width, 3] (RGB), 0 black and 255
    white; `text` is what it says."""

    image: NDArray[np.uint8]
    text: str


class Source(Protocol):
    """Lines by index: line i is the same for every call, process and machine. Picklable, for worker processes."""

    def __len__(self) -> int:
        """How many lines; ENDLESS where they are made on demand."""
        ...

    def __getitem__(self, index: int) -> Line:
        """The line of this index. Raises ImageError or DataError, naming the record, where it cannot be read."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """What has to be the same when a run goes on: JSON values, equal for equal data."""
        ...
