"""`python -m train data build NAME --source DIR --output DIR`."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from train.data.builders import DATASETS, Dataset
from trocr_jax.errors import DataError, TrOCRError

_USAGE = (
    f"usage: python -m train data build {{{','.join(DATASETS)}}} --source DIR --output DIR\n"
    "       python -m train data build NAME --help lists the options of a data set"
)


@dataclass(frozen=True, kw_only=True)
class Writing:
    """Where a data set goes and which texts are too long.

    Attributes:
        output: where NAME/1.0.0 is written.
        max_length: longest text that is kept, in tokens of --tokenizer, in characters without one.
        tokenizer: a model, name or folder, whose tokenizer measures texts; those it has no tokens for are left out.
    """

    output: Path
    max_length: int | None = None
    tokenizer: str | None = None


def build(dataset: Dataset, writing: Writing) -> None:
    """Builds and prints the counts."""
    from train.data.build import build as write
    from train.data.checks import TextLimit
    from trocr_jax.checkpoint import resolve
    from trocr_jax.tokenizer import load_tokenizer

    if writing.max_length is not None and writing.max_length < 1:
        raise DataError(f"--max-length {writing.max_length}: give at least 1")
    tokenizer = None if writing.tokenizer is None else load_tokenizer(resolve(writing.tokenizer))
    limit = TextLimit(writing.max_length, tokenizer, writing.tokenizer or "")
    built = write(dataset, writing.output, limit=limit)
    for split, count in built.written.items():
        left_out = built.quarantined[split]
        print(f"{split}: {count} records" + (f", {left_out} left out (see {built.report})" if left_out else ""))
    print(built.folder)


def main(arguments: list[str]) -> int:
    """Runs `build NAME …` and returns the exit status: 0 built, 1 the data cannot be used, 2 wrong usage."""
    if arguments[:1] != ["build"] or len(arguments) < 2 or arguments[1] not in DATASETS:
        print(_USAGE, file=sys.stderr)
        return 0 if {"-h", "--help"} & set(arguments) else 2
    name = arguments[1]

    def command(dataset: Any, writing: Writing) -> tuple[Dataset, Writing]:
        return dataset, writing

    command.__annotations__.update(dataset=DATASETS[name], writing=Writing)
    prefixes = (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone)
    program = f"python -m train data build {name}"
    dataset, writing = tyro.cli(command, args=arguments[2:], prog=program, config=prefixes)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is half built goes
    try:
        build(dataset, writing)
    except TrOCRError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
