"""Cross-attention of devices that share a model: each with its own heads.

Absorbed queries of an image are one axis, hypotheses times heads, which XLA cannot share out by heads where there are
several hypotheses: it gathers the queries of all heads at every layer, and every device computes them all.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from trocr_jax.attention import devices_of_heads
from trocr_jax.attention_cross import Absorbed, KeyColumns, OnePass, OnePassHopper


def read_by_heads(
    cross: KeyColumns | Absorbed | OnePass | OnePassHopper, query: jax.Array, *, dtype: DTypeLike
) -> jax.Array:
    """`cross.read` of query [B, N, K, H] -> [B, N, K, H], on a mesh with an axis `model` that shares out N."""
    devices = devices_of_heads()
    if isinstance(cross, KeyColumns | OnePassHopper) or devices == 1 or query.shape[1] % devices:
        return cross.read(query, dtype=dtype)
    whole, first, second = PartitionSpec(), PartitionSpec("model"), PartitionSpec(None, "model")

    def read(cross: Any, query: jax.Array) -> jax.Array:
        return cross.read(query, dtype=dtype)

    in_specs = (type(cross)(memory=whole, key=first, value=first, value_bias=first), second)  # type: ignore[arg-type]
    own = jax.shard_map(read, in_specs=in_specs, out_specs=second, axis_names={"model"}, check_vma=False)
    return own(cross, query)
