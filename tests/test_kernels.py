"""Kernels beside their plain twins: in interpret mode, compiled for a TPU that is not there (extra tpu), and on one:
`JAX_PLATFORMS=tpu,cpu pytest tests/test_kernels.py -n0`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compilations import nothing_kept
from tests.tiny import HEIGHT, WIDTH, line_image, tiny_config, tiny_model
from train.ahead.environment import NO_MACHINE
from trocr_jax import DecodeConfig, attention_cross, generation, generation_plan
from trocr_jax.attention_cross import Absorbed, OnePass
from trocr_jax.decoding.types import Decoded
from trocr_jax.errors import DecodeError
from trocr_jax.generation_plan import Placed, plan
from trocr_jax.generation_refill import Refill
from trocr_jax.image import ImageProcessor
from trocr_jax.kernels.cross_attention import group_size, read_memory
from trocr_jax.model import TrOCR

V5E = Placed("tpu", "TPU v5 lite")
PROCESSOR = ImageProcessor(height=HEIGHT, width=WIDTH, keep_aspect_ratio=True)
needs_tpu = pytest.mark.skipif(jax.default_backend() != "tpu", reason="needs a TPU")


def layer(batch: int, heads: int, memory: int, width: int, *, dtype: str) -> Absorbed:
    keys = jax.random.split(jax.random.key(batch + width), 4)
    shapes = ((batch, memory, width), (heads, 8, width), (heads, width, 8), (heads, 8))
    return Absorbed(*(jax.random.normal(key, shape).astype(dtype) for key, shape in zip(keys, shapes, strict=True)))


@pytest.mark.parametrize(
    ("batch", "beams", "heads", "memory", "width"),
    [
        (9, 1, 16, 37, 256),  # a turn of the grid takes 8 images: the second has one
        (3, 4, 4, 33, 128),
        (5, 3, 2, 20, 128),  # 15 rows of a head, and 24 of a turn
        (1, 1, 3, 5, 128),
    ],
)
@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-5), ("bfloat16", 0.02)])
def test_one_pass_gives_what_products_give(
    batch: int,
    beams: int,
    heads: int,
    memory: int,
    width: int,
    dtype: str,
    atol: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention_cross, "read_memory", partial(read_memory, interpret=True))
    absorbed = layer(batch, heads, memory, width, dtype=dtype)
    query = jax.random.normal(jax.random.key(0), (batch, heads, beams, 8)).astype(dtype)
    expected = absorbed.read(query, dtype=dtype).astype(jnp.float32)
    found = OnePass(*absorbed).read(query, dtype=dtype).astype(jnp.float32)
    size = float(jnp.abs(expected).max())
    assert size > 1  # so that something is compared
    np.testing.assert_allclose(found, expected, atol=atol * size)


@pytest.fixture(scope="module")
def wide_model() -> TrOCR:
    config = tiny_config()
    encoder = replace(config.encoder, hidden_size=128)
    decoder = replace(config.decoder, cross_attention_hidden_size=128)
    return tiny_model(0, config=replace(config, encoder=encoder, decoder=decoder))


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.stack([PROCESSOR.pixels(line_image(seed)) for seed in range(11)])


@pytest.mark.parametrize(
    "config",
    [
        DecodeConfig(max_new_tokens=12),
        DecodeConfig(max_new_tokens=12, num_beams=3),
        DecodeConfig(max_new_tokens=12, num_beams=4, num_beam_groups=2, diversity_penalty=0.5),
    ],
    ids=["greedy", "beams", "diverse"],
)
def test_texts_are_the_same(
    config: DecodeConfig, wide_model: TrOCR, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_cross, "read_memory", partial(read_memory, interpret=True))
    found = []
    for cross_attention in ("products", "kernel"):
        shape, numbers = plan(config, wide_model.config, placed=V5E, cross_attention=cross_attention)
        decoded = generation._generate(wide_model, pixels, numbers, shape, jnp.dtype(jnp.float32), PROCESSOR)
        found.append(Decoded._make(map(np.asarray, decoded)))
    products, kernel = found
    assert len({tuple(ids) for ids in products.token_ids[:, 0].tolist()}) > 3
    np.testing.assert_array_equal(kernel.token_ids, products.token_ids)
    np.testing.assert_allclose(kernel.scores, products.scores, atol=1e-4)


def test_texts_of_refilled_slots_are_the_same(
    wide_model: TrOCR, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_cross, "read_memory", partial(read_memory, interpret=True))
    monkeypatch.setattr(generation_plan, "placed_on", lambda mesh: V5E)
    found = []
    for cross_attention in ("products", "kernel"):
        config = DecodeConfig(max_new_tokens=12, num_beams=2)
        refill = Refill(
            wide_model, config, slots=4, group=3, image_processor=PROCESSOR, cross_attention=cross_attention,
            dtype=jnp.float32,
        )  # fmt: skip
        groups = [(list(range(i, min(i + 3, 11))), pixels[i : i + 3]) for i in range(0, 11, 3)]
        found.append({line.label: line.decoded.token_ids.tolist() for line in refill.read(groups)})
    assert found[0] == found[1]
    assert len(found[0]) == 11


def test_what_the_kernel_cannot_do_is_said(wide_model: TrOCR) -> None:
    kernel = partial(plan, DecodeConfig(max_new_tokens=12), cross_attention="kernel")
    with pytest.raises(DecodeError, match="this is a cpu"):
        kernel(wide_model.config)
    with pytest.raises(DecodeError, match="among 4 devices"):
        kernel(wide_model.config, placed=Placed("tpu", "TPU v5 lite", 4))
    with pytest.raises(DecodeError, match="16 wide"):
        kernel(tiny_config(), placed=V5E)
    with pytest.raises(ValueError, match=r"float32\[2, 3, 128\].*float32\[2, 5, 128\]"):
        read_memory(jnp.zeros((2, 3, 128)), jnp.zeros((2, 5, 128)))


@pytest.mark.parametrize(("beams", "images"), [(1, 8), (2, 4), (3, 8), (4, 2), (5, 8), (8, 1), (12, 2)])
def test_a_turn_of_the_grid_fills_tiles(beams: int, images: int) -> None:
    assert group_size(beams) == images


@pytest.mark.skipif(find_spec("libtpu") is None, reason="libtpu is not installed: pip install -e '.[tpu]'")
@pytest.mark.parametrize(("beams", "dtype"), [(1, "bfloat16"), (4, "bfloat16"), (3, "bfloat16"), (1, "float32")])
def test_tpus_take_the_kernel(beams: int, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in NO_MACHINE.items():
        monkeypatch.setenv(name, value)
    from jax.sharding import SingleDeviceSharding

    from train.ahead.targets import find_target

    placed = SingleDeviceSharding(find_target("v5e:1x1").devices[0])
    shapes = ((16, 13 * beams, 768), (13, 577, 768))  # 13 images: the last turn is not full
    arrays = [jax.ShapeDtypeStruct(shape, dtype, sharding=placed) for shape in shapes]
    with nothing_kept():
        text = jax.jit(read_memory).lower(*arrays).compile().as_text()
    assert text is not None
    assert "tpu_custom_call" in text


@needs_tpu
@pytest.mark.parametrize("beams", [1, 3, 4])
def test_on_a_tpu_one_pass_gives_what_products_give(beams: int) -> None:
    absorbed = layer(13, 16, 577, 768, dtype="bfloat16")
    query = jax.random.normal(jax.random.key(0), (13, 16, beams, 8)).astype(jnp.bfloat16)
    expected = jax.jit(lambda x, q: x.read(q, dtype=jnp.bfloat16))(absorbed, query).astype(jnp.float32)
    found = jax.jit(lambda x, q: x.read(q, dtype=jnp.bfloat16))(OnePass(*absorbed), query).astype(jnp.float32)
    np.testing.assert_allclose(found, expected, atol=0.02 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("placed", [Placed("tpu", "TPU v5 lite", devices=2), Placed("tpu", "TPU v5 lite", sharing=2)])
def test_a_kernel_is_not_split_among_devices(placed: Placed) -> None:
    with pytest.raises(DecodeError, match="cannot split among 2 devices"):
        generation_plan.check_cross_attention("kernel", placed)
