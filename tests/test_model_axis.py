"""A model that is shared out over devices reads what one device reads, and devices with other lines are not waited for.

Eight devices have to exist before jax is first used: this file is run as a program.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest

from tests import programs

MESHES = {"data=4,model=2": (1, 3), "data=2,model=4": (3,)}  # and beams
FIRST = next(iter(MESHES))
each_search = pytest.mark.parametrize(
    ("mesh", "beams"), [(mesh, beams) for mesh, searches in MESHES.items() for beams in searches]
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = programs.run("-m", "tests.test_model_axis", str(tmp_path_factory.mktemp("lines")))
    return json.loads(done.stdout.splitlines()[-1])


@each_search
def test_the_texts_are_those_of_one_device(found, mesh, beams):
    one = found["one"][str(beams)]
    assert len({text for text, _ in one}) > 8
    read = found[mesh][str(beams)]
    assert [text for text, _ in read["read"]] == [text for text, _ in one]
    assert [score for _, score in read["read"]] == pytest.approx([score for _, score in one], abs=1e-4)
    assert read["shared_vocabulary"], "with a vocabulary that divides"


@each_search
def test_a_layer_sums_three_times_and_nothing_else_is_asked(found, mesh, beams):
    """Behind both attentions and the MLP; and only devices that share a model do."""
    assert Counter(found[mesh][str(beams)]["turn"]) == {"all-reduce": 3}
    assert found[mesh][str(beams)]["within"]


def test_absorbed_attention_of_beams_is_shared_out_by_heads(found):
    """As on accelerators; XLA would gather all heads' queries on every device."""
    assert Counter(found["absorbed"]["turn"]) == {"all-reduce": 3}
    assert found["absorbed"]["equal"]


def test_heads_that_devices_cannot_share_out_are_read_by_all(found):
    alone, together = found["few_heads"]
    assert together == alone
    assert len(set(alone)) > 8


def test_forms_for_gpus_ask_for_nothing_else(found):
    """cuDNN's attention, here a stand-in, reads a device's own heads; rows in one axis would need all of them."""
    assert Counter(found["gpu_rows"]) == {"all-reduce": 3}
    assert set(found["fused_heads"]) == {2}
    assert found["fused"]


def test_threads_that_start_programs_do_so_on_the_default_device(found):
    assert found["pinned"] == [3]


def test_one_thread_gives_programs_to_devices_that_share_a_model(found):
    assert len(found["threads"]) == 1
    assert "lane" in found["threads"][0]


def test_tables_of_a_constraint_are_on_every_device_before(found):
    assert found["numbers"] == [8]


def test_a_share_ends_with_its_own_lines(found):
    assert len(set(found["steps"])) > 1, "else the test above had no need to wait"


@pytest.mark.parametrize("mesh", MESHES)
def test_a_device_holds_its_part_of_the_parameters(found, mesh):
    data, model = (int(part.partition("=")[2]) for part in mesh.split(","))
    assert found[mesh]["shares"] == data
    assert found[mesh]["held"] == {"query/kernel": 1 / model, "fc2/kernel": 1 / model, "norm/scale": 1.0}


def test_all_that_a_recognizer_does_is_the_same(found):
    assert found["looked"] == found["streamed"] == found["one"]["1"][0][0]
    assert found["batches_over_all_but_model"] == 4


def test_commands_take_a_mesh(found):
    assert found["transcribed"] == found["transcribed_by_mesh"] != []
    assert "devices_of_a_model: nothing in the plan, 2 now" in found["job"]


def test_a_mesh_that_is_not_there_is_refused(tmp_path, capsys):
    from tests.tiny import save_lines
    from trocr_jax.cli import main

    save_lines(tmp_path, 1)
    assert main(["transcribe", str(tmp_path), "--mesh", "data=3"]) == 2
    assert "mesh 'data=3': 3 devices are asked for and there are 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("groups", "well"),
    [
        ("{{0,1},{2,3}}", True),
        ("{{0,2},{1,3}}", False),
        ("[4,2]<=[8]", True),
        ("[2,4]<=[4,2]T(1,0)", False),
        ("[2,4]<=[8]", False),
    ],
)
def test_who_waits_for_whom_is_read_off_a_program(groups, well):
    from benchmarks.tpu_mesh import within

    assert within(groups, 2) is well


def main(folder: Path) -> None:
    import contextlib
    import io
    import threading

    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    import jax.numpy as jnp
    import numpy as np

    from benchmarks.tpu_mesh import within
    from tests.tiny import ALPHABET, HEIGHT, WIDTH, line_image, save_lines, save_tiny, tiny_config, tiny_model
    from train.ahead.hlo import Work, work
    from trocr_jax import (
        attention,
        attention_quantized,
        generation,
        generation_plan,
        generation_stages,
        recognizer_attention,
        recognizer_devices,
    )
    from trocr_jax.cli import main as command
    from trocr_jax.decoding.config import DecodeConfig
    from trocr_jax.decoding.constraints import Characters
    from trocr_jax.generation_split import split_of
    from trocr_jax.image import ImageProcessor
    from trocr_jax.model import TrOCR
    from trocr_jax.recognizer import Recognizer
    from trocr_jax.sharding import batch_sharding, generation_shardings, make_mesh
    from trocr_jax.tokenizer import character_tokenizer

    def model(vocab_size: int) -> TrOCR:
        config = tiny_config(vocab_size)
        config = replace(
            config, encoder=replace(config.encoder, num_heads=4), decoder=replace(config.decoder, num_heads=4)
        )
        return tiny_model(7, config=config)

    processor = ImageProcessor(height=HEIGHT, width=WIDTH, keep_aspect_ratio=True)
    images = [line_image(seed) for seed in range(16)]
    pixels = np.stack([processor.pixels(image) for image in images])
    odd, even = model(4 + len(ALPHABET)), model(48)  # of which one does not divide

    def recognizer(mesh: jax.sharding.Mesh | None) -> Recognizer:
        return Recognizer(odd, character_tokenizer(ALPHABET), processor, mesh=mesh)

    def read(one: Recognizer, beams: int) -> list[tuple[str, float]]:
        config = DecodeConfig(max_new_tokens=20, num_beams=beams)
        return [(found.text, found.score) for found in one(images, config, batch_size=16)]

    def compiled(model: TrOCR, lines: jax.Array, config: DecodeConfig, **changed: Any) -> tuple[Work, Work, Any]:
        """What the program does, and a turn of its loop; and what it finds."""
        split = split_of(model, lines)
        shape, numbers = generation_plan.plan(config, model.config, placed=generation_plan.placed_as(lines, split))
        shape = shape._replace(**changed)
        given = (model, lines, numbers, shape, jnp.dtype("float32"), processor, split)
        done = work(generation._generate.lower(*given).compile().as_text() or "")
        (turn,) = done.loops
        return done, turn, generation._generate(*given)

    result: dict[str, Any] = {"one": {beams: read(recognizer(None), beams) for beams in MESHES[FIRST]}}
    for name, searches in MESHES.items():
        mesh = make_mesh(name)
        shared = recognizer(mesh)
        whole = {"query/kernel": odd.decoder.layers[0].self_attention.query.kernel}
        whole |= {"fc2/kernel": odd.decoder.layers[0].fc2.kernel, "norm/scale": odd.decoder.layers[0].norm.scale}
        layer = shared.model.decoder.layers[0]
        held = {"query/kernel": layer.self_attention.query.kernel, "fc2/kernel": layer.fc2.kernel}
        held |= {"norm/scale": layer.norm.scale}
        result[name] = {
            "shares": shared.devices,
            "held": {
                key: held[key][...].addressable_shards[0].data.size / whole[key][...].size for key in whole
            },
        }  # fmt: skip
        for beams in searches:
            config = DecodeConfig(max_new_tokens=20, num_beams=beams)
            own, lines = jax.device_put((even, pixels), (generation_shardings(even, mesh), batch_sharding(mesh)))
            eight = generation.generate(own, lines, config, image_processor=processor)
            one = generation.generate(even, jnp.asarray(pixels), config, image_processor=processor)
            own = jax.device_put(odd, generation_shardings(odd, mesh))
            done, turn, _ = compiled(own, lines, config)
            result[name][beams] = {
                "read": read(shared, beams),
                "shared_vocabulary": bool(np.array_equal(eight.token_ids, one.token_ids)),
                "turn": turn.count,
                "within": all(within(groups, shared.sharing) for groups in done.groups | turn.groups),
            }
    mesh, config = make_mesh(FIRST), DecodeConfig(max_new_tokens=20, num_beams=3)
    own, lines = jax.device_put((odd, pixels), (generation_shardings(odd, mesh), batch_sharding(mesh)))
    done, turn, eight = compiled(own, lines, config, absorbed=True)
    one = generation.generate(odd, jnp.asarray(pixels), config, image_processor=processor)
    result["absorbed"] = {"turn": turn.count, "equal": bool(np.array_equal(eight.token_ids, one.token_ids))}
    greedy = DecodeConfig(max_new_tokens=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_quantized, "compute_capability", lambda: 0.0)
        patch.setattr(jax, "default_backend", lambda: "gpu")
        _, turn, _ = compiled(own, lines, replace(greedy, max_new_tokens=19))
    result["gpu_rows"], heads = turn.count, list[int]()

    def fused(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        heads.append(query.shape[2])
        return jax.nn.dot_product_attention(query, key, value)

    one = generation.generate(odd, jnp.asarray(pixels), replace(greedy, max_new_tokens=18), image_processor=processor)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "on_chip", lambda query, dtype: query.shape[2] > 4)  # in the encoder
        patch.setattr(attention, "_fused", fused)
        _, _, eight = compiled(own, lines, replace(greedy, max_new_tokens=18))
    result["fused_heads"], result["fused"] = heads, bool(np.array_equal(eight.token_ids, one.token_ids))

    devices, starters, numbers = set[int](), set[str](), set[int]()

    def encoded(*arguments: Any, **options: Any) -> Any:
        found = generation_stages.encode(*arguments, **options)
        devices.update(device.id for device in found.means.devices())
        starters.add(threading.current_thread().name)
        numbers.update(len(leaf.devices()) for leaf in jax.tree.leaves(arguments[2]) if isinstance(leaf, jax.Array))
        return found

    def looked_at(*arguments: Any, **options: Any) -> Any:
        starters.add(threading.current_thread().name)
        return recognizer_attention.attentions(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch, jax.default_device(jax.devices()[3]):
        patch.setattr(recognizer_devices, "encode", encoded)
        recognizer(None)(images, greedy, batch_size=4)
        result["pinned"] = sorted(devices)
    starters.clear()
    numbers.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recognizer_devices, "encode", encoded)
        patch.setattr("trocr_jax.recognizer.attentions", looked_at)
        allowed = replace(greedy, constraint=Characters(ALPHABET))
        recognizer(make_mesh(FIRST))(images[:9], allowed, batch_size=4, attention=True)
    result["threads"], result["numbers"] = sorted(starters), sorted(numbers)
    lengths = generation.generate(odd, jnp.asarray(pixels), greedy, image_processor=processor).lengths
    result["steps"] = lengths.reshape(4, 4).max(axis=1).tolist()
    few, short = tiny_model(7), replace(greedy, max_new_tokens=10)  # of two heads, and absorbed
    reader = recognizer(make_mesh(FIRST))
    (looked,) = reader([images[0]], greedy, attention=True)
    *_, result["streamed"] = reader.stream(images[0], greedy)
    result["looked"] = looked.text if looked.attention is not None else None
    result["few_heads"] = [
        [found.text for found in Recognizer(few, reader.tokenizer, processor, mesh=mesh)(images, short, batch_size=16)]
        for mesh in (None, make_mesh("data=2,model=4"))
    ]
    odd_axes = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 2, 2), ("rows", "model", "columns"))
    result["batches_over_all_but_model"] = recognizer(odd_axes).devices

    save_lines(folder / "lines", 5)
    options = ["--model", str(save_tiny(folder / "tiny")), "--max-new-tokens", "20"]
    for name, more in (("transcribed", []), ("transcribed_by_mesh", ["--mesh", FIRST])):
        output = folder / f"{name}.txt"
        assert command(["transcribe", str(folder / "lines"), "--output", str(output), *options, *more]) == 0
        result[name] = output.read_text(encoding="utf-8").splitlines()
    job = ["jobs", "run", str(folder / "lines"), "--output", str(folder / "job"), "--plan-only", *options]
    assert command(job) == 0
    with contextlib.redirect_stderr(io.StringIO()) as err:
        assert command([*job, "--mesh", FIRST]) == 2
    result["job"] = err.getvalue()
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
