"""What runs on a GPU or a TPU alone, beside its plain twin: on a CPU as far as it can run there, on a GPU with
`JAX_PLATFORMS=cuda,cpu pytest tests/test_gpu_forms.py -n0`."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from tests.tiny import tiny_model
from trocr_jax import DecodeConfig, attention, attention_quantized, generate
from trocr_jax.attention import attend, gelu, gelu_for_bf16, on_chip
from trocr_jax.decoding import beam
from trocr_jax.decoding.beam_state import first_beams
from trocr_jax.decoding.top_k import in_blocks, in_rows, row_by_row, top_k_indices, top_k_of_images

needs_gpu = pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")


@partial(jax.jit, static_argnums=1)
def largest(x: jax.Array, k: int) -> tuple[jax.Array, ...]:
    return in_rows(x, k), in_blocks(x, k), top_k_indices(x, k)


@partial(jax.jit, static_argnums=(1, 2))
def largest_of_images(x: jax.Array, k: int, rows: int) -> tuple[jax.Array, ...]:
    """x [3 · rows, V]."""
    return in_rows(x.reshape(3, -1), k), row_by_row(x, k, rows=rows), top_k_of_images(x, k, rows=rows)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(1, 128), (1, 129), (2, 256), (2, 700), (4, 1024), (5, 641), (8, 1024), (8, 2023)]),
    st.integers(0, 2**31 - 1),
)
def test_the_largest_are_found_in_blocks(shape: tuple[int, int], seed: int) -> None:
    k, v = shape
    wanted, *found = largest(np.random.default_rng(seed).normal(size=(3, v)).astype(np.float32), k)
    for each in found:
        np.testing.assert_array_equal(each, wanted)


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from([(1, 1, 1), (1, 4, 12), (2, 3, 5), (3, 4, 1), (3, 3, 1), (4, 2, 7), (5, 4, 12), (5, 4, 2)]),
    st.integers(0, 2**31 - 1),
)
def test_the_largest_of_an_image_are_found_row_by_row(shape: tuple[int, int, int], seed: int) -> None:
    """As a TPU does it; many scores are equal, some barred."""
    rows, k, v = shape
    x = np.random.default_rng(seed).integers(0, 5, (3 * rows, v)).astype(np.float32)
    wanted, *found = largest_of_images(np.where(x == 4, -np.inf, x).astype(np.float32), min(k, rows * v), rows)
    for each in found:
        np.testing.assert_array_equal(each, wanted)


def test_blocks_are_looked_through_with_most_scores_barred() -> None:
    """As at the first step of a beam search, where one hypothesis counts, and with tokens that a constraint bars."""
    x = jnp.full((2, 3000), -jnp.inf).at[:, 2999].set(-1.0).at[0, 7].set(-2.0)
    assert in_blocks(x, 2)[:, 0].tolist() == [2999, 2999]
    assert int(in_blocks(x, 2)[0, 1]) == 7


def test_what_is_barred_is_no_score_of_another_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best score in the last block, which is padded, and fewer tokens possible than are looked for."""
    x = jnp.full((2, 64_044 * 3), -jnp.inf).at[0, -1].set(-1.0)
    assert int(in_blocks(x, 6).max()) < x.shape[1]
    monkeypatch.setattr(beam, "top_k_of_images", lambda x, k, *, rows: in_blocks(x.reshape(-1, rows * x.shape[1]), k))
    v, running = 1_068, first_beams(2, 3, 4, pad=1).running._replace(scores=jnp.zeros((2, 3)))
    log_probs = jnp.full((2, 3, v), -jnp.inf).at[1].set(-0.5).at[0, 2, v - 1].set(-2.0)
    found = beam.get_top_k_continuations(running, log_probs, log_probs, position=jnp.int32(0))
    assert found.scores[0].tolist() == [-2.0] + [-np.inf] * 5
    assert int(found.beam_indices[..., 0].max()) < 3


def test_gelu_is_exact() -> None:
    x = np.linspace(-12, 12, 100_001)
    np.testing.assert_allclose(gelu(jnp.asarray(x, jnp.float32)), x * ndtr(x), atol=2e-6)


def test_gelu_of_every_number_of_bf16() -> None:
    """Rounding alone is up to 2⁻⁸ off. And a slope where there is one."""
    x = jax.lax.bitcast_convert_type(jnp.arange(1 << 16, dtype=jnp.uint16), jnp.bfloat16)
    x = x[jnp.isfinite(x)]
    found = np.asarray(jax.jit(gelu_for_bf16)(x), np.float64)
    exact = np.asarray(x, np.float64) * ndtr(np.asarray(x, np.float64))
    assert (np.abs(found - exact) <= 1.06 * 2.0**-8 * np.abs(exact) + 1e-6).all()
    assert jnp.isfinite(jax.vmap(jax.grad(gelu_for_bf16))(x[jnp.abs(x) < 1000])).all()


@pytest.mark.parametrize(("t", "s"), [(13, 17), (14, 17), (14, 18)])
def test_attention_on_the_chip_with_an_odd_number_of_positions(t: int, s: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """XLA's attention in the place of cuDNN's, which takes no odd numbers in its gradient."""
    library = jax.nn.dot_product_attention

    def stand_in(query: jax.Array, key: jax.Array, value: jax.Array, **options: Any) -> jax.Array:
        assert options.pop("implementation") == "cudnn"
        assert not options or (query.shape[1] % 2 == 0 and key.shape[1] % 2 == 0)
        return library(query, key, value, implementation="xla", **options)

    arrays = [jax.random.normal(jax.random.key(i), (2, 3, n, 8)) for i, n in enumerate((t, s, s))]
    found = []
    for fused in (True, False):
        monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
        monkeypatch.setattr(attention, "on_chip", lambda query, dtype, fused=fused: fused)

        def loss(*arrays: jax.Array) -> jax.Array:
            with jax.default_matmul_precision("highest"):  # of the one in cuDNN's place, on a GPU
                return jnp.square(attend(*arrays, dtype=jnp.float32)).sum()

        found.append(jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*arrays))
    for a, b in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("capability", "dtype", "taken"),
    [(9.0, "bfloat16", True), (8.0, "float16", True), (7.5, "bfloat16", False), (0.0, "bfloat16", False),
     (9.0, "float32", False)],
)  # fmt: skip
def test_where_attention_stays_on_the_chip(
    capability: float, dtype: str, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not on GPUs before Ampere, nor on AMD's, for which cuDNN has none."""
    monkeypatch.setattr(attention_quantized, "compute_capability", lambda: capability)
    assert on_chip(jnp.zeros((2, 12, 577, 64)), dtype=jnp.dtype(dtype)) is taken


@needs_gpu
def test_attention_on_the_chip_is_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = (
        jax.random.normal(jax.random.key(i), (2, 12, s, 64), jnp.bfloat16) for i, s in ((0, 577), (1, 577), (2, 577))
    )
    assert on_chip(query, dtype=jnp.bfloat16)

    def both(*arrays: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        def loss(*arrays: jax.Array) -> tuple[jax.Array, jax.Array]:
            out = attend(*arrays, dtype=jnp.bfloat16).astype(jnp.float32)
            return jnp.square(out).sum(), out

        gradients, out = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(*arrays)
        return out, gradients

    fast = both(query, key, value)
    monkeypatch.setattr(attention, "on_chip", lambda query, dtype: False)
    plain = both(query, key, value)
    for a, b in zip(jax.tree.leaves(fast), jax.tree.leaves(plain), strict=True):
        difference = jnp.linalg.norm((a - b).astype(jnp.float32)) / jnp.linalg.norm(b.astype(jnp.float32))
        assert float(difference) < 1e-2  # of bf16 factors


@needs_gpu
@pytest.mark.parametrize("num_beams", [1, 4])
def test_a_gpu_writes_the_tokens_of_a_cpu(num_beams: int) -> None:
    config = DecodeConfig(num_beams=num_beams, max_new_tokens=12)
    with jax.default_device(jax.devices("cpu")[0]):
        model = tiny_model()
    size = model.config.encoder.image_size
    pixels = np.random.default_rng(0).uniform(-1, 1, (8, *size, 3)).astype(np.float32)
    found = []
    for device in (jax.devices("cpu")[0], jax.devices()[0]):
        with jax.default_device(device):
            there = jax.device_put(model, device)
            found.append(generate(there, jax.device_put(pixels, device), config, dtype=jnp.float32))
    np.testing.assert_array_equal(found[0].token_ids, found[1].token_ids)
    np.testing.assert_allclose(found[0].scores, found[1].scores, atol=1e-4)


@pytest.mark.parametrize(
    ("t", "head_dim", "taken"),
    [(128, 64, True), (127, 64, False), (577, 128, True), (577, 136, False), (577, 60, False)],
)
def test_queries_that_the_chip_takes(t: int, head_dim: int, taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN has no kernel for wider heads or odd ones, and few queries are faster without."""
    monkeypatch.setattr(attention_quantized, "compute_capability", lambda: 9.0)
    assert on_chip(jnp.zeros((2, 12, t, head_dim)), dtype=jnp.dtype("bfloat16")) is taken
