"""The kernel for Hopper GPUs beside its plain twin: in interpret mode, and on such a GPU:
`JAX_PLATFORMS=cuda,cpu pytest tests/test_kernel_hopper.py -n0`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams  # public from jax 0.11 on

from tests.tiny import tiny_config
from trocr_jax import DecodeConfig, generation_plan
from trocr_jax.attention_cross import Absorbed, OnePassHopper, on_hopper
from trocr_jax.config import TrOCRConfig
from trocr_jax.errors import DecodeError
from trocr_jax.generation_plan import Placed, is_hopper, placed_on, plan
from trocr_jax.generation_refill import Refill
from trocr_jax.kernels import cross_attention_hopper
from trocr_jax.kernels.cross_attention_hopper import SHARED_BYTES, Tiles, read_memory, tiles
from trocr_jax.model import TrOCR

H200 = Placed("gpu", "NVIDIA H200")
BASE, SMALL, LARGE = map(TrOCRConfig.preset, ("base-handwritten", "small-printed", "large-handwritten"))
needs_hopper = pytest.mark.skipif(not is_hopper(placed_on(None)), reason="needs an H100 or H200")


def arrays(images: int, rows: int, positions: int, width: int) -> tuple[jax.Array, jax.Array]:
    keys = jax.random.split(jax.random.key(rows + width), 2)
    query = 0.1 * jax.random.normal(keys[0], (images, rows, width))
    return query.astype(jnp.bfloat16), jax.random.normal(keys[1], (images, positions, width)).astype(jnp.bfloat16)


def exactly(query: jax.Array, memory: jax.Array) -> np.ndarray:
    x, m = (np.asarray(array, np.float64) for array in (query, memory))
    scores = np.einsum("brm,bsm->brs", x, m)
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    found: np.ndarray = np.einsum("brs,bsm->brm", weights / weights.sum(axis=2, keepdims=True), m)
    return found


@pytest.mark.parametrize(
    ("rows", "positions", "length", "width"),
    [
        (32, 192, 130, 384),  # tiles of 64 positions, the last with 2 that count
        (8, 64, 64, 256),
        (16, 128, 65, 64),
        (24, 64, 3, 128),  # three blocks of queries
    ],
)
def test_one_pass_gives_what_products_give(rows: int, positions: int, length: int, width: int) -> None:
    query, memory = arrays(2, rows, positions, width)
    found = read_memory(query, memory, length, interpret=InterpretGPUParams())
    np.testing.assert_allclose(
        np.asarray(found, np.float32), exactly(query, memory[:, :length]), atol=0.01
    )  # of numbers up to 3, in bf16


def test_a_layer_reads_as_by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads and hypotheses are brought to the kernel's order and back, and positions padded."""
    monkeypatch.setattr(cross_attention_hopper, "read_memory", partial(read_memory, interpret=InterpretGPUParams()))
    monkeypatch.setattr(cross_attention_hopper, "ALIGNMENT", 64)  # jax 0.10 does not interpret what lies beyond
    keys = jax.random.split(jax.random.key(0), 5)
    shapes = ((3, 37, 128), (4, 16, 128), (4, 128, 16), (4, 16))
    layer = Absorbed(*(jax.random.normal(key, s).astype(jnp.bfloat16) for key, s in zip(keys, shapes, strict=False)))
    query = jax.random.normal(keys[4], (3, 4, 2, 16)).astype(jnp.bfloat16)
    (kernel,) = on_hopper([layer])
    assert isinstance(kernel, OnePassHopper)
    assert kernel.memory.shape == (3, 64, 128)
    found, want = (one.read(query, dtype=jnp.bfloat16).astype(jnp.float32) for one in (kernel, layer))
    np.testing.assert_allclose(found, want, atol=0.03 * float(jnp.abs(want).max()))


@pytest.mark.parametrize(("rows", "width"), [(16, 768), (64, 768), (80, 768), (8, 384), (32, 384), (16, 1024)])
def test_a_block_has_room(rows: int, width: int) -> None:
    found = tiles(rows, width)
    assert found is not None
    assert found.slots >= width // found.chunk
    shared = 2 * found.queries * width + 2 * found.slots * 64 * found.chunk + 2 * found.queries * 64
    assert shared <= SHARED_BYTES
    assert rows % found.queries == 0


def test_where_the_kernel_is_taken() -> None:
    def taken(model: TrOCRConfig = BASE, *, dtype: Any = jnp.bfloat16, placed: Placed = H200, **options: Any) -> Any:
        return plan(DecodeConfig(**options), model, placed=placed, dtype=dtype)[0].one_pass

    assert taken() == taken(num_beams=4) == taken(SMALL) == taken(SMALL, num_beams=4) == taken(LARGE) == "hopper"
    assert taken(num_beams=5) is None  # 80 queries in five blocks: products are faster
    assert taken(LARGE, num_beams=4) is None
    assert taken(dtype=jnp.float32) is None
    assert taken(cache_dtype="int8") is None
    assert taken(placed=Placed("gpu", "NVIDIA A100-SXM4-80GB")) is None
    assert taken(placed=H200._replace(devices=2)) is None
    assert taken(placed=H200._replace(split=True)) is None
    assert taken(placed=Placed("tpu", "TPU v5 lite")) is None
    assert plan(DecodeConfig(), BASE, placed=H200, dtype=jnp.bfloat16, cross_attention="products")[0].one_pass is None
    asked = plan(DecodeConfig(num_beams=5), BASE, placed=H200, dtype=jnp.bfloat16, cross_attention="kernel")[0]
    assert asked.one_pass == "hopper"


def test_what_the_kernel_cannot_do_is_said() -> None:
    asked = partial(plan, DecodeConfig(), BASE, cross_attention="kernel")
    with pytest.raises(DecodeError, match=r"in bfloat16.*this is in float32"):
        asked(placed=H200, dtype=jnp.float32)
    with pytest.raises(DecodeError, match=r"for TPUs, H100 and H200, and this is a gpu"):
        asked(placed=Placed("gpu", "NVIDIA A100-SXM4-80GB"), dtype=jnp.bfloat16)
    with pytest.raises(DecodeError, match="cache_dtype is 'int8'"):
        plan(DecodeConfig(cache_dtype="int8"), BASE, placed=H200, dtype=jnp.bfloat16, cross_attention="kernel")
    query, memory = arrays(2, 16, 60, 128)
    with pytest.raises(ValueError, match=r"bfloat16\[2, 16, 128\] and memory bfloat16\[2, 60, 128\] do not fit"):
        read_memory(query, memory, 60)
    with pytest.raises(ValueError, match="do not fit"):
        read_memory(query[:, :5], memory[:, :56], 56)
    assert tiles(5, 128) is None
    assert tiles(16, 100) is None
    assert tiles(16, 768) == Tiles(queries=16, chunk=256, slots=6)


def test_slots_read_by_products_where_others_take_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config()
    encoder = replace(config.encoder, hidden_size=64)
    config = replace(
        config, encoder=encoder, decoder=replace(config.decoder, num_heads=8, cross_attention_hidden_size=64)
    )
    monkeypatch.setattr(generation_plan, "placed_on", lambda split: H200)
    decode = DecodeConfig(max_new_tokens=5)
    assert plan(decode, config, dtype=jnp.bfloat16, cross_attention="auto")[0].one_pass == "hopper"
    slots = partial(Refill, TrOCR(config), decode, slots=2, group=2, dtype=jnp.bfloat16)
    assert slots(cross_attention="auto")._shape.one_pass is None
    with pytest.raises(DecodeError, match="slots on a GPU read by 'products'"):
        slots(cross_attention="kernel")


@needs_hopper
@pytest.mark.parametrize(("rows", "width"), [(16, 768), (64, 768), (80, 768), (8, 384), (32, 384), (16, 1024)])
def test_on_a_gpu(rows: int, width: int) -> None:
    query, memory = arrays(3, rows, 584, width)
    found = read_memory(query, memory, 577)
    np.testing.assert_allclose(np.asarray(found, np.float32), exactly(query, memory[:, :577]), atol=0.01)


@needs_hopper
def test_slots_say_that_they_read_by_products() -> None:
    from tests.tiny import tiny_model

    with pytest.raises(DecodeError, match="cross_attention"):
        Refill(tiny_model(), DecodeConfig(max_new_tokens=5), slots=2, group=2, cross_attention="kernel")
