"""The lines of a recipe, opened: its parts found below a folder, texts that it cannot use named, parts mixed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from train.codec import tokenizer_of
from train.data import records
from train.data.checks import TextLimit
from train.data.line import DataError, Line, Source
from train.data.listed import splits_of, usable
from train.data.parts import Built, Data, Part, Rendered
from train.data.sources import Selected, Stream, Synthetic, open_folder, within
from train.recipe import Recipe, Stage
from trocr_jax.checkpoint import resolve
from trocr_jax.config import DecoderConfig
from trocr_jax.datasets.base import Bad, Record
from trocr_jax.say import tell
from trocr_jax.tokenizer import load_tokenizer

HELD_OUT_ONE_IN = 10  # lines of a folder that has one list only


class Opened(NamedTuple):
    """`lines`: stage -> source; `held_out`: what the model is scored on, or none if the recipe names nothing."""

    lines: Callable[[Stage], Source]
    held_out: list[Line] | None


def open_lines(recipe: Recipe, folder: Path) -> Opened:
    """The data of `recipe`, which must name some, below `folder`. Texts that it cannot use are left out and named on
    stderr. Raises DataError, before anything is trained, where data are missing, with where they have to lie, and
    where `recipe.eval_every` has none to read."""
    data = recipe.data
    if data is None:
        raise DataError(f"recipe {recipe.name!r} names no data; give it a field data")
    limits = {stage: text_limit(recipe, stage) for stage in recipe.stages}

    @lru_cache
    def lines(stage: Stage) -> Source:
        parts = [(_part(part, folder, limits[stage], seed=recipe.seed), part.weight) for part in data.train]
        return Stream(parts, seed=recipe.seed, augmentation=data.augmentation)

    _tell_once.cache_clear()  # another run tells of them again
    for stage in recipe.stages:
        lines(stage)
    held_out = _held_out(data, recipe, folder, limits[recipe.stages[-1]])
    return Opened(lines, held_out)


def text_limit(recipe: Recipe, stage: Stage) -> TextLimit:
    """What a text must be to become labels of a stage."""
    return TextLimit(stage.max_chars + 1, tokenizer_of(recipe), recipe.tokenizer or "of characters")


def longest_text(folder: Path, tokenizer: str, *, decoder: DecoderConfig | None = None) -> int:
    """Tokens of the longest text of a folder of pictures, the end token not counted: what a stage has to take. Raises
    DataError naming the line if that needs more positions than the decoder has learned."""
    read = load_tokenizer(resolve(tokenizer))
    limit = TextLimit(tokenizer=read, tokenizer_name=tokenizer)
    found = ((limit.measure(r.text), split, r) for split, good, _ in _lists(folder, limit) for r in good)
    longest, split, record = max(found, key=lambda one: one[0])
    if decoder is not None and decoder.learned_positions and longest > decoder.max_position_embeddings:
        raise DataError(
            f"{folder}, {split}: {record.id}: its text needs {longest} tokens, more than the "
            f"{decoder.max_position_embeddings} positions of the decoder: leave the line out, or cut its "
            f"picture and text in two: {record.text!r}"
        )
    return longest - 1


def texts_of(folder: Path) -> list[str]:
    """Of a folder of pictures: those that a model is trained and scored on. Lines that cannot be used are named on
    stderr."""
    texts: list[str] = []
    _tell_once.cache_clear()
    for split, good, bad in _lists(folder, None):
        _say(f"{folder}, {split}", bad)
        texts += [record.text for record in good]
    return texts


def _lists(folder: Path, limit: TextLimit | None) -> Iterator[tuple[str, list[Record], list[Bad]]]:
    """What a model is trained and scored on, a split at a time. Other lists in the folder, as of results, are not
    looked at, nor are the pictures."""
    for split in ("train", _scored(splits_of(folder))):
        if split is not None:
            yield split, *usable(folder, split, limit=limit)


def _held_out(data: Data, recipe: Recipe, folder: Path, limit: TextLimit) -> list[Line] | None:
    if not data.held_out:
        if recipe.eval_every:
            raise DataError(
                f"recipe {recipe.name!r}: eval_every is {recipe.eval_every}, and data names no held_out lines to read: "
                "name some, or set eval_every=0"
            )
        return None
    found: list[Line] = []
    for part in data.held_out:
        source = _part(part, folder, limit, seed=recipe.seed, held_out=True)
        fewer = (count := min(recipe.eval_lines, len(source))) < len(source)
        if fewer and recipe.eval_every and not isinstance(part, Rendered):
            tell(f"the first {count} of {len(source)} held-out lines are read (eval_lines of the recipe)")
        found += [source[index] for index in range(count)]
    return found


def _part(part: Part, folder: Path, limit: TextLimit, *, seed: int, held_out: bool = False) -> Source:
    if isinstance(part, Rendered):
        from train.data.render import Renderer

        renderer = Renderer.create("heldout" if held_out else "train", seed=seed, style=part.style)
        return Synthetic(renderer, (limit.length or 2) - 1, limit)
    if isinstance(part, Built):
        if not (folder / part.name).is_dir():
            raise DataError(
                f"{folder / part.name}: no such folder; build it with: python -m train data build {part.name} --source "
                f"DIR --output {folder}, or say with --data where it is"
            )
        source, bad = within(records.open(folder / part.name, part.split), limit)
        _say(f"{folder / part.name}, {part.split}", bad)
        return source
    return _pictures(folder, limit, held_out=held_out)


def _pictures(folder: Path, limit: TextLimit, *, held_out: bool) -> Source:
    apart = _scored(splits_of(folder))
    split = "train" if apart is None or not held_out else apart
    pictures = open_folder(folder, split, limit=limit)
    if apart is not None or not held_out:  # one list is read for both
        _say(f"{folder}, {split}", pictures.left_out)
    if apart is not None:
        return pictures
    mine = [i for i, record in enumerate(pictures.records) if _is_held_out(record.id) == held_out]
    if not mine:
        raise DataError(
            f"{folder}: {len(pictures)} lines are too few to keep every {HELD_OUT_ONE_IN}th apart; add a list of "
            "others, validation.tsv, to score the model on"
        )
    return Selected(pictures, np.asarray(mine, np.int64))


def _scored(splits: Sequence[str]) -> str | None:
    """The split that a model is scored on, if it has a list of its own."""
    return next((name for name in ("validation", "valid", "val", "dev", "test") if name in splits), None)


def _is_held_out(name: str) -> bool:
    return zlib.crc32(name.encode("utf-8", "surrogatepass")) % HELD_OUT_ONE_IN == 0


@cache
def _tell_once(text: str) -> None:
    """Where stages read the same lines."""
    tell(text)


def _say(where: str, bad: Sequence[Bad]) -> None:
    if bad:
        listed = "".join(f"\n  - {b.id}: {b.reason}" for b in bad[:5]) + ("\n  - …" if len(bad) > 5 else "")
        _tell_once(f"{where}: {len(bad)} lines cannot be used and are left out:{listed}")
