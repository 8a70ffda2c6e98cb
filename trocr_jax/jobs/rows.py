"""One row of the output for every line, and a part: the rows of a unit as JSONL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import orjson

from trocr_jax.recognizer import Recognition
from trocr_jax.say import printable

COLUMNS = (
    "id",
    "text",
    "score",
    "confidence",
    "truncated",
    "status",
    "error",
    "model",
    "configuration",
)
OPTIONAL_COLUMNS = ("alternatives", "words", "characters", "token_ids", "token_log_probs")


class Failure(NamedTuple):
    """Why a line has no text. failed: its image cannot be read. quarantined: its image is larger than the limits, or
    killed what decoded it."""

    status: Literal["failed", "quarantined"]
    error: str


Outcome = Recognition | Failure
Row = dict[str, Any]


def row(id: str, outcome: Outcome, *, model: str, configuration: str, columns: Sequence[str]) -> Row:
    """A row with `columns`; without a text, all that depend on one are None."""
    found: Row = {"id": printable(id), "status": "ok", "error": None, "model": model, "configuration": configuration}
    if isinstance(outcome, Failure):
        found |= {"status": outcome.status, "error": printable(outcome.error)}
        return {name: found.get(name) for name in columns}
    for name in columns:
        if name in ("alternatives", "words", "characters"):
            found[name] = [one._asdict() for one in getattr(outcome, name)]
        elif name not in found:
            found[name] = getattr(outcome, name)
    return {name: found[name] for name in columns}


def encode(rows: Sequence[Row]) -> bytes:
    """JSONL."""
    return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def decode(part: bytes) -> list[Row]:
    """Raises ValueError for what is no JSONL of rows."""
    rows = [orjson.loads(line) for line in part.splitlines()]
    if any(not isinstance(row, dict) or "id" not in row or "status" not in row for row in rows):
        raise ValueError("it holds what is no row")
    return rows


class Counts(NamedTuple):
    """Lines by their status."""

    ok: int = 0
    failed: int = 0
    quarantined: int = 0

    @classmethod
    def of(cls, success: Mapping[str, object]) -> Counts:
        """What _SUCCESS says."""
        return cls(*(int(str(success[name])) for name in cls._fields))

    @property
    def lines(self) -> int:
        return self.ok + self.failed + self.quarantined

    def plus(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))

    def minus(self, other: Counts) -> Counts:
        return Counts(*(a - b for a, b in zip(self, other, strict=True)))


def count(rows: Sequence[Row]) -> Counts:
    each = [row["status"] for row in rows]
    return Counts(each.count("ok"), each.count("failed"), each.count("quarantined"))
