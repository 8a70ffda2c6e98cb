"""`python -m train data build synthetic`: what was written ahead is what is drawn on the fly, to the training input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scripts.toy_training import recipe as toy
from tests.test_render import create
from train.codec import codec
from train.data import records
from train.data.__main__ import main
from train.data.checks import TextLimit
from train.data.order import in_order
from train.data.parts import Built, Data
from train.data.render import Renderer
from train.data.sources import Synthetic as OnTheFly
from train.data.text import ALPHABET
from train.input import FIRST_CHARACTER_ID, Examples, batches
from train.lines import open_lines
from train.recipe import Recipe, Stage, spans
from trocr_jax.errors import DataError
from trocr_jax.tokenizer import character_tokenizer

COUNT, HELDOUT, MAX_CHARS = 12, 5, 14
STYLES = ("printed", "colour")


@pytest.fixture(scope="module", params=STYLES)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the command, in a folder by the name of the style."""
    create("train")
    folder = tmp_path_factory.mktemp("data") / request.param
    options = {"count": COUNT, "heldout": HELDOUT, "seed": 3, "max-chars": MAX_CHARS, "style": request.param}
    arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    assert main(["build", "synthetic", "--output", str(folder), *arguments]) == 0
    return folder


def test_what_is_written_ahead_is_what_is_drawn(built: Path) -> None:
    for split, count in {"train": COUNT, "heldout": HELDOUT}.items():
        ahead = records.open(built, split)
        drawn = Renderer.create(split, seed=3, style=built.name)  # type: ignore[arg-type]  # plain str
        assert len(ahead) == count
        for index in range(count):
            line, expected = ahead[index], drawn.line(index, max_chars=MAX_CHARS)
            assert line.text == expected.text
            np.testing.assert_array_equal(line.image, expected.image)
            assert ahead.record(index).id == f"{split}-{index:09}"
    details = json.loads((built / "synthetic/1.0.0/build.json").read_text())
    assert {name: details[name] for name in ("seed", "max_chars", "style")} == {
        "seed": "3",
        "max_chars": str(MAX_CHARS),
        "style": built.name,
    }


def test_training_reads_the_same_examples_from_both(built: Path) -> None:
    what = two_epochs()
    stage, (span,) = what.stages[0], spans(what)
    opened = open_lines(what, built)
    assert opened.held_out is not None
    assert len(opened.held_out) == HELDOUT
    drawn = OnTheFly(Renderer.create("train", seed=3, style=built.name), MAX_CHARS)  # type: ignore[arg-type]
    expected = {line.text: line for line in map(drawn.__getitem__, range(COUNT))}
    assert len(expected) == COUNT
    examples = Examples.of(what.config, codec(what).encode, width=stage.width, max_tokens=MAX_CHARS)
    lines = in_order(opened.lines(stage), seed=what.seed)
    texts = []
    rows = np.arange(stage.batch_size)
    for samples in batches(span, step=0, lines=lines, examples=examples, rows=rows, workers=0):
        for pixels, labels in zip(*samples.batch, strict=True):
            texts.append("".join(ALPHABET[i - FIRST_CHARACTER_ID] for i in labels if i >= FIRST_CHARACTER_ID))
            wanted = examples(expected[texts[-1]])
            np.testing.assert_array_equal(pixels, wanted.pixels)
            np.testing.assert_array_equal(labels, wanted.labels)
    assert sorted(texts[:COUNT]) == sorted(texts[COUNT:]) == sorted(expected)


def test_a_text_beyond_the_limit_of_its_reader_is_said_anew() -> None:
    drawn = create("train")
    plain = [drawn.line(index, max_chars=MAX_CHARS) for index in range(40)]
    short = TextLimit(8, character_tokenizer("".join(ALPHABET)), "characters")  # of tokens: the start and end too
    limited = OnTheFly(drawn, MAX_CHARS, short)
    for index, line in enumerate(plain):
        found = limited[index]
        assert short.refusal(found.text) is None
        if short.refusal(line.text) is None:
            np.testing.assert_array_equal(found.image, line.image)
    assert any(short.refusal(line.text) for line in plain)
    with pytest.raises(DataError, match=r"line 0 of the renderer: none of 1000 texts can be used; .*no token for"):
        OnTheFly(drawn, MAX_CHARS, TextLimit(8, character_tokenizer("\u0e01"), "of one letter"))[0]
    assert limited.fingerprint() != OnTheFly(drawn, MAX_CHARS).fingerprint()


def two_epochs() -> Recipe:
    """Of the lines, in batches of 4."""
    what: Recipe = toy(batch=4)
    stage = Stage(steps=COUNT // 2, batch_size=4, width=64, max_chars=MAX_CHARS)
    data = Data(train=(Built(name="synthetic"),), held_out=(Built(name="synthetic", split="heldout"),))
    return replace(what, stages=(stage,), data=data)


@pytest.mark.parametrize(("name", "value"), [("count", 0), ("heldout", -1), ("max-chars", 0)])
def test_numbers_that_make_no_data_set_are_refused(
    name: str, value: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "synthetic", "--output", str(tmp_path), f"--{name}", str(value)]) == 1
    assert f"{name.replace('-', '_')} is {value}; give at least" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
