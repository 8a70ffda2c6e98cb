"""Weights in and out, with transformers and torch as oracles."""

import dataclasses
import json
import shutil
from collections import OrderedDict

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file as save_torch
from transformers import VisionEncoderDecoderModel

from convert.verify import load_transformers
from tests.small_models import FAMILIES, save_transformers, transformers_model
from tests.tiny import save_tiny, tiny_model
from train.from_model import from_model
from trocr_jax import checkpoint
from trocr_jax.checkpoint.names import EMBED_TOKENS_KEY, TABLE, canonical_key, stored_name
from trocr_jax.checkpoint.parameters import _abstract_model, parameters
from trocr_jax.checkpoint.safetensors_file import read_safetensors, write_safetensors
from trocr_jax.config import TrOCRConfig
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.errors import CheckpointError, ConfigError, DecodeError, TrOCRError
from trocr_jax.generation import generate
from trocr_jax.model import TrOCR


def used(path):
    """The tensors of a file without those that TrOCR does not use."""
    return {name: array for name, array in load_file(path).items() if "pooler" not in name}


def assert_identical(one, two):
    assert one.keys() == two.keys()
    for name, array in one.items():
        assert (array.shape, array.dtype) == (two[name].shape, two[name].dtype), name
        assert array.tobytes() == two[name].tobytes(), name


def assert_same_model(one, two):
    assert one.config == two.config
    assert_identical(*({k: np.asarray(v) for k, v in parameters(m).items()} for m in (one, two)))


def copy_of(folder, new, weights):
    """A folder with the configuration of another and nothing of its weights."""
    new.mkdir()
    shutil.copy(folder / "config.json", new)
    weights(new)
    return new


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_transformers("base", tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip_is_byte_identical(family, tmp_path):
    """transformers -> ours -> native -> ours -> transformers, which finds every weight it uses."""
    source = save_transformers(family, tmp_path / "source")
    model = checkpoint.load(source)
    assert model.config == FAMILIES[family]
    checkpoint.save(model, tmp_path / "native", assets=source)
    again = checkpoint.load(tmp_path / "native")
    assert_same_model(model, again)
    checkpoint.save_huggingface(again, tmp_path / "back")
    assert_identical(used(source / "model.safetensors"), load_file(tmp_path / "back" / "model.safetensors"))
    _, found = VisionEncoderDecoderModel.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert {key.split(".")[1] for key in found["missing_keys"]} <= {"pooler"}
    assert not found["unexpected_keys"]
    assert not found["mismatched_keys"]


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_what_is_written_equal_transformers(family, tmp_path):
    source = save_transformers(family, tmp_path / "source")
    model = checkpoint.load(source)
    checkpoint.save_huggingface(model, tmp_path / "back")
    reference = load_transformers(str(tmp_path / "back"))
    rng = np.random.default_rng(0)
    pixels = rng.uniform(-1, 1, (2, *model.config.encoder.image_size, 3)).astype(np.float32)
    ids = rng.integers(2, 60, (2, 50))
    with torch.no_grad():
        expected = reference(
            pixel_values=torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), decoder_input_ids=torch.from_numpy(ids)
        ).logits.numpy()
    logits = np.asarray(model(jnp.asarray(pixels), jnp.asarray(ids, jnp.int32)))
    assert np.abs(logits - expected).max() <= 1e-5 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_raw_state_dicts_of_transformers_5(family, tmp_path):
    """The module's own names, which differ from the saved ones since 5.12; poolers and tied heads included."""
    source = save_transformers(family, tmp_path / "source")
    state = {name: tensor.clone().contiguous() for name, tensor in transformers_model(family).state_dict().items()}
    assert any(name.startswith("encoder.layers.0.attention.q_proj") for name in state)
    raw = copy_of(source, tmp_path / "raw", lambda new: save_torch(state, new / "model.safetensors"))
    assert_same_model(checkpoint.load(source), checkpoint.load(raw))


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.", "model.module.", "model.model."],
)
def test_prefixes_of_wrappers(prefix, base, tmp_path):
    tensors = {prefix + name: torch.from_numpy(array) for name, array in load_file(base / "model.safetensors").items()}
    wrapped = copy_of(base, tmp_path / "wrapped", lambda new: save_torch(tensors, new / "model.safetensors"))
    assert_same_model(checkpoint.load(base), checkpoint.load(wrapped))


def test_prefix_inside_a_key():
    """One part of the model compiled."""
    assert canonical_key("encoder._orig_mod.layernorm.weight") == "encoder.layernorm.weight"
    assert canonical_key("decoder._orig_mod.model.decoder.embed_tokens.weight") == EMBED_TOKENS_KEY


@pytest.mark.parametrize(
    "key",
    [
        "encoder.pooler.dense.weight",
        "encoder.embeddings.mask_token",
        "encoder.embeddings.position_ids",
        "decoder.model.decoder.embed_positions._float_tensor",
        "module.decoder.model.decoder.embed_positions._float_tensor",
        "encoder.encoder.layer.0.attention.attention.relative_position_bias.relative_position_index",
    ],
)
def test_ignored_tensors(key, base, tmp_path):
    tensors = {name: torch.from_numpy(array) for name, array in load_file(base / "model.safetensors").items()}
    tensors[key] = torch.tensor([float("nan")])
    more = copy_of(base, tmp_path / "more", lambda new: save_torch(tensors, new / "model.safetensors"))
    assert_same_model(checkpoint.load(base), checkpoint.load(more))


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (torch.float8_e4m3fn, "float8_e4m3fn"),
        (torch.float8_e5m2, "float8_e5m2"),
        (torch.float8_e8m0fnu, "float8_e8m0fnu"),
        (torch.complex64, "complex64"),
    ],
)
def test_types_of_no_parameter_are_named(dtype, name, base, tmp_path):
    tensors = {name: torch.from_numpy(array) for name, array in load_file(base / "model.safetensors").items()}
    tensors["encoder.pooler.dense.weight"] = torch.ones(2, 3).to(dtype)
    more = copy_of(base, tmp_path / "more", lambda new: save_torch(tensors, new / "model.safetensors"))
    assert_same_model(checkpoint.load(base), checkpoint.load(more))
    tensors["encoder.layernorm.bias"] = tensors["encoder.layernorm.bias"].to(dtype)
    other = copy_of(base, tmp_path / "other", lambda new: save_torch(tensors, new / "model.safetensors"))
    with pytest.raises(CheckpointError, match=rf"encoder\.layernorm\.bias is of type {name}; supported: "):
        checkpoint.load(other)


def test_tied_head_stored_as_well(base, tmp_path):
    head, table = "decoder.output_projection.weight", "decoder.model.decoder.embed_tokens.weight"
    tensors = {name: torch.from_numpy(array) for name, array in load_file(base / "model.safetensors").items()}
    assert head not in tensors
    expected = checkpoint.load(base)
    both = {**tensors, head: tensors[table].clone()}
    copy_of(base, tmp_path / "both", lambda new: save_torch(both, new / "model.safetensors"))
    assert_same_model(expected, checkpoint.load(tmp_path / "both"))
    only_head = {head if name == table else name: tensor for name, tensor in tensors.items()}
    copy_of(base, tmp_path / "head", lambda new: save_torch(only_head, new / "model.safetensors"))
    assert_same_model(expected, checkpoint.load(tmp_path / "head"))
    both[head][3, 2] += 1e-6
    copy_of(base, tmp_path / "differ", lambda new: save_torch(both, new / "model.safetensors"))
    with pytest.raises(CheckpointError, match=r"differs from .*embed_tokens.*tie_word_embeddings to false"):
        checkpoint.load(tmp_path / "differ")


@pytest.mark.parametrize("stored", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize("zipped", [None, True, False], ids=["safetensors", "zip", "legacy"])
def test_stored_types(stored, zipped, base, tmp_path):
    """Parameters keep their type; jax has no float64."""
    tensors = {
        name: torch.from_numpy(array).to(getattr(torch, stored))
        for name, array in used(base / "model.safetensors").items()
    }

    def write(new):
        if zipped is None:
            save_torch(tensors, new / "model.safetensors")
        else:
            torch.save(tensors, new / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)

    model = checkpoint.load(copy_of(base, tmp_path / "typed", write))
    kept = "float32" if stored == "float64" else stored
    assert {array.dtype.name for array in parameters(model).values()} == {kept}
    checkpoint.save_huggingface(model, tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["torch_dtype"] == kept
    back = {name: tensor.read() for name, tensor in read_safetensors(tmp_path / "back" / "model.safetensors").items()}
    for name, tensor in tensors.items():
        expected = tensor.to(getattr(torch, kept)).contiguous().view(torch.uint8).numpy().tobytes()
        assert back[name].tobytes() == expected, name
    checkpoint.save(model, tmp_path / "native")
    assert_same_model(model, checkpoint.load(tmp_path / "native"))


def test_load_casts_to_dtype(base, tmp_path):
    model = checkpoint.load(base, dtype=jnp.bfloat16)
    expected = load_file(base / "model.safetensors")["encoder.layernorm.weight"].astype(ml_dtypes.bfloat16)
    assert np.array_equal(np.asarray(parameters(model)["encoder.norm.scale"]), expected)
    checkpoint.save(model, tmp_path / "native")
    assert {a.dtype.name for a in parameters(checkpoint.load(tmp_path / "native", jnp.float32)).values()} == {"float32"}


@pytest.mark.parametrize("dtype", ["int8", "float64", "bool", "complex64", "nonsense", 7])
def test_types_that_parameters_cannot_have(dtype, base, tmp_path):
    checkpoint.save(checkpoint.load(base), tmp_path / "native")
    for folder in (base, tmp_path / "native"):
        with pytest.raises(CheckpointError, match=rf"dtype is '?{dtype}'?: give float32, bfloat16 or float16"):
            checkpoint.load(folder, dtype=dtype)


def test_sharded_safetensors(tmp_path):
    whole = save_transformers("small", tmp_path / "whole")
    shards = save_transformers("small", tmp_path / "shards", max_shard_size="20KB")
    files = sorted(shards.glob("model-*.safetensors"))
    assert len(files) > 2
    assert not (shards / "model.safetensors").exists()
    assert_same_model(checkpoint.load(whole), checkpoint.load(shards))
    files[1].unlink()
    files[2].write_bytes(b"")
    with pytest.raises(CheckpointError, match=rf"(?s){files[1].name}.*{files[2].name}"):
        checkpoint.load(shards)


@pytest.mark.parametrize("content", ['{"weight_map": {"a": "../model.safetensors"}}', "{}", "[]", "not json"])
def test_bad_shard_index(content, base, tmp_path):
    folder = copy_of(base, tmp_path / "x", lambda new: (new / "model.safetensors.index.json").write_text(content))
    with pytest.raises(CheckpointError, match="index"):
        checkpoint.load(folder)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("family", ["base", "small"])
def test_torch_files(family, zipped, tmp_path):
    """What torch.save writes of a live model's state dict: an OrderedDict with metadata, tied tensors sharing memory,
    parameters, transposed and sliced views; here also in two shards."""
    source = save_transformers(family, tmp_path / "source")
    expected = checkpoint.load(source)
    state = transformers_model(family).state_dict()
    assert isinstance(state, OrderedDict)
    assert hasattr(state, "_metadata")

    def save(content, path):
        torch.save(content, path, _use_new_zipfile_serialization=zipped)

    whole = copy_of(source, tmp_path / "whole", lambda new: save(state, new / "pytorch_model.bin"))
    assert_same_model(expected, checkpoint.load(whole))

    views = {}
    for n, (name, tensor) in enumerate(state.items()):
        if tensor.ndim == 2 and n % 3 == 0:
            views[name] = tensor.t().contiguous().t()  # strides swapped
        elif n % 3 == 1:
            views[name] = torch.cat([tensor[:1], tensor, tensor[:1]])[1:-1]  # an offset into a larger storage
        else:
            views[name] = torch.nn.Parameter(tensor.clone())
    assert any(not tensor.is_contiguous() for tensor in views.values())
    viewed = copy_of(source, tmp_path / "views", lambda new: save({"state_dict": views}, new / "pytorch_model.bin"))
    assert_same_model(expected, checkpoint.load(viewed))

    def shards(new):
        names = list(state)
        files = {name: f"pytorch_model-{1 + n % 2:05}-of-00002.bin" for n, name in enumerate(names)}
        for file in set(files.values()):
            save({name: state[name] for name in names if files[name] == file}, new / file)
        (new / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))

    assert_same_model(expected, checkpoint.load(copy_of(source, tmp_path / "shards", shards)))


def test_every_problem_of_the_weights_at_once(base, tmp_path):
    tensors = {name: torch.from_numpy(array) for name, array in load_file(base / "model.safetensors").items()}
    del tensors["encoder.layernorm.bias"]
    tensors["encoder.layernorm.scale"] = torch.zeros(24)
    tensors["decoder.model.decoder.layers.7.fc1.bias"] = torch.zeros(3)
    tensors["encoder.embeddings.position_embeddings"] = torch.zeros(1, 99, 24)
    tensors["decoder.model.decoder.layers.0.fc1.bias"] = torch.zeros(56, dtype=torch.int32)
    tensors["decoder.model.decoder.layers.1.fc1.weight"][3, 4] = float("nan")
    tensors["decoder.model.decoder.layers.1.fc2.weight"][3, 4:6] = float("inf")
    folder = copy_of(base, tmp_path / "bad", lambda new: save_torch(tensors, new / "model.safetensors"))
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(folder)
    lines = str(error.value).splitlines()
    not_finite = "values that are not finite (NaN or infinite): save or copy it again from a sound state"
    assert lines[0] == f"{folder}: 7 problems"
    assert sorted(lines[1:]) == sorted(
        f"  {line}"
        for line in (
            "missing: encoder.layernorm.bias [24]",
            "not used by the model: encoder.layernorm.scale [24]",
            "not used by the model: decoder.model.decoder.layers.7.fc1.bias [3]",
            "encoder.embeddings.position_embeddings is [1, 99, 24]; the configuration wants [1, 5, 24]",
            "decoder.model.decoder.layers.0.fc1.bias is of type int32; supported: bfloat16, float16, float32, float64",
            f"decoder.model.decoder.layers.1.fc1.weight holds 1 {not_finite}",
            f"decoder.model.decoder.layers.1.fc2.weight holds 2 {not_finite}",
        )
    )


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_in_half_precision(stored, value, base, tmp_path):
    tensors = {name: torch.from_numpy(a).to(stored) for name, a in load_file(base / "model.safetensors").items()}
    tensors["decoder.model.decoder.embed_tokens.weight"][59, 31] = value
    folder = copy_of(base, tmp_path / "bad", lambda new: save_torch(tensors, new / "model.safetensors"))
    with pytest.raises(CheckpointError, match=r"embed_tokens.weight holds 1 values that are not finite"):
        checkpoint.load(folder)


def test_two_tensors_for_one_parameter(base, tmp_path):
    tensors = {name: torch.from_numpy(array) for name, array in load_file(base / "model.safetensors").items()}
    tensors["module.encoder.layernorm.bias"] = torch.zeros(24)
    folder = copy_of(base, tmp_path / "twice", lambda new: save_torch(tensors, new / "model.safetensors"))
    with pytest.raises(CheckpointError, match=r"another tensor means the same parameter encoder.layernorm.bias"):
        checkpoint.load(folder)


def test_folder_without_weights_or_configuration(base, tmp_path):
    folder = copy_of(base, tmp_path / "empty", lambda new: (new / "tf_model.h5").write_bytes(b"x"))
    with pytest.raises(CheckpointError, match=r"no weights: expected model.safetensors.*tf_model.h5 cannot be used"):
        checkpoint.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(Exception, match=r"config.json: cannot be read"):
        checkpoint.load(folder)


MILLIONS = {  # counted on the published checkpoints, poolers left out
    "base-handwritten": 333.33,
    "base-stage1": 384.27,
    "large-handwritten": 557.18,
    "large-printed": 608.12,
    "small-printed": 61.45,
}


@pytest.mark.parametrize(("name", "millions"), MILLIONS.items())
def test_number_of_parameters(name, millions):
    _, state = _abstract_model(TrOCRConfig.preset(name))
    assert round(sum(np.prod(variable.get_value().shape) for _, variable in state) / 1e6, 2) == millions


def test_table_is_one_to_one():
    paths, keys, _ = zip(*TABLE, strict=True)
    assert len(set(paths)) == len(set(keys)) == len(TABLE)
    for config in FAMILIES.values():
        for path, _ in _abstract_model(config)[1]:
            key, _ = stored_name(".".join(map(str, path)))
            assert canonical_key(key) == key


def test_layouts_are_inverse():
    rng = np.random.default_rng(0)
    for config in FAMILIES.values():
        for path, variable in _abstract_model(config)[1]:
            _, layout = stored_name(".".join(map(str, path)))
            array = rng.normal(size=variable.get_value().shape)
            stored = layout.store(array)
            assert stored.shape == layout.stored_shape(array.shape)
            assert np.array_equal(layout.load(stored, array.shape), array)


def test_safetensors_written_here_are_read_by_the_reference(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "half": rng.normal(size=(3, 5)).astype(np.float16),
        "brain": rng.normal(size=(7,)).astype(ml_dtypes.bfloat16),
        "wide": rng.normal(size=(2, 1, 3)),
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.array(2.5, np.float32),
    }
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {k: (v.shape, v.dtype.name) for k, v in arrays.items()}, arrays.__getitem__)
    assert_identical(load_file(path), arrays)
    assert_identical({name: tensor.read() for name, tensor in read_safetensors(path).items()}, arrays)
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_deep_encoder_without_biases_of_queries(tmp_path):
    """Thirteen tensors a layer, and nearly nothing else."""
    config = FAMILIES["base"]
    encoder = dataclasses.replace(config.encoder, num_layers=9)
    model = TrOCR(
        dataclasses.replace(config, encoder=encoder, decoder=dataclasses.replace(config.decoder, num_layers=1))
    )
    checkpoint.save_huggingface(model, tmp_path / "model")
    checkpoint.save_native(model, tmp_path / "native")
    for folder in ("model", "native"):
        assert checkpoint.load(tmp_path / folder).config.encoder.num_layers == 9


def test_a_calibration_of_other_weights_is_removed(base, tmp_path):
    folder, model = tmp_path / "model", checkpoint.load(base)
    checkpoint.save_huggingface(model, folder)
    (folder / "calibration.json").write_text("{}")
    checkpoint.save_huggingface(model, folder, assets=folder)
    assert (folder / "calibration.json").exists()
    checkpoint.save_huggingface(model, folder)
    assert not (folder / "calibration.json").exists()


def test_a_folder_that_is_half_written_is_no_model(base, tmp_path, monkeypatch):
    other, assets, folder = checkpoint.load(base), tmp_path / "assets", tmp_path / "model"
    assets.mkdir()
    (assets / "tokenizer.json").write_text("{}")
    checkpoint.save_huggingface(other, folder, assets=assets)

    class Killed(BaseException):
        pass

    def killed(*arguments):
        raise Killed

    monkeypatch.setattr("trocr_jax.checkpoint.huggingface.copy_assets", killed)
    with pytest.raises(Killed):
        checkpoint.save_huggingface(other, folder, assets=assets)
    with pytest.raises(TrOCRError, match=r"config\.json"):
        checkpoint.load(folder)
    monkeypatch.undo()
    checkpoint.save_huggingface(other, folder, assets=assets, torch_dtype="bfloat16")
    assert_same_model(checkpoint.load(folder), other)
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert not list(folder.glob("*.new"))

    def full(*arguments):
        raise CheckpointError("the disk is full")

    monkeypatch.setattr("trocr_jax.checkpoint.huggingface.write_safetensors", full)
    with pytest.raises(CheckpointError, match="full"):
        checkpoint.save_huggingface(other, folder)
    assert_same_model(checkpoint.load(folder), other)  # what was there


def test_assets_of_a_model_that_was_there_before_are_removed(base, tmp_path):
    source, folder, model = tmp_path / "source", tmp_path / "model", checkpoint.load(base)
    for path in (source, folder):
        path.mkdir()
    for name in ("tokenizer.json", "processor_config.json", "generation_config.json", "mine.txt"):
        (folder / name).write_text('{"of": "before"}')
    checkpoint.save_huggingface(model, folder)
    assert (folder / "tokenizer.json").exists()
    for name in ("vocab.json", "merges.txt"):
        (source / name).write_text("{}")
    checkpoint.save_huggingface(model, folder, assets=source)
    left = {"config.json", "model.safetensors", "generation_config.json", "vocab.json", "merges.txt", "mine.txt"}
    assert {path.name for path in folder.iterdir()} == left | {"processor_config.json"}  # which nothing replaces
    (source / "preprocessor_config.json").write_text("{}")
    checkpoint.save_huggingface(model, folder, assets=source)
    assert {path.name for path in folder.iterdir()} == left | {"preprocessor_config.json"}
    with pytest.raises(CheckpointError, match="no such folder to copy a tokenizer"):
        checkpoint.save_huggingface(model, folder, assets=tmp_path / "typo")
    assert_same_model(checkpoint.load(folder), model)  # what was there
    assert "of" not in json.loads((folder / "generation_config.json").read_text())


def test_folders_of_fine_tuning_that_are_no_model(base, tmp_path, capsys):
    (tmp_path / "runs" / "checkpoint-20").mkdir(parents=True)
    shutil.copy(base / "config.json", tmp_path / "runs" / "checkpoint-20")
    with pytest.raises(CheckpointError, match="holds no model, but its folders do: give one of checkpoint-20"):
        checkpoint.load(tmp_path / "runs")
    (tmp_path / "runs" / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"holds adapters of PEFT, and no model; save what its merge_and_unload"):
        checkpoint.load(tmp_path / "runs")
    shutil.copy(base / "config.json", tmp_path / "runs")
    with pytest.raises(CheckpointError, match=r"holds adapters of PEFT, and no model; save what its merge_and_unload"):
        checkpoint.load(tmp_path / "runs")
    shutil.copy(base / "model.safetensors", tmp_path / "runs")
    checkpoint.load(tmp_path / "runs")
    assert "adapters of PEFT lie beside the model and are not applied" in capsys.readouterr().err


@pytest.mark.parametrize("end", [6, [6]])
def test_an_end_that_only_the_generation_config_names(end, base, tmp_path):
    """As models of transformers 5 are saved whose `generation_config` was told of another tokenizer."""
    folder = copy_of(base, tmp_path / "model", lambda new: shutil.copy(base / "model.safetensors", new))
    written = json.loads((folder / "config.json").read_text())
    for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id", "eos_token_id"):
        written.pop(name, None)
    (folder / "config.json").write_text(json.dumps(written))
    (folder / "generation_config.json").write_text(
        json.dumps({"decoder_start_token_id": 4, "eos_token_id": end, "pad_token_id": 3, "bos_token_id": 7})
    )
    config = checkpoint.load(folder).config
    assert (config.decoder_start_token_id, config.eos_token_id) == (4, 6)
    assert (config.pad_token_id, config.bos_token_id) == (3, 7)
    height, width = config.encoder.image_size
    processor = {"image_processor_type": "ViTImageProcessor", "size": {"height": height, "width": width}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    assert from_model(str(folder)).config == config  # what fine-tuning starts with
    pixels = np.random.default_rng(0).uniform(-1, 1, (8, 3, *config.encoder.image_size)).astype(np.float32)
    theirs = load_transformers(str(folder)).generate(torch.from_numpy(pixels), max_new_tokens=24).numpy()[:, 1:]
    ours = generate(checkpoint.load(folder), pixels.transpose(0, 2, 3, 1), DecodeConfig(max_new_tokens=24))
    np.testing.assert_array_equal(ours.token_ids[:, 0, : theirs.shape[1]], theirs)
    (folder / "config.json").write_text(json.dumps({**written, "eos_token_id": 2}))
    assert checkpoint.load(folder).config.eos_token_id == 2
    (folder / "generation_config.json").write_text('{"bos_token_id": 0}')  # with which `generate` begins
    assert checkpoint.load(folder).config.decoder_start_token_id == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("[]", "generation_config.json: cannot be read .*, and config.json has no decoder_start_token_id"),
        ("{", "generation_config.json: cannot be read .*, and config.json has no decoder_start_token_id"),
        (
            '{"eos_token_id": [2, 6]}',
            r"generation_config.json: eos_token_id is \[2, 6\]; give one integer",
        ),
        ('{"pad_token_id": "1"}', "generation_config.json: pad_token_id is '1'; give one integer"),
        (
            '{"decoder_start_token_id": 99999}',
            "generation_config.json: decoder_start_token_id is 99999",
        ),
    ],
)
def test_tokens_of_the_generation_config_that_are_none_are_refused(given, said, base, tmp_path):
    folder = copy_of(base, tmp_path / "model", lambda new: shutil.copy(base / "model.safetensors", new))
    (folder / "generation_config.json").write_text(given)
    written = json.loads((folder / "config.json").read_text())
    own = {"decoder_start_token_id": 2, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    (folder / "config.json").write_text(json.dumps({**written, **own}))
    assert checkpoint.load(folder).config.eos_token_id == 2  # what config.json has goes before
    (folder / "config.json").write_text(json.dumps({**written, **dict.fromkeys(own)}))
    with pytest.raises(ConfigError, match=said):
        checkpoint.load(folder)


def test_a_start_that_no_file_names_is_told(base, tmp_path, capsys):
    folder = copy_of(base, tmp_path / "model", lambda new: shutil.copy(base / "model.safetensors", new))
    written = json.loads((folder / "config.json").read_text())
    for part in (written, written["decoder"]):
        for name in ("decoder_start_token_id", "bos_token_id"):
            part.pop(name, None)
    (folder / "config.json").write_text(json.dumps(written))
    (folder / "generation_config.json").unlink(missing_ok=True)
    checkpoint.load(folder)
    assert "neither config.json nor generation_config.json has decoder_start_token_id" in capsys.readouterr().err


def test_assets_go_along(base, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(base, source)
    (source / "tokenizer.json").write_text("{}")
    (source / "generation_config.json").write_text('{"num_beams": 4}')
    (source / "private.txt").write_text("not an asset")
    model = checkpoint.load(source)
    checkpoint.save(model, tmp_path / "native", assets=source)
    checkpoint.save_huggingface(model, tmp_path / "back", assets=tmp_path / "native")
    for name in ("tokenizer.json", "generation_config.json"):
        assert (tmp_path / "back" / name).read_text() == (source / name).read_text()
    assert not (tmp_path / "native" / "private.txt").exists()
    checkpoint.save_huggingface(model, tmp_path / "bare")
    assert json.loads((tmp_path / "bare" / "generation_config.json").read_text())["decoder_start_token_id"] == 2


def test_options_of_a_config_json_go_along(base, tmp_path):
    source = copy_of(base, tmp_path / "model", lambda new: shutil.copy(base / "model.safetensors", new))
    (source / "generation_config.json").unlink(missing_ok=True)
    with pytest.raises(DecodeError, match=r"generation_config\.json: no such file"):
        DecodeConfig.from_generation_config(source)
    written = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**written, "num_beams": 4, "max_length": 16, "bos_token_id": 3}))
    model = checkpoint.load(source)
    checkpoint.save(model, tmp_path / "native", assets=source)
    checkpoint.save_huggingface(model, tmp_path / "back", assets=tmp_path / "native")
    itself = shutil.copytree(source, tmp_path / "itself")
    checkpoint.save_huggingface(model, itself, assets=itself)
    for folder in (source, tmp_path / "native", tmp_path / "back", itself):
        found = DecodeConfig.from_generation_config(folder)
        assert (found.num_beams, found.max_new_tokens) == (4, 15)
    ids = json.loads((tmp_path / "back" / "generation_config.json").read_text())
    assert ids["decoder_start_token_id"] == model.config.decoder_start_token_id
    for part in (written, written["decoder"]):
        part.pop("decoder_start_token_id", None)
    (source / "config.json").write_text(json.dumps({**written, "bos_token_id": 3}))
    assert checkpoint.load(source).config.decoder_start_token_id == 3  # as of transformers


def test_native_folder_is_replaced_whole_and_nothing_else(base, tmp_path, monkeypatch):
    model, folder = checkpoint.load(base), tmp_path / "native"
    checkpoint.save(model, folder)
    (folder / "note.txt").write_text("beside the model")
    assert_same_model(model, checkpoint.load(folder))
    with pytest.raises(CheckpointError, match=r"holds note\.txt, which is no part of a checkpoint"):
        checkpoint.save(model, folder)
    (folder / "note.txt").rename(tmp_path / "note.txt")
    (folder / "compiled-0123456789ab").mkdir()
    (folder / "tokenizer.json").write_text("{}")
    checkpoint.save(model, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["MANIFEST.json", "config.json", "params"]
    (tmp_path / "note.txt").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("trocr_jax.checkpoint.native._hashes", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(CheckpointError, match=r"cannot be written \(disk full\)"):
            checkpoint.save(model, folder)
    assert_same_model(model, checkpoint.load(folder))
    assert sorted(tmp_path.iterdir()) == [folder]
    foreign = tmp_path / "photos"
    (foreign / "params").mkdir(parents=True)
    (foreign / "MANIFEST.json").write_text('{"a": 1}')
    (foreign / "cat.png").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="is a damaged native checkpoint, or none; choose another name or remove"):
        checkpoint.save(model, foreign)
    assert (foreign / "cat.png").exists()
    with pytest.raises(CheckpointError, match=r"cat\.png: exists and is no native checkpoint"):
        checkpoint.save(model, foreign / "cat.png")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny-prnted", r"no such model or folder; built in: tiny-printed.*microsoft/trocr-base-printed"),
        ("base-printed", r"the published one is called microsoft/trocr-base-printed"),
        ("./nowhere/at/all", r"no such model or folder"),
        ("", r"the model is '': give its name, or the path of a folder"),
        (None, r"the model is None: give its name"),
        ("someone/no-such-model", r"not in the local cache, and the hub cannot give it.*Built in: tiny-printed"),
    ],
)
def test_names_that_resolve_to_nothing(name, message):
    with pytest.raises(CheckpointError, match=message):
        checkpoint.resolve(name)


def test_local_paths(base):
    assert checkpoint.resolve(str(base)) == checkpoint.resolve(base) == base
    with pytest.raises(CheckpointError, match="has no revision 'main'"):
        checkpoint.resolve(base, revision="main")
    with pytest.raises(CheckpointError, match="is a file"):
        checkpoint.resolve(base / "config.json")


def test_hub_cache_serves_without_network(base, tmp_path, monkeypatch):
    """A snapshot as huggingface_hub keeps it, weights only under another revision."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--reads"
    snapshot = repository / "snapshots" / commit
    shutil.copytree(base, snapshot)
    reference = repository / "refs" / "refs" / "pr" / "3"
    reference.parent.mkdir(parents=True)
    reference.write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert checkpoint.resolve("someone/reads", revision="refs/pr/3") == snapshot
    assert_same_model(checkpoint.load("someone/reads", revision="refs/pr/3"), checkpoint.load(base))
    with pytest.raises(CheckpointError, match="someone/reads: not in the local cache"):
        checkpoint.resolve("someone/reads")


def test_options_of_a_config_json_do_not_stand_before_those_of_their_own_file(tmp_path):
    source = save_tiny(tmp_path / "source")
    (source / "generation_config.json").write_text('{"num_beams": 3}')
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"num_beams": 7}))
    checkpoint.save(tiny_model(), tmp_path / "native", assets=source)
    assert (tmp_path / "native" / "generation_config.json").read_text() == '{"num_beams": 3}'
