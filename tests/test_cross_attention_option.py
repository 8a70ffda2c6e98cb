"""How a decoder step reads the memory is asked for where models are: Recognizer, commands, jobs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.tiny import ALPHABET, HEIGHT, WIDTH, line_image, save_lines, save_tiny, tiny_config, tiny_model
from trocr_jax import attention_cross, generation, generation_plan, jobs, recognizer_devices
from trocr_jax.cli import decode as cli_decode
from trocr_jax.cli import main
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.errors import DecodeError, JobError
from trocr_jax.generation_plan import Placed
from trocr_jax.image import ImageProcessor
from trocr_jax.kernels.cross_attention import read_memory
from trocr_jax.recognizer import Recognizer
from trocr_jax.tokenizer import character_tokenizer

V5E = Placed("tpu", "TPU v5 lite")
DECODE = DecodeConfig(max_new_tokens=12)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Pretends that this is a TPU; the shapes of the memories that the kernel is compiled for."""
    shapes: list[tuple[int, ...]] = []

    def interpreted(query: jax.Array, memory: jax.Array) -> jax.Array:
        shapes.append(memory.shape)
        return read_memory(query, memory, interpret=True)

    monkeypatch.setattr(attention_cross, "read_memory", interpreted)
    for module in (generation_plan, recognizer_devices, cli_decode):
        monkeypatch.setattr(module, "placed_on", lambda mesh: V5E)
    monkeypatch.setattr(generation, "placed_as", lambda pixels, split=None: V5E)
    return shapes


def wide_recognizer(**options: Any) -> Recognizer:
    config = tiny_config()
    encoder = replace(config.encoder, hidden_size=128)
    decoder = replace(config.decoder, cross_attention_hidden_size=128)
    model = tiny_model(0, config=replace(config, encoder=encoder, decoder=decoder))
    processor = ImageProcessor(height=HEIGHT, width=WIDTH, keep_aspect_ratio=True)
    return Recognizer(model, character_tokenizer(ALPHABET), processor, **options)


def test_a_recognizer_reads_by_the_kernel(reads: list[tuple[int, ...]]) -> None:
    images = [line_image(seed) for seed in range(11)]
    products = wide_recognizer()(images, DECODE, batch_size=4)
    assert reads == []
    kernel = wide_recognizer(cross_attention="kernel")
    found = kernel(images, DECODE, batch_size=4)
    assert {shape[0] for shape in reads} == {4}
    assert len({one.text for one in found}) > 3
    assert [one.text for one in found] == [one.text for one in products]
    np.testing.assert_allclose([one.score for one in found], [one.score for one in products], atol=1e-4)
    *_, streamed = kernel.stream(images[0], DECODE)
    assert streamed == found[0].text
    assert {shape[0] for shape in reads} == {4, 1}


def test_a_job_keeps_to_what_it_was_planned_with(reads: list[tuple[int, ...]], tmp_path: Path) -> None:
    save_lines(tmp_path / "lines", 2)
    source, model = jobs.open_source([str(tmp_path / "lines")]), save_tiny(tmp_path / "tiny")

    def plan(folder: str, **options: Any) -> jobs.Job:
        return jobs.plan(source, str(tmp_path / folder), wide_recognizer(**options), model, DECODE)

    assert "cross_attention" not in plan("products").plan.configuration
    with pytest.raises(JobError, match='cross_attention: nothing in the plan, "kernel" now'):
        plan("products", cross_attention="kernel")
    assert plan("kernel", cross_attention="kernel").plan.configuration["cross_attention"] == "kernel"
    with pytest.raises(JobError, match='cross_attention: "kernel" in the plan, nothing now'):
        plan("kernel")


def test_what_is_no_way_or_does_not_go_is_refused() -> None:
    with pytest.raises(
        DecodeError, match="cross_attention is 'fast': use 'auto', 'products', or on a TPU, H100 or H200 'kernel'"
    ):
        wide_recognizer(cross_attention="fast")
    with pytest.raises(DecodeError, match="for TPUs, H100 and H200, and this is a cpu: use 'products'"):
        wide_recognizer(cross_attention="kernel")


def test_a_stream_on_a_mesh_is_refused_and_not_read_otherwise(reads: list[tuple[int, ...]]) -> None:
    on_mesh = wide_recognizer(cross_attention="kernel", mesh=jax.make_mesh((1,), ("data",)))
    with pytest.raises(DecodeError, match="a stream on a mesh reads by products"):
        on_mesh.stream(line_image(0), DECODE)


@pytest.mark.parametrize("command", ["transcribe", "evaluate", "jobs run"])
def test_commands_refuse_it_before_a_model_is_loaded(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "lines"
    names = save_lines(lines, 1)
    (lines / "labels.tsv").write_text(f"{names[0].name}\ta\n", encoding="utf-8")
    options = ["--output", str(tmp_path / "out"), "--model", "no/such-model", "--cross-attention", "kernel"]
    assert main([*command.split(), str(lines), *options]) == 2
    assert "cross_attention is 'kernel', which is for TPUs, H100 and H200, and this is a cpu" in capsys.readouterr().err


def test_a_model_that_does_not_go_is_refused(
    reads: list[tuple[int, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_lines(tmp_path / "lines", 1)
    options = ["--model", str(save_tiny(tmp_path / "tiny")), "--cross-attention", "kernel"]
    assert main(["transcribe", str(tmp_path / "lines"), *options]) == 2
    assert "this model's memory is 16 wide, no multiple of 128: use 'products'" in capsys.readouterr().err


def test_runs_of_an_evaluation_may_differ_in_it(tmp_path: Path) -> None:
    from trocr_jax.cli import Evaluate, parse
    from trocr_jax.cli.evaluate import _runs

    runs = ["--run", "a: --model m", "--run", "b: --model m --cross-attention kernel"]
    command = parse(["evaluate", "lines", "--output", str(tmp_path), *runs])
    assert isinstance(command, Evaluate)
    assert [run.cross_attention for run in _runs(command).values()] == ["auto", "kernel"]
