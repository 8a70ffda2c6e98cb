"""Where parameters lie on a mesh, and that it makes no difference to a training run where they lie.

The runs need eight devices, which have to exist before jax is first used: this file is run as a program for them.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from tests import programs
from trocr_jax.attention import constrain_batch
from trocr_jax.errors import ConfigError
from trocr_jax.sharding import AXES, check_batch_size, make_mesh, shardings

ROOT = Path(__file__).resolve().parent.parent
MESHES = {
    1: [""],
    2: ["model=2"],
    4: ["data=2,fsdp=2"],
    8: ["data=8", "data=2,fsdp=2,model=2"],
}
STEPS = 20


def abstract_mesh(data: int = 2, fsdp: int = 2, model: int = 2) -> AbstractMesh:
    return AbstractMesh((data, fsdp, model), AXES, axis_types=(AxisType.Auto,) * 3)


def specs(tree: object, mesh: AbstractMesh) -> dict[str, PartitionSpec]:
    found = shardings(tree, mesh)  # type: ignore[arg-type]  # an abstract mesh lays out as a real one does
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.spec
        for path, leaf in jax.tree_util.tree_leaves_with_path(found)
    }


def test_the_optimizer_state_lies_where_its_parameter_lies() -> None:
    import optax

    params = {"model": {"encoder": {"layers": {0: {"fc1": {"kernel": jnp.ones((8, 16)), "bias": jnp.ones(16)}}}}}}
    state = optax.adamw(1e-3).init(params)
    found = specs({"params": params, "opt_state": state}, abstract_mesh())
    kernels = [spec for name, spec in found.items() if name.endswith("fc1/kernel")]
    assert kernels == [PartitionSpec("fsdp", "model")] * 3  # parameter, first and second moment
    assert {spec for name, spec in found.items() if name.endswith("bias")} == {PartitionSpec("model")}
    assert [spec for name, spec in found.items() if name.endswith("count")] == [PartitionSpec()]


def test_an_axis_that_does_not_divide_is_left_out_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    tree = {"decoder": {"embed_tokens": jnp.ones((7, 8))}}
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert specs(tree, abstract_mesh())["decoder/embed_tokens"] == PartitionSpec(None, "fsdp")
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["model=2 does not divide embed_tokens [7, 8]: that axis stays whole"]


@pytest.mark.parametrize(
    ("shape", "message"),
    [("data=3", "3 devices are asked for and there are 1"), ("rows=2", "'rows=2' is not one of"), ("fsdp=0", "fsdp=0")],
)
def test_a_mesh_that_cannot_be_made_is_refused(shape: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_mesh(shape)


def test_a_batch_that_does_not_divide_is_refused_with_what_would() -> None:
    with pytest.raises(ConfigError, match=r"data=2 × fsdp=2 = 4 shares: use a batch of 4 or 8"):
        check_batch_size(6, abstract_mesh())  # type: ignore[arg-type]
    check_batch_size(8, abstract_mesh())  # type: ignore[arg-type]


def test_activations_are_constrained_on_a_mesh_alone() -> None:
    x = jnp.ones((4, 3, 2))
    assert constrain_batch(x) is x
    with jax.set_mesh(make_mesh()):
        assert "sharding_constraint" in str(jax.make_jaxpr(constrain_batch)(x))


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[float]]]:
    """Mesh -> [loss, norm of the gradients] of each step."""
    output = tmp_path_factory.mktemp("meshes") / "losses.json"
    environment = programs.environment(devices=8) | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, __file__, str(output)], check=True, env=environment, cwd=ROOT)
    found: dict[str, list[list[float]]] = json.loads(output.read_text())
    return found


@pytest.mark.parametrize("name", [f"{count} {mesh}" for count, meshes in MESHES.items() for mesh in meshes][1:])
def test_losses_do_not_depend_on_the_mesh(losses: dict[str, list[list[float]]], name: str) -> None:
    assert len(losses["1 "]) == STEPS
    np.testing.assert_allclose(losses[name], losses["1 "], rtol=1e-5, atol=0)


def run(output: Path) -> None:
    """Twenty steps of the toy on every mesh, as the training loop compiles them."""
    from scripts.toy_training import bars, recipe
    from train.codec import codec
    from train.data.order import in_order
    from train.input import Examples, batches
    from train.loop import lower, on_devices
    from train.optimizer import optimizer
    from train.recipe import spans
    from train.step import init_state, make_train_step

    what = recipe(batch=16, steps=STEPS)
    stage = replace(what.stages[1], steps=STEPS, ctc_weight=0.0)
    what = replace(what, stages=(stage,))
    examples = Examples.of(what.config, codec(what).encode, width=stage.width, max_tokens=stage.max_chars)
    lines = in_order(bars(stage), seed=0)
    data = list(batches(spans(what)[0], step=0, lines=lines, examples=examples, rows=np.arange(16), workers=0))
    rule, found = optimizer(what), {}
    for count, meshes in MESHES.items():
        for shape in meshes:
            mesh = make_mesh(shape, jax.devices()[:count])
            with jax.set_mesh(mesh):
                abstract = jax.eval_shape(lambda: init_state(what, rule))
                where = shardings(abstract, mesh)
                abstract = jax.tree.map(
                    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, where
                )
                step = lower(make_train_step(what, stage, rule), abstract, stage, examples, mesh).compile()
                state = jax.jit(lambda: init_state(what, rule), out_shardings=where)()
                rows = []
                for samples in data:
                    state, losses = step(state, on_devices(samples.batch, stage, mesh))
                    rows.append([float(losses.total), float(losses.gradient_norm)])
            found[f"{count} {shape}"] = rows
    output.write_text(json.dumps(found))


if __name__ == "__main__":
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    run(Path(sys.argv[1]))
