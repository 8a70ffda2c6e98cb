"""The order in which a source of lines is read."""

from typing import Any

import grain

from train.data.line import ENDLESS, Source


def in_order(source: Source, *, seed: int) -> Any:
    """Sample index -> line, for any index: every line once an epoch, each epoch in another order. An endless source
    gives line i as sample i."""
    dataset = grain.MapDataset.source(source)
    return dataset if len(source) >= ENDLESS else dataset.seed(seed).shuffle().repeat()
