"""`python -m convert`: formats in both directions, the original fairseq files, and the comparison with PyTorch."""

import argparse
import enum
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import convert.__main__ as command
from convert import verify as module
from convert.__main__ import _config, main
from convert.fairseq import guess_config, load_fairseq
from convert.verify import Difference, verify
from tests.small_models import FAMILIES, save_transformers, transformers_model
from trocr_jax import checkpoint
from trocr_jax.checkpoint.parameters import StoredTensor, parameters
from trocr_jax.errors import CheckpointError, ConfigError, TrOCRError
from trocr_jax.presets import PRESETS


def used(folder):
    tensors = load_file(folder / "model.safetensors")
    return {name: array.tobytes() for name, array in tensors.items() if "pooler" not in name}


class Choice(enum.Enum):
    """Stands for the enums of fairseq's settings."""

    NONE = 1


def fairseq_state(family):
    """The state dict under the names of the original code: a timm encoder with fused attention, a fairseq decoder."""
    state, original = dict(transformers_model(family).state_dict()), {}
    for n in range(FAMILIES[family].encoder.num_layers):
        for kind in ("weight", "bias"):
            parts = [state.pop(f"encoder.layers.{n}.attention.{p}_proj.{kind}", None) for p in "qkv"]
            if parts[0] is not None:
                original[f"encoder.deit.blocks.{n}.attn.qkv.{kind}"] = torch.cat(parts)
    renamed = {
        "encoder.embeddings.cls_token": "encoder.deit.cls_token",
        "encoder.embeddings.distillation_token": "encoder.deit.dist_token",
        "encoder.embeddings.position_embeddings": "encoder.deit.pos_embed",
        "encoder.embeddings.patch_embeddings.projection": "encoder.deit.patch_embed.proj",
        "encoder.layernorm": "encoder.deit.norm",
        "encoder.layers": "encoder.deit.blocks",
        "attention.o_proj": "attn.proj",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "decoder.model.decoder": "decoder",
    }
    for name, tensor in state.items():
        if "pooler" in name:
            continue
        for new, old in renamed.items():
            name = name.replace(new, old)
        original[name] = tensor
    original["encoder.deit.head.weight"] = torch.zeros(7, 24)
    original["encoder.deit.head.bias"] = torch.zeros(7)
    original["decoder.version"] = torch.tensor([3.0])
    if not FAMILIES[family].decoder.learned_positions:
        original["decoder.embed_positions._float_tensor"] = torch.zeros(1)
    return original


@pytest.fixture
def fairseq_file(tmp_path):
    def write(family):
        path = tmp_path / f"{family}.pt"
        torch.save(
            {
                "args": argparse.Namespace(arch="trocr", lr=[1e-5], choice=Choice.NONE),
                "cfg": {"model": argparse.Namespace(ape=False), "choice": Choice.NONE, "seed": np.float64(1)},
                "model": fairseq_state(family),
                "optimizer_history": [{"criterion_name": "X", "num_updates": 7, "kind": Choice}],
                "extra_state": {"train_iterator": {"epoch": 2}, "val_loss": np.array([1.0])},
                "last_optimizer_state": {"state": {0: {"exp_avg": torch.ones(3)}}},
            },
            path,
        )
        return path

    return write


@pytest.mark.parametrize("family", ["base", "base-stage1", "small"])
def test_fairseq_checkpoint(family, fairseq_file, tmp_path, capsys):
    path = fairseq_file(family)
    config = tmp_path / "config.json"
    config.write_text(FAMILIES[family].to_json())
    source = save_transformers(family, tmp_path / "source")
    assert main([str(path), str(tmp_path / "out"), "--to", "huggingface", "--config", str(config)]) == 0
    assert used(tmp_path / "out") == used(source)
    assert "is a fairseq checkpoint; writing a huggingface folder" in capsys.readouterr().err
    assert main([str(path), str(tmp_path / "other")]) == 1
    assert "no published architecture has these sizes" in capsys.readouterr().err


def test_fairseq_checkpoint_with_wrong_tensors(fairseq_file, tmp_path):
    path = fairseq_file("base")
    content = torch.load(path, weights_only=False)
    del content["model"]["encoder.deit.norm.bias"]
    content["model"]["decoder.extra"] = torch.zeros(2)
    content["model"]["decoder.output_projection.weight"] = torch.zeros(60, 32)
    torch.save(content, path)
    with pytest.raises(CheckpointError) as error:
        load_fairseq(path, config=FAMILIES["base"])
    for problem in ("missing: encoder.layernorm.bias", "not used by the model: decoder.model.decoder.extra", "differs"):
        assert problem in str(error.value)
    torch.save({"weights": {}}, path)
    with pytest.raises(CheckpointError, match="it has no key 'model'"):
        load_fairseq(path)


@pytest.mark.parametrize("name", PRESETS)
def test_published_architecture_is_recognised(name):
    config = PRESETS[name]

    def tensor(*shape):
        return StoredTensor(shape, "float32", lambda: pytest.fail("nothing needs to be read"))

    encoder, decoder = config.encoder, config.decoder
    tensors = {
        "encoder.deit.pos_embed": tensor(1, encoder.memory_length, encoder.hidden_size),
        "decoder.embed_tokens.weight": tensor(decoder.vocab_size, decoder.hidden_size),
    }
    if encoder.kind == "deit":
        tensors["encoder.deit.dist_token"] = tensor(1, 1, encoder.hidden_size)
    if decoder.learned_positions:
        tensors["decoder.embed_positions.weight"] = tensor(514, decoder.hidden_size)
    assert guess_config(tensors, where="x.pt") == config


def test_directions(tmp_path, capsys):
    source = save_transformers("small", tmp_path / "source")
    (source / "tokenizer.json").write_text("{}")
    assert main([str(source), str(tmp_path / "native")]) == 0
    assert "is a folder of transformers; writing a native folder" in capsys.readouterr().err
    assert main([str(tmp_path / "native"), str(tmp_path / "back")]) == 0
    assert "is a native folder; writing a huggingface folder" in capsys.readouterr().err
    assert used(tmp_path / "back") == used(source)
    assert (tmp_path / "back" / "tokenizer.json").exists()
    assert main([str(source), str(tmp_path / "half"), "--to", "huggingface", "--dtype", "bfloat16"]) == 0
    assert json.loads((tmp_path / "half" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert {a.dtype.name for a in parameters(checkpoint.load(tmp_path / "half")).values()} == {"bfloat16"}


def test_what_cannot_be_converted(tmp_path, capsys):
    source = save_transformers("base", tmp_path / "source")
    assert main([str(tmp_path / "nowhere"), str(tmp_path / "out")]) == 1
    assert "no such model or folder" in capsys.readouterr().err
    assert main([str(source), str(tmp_path / "native")]) == 0
    assert main([str(source), str(tmp_path / "native"), "--to", "huggingface"]) == 1
    assert "is a native folder" in capsys.readouterr().err
    for arguments in (
        [],
        [str(source)],
        [str(source), str(source)],
        [str(source), str(tmp_path / "out"), "--config", "base-printed"],
        [str(source / "config.json"), str(tmp_path / "out"), "--revision", "main"],
        [str(source), str(tmp_path / "out"), "--to", "onnx"],
        ["verify", str(source)],
        ["verify", str(source), str(source), "--tokens", "0"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
    for name in ("model.safetensors", "config.json"):
        with pytest.raises(SystemExit):
            main([str(source / name), str(tmp_path / "out")])
        assert "give its folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", ["base", "base-stage1", "beit", "bridge"])
def test_verify_prints_every_stage(family, tmp_path, capsys):
    source = save_transformers(family, tmp_path / "source")
    assert main(["verify", str(source), str(source), "--tokens", "20", "--atol", "1e-3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    stages = [line.rsplit(maxsplit=2)[0].strip() for line in lines[1:]]
    assert stages == [
        *("patch embedding", "encoder layer 0", "encoder layer 1", "encoder output", "memory"),
        *("decoder layer 0", "decoder layer 1", "logits"),
    ]
    for difference in verify(str(source), str(source), tokens=20):
        assert difference.largest <= 1e-5 * max(1, difference.scale), difference


def test_verify_finds_the_stage_that_differs(tmp_path, capsys):
    source = save_transformers("base", tmp_path / "source")
    model = checkpoint.load(source)
    bias = model.decoder.layers[1].fc1.bias
    bias[...] = bias[...] + 0.1
    checkpoint.save(model, tmp_path / "changed")
    found = {d.stage: d for d in verify(str(tmp_path / "changed"), str(source), tokens=20)}
    assert found["decoder layer 0"].largest < 1e-4 < found["decoder layer 1"].largest
    assert main(["verify", str(tmp_path / "changed"), str(source), "--tokens", "20"]) == 1
    capsys.readouterr()


def test_verify_says_what_is_missing(tmp_path, monkeypatch):
    source = save_transformers("base", tmp_path / "source")
    other = save_transformers("large", tmp_path / "other")
    with pytest.raises(TrOCRError, match="these are different models"):
        verify(str(source), str(other), tokens=4)
    with pytest.raises(TrOCRError, match="no such folder"):
        verify(str(source), str(tmp_path / "nowhere"))
    assert main(["verify", str(source), str(tmp_path / "nowhere")]) == 2  # 1 says that they differ
    (other / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(TrOCRError, match="other: transformers cannot load it"):
        verify(str(source), str(other), tokens=4)
    checkpoint.save(checkpoint.load(source), tmp_path / "native")
    with pytest.raises(TrOCRError, match="is no folder of transformers"):
        verify(str(source), str(tmp_path / "native"))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(TrOCRError, match="pip install torch"):
        verify(str(source), str(source))


@pytest.mark.parametrize(("largest", "status"), [(1e-5, 0), (1e-3, 1), (float("nan"), 1)])
def test_logits_that_are_no_numbers_are_no_agreement(
    largest: float, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        module, "verify", lambda *_, **__: [Difference("a", 5.0, 1.0), Difference("logits", largest, 1.0)]
    )
    assert main(["verify", "a", "b"]) == status


def test_a_preset_is_named_as_its_model_is() -> None:
    for name in ("base-printed", "trocr-base-printed", "microsoft/trocr-base-printed"):
        assert _config(name) == PRESETS["base-printed"]
    with pytest.raises(
        ConfigError, match="--config base-print: no such file, and no preset; the presets are small-stage1"
    ):
        _config("base-print")


def test_dtype_is_for_fairseq_files_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.pt").write_bytes(b"")
    asked: list[Any] = []
    monkeypatch.setattr(command, "load_fairseq", lambda path, **options: asked.append(options["dtype"]))
    monkeypatch.setattr(command, "_save", lambda *_, **__: None)
    assert main([str(tmp_path / "x.pt"), str(tmp_path / "out"), "--dtype", "bfloat16"]) == 0
    assert asked == ["bfloat16"]


def test_a_seed_below_zero_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["verify", "a", "b", "--seed", "-1"])
    assert stop.value.code == 2
    assert "--seed is -1: give a whole number of at least 0" in capsys.readouterr().err
