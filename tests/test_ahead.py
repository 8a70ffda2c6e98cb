"""Compiling for devices that are not there. What needs libtpu (extra tpu) is skipped without it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, SingleDeviceSharding

from tests.compilations import nothing_kept
from train.ahead import targets
from train.ahead.command import compile_ahead
from train.ahead.environment import NO_MACHINE
from train.ahead.hlo import work
from train.ahead.programs import lower_generation, lower_step
from train.ahead.report import Compiled, advice, compile_program, lines, mfu_bound, needed
from train.ahead.targets import Target, find_target
from train.recipe import Optimizer, Recipe, Stage
from trocr_jax.config import DecoderConfig, EncoderConfig, TrOCRConfig
from trocr_jax.errors import ConfigError, DecodeError
from trocr_jax.sharding import AXES, make_mesh

pytestmark = pytest.mark.usefixtures("promotion_of_optax")
SIZE: dict[str, Any] = {"hidden_size": 128, "num_layers": 1, "num_heads": 2, "intermediate_size": 256}
RECIPE = Recipe(
    name="small",
    config=TrOCRConfig(
        encoder=EncoderConfig(image_size=(32, 64), patch_size=(16, 16), **SIZE),
        decoder=DecoderConfig(
            vocab_size=512, max_position_embeddings=64, cross_attention_hidden_size=128, dropout=0.1, **SIZE
        ),
    ),
    stages=(Stage(steps=10, batch_size=32, width=64, max_chars=15, micro_batches=2),),
    optimizer=Optimizer(learning_rate=1e-3),
    remat_encoder=True,
)
PROGRAM = """HloModule jit_f, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%fused_computation (p: f32[8]) -> f32[16] {
  %p = f32[8]{0} parameter(0)
  ROOT %all-gather.1 = f32[16]{0:T(128)} all-gather(%p), dimensions={0}, backend_config={"estimated_cycles":"999"}
}

%body (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %state = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %x = f32[8]{0:T(128)} get-tuple-element(%state), index=1
  %all-reduce.1 = f32[8]{0:T(128)} all-reduce(%x), to_apply=%add, backend_config={"estimated_cycles":"10"}
  ROOT %tuple = (s32[]{:T(128)}, f32[8]{0:T(128)}) tuple(%n, %all-reduce.1)
}

%three_times (state.1: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(3)
  %state.1 = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %n.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%n.1, %limit), direction=LT, metadata={op_name="lt"}
}

%until (state.2: (s32[], f32[8])) -> pred[] {
  %state.2 = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  ROOT %done = pred[]{:T(512)} custom-call(%state.2), custom_call_target="done"
}

ENTRY %main (x.1: f32[8]) -> f32[16] {
  %x.1 = f32[8]{0:T(128)} parameter(0)
  %while.1 = (s32[]{:T(128)}, f32[8]{0:T(128)}) while(%x.1), condition=%three_times, body=%body
  %while.2 = (s32[]{:T(128)}, f32[8]{0:T(128)}) while(%while.1), condition=%until, body=%body
  %start = (bf16[4]{0}, bf16[8]{0}) all-gather-start(%y), dimensions={0}
  %y = bf16[4]{0} convert(%x.1), backend_config={"estimated_cycles":"7"}
  %end = bf16[8]{0} all-gather-done(%start)
  ROOT %fusion = f32[16]{0} fusion(%x.1), kind=kCustom, calls=%fused_computation, config={"estimated_cycles":"5"}
}
"""


def test_the_bodies_of_loops_count_as_often_as_they_run() -> None:
    found = work(PROGRAM)
    assert found.cycles == 3 * 10 + 7 + 5  # what is inside a fusion is in the fusion's figure
    assert found.count == {"all-reduce": 3, "all-gather": 2}
    assert found.bytes == {"all-reduce": 3 * 32, "all-gather": 64 + 16}
    (turn,) = found.loops  # nobody knows how often
    assert (turn.cycles, turn.count, turn.bytes) == (10, {"all-reduce": 1}, {"all-reduce": 32})


def test_a_program_without_estimates_has_none() -> None:
    def thrice(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(x), x)

    found = work(jax.jit(thrice).lower(jnp.ones(4)).compile().as_text() or "")
    assert found.cycles is None
    assert not found.count
    assert not found.loops  # XLA says how often a loop with a fixed number of turns runs


@pytest.mark.parametrize(
    "topology", ["v5e", "v5e:4", "v5e:4x4x4", "v5e:32x16", "v5e:0x4", "v5p:4x4", "v9:2x2", "h200:0", "h200:many"]
)
def test_what_is_no_topology_is_refused(topology: str) -> None:
    with pytest.raises(ConfigError, match=topology):
        find_target(topology)
    with pytest.raises(ConfigError, match="slices is 0"):
        find_target(topology, slices=0)


@pytest.mark.parametrize(
    ("topology", "what"), [("v5e:2x2", r"pip install -e '\.\[tpu\]'"), ("h200:1", "pip install jax-cuda12-plugin==")]
)
def test_without_its_compiler_the_package_is_named(topology: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=what):
        find_target(topology)


def test_a_file_that_has_no_folder_is_refused_before_anything_is_compiled(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing/figures.jsonl: its folder is not there"):
        compile_ahead(RECIPE, "v5e:2x2", json_file=tmp_path / "missing" / "figures.jsonl")
    with pytest.raises(ConfigError, match="is a folder; name a file in it"):
        compile_ahead(RECIPE, "v5e:2x2", json_file=tmp_path)


def test_beams_that_cannot_be_are_refused_before_a_program_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target("v5e:1x1", jax.devices()[:1], memory=2**30, clock=None, slices=1)
    monkeypatch.setattr("train.ahead.command.find_target", lambda *_, **__: target)
    monkeypatch.setattr("train.ahead.command.compile_program", lambda _: pytest.fail("compiles"))
    with pytest.raises(DecodeError, match="num_beams is 0"):
        compile_ahead(RECIPE, "v5e:1x1", num_beams=0)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_both_programs_are_traced_from_shapes(num_beams: int) -> None:
    """Without anything that compiles for devices that are not there: on those that are."""
    mesh, (stage,) = make_mesh("data=1", jax.devices()[:1]), RECIPE.stages
    step = lower_step(RECIPE, stage, mesh)
    assert "stablehlo.while" in step.as_text()  # the micro-batches
    assert "stablehlo.while" in lower_generation(RECIPE, stage, mesh, num_beams=num_beams).as_text()


def test_libtpus_messages_about_memory_are_understood() -> None:
    both = {
        "Ran out of memory on HBM, the total memory required for HLO temporaries (240.00G) exceeds": 240 * 2**30,
        "Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity": 41 * 2**29,
    }
    for message, size in both.items():
        assert needed(f"RESOURCE_EXHAUSTED: {message}") == size
    assert needed("INTERNAL: 240.00G of nothing") is None


def test_what_to_change_is_what_can_still_be_changed() -> None:
    mesh: Any = AbstractMesh((4, 1, 1), AXES, axis_types=(AxisType.Auto,) * 3)
    text = advice(RECIPE, RECIPE.stages[0], mesh, 1.5)
    assert text.startswith("1.50 GiB too much on each device")
    assert "remat_encoder" not in text  # is on
    assert 'remat_decoder=True; micro_batches=4; mesh="data=2,fsdp=2,model=1"' in text
    full = replace(RECIPE, remat_decoder=True)
    everything: Any = AbstractMesh((1, 32, 1), AXES, axis_types=(AxisType.Auto,) * 3)
    text = advice(full, replace(RECIPE.stages[0], micro_batches=1), everything, 1.5)
    assert text.endswith("the cheapest first: a smaller batch_size, or more devices")


def test_the_bound_on_mfu() -> None:
    device: Any = SimpleNamespace(device_kind="TPU v5 lite")
    target = Target("v5e:1x2", [device] * 2, memory=2**30, clock=1.5e9, slices=1)
    assert mfu_bound(1_500_000, 197e9, target) == pytest.approx(0.5)  # 1 ms, of 2 × 197 TFLOP/s
    assert mfu_bound(1_500_000, 197e9, replace(target, clock=None)) is None
    printed = "\n".join(lines("step", Compiled(2**31, 0, 1.0, None), target))
    assert "step: does not compile" in printed
    assert "2.00 GiB of 1.00 (200%): OUT OF MEMORY" in printed


@pytest.mark.skipif(find_spec("libtpu") is None, reason="libtpu is not installed: pip install -e '.[tpu]'")
class TestTpu:
    @pytest.fixture(autouse=True)
    def no_machine(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        for name, value in NO_MACHINE.items():
            monkeypatch.setenv(name, value)
        with nothing_kept():
            yield

    def test_step_and_generation_compile_for_two_slices(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = tmp_path / "figures.jsonl"
        assert compile_ahead(RECIPE, "v5e:2x2", slices=2, mesh="fsdp=2", num_beams=2, json_file=file)
        printed = capsys.readouterr().out
        assert printed.splitlines()[-1] == "fits"
        assert "8 × TPU v5 lite, mesh data=4,fsdp=2,model=1; 32 lines a step in 2 micro-batches" in printed
        row = json.loads(file.read_text())
        assert 0 < row["step"]["memory"] < 2**28
        assert row["step"]["cycles"] > 0
        assert 0 < row["mfu_bound"] < 1
        assert row["step"]["loops"] == []  # the loop over micro-batches runs a known number of times
        assert row["step"]["collectives"]["all-gather"][1] > 0  # parameters that lie on several devices
        (turn,) = row["generation"]["loops"]
        assert turn["cycles"] > 0

    def test_what_compiles_fits(self) -> None:
        """Arguments, results and temporaries of a loop may add up to more than a chip has: some share their place."""
        target = find_target("v5e:1x1")

        def f(x: jax.Array) -> jax.Array:
            def turn(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
                x, total = carry
                z = jnp.sort(-jnp.sort(x, axis=1), axis=1)
                return jax.lax.dynamic_update_slice_in_dim(x, z[:8], 0, axis=0), total + z[1]

            start = jnp.sort(x.astype(jnp.float32), axis=1)
            return jax.lax.while_loop(lambda carry: carry[1][0] < 3, turn, (start, start[0]))[1]

        x = jax.ShapeDtypeStruct((256_000, 4096), jnp.bfloat16, sharding=SingleDeviceSharding(target.devices[0]))
        compiled = jax.jit(f).lower(x).compile()
        lowered: Any = SimpleNamespace(compile=lambda: compiled)
        found, parts = compile_program(lowered), compiled.memory_analysis()
        assert found.work is not None
        assert parts is not None
        assert parts.argument_size_in_bytes + parts.temp_size_in_bytes > target.memory
        assert 3 * 4096 * 256_000 < found.memory <= target.memory  # the argument and an array of f32, at least

    def test_what_does_not_fit_says_what_to_change(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert not compile_ahead(RECIPE, "v5e:2x2", lines_per_device=2_000_000, num_beams=1)
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.startswith("does not fit: ")
        assert "GiB too much on each device" in last
        assert "micro_batches=4" in last

    def test_slices_share_out_the_data_axis(self) -> None:
        target = find_target("v5e:2x2", slices=2)
        mesh = make_mesh("fsdp=2", target.devices)
        slices = [{device.slice_index for device in row.ravel()} for row in mesh.devices]
        assert slices == [{0}, {0}, {1}, {1}]
        with pytest.raises(ConfigError, match="data=1 is not divisible by the 2 slices"):
            make_mesh("fsdp=8", target.devices)
