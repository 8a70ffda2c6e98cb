"""Fine-tuning on a folder of lines, from the command of the recipe to the model that it writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from scripts.toy_training import LETTERS, Bars
from tests.tiny import save_tiny
from train import __main__ as command
from train import evaluate, loop
from train.codec import codec
from train.data.line import DataError, Line
from train.input import Examples
from train.lines import _is_held_out, longest_text, open_lines, texts_of
from train.loop import train
from train.objective import normalized
from train.optimizer import optimizer
from train.recipe import load_recipe
from train.recipes import finetune_folder
from train.step import init_state
from trocr_jax import Recognizer
from trocr_jax.config import TrOCRConfig
from trocr_jax.errors import CheckpointError, ConfigError
from trocr_jax.tokenizer import character_tokenizer, save_tokenizer

pytestmark = pytest.mark.usefixtures("promotion_of_optax")


def lines(folder: Path, **counts: int) -> Path:
    """Pictures of bars and a list a split."""
    folder.mkdir()
    first = 0
    for split, count in counts.items():
        rows = []
        for number in range(first, first + count):
            line = Bars().line(number, max_chars=8)
            Image.fromarray(line.image).save(folder / f"{number}.png")
            rows.append(f"{number}.png\t{line.text}")
        (folder / f"{split}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        first += count
    return folder


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune_folder, "STEPS", 4)
    monkeypatch.setattr(finetune_folder, "BATCH", 2)


def test_the_command_prints_before_and_after_and_writes_the_model(
    tmp_path: Path, model: Path, short: None, capsys: pytest.CaptureFixture[str]
) -> None:
    data = lines(tmp_path / "lines", train=6, validation=3)
    command.run(
        "finetune-folder",
        chosen=command.Chosen(data=data, model=str(model)),
        folder=tmp_path / "run",
        output=tmp_path / "out",
        workers=0,
    )
    printed = capsys.readouterr()
    rows = [json.loads(row) for row in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    before, *_, after = (row["cer"] for row in rows if "cer" in row)
    assert f"CER before {100 * before:.2f} %, after {100 * after:.2f} %" in printed.out
    assert f"{tmp_path / 'out'}: step 4" in printed.out
    ours, theirs = (Recognizer.from_pretrained(path) for path in (tmp_path / "out", model))
    assert ours.image_processor == theirs.image_processor
    assert ours.tokenizer.get_vocab() == theirs.tokenizer.get_vocab()
    assert len(ours([data / "7.png"])) == 1


def test_a_run_that_is_not_finished_says_so(
    tmp_path: Path, model: Path, short: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = command.Chosen(data=lines(tmp_path / "lines", train=3, validation=2), model=str(model))
    settings: dict[str, Any] = {"chosen": chosen, "folder": tmp_path / "run", "output": tmp_path / "out"}
    with pytest.raises(ConfigError, match=r"--output is for the end of a run, step 4, and --until 3 ends before it"):
        command.run("finetune-folder", until=3, **settings)
    monkeypatch.setattr(loop, "train", lambda *_, **__: loop.Outcome(2, finished=False, compiling=False))
    command.run("finetune-folder", **settings)
    expected = f"stopped after step 2 of 4; the same command goes on; {tmp_path / 'out'} is not written yet\n"
    assert capsys.readouterr().err == expected
    command.run("finetune-folder", **settings | {"output": None}, until=2)
    assert capsys.readouterr().err == "stopped after step 2 of 4; the same command without --until goes on\n"
    command.run("finetune-folder", **settings | {"output": None}, until=3)
    assert "; the same command goes on\n" in capsys.readouterr().err


def test_what_a_run_has_gained_is_not_read_off_a_longer_one_before(
    tmp_path: Path, model: Path, short: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = command.Chosen(data=lines(tmp_path / "lines", train=3, validation=2), model=str(model))
    rows = [{"step": step, "cer": cer, "wer": cer} for step, cer in ((0, 0.9), (8, 0.1), (0, 0.8), (4, 0.5))]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    monkeypatch.setattr(loop, "train", lambda *_, **__: loop.Outcome(4, finished=True, compiling=False))
    command.run("finetune-folder", chosen=chosen, folder=tmp_path)
    assert capsys.readouterr().out.startswith("CER before 80.00 %, after 50.00 %;")


def test_an_evaluation_says_how_many_texts_were_cut_off(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = [(Bars().line(number, max_chars=8).image, "b" * 40) for number in range(3)]  # more than there are positions
    monkeypatch.setattr(evaluate, "rendered", lambda count, **_: drawn[:count])
    command.evaluate(str(model), lines=3, show=3)
    printed = capsys.readouterr().out.split("\n")
    cut = sum(len(row) == len("+ ") + 32 for row in printed if row.startswith("+ "))
    assert printed[-2].endswith(f" % on 3 lines; {cut} texts were cut off")
    assert cut


def test_a_folder_with_one_list_keeps_a_tenth_apart(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = lines(tmp_path / "lines", train=60)
    recipe = load_recipe("finetune-folder", data=data, model=str(model))
    opened = open_lines(recipe, data)
    trained = opened.lines(recipe.stages[0]).parts[0][0]  # type: ignore[attr-defined]
    names = {r.id for r in trained.source.records}
    kept = {trained.source.records[i].id for i in trained.indices}
    assert opened.held_out is not None
    assert 2 <= len(opened.held_out) <= 12
    assert len(kept) + len(opened.held_out) == len(names) == 60
    capsys.readouterr()
    open_lines(replace(recipe, eval_lines=1), data)
    assert "the first 1 of " in capsys.readouterr().err
    open_lines(replace(recipe, eval_lines=1, eval_every=0), data)
    assert "are read" not in capsys.readouterr().err
    few = lines(tmp_path / "few", train=1)
    recipe = load_recipe("finetune-folder", data=few, model=str(model))
    with pytest.raises(DataError, match=r"too few to keep every 10th apart; add .*validation\.tsv"):
        open_lines(recipe, few)


def test_a_recipe_that_names_no_lines_to_be_scored_on_is_not_scored_on_others(tmp_path: Path, model: Path) -> None:
    data = lines(tmp_path / "lines", train=60)
    recipe = load_recipe("finetune-folder", data=data, model=str(model))
    assert recipe.data is not None
    recipe = replace(recipe, data=replace(recipe.data, held_out=()))
    with pytest.raises(DataError, match="eval_every is 400, and data names no held_out lines to read: name some, or"):
        open_lines(recipe, data)
    assert open_lines(replace(recipe, eval_every=0), data).held_out is None


def test_other_lists_in_a_folder_are_not_looked_at(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = lines(tmp_path / "lines", train=3, validation=2, test=1)
    (data / "test.tsv").write_text(f"5.png\t{'ψ' * 300}\n", encoding="utf-8")
    (data / "results.jsonl").write_text('{"id": "1.png", "text": "ab", "score": -1.0}\n', encoding="utf-8")
    (data / "notes.csv").write_text("to do,who,when\n", encoding="utf-8")
    assert len(texts_of(data)) == 5
    assert longest_text(data, str(model)) == max(map(len, texts_of(data))) <= 8
    with (data / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("gone.png\tψ\n")
    capsys.readouterr()
    assert set().union(*texts_of(data)) <= set(LETTERS)
    said = capsys.readouterr().err
    assert said.count("train: 1 lines cannot be used and are left out:\n  - gone.png: ") == 1


def test_a_text_longer_than_the_positions_is_refused_before_the_first_step(tmp_path: Path, model: Path) -> None:
    data = lines(tmp_path / "lines", train=3, validation=2)
    rows = (data / "train.tsv").read_text().splitlines()
    (data / "train.tsv").write_text("\n".join([*rows[:2], f"2.png\t{'a' * 40}"]) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"lines, train: 2\.png: its text needs 41 tokens, more than the 32 positions"):
        load_recipe("finetune-folder", data=data, model=str(model))


def test_characters_that_the_tokenizer_lacks_are_named(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = lines(tmp_path / "lines", train=4, validation=2)
    rows = (data / "train.tsv").read_text().splitlines()
    (data / "train.tsv").write_text("\n".join([*rows[:3], "3.png\tψευδής"]) + "\n", encoding="utf-8")
    recipe = load_recipe("finetune-folder", data=data, model=str(model))
    assert len(open_lines(recipe, data).lines(recipe.stages[0]).parts[0][0]) == 3  # type: ignore[attr-defined]
    printed = capsys.readouterr().err
    assert "1 lines cannot be used and are left out" in printed
    assert "3.png: the tokenizer" in printed
    assert "has no token for ['ή', 'δ', 'ε', 'ς', 'υ', 'ψ']" in printed
    open_lines(recipe, data)  # in the same process, as in a notebook
    assert capsys.readouterr().err == printed


def test_lines_that_change_between_two_starts_are_refused(tmp_path: Path, model: Path, short: None) -> None:
    data = lines(tmp_path / "lines", train=6, validation=3)  # as above: the step is not compiled again

    def start(until: int) -> None:
        recipe = replace(load_recipe("finetune-folder", data=data, model=str(model)), eval_every=0)
        opened = open_lines(recipe, data)
        train(recipe, tmp_path / "run", lines=opened.lines, held_out=opened.held_out, until=until, workers=0)

    start(1)
    scored = (data / "validation.tsv").read_text(encoding="utf-8")
    (data / "validation.tsv").write_text(scored.replace("\t", "\ta", 1), encoding="utf-8")
    with pytest.raises(CheckpointError, match="of another run: held_out was"):
        start(2)
    (data / "validation.tsv").write_text(scored.split("\n")[0] + "\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match="eval_lines was 3 and is 1"):
        start(2)
    (data / "validation.tsv").write_text(scored, encoding="utf-8")
    with (data / "train.tsv").open("a", encoding="utf-8") as file:
        file.write("6.png\tabc\n")
    with pytest.raises(CheckpointError, match=r"of another run: .*data\[0\]\.parts\[0\]\.records was 6 and is 7"):
        start(2)


def test_missing_data_say_where_they_have_to_lie(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match=r"nowhere: not a folder; put the files of folder there\. .*train\.tsv"):
        load_recipe("finetune-folder", data=tmp_path / "nowhere", model=str(model))
    with pytest.raises(ConfigError, match=r"does not take --model; copy train/recipes/tiny_printed\.py"):
        load_recipe("tiny-printed", model=str(model))
    with pytest.raises(ConfigError, match="leave out --data"):
        command.run("tiny-printed", chosen=command.Chosen(data=tmp_path))


def test_pictures_are_those_of_the_image_processor_of_the_model(tmp_path: Path, model: Path) -> None:
    """A folder whose processor is not the usual one, as descendants of published models have: bicubic, other means."""
    folder = save_tiny(tmp_path / "other")
    path = folder / "preprocessor_config.json"
    settings = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "resample": 3, "keep_aspect_ratio": False}
    path.write_text(json.dumps(json.loads(path.read_text()) | settings), encoding="utf-8")
    data = lines(tmp_path / "lines", train=4, validation=2)
    recipe = load_recipe("finetune-folder", data=data, model=str(folder))
    processor = Recognizer.from_pretrained(folder).image_processor
    image = np.random.default_rng(0).integers(0, 256, (30, 90, 3)).astype(np.uint8)
    examples = Examples.of(recipe.config, codec(recipe).encode, width=64, max_tokens=8, processor=recipe.processor)
    found = examples(Line(image, "a")).pixels
    np.testing.assert_array_equal(found, processor.pixels(image))
    expected = np.asarray(processor.normalize(found[None]))
    np.testing.assert_allclose(normalized(jnp.asarray(found[None]), 3, processor=recipe.processor), expected, atol=2e-6)


@pytest.mark.parametrize("name", ["small-printed", "base-handwritten"])
def test_a_published_model_keeps_its_settings(name: str, tmp_path: Path) -> None:
    """Its configuration and tokenizer as they lie in a folder; nothing of the weights is needed to make the recipe."""
    config = TrOCRConfig.preset(name)
    (tmp_path / "config.json").write_text(config.to_json(), encoding="utf-8")
    size = {"height": 384, "width": 384}
    settings: dict[str, Any] = {
        "image_processor_type": "DeiTImageProcessor" if "small" in name else "ViTImageProcessor",
        "size": size,
    }
    settings |= {"do_center_crop": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    save_tokenizer(character_tokenizer(LETTERS), tmp_path)
    data = lines(tmp_path / "lines", train=4, validation=2)
    recipe = load_recipe("finetune-folder", data=data, model=str(tmp_path))
    assert recipe.config == config
    examples = Examples.of(recipe.config, codec(recipe).encode, width=384, max_tokens=8, processor=recipe.processor)
    assert examples.pixel_shape == (384, 384, 3)
    state = jax.eval_shape(lambda: init_state(recipe, optimizer(recipe)))
    assert state.params["model"]["decoder"]["embed_tokens"].shape[0] == config.decoder.vocab_size


def test_the_tenth_that_is_kept_apart_is_the_same_in_every_process() -> None:
    assert [n for n in range(60) if _is_held_out(f"{n}.png")] == [12, 38, 39, 50, 51]


def test_any_name_belongs_to_a_part() -> None:
    """One that is no valid Unicode too, as a list of lines may have."""
    assert isinstance(_is_held_out("\udce90.png"), bool)
