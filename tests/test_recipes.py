"""Every recipe: short, with a header, usable as it is, and a state of the size of its model."""

from __future__ import annotations

import ast
import math
import shutil
from pathlib import Path
from typing import Any

import jax
import pytest
from PIL import Image

from train import recipes
from train.data.line import DataError
from train.lines import open_lines
from train.optimizer import optimizer
from train.recipe import Recipe, WarmStart, load_recipe
from train.step import init_state
from trocr_jax.checkpoint import resolve
from trocr_jax.errors import CheckpointError

FOLDER = Path(recipes.__file__).parent
FILES = sorted(path for path in FOLDER.glob("*.py") if path.stem != "__init__")
SHARED = {"stage2", "finetune"}  # by other recipes
NAMES = [path.stem.replace("_", "-") for path in FILES if path.stem not in SHARED]
FROM_A_MODEL = [name for name in NAMES if name.startswith(("finetune", "stage2"))]
PARAMETERS = {"stage1-small": 61.6e6, "stage1-base": 334e6, "stage1-large": 558e6}  # those that are published


def made(name: str, tmp_path: Path) -> Recipe:
    if name not in FROM_A_MODEL:
        return load_recipe(name)
    Image.new("L", (40, 20), 255).save(tmp_path / "1.png")
    (tmp_path / "train.tsv").write_text("1.png\tabc\n", encoding="utf-8")
    return load_recipe(name, data=tmp_path, model="tiny-printed")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recipe_is_short_and_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    header = ast.get_docstring(ast.parse(text)) or ""
    wanted = ("Source:",) if path.stem in SHARED else ("Command:", "Hardware:", "Time:", "Score:")
    assert all(f"\n{word}" in header for word in wanted)


def test_a_built_in_model_goes_on_seeing_drawn_lines(tmp_path: Path) -> None:
    made("finetune-folder", tmp_path)

    def parts(**options: Any) -> list[tuple[str, float]]:
        data = load_recipe("finetune-folder", data=tmp_path, **options).data
        assert data is not None
        return [(type(part).__name__, part.weight) for part in data.train]

    copy = shutil.copytree(resolve("tiny-printed"), tmp_path / "copy")
    assert parts() == [("Pictures", 1), ("Rendered", 1)]
    assert parts(rendered=0.0) == parts(model=str(copy)) == parts(tokenizer=str(copy)) == [("Pictures", 1)]
    assert parts(model=str(copy), rendered=0.25) == [("Pictures", 1), ("Rendered", 0.25)]
    for wrong in (-1.0, math.inf, math.nan):
        with pytest.raises(DataError, match=f"--rendered {wrong}: give 0, or how many"):
            parts(rendered=wrong)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_has_a_state(name: str, tmp_path: Path) -> None:
    recipe = made(name, tmp_path)
    assert recipe.name == name
    state = jax.eval_shape(lambda: init_state(recipe, optimizer(recipe)))
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params["model"]))
    if name in PARAMETERS:
        assert count == pytest.approx(PARAMETERS[name], rel=0.01)
    if name.startswith("finetune") and name != "finetune-folder":
        assert (recipe.eval_beams, recipe.patience) == (10, 20)  # the paper's
    if name.startswith("stage"):
        assert recipe.eval_beams > 1
    if recipe.eval_every:
        assert recipe.data is None or recipe.data.held_out


@pytest.mark.parametrize("name", sorted(SHARED))
def test_what_recipes_share_is_no_recipe(name: str) -> None:
    with pytest.raises(ValueError, match="is what others share"):
        load_recipe(name)


@pytest.mark.parametrize("name", ["finetune-iam", "finetune-sroie", "finetune-str", "stage2-scene-text"])
def test_a_data_set_that_is_missing_is_named_with_how_to_build_it(name: str, tmp_path: Path) -> None:
    recipe = made(name, tmp_path)
    assert recipe.data is not None
    built = recipe.data.train[0].name  # type: ignore[union-attr]
    with pytest.raises(DataError, match=rf"{built}: no such folder; build it with: .* data build {built} --source"):
        open_lines(recipe, tmp_path)


def test_the_first_stage_starts_from_the_models_of_the_paper(tmp_path: Path) -> None:
    for size in ("small", "base", "large"):
        start = load_recipe(f"stage1-{size}").start_from
        assert isinstance(start, WarmStart)
        assert start.encoder is not None
        assert ("deit-small" if size == "small" else f"beit-{size}") in start.encoder
        assert size == "small" or start.decoder == "FacebookAI/roberta-large"
    given = load_recipe("stage1-small", decoder=str(tmp_path)).start_from
    assert given == WarmStart(encoder="facebook/deit-small-distilled-patch16-224", decoder=str(tmp_path))


def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(CheckpointError, match="runs/stage1-base/model: no such model or folder"):
        load_recipe("stage2-printed")
