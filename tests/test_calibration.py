"""Calibrations: fitted maps against what they are defined to be, and what a Recognition makes of them."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import save_lines, save_tiny
from trocr_jax import checkpoint
from trocr_jax.calibration import FILE, Calibration, Isotonic, Temperature, fit
from trocr_jax.cli import main
from trocr_jax.errors import CheckpointError, DataError
from trocr_jax.evaluation.fitting import _is_word, calibrate, judge, kept_characters
from trocr_jax.metrics import (
    calibration_error_by_chance,
    debiased_calibration_error,
    expected_calibration_error,
)
from trocr_jax.recognizer import Recognition, Recognizer


def results(count: int, *, power: float, seed: int = 0) -> tuple[list[float], list[bool]]:
    """Probabilities of a model that are right with the probability p ** power."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.02, 1, count)
    return np.log(p).tolist(), (rng.random(count) < p**power).tolist()


def test_the_likeliest_temperature_is_found():
    found = fit(*results(40_000, power=0.5), method="temperature")
    assert isinstance(found, Temperature)
    assert found.value == pytest.approx(2, rel=0.05)
    assert found(math.log(0.25)) == pytest.approx(0.25 ** (1 / found.value))


def test_the_likeliest_temperature_of_lines_that_are_hardly_ever_right():
    """Half of their probabilities are below 1e-6; by brute force, over the likelihood of the map as it is applied."""
    rng = np.random.default_rng(0)
    x = np.append(-rng.exponential(20, 4000), -np.inf)
    right = np.append(rng.random(4000) < np.exp(x[:-1] / 15), False)
    found = fit(x.tolist(), right.tolist(), method="temperature")
    assert isinstance(found, Temperature)

    def likelihood(value: float) -> float:
        p = np.array([Temperature(value)(one) for one in x])
        return float(np.log(np.where(right, p, 1 - p)).sum())

    values = np.exp(np.linspace(math.log(0.5), math.log(50), 400))
    assert found.value == pytest.approx(max(values, key=likelihood), rel=0.02)


@pytest.mark.parametrize("power", [0.3, 3.0])
@pytest.mark.parametrize("method", ["isotonic", "temperature"])
def test_a_fit_is_calibrated_on_other_results(method, power):
    found = fit(*results(20_000, power=power), method=method)
    log_probs, right = results(20_000, power=power, seed=1)
    assert expected_calibration_error(np.exp(log_probs).tolist(), right) > 0.1
    assert expected_calibration_error([found(p) for p in log_probs], right) < 0.02


def test_an_isotonic_map_never_goes_down_and_is_never_certain():
    log_probs, right = results(3000, power=1.0)
    found = fit(log_probs, [not r for r in right], method="isotonic")  # surer is worse: pooled into one step
    assert isinstance(found, Isotonic)
    assert len(found.probabilities) == 1
    found = fit(log_probs, [p > -0.5 for p in log_probs], method="isotonic")
    assert isinstance(found, Isotonic)
    assert list(found.probabilities) == sorted(found.probabilities)
    values = [found(p) for p in np.linspace(-20, 0, 200)]
    assert values == sorted(values)
    assert 0 < values[0] < 0.05
    assert 0.95 < values[-1] < 1
    assert found(-math.inf) == values[0]


def test_an_isotonic_map_does_not_depend_on_the_order_of_lines():
    rng = np.random.default_rng(0)
    x = np.r_[rng.uniform(-60, -14, 400), np.full(90, -1.5), rng.uniform(-1, 0, 400)]  # many below the floor, as one
    y = np.r_[np.arange(400) < 80, np.arange(90) < 30, rng.random(400) < 0.9]
    found = fit(x, y, method="isotonic")
    assert isinstance(found, Isotonic)
    assert len(set(found.log_probs)) == len(found.log_probs)
    assert found(-30) == pytest.approx(81 / 402)
    assert found(-1.5) == pytest.approx(1 / 3, abs=0.02)
    for order in (np.arange(890)[::-1], rng.permutation(890), np.lexsort((y, x)), np.lexsort((~y.astype(bool), x))):
        again = fit(x[order], y[order], method="isotonic")
        assert isinstance(again, Isotonic)
        np.testing.assert_allclose(again.log_probs, found.log_probs)
        np.testing.assert_allclose(again.probabilities, found.probabilities)
    assert fit([-0.5] * 400, [n < 100 for n in range(400)], method="isotonic")(-0.5) == pytest.approx(101 / 402)


def test_what_is_fitted_can_be_read_back(tmp_path):
    """Few results that were all right, and many that nearly all were."""
    log_probs = [*np.linspace(-5, -1, 40), *np.linspace(-0.9, 0, 4000)]
    right = [True] * 40 + [i % 500 > 0 for i in range(4000)]
    found = fit(log_probs, right, method="isotonic")
    (tmp_path / FILE).write_text(Calibration(found, found, found).to_json())
    assert Calibration.from_folder(tmp_path) is not None


def test_the_error_of_chance_and_what_is_left_without_it():
    rng = np.random.default_rng(0)
    errors, rests, chances = [], [], []
    for _ in range(200):
        sure = rng.beta(4, 1, 400)
        right = (rng.random(400) < sure).tolist()
        errors.append(expected_calibration_error(sure.tolist(), right))
        rests.append(debiased_calibration_error(sure.tolist(), right))
        chances.append(calibration_error_by_chance(sure.tolist()))
    assert np.mean(errors) == pytest.approx(np.mean(chances), rel=0.05)
    assert 0.5 * np.mean(errors) < np.mean(rests) < 0.7 * np.mean(errors)  # not all of chance goes
    sure = np.full(4000, 0.9)
    right = (rng.random(4000) < 0.7).tolist()
    assert debiased_calibration_error(sure.tolist(), right) == pytest.approx(0.2, abs=0.03)
    assert calibration_error_by_chance([1.0] * 9) == 0
    assert (calibration_error_by_chance([]), debiased_calibration_error([], [])) == (0, 0)


def test_too_little_to_fit_on_is_refused():
    with pytest.raises(ValueError, match="1 probabilities and 1 results"):
        fit([0.0], [True], method="isotonic")
    with pytest.raises(DataError, match="3 lines are too few"):
        calibrate(judge(["a"] * 3, [recognition("a")] * 3), method="isotonic", fitted_on="")
    with pytest.raises(DataError, match="0 words and 0 characters were read in 200 lines: too few"):
        calibrate(judge(["a"] * 200, [recognition("")] * 200), method="isotonic", fitted_on="")


def recognition(text: str, calibration: Calibration | None = None) -> Recognition:
    """Every character has the probability 1/2, the end too."""
    log_probs = [math.log(0.5)] * (len(text) + 1)
    spellings = [c.encode() for c in text] + [None]
    ids = list(range(len(log_probs)))
    return Recognition(text, -1.0, ids, log_probs, False, log_probs, spellings, (), calibration)


def test_every_confidence_of_a_recognition_is_mapped():
    plain = recognition("ab c")
    assert plain.confidence == pytest.approx(0.5)
    assert [w.confidence for w in plain.words] == pytest.approx([0.25, 0.5])
    mapped = recognition("ab c", Calibration(Temperature(5.0), Temperature(2.0), Temperature(0.5)))
    assert mapped.confidence == pytest.approx(0.5)  # (1/2) ** 5 to the power of 1/5
    assert [w.confidence for w in mapped.words] == pytest.approx([0.5, 0.5**0.5])
    assert [c.confidence for c in mapped.characters] == pytest.approx([0.25] * 4)
    assert [w.text for w in mapped.words] == ["ab", "c"]


def test_what_counts_as_right():
    assert kept_characters("modern", "modem") == [0, 1, 2, 3, None]
    found = judge(["the cat sat", "x"], [recognition("the cut sat"), recognition("x")])
    assert found.line.right == [False, True]
    assert found.line.log_probs[1] == pytest.approx(2 * math.log(0.5))
    assert found.word.right == [True, False, True, True]
    assert found.word.log_probs[0] == pytest.approx(3 * math.log(0.5))
    assert found.character.right.count(False) == 1
    for reference, text, right in (
        ("ab c", "a b c", [False, False, True]),  # "a" and "b" are no words of it
        ("say hello now", "say helo now", [True, False, True]),
        ("Xfoo bar", "foo bar", [False, True]),
        ("foo bars", "foo bar", [True, False]),
        ("to morrow", "tomorrow", [False]),
        ("say hello there now", "say hello now", [True, True, True]),
        ("one, two", "one two", [False, True]),
        ("", "x", [False]),
    ):
        assert judge([reference], [recognition(text)]).word.right == right, (reference, text)


def test_a_file_reads_back_and_a_damaged_one_is_named(tmp_path):
    assert Calibration.from_folder(tmp_path) is None
    line = Isotonic((-3.0, -1.0), (0.1, 0.9))
    saved = Calibration(line, Temperature(1.5), Temperature(2.0), fitted_on="200 lines")
    (tmp_path / FILE).write_text(saved.to_json())
    assert Calibration.from_folder(tmp_path) == saved
    for change in (
        {"format": "other"},
        {"line": {"kind": "spline"}},
        {"line": {"kind": "isotonic", "log_probs": [0, -1], "probabilities": [0, 1]}},
        {"line": {"kind": "isotonic", "log_probs": [-1, 0], "probabilities": [0, 2]}},
        {"line": {"kind": "isotonic", "log_probs": [-1, math.nan, 0], "probabilities": [0, 0.5, 1]}},
        {"word": {"kind": "temperature", "value": 0}},
    ):
        (tmp_path / FILE).write_text(json.dumps(json.loads(saved.to_json()) | change))
        with pytest.raises(CheckpointError, match="not a calibration"):
            Calibration.from_folder(tmp_path)


def test_a_model_folder_keeps_its_calibration(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(Path("trocr_jax/models/tiny-printed"), folder)
    saved = Calibration(Temperature(3.0), Temperature(1.0), Temperature(1.0), fitted_on="a test")
    (folder / FILE).write_text(saved.to_json())
    recognizer = Recognizer.from_pretrained(folder)
    assert recognizer.calibration == saved
    (result,) = recognizer("samples/line_1.png")
    assert result.confidence == pytest.approx(math.exp(math.fsum(result.model_log_probs) / 3))


def two_hundred_lines(folder: Path) -> Path:
    """Four pictures under 200 names: a line is scored once."""
    folder.mkdir()
    names = [f"{number:02}-{path.name}" for path in save_lines(folder, 4) for number in range(50)]
    for name in names:
        (folder / name).hardlink_to(folder / name[3:])
    (folder / "labels.csv").write_text("image,text\n" + "".join(f"{name},x\n" for name in names))
    return folder


def test_a_native_folder_keeps_a_true_manifest(tmp_path, capsys):
    folder = two_hundred_lines(tmp_path / "lines")
    with (folder / "labels.csv").open("a") as file:
        file.write("line-000.png,x,y\n")
    model = save_tiny(tmp_path / "native", native=True)
    assert main(["calibrate", str(folder), "--model", str(model), "--method", "temperature"]) == 0
    printed = capsys.readouterr()
    assert "calibration error on these same lines" in printed.out
    assert "left out: labels.csv:202: 3 columns, and the header has 2" in printed.err
    checkpoint.load(model)  # it compares the manifest
    listed = json.loads((model / "MANIFEST.json").read_text())["files"]
    assert listed[FILE] == hashlib.sha256((model / FILE).read_bytes()).hexdigest()
    assert Recognizer.from_pretrained(model).calibration is not None
    checkpoint.put_file(model, FILE, "{}")
    checkpoint.load(model)
    (model / FILE).write_text("other")
    with pytest.raises(CheckpointError, match=f"changed since it was saved: {FILE}"):
        checkpoint.put_file(model, FILE, "{}")


def test_a_calibration_does_not_change_a_blob_of_the_hub(tmp_path):
    lines, model = two_hundred_lines(tmp_path / "lines"), save_tiny(tmp_path / "model")
    old = Calibration(Temperature(3.0), Temperature(1.0), Temperature(1.0)).to_json()
    (tmp_path / "blob").write_text(old)
    (model / FILE).symlink_to(tmp_path / "blob")
    assert main(["calibrate", str(lines), "--model", str(model), "--method", "temperature"]) == 0
    assert (tmp_path / "blob").read_text() == old
    assert (model / FILE).read_text() != old
    assert not (model / FILE).is_symlink()


def test_a_calibration_is_written_whole_or_not_at_all(tmp_path, capsys, monkeypatch):
    lines, model = two_hundred_lines(tmp_path / "lines"), save_tiny(tmp_path / "model")
    command = ["calibrate", str(lines), "--model", str(model), "--method", "temperature"]
    other = tmp_path / "other.json"
    other.write_text("before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("os.fsync", full)
        for path, output in ((model / FILE, []), (other, ["--output", str(other)])):
            assert main([*command, *output]) == 2
            message = f"{path}: cannot be written (No space left on device); name another file by --output"
            assert message in capsys.readouterr().err
    assert not (model / FILE).exists()
    assert other.read_text() == "before"
    assert main([*command, "--output", str(other)]) == 0
    assert Calibration.from_folder(model) is None
    assert json.loads(other.read_text())["fitted_on"].startswith("200 lines")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lines", "model", "other.json"]


def test_too_few_lines_are_refused_before_they_are_read(capsys, monkeypatch):
    monkeypatch.setattr(Recognizer, "from_pretrained", None)
    assert main(["calibrate", "samples"]) == 2
    assert "lines are too few to fit confidences on; give 200 or more" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_refused_before_lines_are_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Recognizer, "from_pretrained", None)
    monkeypatch.setattr("trocr_jax.cli.calibrate.check_enough", lambda count: None)
    for output, why in ((tmp_path / "nowhere" / "c.json", "is no folder"), (tmp_path / "locked" / "c.json", "is not")):
        if why == "is not":
            output.parent.mkdir()
            monkeypatch.setattr("os.access", lambda folder, mode: False)  # root may write everywhere
        assert main(["calibrate", "samples", "--output", str(output)]) == 2
        said = capsys.readouterr().err
        assert f"{output}: cannot be written ({output.parent} {why}" in said
        assert "name another file by --output" in said
    assert main(["calibrate", "samples", "--output", "-"]) == 2
    assert "--output -: a calibration is a file beside a model; give its name" in capsys.readouterr().err
    assert main(["calibrate", "samples", "--output", str(tmp_path)]) == 2
    assert f"{tmp_path}: is a folder; give the name of a file" in capsys.readouterr().err


def test_a_limit_below_one_is_refused(tmp_path, capsys):
    assert main(["calibrate", str(tmp_path), "--limit", "0"]) == 2
    assert "--limit is 0: give a number of lines" in capsys.readouterr().err


def test_a_word_whose_letters_stand_apart_is_not_right():
    assert _is_word("ab c", [0, 1])
    assert not _is_word("ax b", [0, 3])  # read as "ab": its letters are there, and a space where it would end


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_file_that_is_not_written_leaves_a_folder_that_loads(stop, tmp_path, monkeypatch):
    """Whatever it was that ended it, and wherever: the power, or the room on the disk."""
    model = save_tiny(tmp_path / "native", native=True)
    checkpoint.put_file(model, FILE, "old")
    names, replace, calls = sorted(os.listdir(model)), os.replace, []

    def failing(source, target):
        calls.append(target)
        if len(calls) == stop:
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with pytest.raises(CheckpointError, match="cannot be written"):
            checkpoint.put_file(model, FILE, "new")
    assert len(calls) == stop
    checkpoint.load(model)
    assert sorted(os.listdir(model)) == names  # no temporary one
    checkpoint.put_file(model, FILE, "new")
    assert FILE in json.loads((model / "MANIFEST.json").read_text())["files"]


def test_whoever_reads_the_model_reads_its_calibration(tmp_path):
    model = save_tiny(tmp_path / "native", native=True)
    checkpoint.put_file(model, FILE, "new")
    for name in (FILE, "MANIFEST.json"):
        assert (model / name).stat().st_mode & 0o444 == 0o444
