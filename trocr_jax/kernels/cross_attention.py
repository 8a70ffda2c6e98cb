"""Absorbed cross-attention of a decoder step in one pass over the memory, for TPUs.

XLA makes three programs of it (scores, softmax, context): where the memory of a batch lies in HBM it is read twice, and
the scores are written and read in between. Here the memory of an image comes into VMEM once, and what comes out is the
context. Written in Pallas (Mosaic); the twin is `attention_cross.Absorbed.read`.

It has been compiled for TPUs and run in interpret mode on CPUs, never on a TPU. By the compiler's schedule an image
takes less time than its memory takes to come (benchmarks/README.md).

B images, K hypotheses of each, S memory, M its width, N heads.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

LANES, SUBLANES = 128, 8  # of a TPU's registers
SPILLED = 24 << 20  # bytes of VMEM beside the blocks: products of f32 take 17 MiB of it, of bf16 hardly any


def read_memory(query: jax.Array, memory: jax.Array, *, interpret: bool = False) -> jax.Array:
    """softmax(query memoryᵀ) memory for every row of a query: query [N, B K, M], memory [B, S, M] -> [N, B K, M].

    Both in the same type, the query scaled; M a multiple of 128. Scores and softmax are f32, factors of products are
    of the type of the arguments. interpret: by jax instead of a TPU, for tests.
    Raises ValueError if the shapes or types do not fit.
    """
    (heads, rows, width), (images, length, _) = query.shape, memory.shape
    if width % LANES or memory.shape[2] != width or rows % images or query.dtype != memory.dtype:
        raise ValueError(
            f"query {query.dtype}{list(query.shape)} and memory {memory.dtype}{list(memory.shape)} do not fit: "
            f"[N, B K, M] and [B, S, M] of one type, with M a multiple of {LANES}"
        )
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    beams = rows // images
    group = group_size(beams)
    block = group * beams  # rows of each head
    queries = pl.BlockSpec((heads, block, width), lambda i: (0, i, 0))
    scratch = [pltpu.VMEM((block * heads, LANES), jnp.float32)] * (width // LANES)
    # two of each block, so that one comes or goes while the other is worked on
    vmem = 2 * query.dtype.itemsize * (group * length + 2 * heads * block) * width + 2 * 4 * block * heads * width
    call = pl.pallas_call(
        partial(_kernel, group=group),
        out_shape=jax.ShapeDtypeStruct(query.shape, query.dtype),
        grid=(pl.cdiv(images, group),),
        in_specs=[queries, pl.BlockSpec((group, length, width), lambda i: (i, 0, 0))],
        out_specs=queries,
        scratch_shapes=[scratch, scratch],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",), vmem_limit_bytes=vmem + SPILLED),
        interpret=interpret,
    )
    return call(query, memory)


def group_size(beams: int) -> int:
    """Images of a turn of the grid: the fewest whose hypotheses fill whole tiles of a head's rows."""
    return SUBLANES // math.gcd(beams, SUBLANES)


def _kernel(query: Any, memory: Any, out: Any, rows: Any, contexts: Any, *, group: int) -> None:
    """query, out [N, G K, M], memory [G, S, M], rows and contexts M / 128 times [G K N, 128] f32 to turn them round in.

    Heads lie far apart in what the projection before leaves behind. Rows of an image are brought together by writing
    those of each head N rows apart; columns of 128 because a TPU writes with such steps only what is one register wide.
    """
    from jax.experimental import pallas as pl

    heads, block, width = query.shape
    columns = range(width // LANES)
    for n in range(heads):
        of_head = query[n].astype(jnp.float32)
        for c in columns:
            rows[c][pl.ds(n, block, heads), :] = of_head[:, c * LANES : (c + 1) * LANES]
    size = block * heads // group  # R = K N rows an image
    for g in range(group):
        own = pl.ds(g * size, size)
        x = jnp.concatenate([rows[c][own, :] for c in columns], axis=1).astype(query.dtype)
        context = _attend(x, memory[g])
        for c in columns:
            contexts[c][own, :] = context[:, c * LANES : (c + 1) * LANES]
    for n in range(heads):
        of_head = jnp.concatenate([contexts[c][pl.ds(n, block, heads), :] for c in columns], axis=1)
        out[n] = of_head.astype(out.dtype)


def _attend(x: jax.Array, memory: jax.Array) -> jax.Array:
    """x [R, M], memory [S, M] -> [R, M] f32."""
    precision = jax.lax.Precision.HIGHEST if memory.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    product = partial(jax.lax.dot_general, precision=precision, preferred_element_type=jnp.float32)
    scores = product(x, memory, (((1,), (1,)), ((), ())))
    weights = jnp.exp(scores - scores.max(axis=1, keepdims=True))
    total = weights.sum(axis=1, keepdims=True)
    return product(weights.astype(memory.dtype), memory, (((1,), (0,)), ((), ()))) / total
