"""Absorbed cross-attention of a decoder step in one pass over the memory, for NVIDIA's Hopper GPUs (H100, H200).

Two products of XLA read the memory of a batch from the GPU's memory twice. Here a block of threads takes an image: its
memory comes into shared memory 64 positions at a time, in chunks of columns, and is multiplied there twice, with a
softmax in between that is corrected as larger scores appear (Milakov and Gimelshein 2018; Dao et al. 2022). Positions
are the rows of both products, for which the tensor cores want 64, and the few queries of an image their columns.
Written in Pallas (Mosaic GPU); the twin is `attention_cross.Absorbed.read`. Figures are in benchmarks/README.md.

B images, R queries of each, S memory, M its width.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

POSITIONS = 64  # of a tile: what a warp group multiplies at a time
ALIGNMENT = 8  # of the number of positions: a tile in shared memory is made of 8 rows
SHARED_BYTES = 222 << 10  # of a block, some left for the compiler
ACCUMULATORS = 24 << 10  # numbers in the registers of a block that a query may be wide times how many there are


class Tiles(NamedTuple):
    """queries: of a block. chunk: columns that come into shared memory at a time. slots: chunks that have room there;
    those of a tile at least."""

    queries: int
    chunk: int
    slots: int


def tiles(rows: int, width: int) -> Tiles | None:
    """How a block works on so many queries an image; None if it cannot."""
    chunk = next((size for size in (256, 128, 64) if width % size == 0), 0)
    queries = next((size for size in (32, 16, 8) if rows % size == 0 and size * width <= ACCUMULATORS), 0)
    if not chunk or not queries:
        return None
    room = SHARED_BYTES - 2 * queries * (width + POSITIONS)
    slots = min(room // (2 * POSITIONS * chunk), 2 * width // chunk)
    return Tiles(queries, chunk, slots) if slots >= width // chunk else None


def read_memory(query: jax.Array, memory: jax.Array, length: int, *, interpret: Any = None) -> jax.Array:
    """softmax(query memoryᵀ) memory over the first `length` positions: query [B, R, M], memory [B, S, M] -> [B, R, M].

    Both in bf16, the query scaled; S a multiple of 8, at least `length`. Scores and softmax are f32.
    interpret: an InterpretGPUParams of jax, for tests.
    Raises ValueError if the shapes or types do not fit.
    """
    (images, rows, width), positions = query.shape, memory.shape[1]
    shape = tiles(rows, width)
    fits = memory.shape == (images, positions, width) and positions % ALIGNMENT == 0 and length <= positions
    if shape is None or not fits or {query.dtype, memory.dtype} != {jnp.dtype(jnp.bfloat16)}:
        raise ValueError(
            f"query {query.dtype}{list(query.shape)} and memory {memory.dtype}{list(memory.shape)} do not fit: "
            f"[B, R, M] and [B, S, M] in bfloat16, S a multiple of {ALIGNMENT}, M of 64 and R of 8, no more than "
            f"{ACCUMULATORS // 8} columns"
        )
    from jax.experimental.pallas import mosaic_gpu

    gpu: Any = mosaic_gpu  # its stubs name half of it

    chunks = width // shape.chunk
    swizzled = (gpu.TilingTransform((8, 64)), gpu.SwizzleTransform(128))
    call = gpu.kernel(
        partial(_kernel, shape=shape, length=length, interpreted=interpret is not None),
        out_type=jax.ShapeDtypeStruct(query.shape, query.dtype),
        grid=(rows // shape.queries, images),
        grid_names=("queries", "image"),
        scratch_types=[
            gpu.SMEM((chunks, shape.queries, shape.chunk), query.dtype, transforms=swizzled),
            gpu.SMEM((shape.slots, POSITIONS, shape.chunk), memory.dtype, transforms=swizzled),
            gpu.SMEM((shape.queries, POSITIONS), memory.dtype, transforms=swizzled),
            gpu.Barrier(num_arrivals=chunks),
            gpu.Barrier(num_barriers=shape.slots),
        ],
        compiler_params=gpu.CompilerParams(approx_math=True),
        **({} if interpret is None else {"interpret": interpret}),
    )
    return call(query, memory)


def _kernel(
    query: Any,
    memory: Any,
    out: Any,
    queries: Any,
    chunks: Any,
    weights: Any,
    queries_here: Any,
    chunk_here: Any,
    *,
    shape: Tiles,
    length: int,
    interpreted: bool,
) -> None:
    """query, out [B, R, M] and memory [B, S, M] in the GPU's memory. In shared memory: queries [M / C, Q, C], chunks
    [slots, 64, C], weights [Q, 64], and barriers that tell when queries and chunks have come."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import mosaic_gpu

    gpu: Any = mosaic_gpu  # its stubs name half of it

    image, first = lax.axis_index("image"), lax.axis_index("queries") * shape.queries
    columns = len(range(0, query.shape[2], shape.chunk))
    tiles = -(-length // POSITIONS)
    registers = gpu.Layout.WGMMA

    def full(size: tuple[int, ...], value: float, layout: Any) -> jax.Array:
        array = jnp.full(size, value, jnp.float32)
        return array if interpreted else gpu.layout_cast(array, layout)

    def rows_of_product() -> jax.Array:
        if interpreted:
            return lax.broadcasted_iota(jnp.int32, (POSITIONS, shape.queries), 0)
        return gpu.broadcasted_iota(jnp.int32, (POSITIONS, shape.queries), 0, layout=registers)

    def multiply(sums: tuple[jax.Array, ...], factors: Any) -> tuple[jax.Array, ...]:
        """Adds to each of the sums the products x yᵀ that belong to it, or xᵀ yᵀ, of arrays in shared memory."""
        if interpreted:
            found = list(sums)
            for place, x, x_turned, y in factors():
                x, y = x[...].T if x_turned else x[...], y[...].T
                found[place] += jnp.dot(x, y, preferred_element_type=jnp.float32)
            return tuple(found)

        def accumulate(accumulators: Any) -> None:
            for place, x, x_turned, y in factors():
                gpu.wgmma(accumulators[place], x.transpose((1, 0)) if x_turned else x, y.transpose((1, 0)))

        return pl.run_state(accumulate)(tuple(gpu.ACC.init(each) for each in sums))

    def put_turned(array: jax.Array, here: Any) -> None:
        array = array.astype(here.dtype)
        if interpreted:
            here[...] = array.T
        else:
            here.transpose((1, 0))[...] = array

    def fetch(number: jax.Array, slot: Any) -> None:
        """The chunk of that number, those of a tile one after another."""
        tile, column = (
            lax.div(number, jnp.array(columns, number.dtype)),
            lax.rem(number, jnp.array(columns, number.dtype)),
        )
        here = (image, pl.ds(tile * POSITIONS, POSITIONS), pl.ds(column * shape.chunk, shape.chunk))
        gpu.copy_gmem_to_smem(memory.at[here], chunks.at[slot], chunk_here.at[slot])

    def part(array: Any, column: int) -> Any:
        return array.at[image, pl.ds(first, shape.queries), pl.ds(column * shape.chunk, shape.chunk)]

    for column in range(columns):
        gpu.copy_gmem_to_smem(part(query, column), queries.at[column], queries_here)
    for number in range(min(shape.slots, tiles * columns)):
        fetch(jnp.int32(number), number)
    gpu.barrier_wait(queries_here)

    def tile(
        turn: jax.Array, carry: tuple[tuple[jax.Array, ...], jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, ...], jax.Array, jax.Array]:
        contexts, largest, total = carry  # contexts M / C times [C, Q], largest and total [Q]
        slots = [lax.rem(turn * columns + c, jnp.array(shape.slots, turn.dtype)) for c in range(columns)]

        def scored() -> Any:
            for column, slot in enumerate(slots):
                gpu.barrier_wait(chunk_here.at[slot])
                yield 0, chunks.at[slot], False, queries.at[column]

        (scores,) = multiply((full((POSITIONS, shape.queries), 0, registers),), scored)
        scores = jnp.where(rows_of_product() + turn * POSITIONS < length, scores * LOG2_E, -jnp.inf)
        larger = jnp.maximum(largest, scores.max(axis=0))
        correction = jnp.exp2(largest - larger)
        exponentials = jnp.exp2(scores - lax.broadcast_in_dim(larger, scores.shape, [1]))
        total = total * correction + exponentials.sum(axis=0)
        put_turned(exponentials, weights)
        gpu.commit_smem()
        contexts = tuple(x * lax.broadcast_in_dim(correction, x.shape, [1]) for x in contexts)

        def weighted() -> Any:
            for column, slot in enumerate(slots):
                yield column, chunks.at[slot], True, weights

        contexts = multiply(contexts, weighted)
        for column, slot in enumerate(slots):
            number = turn * columns + column + shape.slots
            pl.when(number < tiles * columns)(partial(fetch, number, slot))
        return contexts, larger, total

    contexts = tuple(full((shape.chunk, shape.queries), 0, registers) for _ in range(columns))
    ends = (full((shape.queries,), value, registers.reduce(0)) for value in (-math.inf, 0))
    contexts, _, total = lax.fori_loop(0, tiles, tile, (contexts, *ends))
    for column, context in enumerate(contexts):
        put_turned(context / lax.broadcast_in_dim(total, context.shape, [1]), queries.at[column])
    gpu.commit_smem()
    for column in range(columns):
        gpu.copy_smem_to_gmem(queries.at[column], part(out, column))
    gpu.wait_smem_to_gmem(0)


LOG2_E = np.float32(math.log2(math.e))
