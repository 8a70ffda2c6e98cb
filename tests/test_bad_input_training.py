"""Bad input of every kind, through `python -m train`: one message that names the option, field or file and says what
to do, before the first step, and nothing damaged. Full disks are in
test_training_checkpoints, states of other runs in test_loop_training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest
from PIL import Image

from scripts.toy_training import Bars, bars, recipe
from train import loop
from train import recipe as recipes
from train.__main__ import main
from train.data.checks import image_bytes
from train.data.listed import usable
from train.loop import train
from train.recipes import finetune_folder
from trocr_jax.errors import DataError, ImageError
from trocr_jax.tokenizer import character_tokenizer, save_tokenizer

pytestmark = pytest.mark.usefixtures("promotion_of_optax")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "lines"
    folder.mkdir()
    for split, numbers in {"train": range(4), "validation": range(4, 6)}.items():
        lines = {number: Bars().line(number, max_chars=8) for number in numbers}
        for number, line in lines.items():
            Image.fromarray(line.image).save(folder / f"{number}.png")
        rows = "".join(f"{number}.png\t{line.text}\n" for number, line in lines.items())
        (folder / f"{split}.tsv").write_text(rows, encoding="utf-8")
    return folder


def said(capsys: pytest.CaptureFixture[str], *arguments: str | Path, status: int = 1) -> str:
    """What a command that must fail prints: on stderr, without a traceback."""
    try:
        found = main(list(map(str, arguments)))
    except SystemExit as ended:
        found = ended.code  # type: ignore[assignment]
    output, message = capsys.readouterr()
    assert found == status, message
    assert "Traceback" not in message
    return " ".join((output + message).replace("│", " ").split())


def test_an_option_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    message = said(capsys, "run", "tiny-printed", "--worker", "3", status=2)
    assert "Unrecognized options: --worker" in message
    assert "--workers" in message
    assert "--profile '3': give START:STOP" in said(capsys, "run", "tiny-printed", "--profile", "3")


def test_a_recipe_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    message = said(capsys, "run", "finetune-mine")
    assert "no recipe 'finetune-mine' in train/recipes; there are" in message
    assert "finetune-folder, finetune-iam" in message
    assert "finetune," not in message
    for name in ("train/recipes/finetune_folder.py", "../x", "a.b"):
        assert f"no recipe '{name}' in train/recipes; there are" in said(capsys, "run", name)


def test_a_field_that_there_is_not(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def misspelt(**options: Any) -> recipes.Recipe:
        return recipes.Recipe(**options, learning_rat=1e-3)  # type: ignore[call-arg]  # the mistake under test

    monkeypatch.setattr(finetune_folder, "recipe", misspelt)
    message = said(capsys, "run", "finetune-folder")
    assert "train/recipes/finetune_folder.py" in message
    assert "unexpected keyword argument 'learning_rat'; the fields are in train/recipe.py" in message


def test_an_interrupt_is_no_traceback(tmp_path: Path) -> None:
    os.mkfifo(log := tmp_path / "log.jsonl")
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    command = [sys.executable, "-m", "train", "log", str(log)]
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process, log.open("w"):  # once it is read
        process.send_signal(signal.SIGINT)
        assert process.communicate()[0] == ""
    assert process.returncode == 130


def test_what_a_recipe_does_not_leave_to_choose(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "does not take --image-size" in said(capsys, "run", "tiny-printed", "--image-size", "16", "64")
    for name in ("tiny-printed", "stage1-base"):
        assert "leave out --data" in said(capsys, "run", name, "--data", tmp_path)
    monkeypatch.setattr("train.ahead.environment.prepare", lambda topology: None)
    compile_for = ("compile", "tiny-printed", "--topology", "v5e:2x2")  # 1 would say that it does not fit
    assert "leave out --data" in said(capsys, *compile_for, "--data", tmp_path, status=2)


def test_data_that_are_not_there(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = tmp_path / "nowhere"
    message = said(capsys, "run", "finetune-folder", "--data", nowhere, "--model", model, "--folder", tmp_path / "run")
    assert f"{nowhere}: not a folder; put the files of folder there" in message
    monkeypatch.setattr("train.ahead.environment.prepare", lambda topology: None)
    compile_for = ("compile", "finetune-folder", "--topology", "v5e:2x2")  # 1 would say that it does not fit
    assert f"{nowhere}: not a folder" in said(capsys, *compile_for, "--data", nowhere, "--model", model, status=2)
    message = said(
        capsys, "run", "finetune-iam", "--data", nowhere, "--model", "tiny-printed", "--folder", tmp_path / "run"
    )
    assert f"{nowhere / 'iam'}: no such folder; build it with: python -m train data build iam --source" in message
    assert not (tmp_path / "run").exists()


def test_a_label_longer_than_the_positions(
    capsys: pytest.CaptureFixture[str], model: Path, data: Path, tmp_path: Path
) -> None:
    rows = (data / "train.tsv").read_text().splitlines()
    (data / "train.tsv").write_text("\n".join([*rows[:3], f"3.png\t{'a' * 40}"]) + "\n", encoding="utf-8")
    message = said(capsys, "run", "finetune-folder", "--data", data, "--model", model, "--folder", tmp_path / "run")
    assert f"{data}, train: 3.png: its text needs 41 tokens, more than the 32 positions of the decoder" in message
    assert not (tmp_path / "run").exists()


def test_a_model_folder_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], model: Path, data: Path, tmp_path: Path
) -> None:
    chosen = ("finetune-folder", "--data", data, "--model", model, "--folder", tmp_path / "run", "--output")
    native, file = tmp_path / "native", tmp_path / "file"
    native.mkdir()
    for path in (native / "MANIFEST.json", file):
        path.write_text("{}", encoding="utf-8")
    for command in ("run", "export"):
        message = said(capsys, command, *chosen, native)
        assert f"{native}: is a native folder; choose another name for the model, or remove it" in message
        assert f"{file}: is a file; name another folder" in said(capsys, command, *chosen, file / "model")
    assert not (tmp_path / "run").exists()
    assert [path.name for path in native.iterdir()] == ["MANIFEST.json"]


def test_a_mesh_that_the_devices_do_not_make(
    capsys: pytest.CaptureFixture[str], model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.lines.open_lines", lambda *arguments: pytest.fail("pictures are looked at before"))
    chosen = ("run", "finetune-folder", "--data", data, "--model", model, "--folder", tmp_path / "run")
    assert "64 devices are asked for and there are" in said(capsys, *chosen, "--mesh", "data=64")
    assert "'modle=1' is not one of data, fsdp, model" in said(capsys, *chosen, "--mesh", "modle=1")
    assert not (tmp_path / "run").exists()


def test_a_batch_that_the_mesh_does_not_divide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = jax.sharding.AbstractMesh((4, 1, 1), ("data", "fsdp", "model"))
    monkeypatch.setattr(loop, "make_mesh", lambda shape: mesh)
    with pytest.raises(ValueError, match=r"a batch of 6 lines does not divide .* 4 shares: use a batch of 4 or 8"):
        train(recipe(batch=6), tmp_path / "run", workers=0, lines=bars)
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_that_the_model_has_no_room_for(tmp_path: Path) -> None:
    save_tokenizer(character_tokenizer("".join(map(chr, range(0x3B1, 0x3B1 + 10)))), tmp_path / "small")
    toy = recipe()
    for alphabet, size in (("small", 9), (None, 20)):
        decoder = replace(toy.config.decoder, vocab_size=size)
        name = None if alphabet is None else str(tmp_path / alphabet)
        what = replace(toy, config=replace(toy.config, decoder=decoder), tokenizer=name)
        with pytest.raises(DataError, match=rf"ids up to \d+ and the model a vocabulary of {size}; take the tokenizer"):
            train(what, tmp_path / "run", workers=0, lines=bars)
    other = replace(toy, config=replace(toy.config, eos_token_id=5))
    with pytest.raises(DataError, match="eos_token_id is 2 in the tokenizer and 5 in the model"):
        train(other, tmp_path / "run", workers=0, lines=bars)
    assert not (tmp_path / "run/checkpoints").exists()


def test_places_and_numbers_that_cannot_be(
    capsys: pytest.CaptureFixture[str], model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("x", encoding="utf-8")
    chosen = ("run", "finetune-folder", "--data", data, "--model", model, "--folder")
    assert f"{file}: cannot be made (File exists); name another folder for the run" in said(capsys, *chosen, file)
    assert "workers is -1: give how many processes" in said(capsys, *chosen, tmp_path / "run", "--workers", "-1")
    assert f"{file}: cannot be written (File exists)" in said(capsys, "vocabulary", model, "--output", file)
    (taken := tmp_path / "taken").mkdir()
    (taken / "checkpoints").touch()
    assert f"{taken / 'checkpoints'}: cannot be made (File exists)" in said(capsys, *chosen, taken)
    for option in ("--lines", "--max-chars"):
        assert f"{option} is 0: give a number of at least 1" in said(capsys, "evaluate", model, option, "0")

    def diverges(*arguments: Any, **options: Any) -> None:
        raise FloatingPointError("the loss is nan")

    monkeypatch.setattr(loop, "train", diverges)
    assert said(capsys, *chosen, tmp_path / "run") == "the loss is nan"
    assert not (tmp_path / "run").exists()


def test_a_name_that_no_file_can_have(data: Path) -> None:
    with (data / "train.tsv").open("a", encoding="utf-8") as rows:
        rows.write(f"{'д' * 200}\ta\n")
    good, bad = usable(data, "train")
    assert good
    assert [("no such file" in one.reason, len(one.id)) for one in bad] == [(True, 200)]
    with pytest.raises(ImageError, match=r"cannot be read .embedded null byte"):
        image_bytes(Path("a\0b"))


def test_a_run_that_there_is_not(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = said(capsys, "export", "tiny-printed", "--output", tmp_path / "out", "--folder", tmp_path / "run")
    assert f"{tmp_path / 'run'}/checkpoints: no checkpoint of a training run; name its folder with --folder" in message
    assert "log.jsonl: cannot be read" in said(capsys, "log", tmp_path / "log.jsonl")
