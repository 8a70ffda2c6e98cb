"""Products with int8 weights beside those of floats, in the forms of `trocr_jax.attention_quantized`.

    python -m benchmarks.products --rows 8 32 --width 1024 --out 4096
    python -m benchmarks.products --rows 64 --topology v5e:2x2

Some matrices in turn, so that they do not stay in a cache, inside a loop, as a decoder reads them. Printed are medians;
for a TPU that is not there (extra tpu) the cycles that its compiler estimates for one product of bf16 activations.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import SingleDeviceSharding

from benchmarks.chips import target_of
from benchmarks.roofline_measure import seconds
from trocr_jax.attention_quantized import BLOCK, rows_and_weights, weights_alone
from trocr_jax.attention_turned import times_turned

Form = Callable[[jax.Array, jax.Array], jax.Array]
MATRICES, TURNS = 12, 4  # that take turns, and how often
PARTS = {"bf16": jnp.bfloat16, "f32": jnp.float32}


def floats(dtype: Any) -> Form:
    def form(x: jax.Array, weights: jax.Array) -> jax.Array:
        return jnp.einsum("AD,DF->AF", x.astype(dtype), weights, preferred_element_type=jnp.float32)

    return form


def widened(dtype: Any) -> Form:
    def form(x: jax.Array, weights: jax.Array) -> jax.Array:
        return weights_alone(x[None], weights, jnp.ones(weights.shape[1]), dtype=dtype, out=jnp.float32)[0]

    return form


def integers(x: jax.Array, weights: jax.Array) -> jax.Array:
    """As the model multiplies: for few rows a long contraction in parts."""
    return rows_and_weights(x[None], weights, jnp.ones(weights.shape[1]), out=jnp.float32)[0]


def turned(dtype: Any) -> Form:
    """With weights [out, width]."""

    def form(x: jax.Array, weights: jax.Array) -> jax.Array:
        return times_turned(x.astype(dtype), weights, out=jnp.float32)

    return form


def integers_turned(x: jax.Array, weights: jax.Array) -> jax.Array:
    """With weights [out, width]."""
    return rows_and_weights(x[None], weights, jnp.ones(len(weights)), out=jnp.float32, turned=True)[0]


def at_once(x: jax.Array, weights: jax.Array) -> jax.Array:
    y = jnp.einsum("AD,DF->AF", x.astype(jnp.int8), weights, preferred_element_type=jnp.int32)
    return y.astype(jnp.float32)


def main(
    rows: tuple[int, ...] = (8, 32, 1154),
    width: int = 1024,
    out: int = 4096,
    topology: str | None = None,
) -> None:
    """Prints Markdown.

    Args:
        rows: of activations.
        width: of a row.
        out: of a result.
        topology: of a TPU to compile for instead, as of `python -m train compile`.
    """
    if topology is not None:
        print("\n".join(estimated(topology, rows, width, out)))
        return
    random = np.random.default_rng(0)
    small = [jnp.asarray(random.integers(-127, 128, (width, out)), jnp.int8) for _ in range(MATRICES)]
    forms: dict[str, tuple[Form, Any]] = {}
    for name, dtype in PARTS.items():
        forms |= {name: (floats(dtype), dtype), f"{name}, widened": (widened(dtype), None)}
        forms |= {f"{name}, turned": (turned(dtype), dtype)}
    forms |= {"int8 × int8": (integers, None), "int8 × int8, turned": (integers_turned, None)}
    if width > BLOCK:
        forms |= {"int8 × int8, at once": (at_once, None)}
    print(f"[rows, {width}] × [{width}, {out}], ms a product\n")
    print("| rows | " + " | ".join(forms) + " |\n" + "|---" * (1 + len(forms)) + "|")
    for count in rows:
        x = jnp.asarray(random.normal(size=(count, width)), jnp.float32)
        cells = []
        for name, (form, dtype) in forms.items():
            weights = [w if dtype is None else w.astype(dtype) for w in small]
            weights = [w.T for w in weights] if "turned" in name else weights
            cells.append(f"{measured(form, x, weights) * 1e3:.3f}")
        print(f"| {count} | " + " | ".join(cells) + " |", flush=True)


def estimated(topology: str, rows: tuple[int, ...], width: int, out: int) -> list[str]:
    """Cycles of each form on one device."""
    from train.ahead.hlo import work

    device = SingleDeviceSharding(target_of(topology).devices[0])
    forms: dict[str, tuple[Form, Any]] = {"bf16": (floats(jnp.bfloat16), jnp.bfloat16)}
    forms |= {"bf16, widened": (widened(jnp.bfloat16), jnp.int8), "int8 × int8": (integers, jnp.int8)}
    table = [f"[rows, {width}] × [{width}, {out}], estimated cycles, {topology}", ""]
    table += ["| rows | " + " | ".join(forms) + " |", "|---" * (1 + len(forms)) + "|"]
    for count in rows:
        cells = []
        for form, dtype in forms.values():
            x = jax.ShapeDtypeStruct((count, width), jnp.bfloat16, sharding=device)
            weights = jax.ShapeDtypeStruct((width, out), dtype, sharding=device)
            compiled = jax.jit(rounded(form)).lower(x, weights).compile()
            cells.append(f"{work(compiled.as_text() or '').cycles:,}")
        table.append(f"| {count} | " + " | ".join(cells) + " |")
    return table


def rounded(form: Form) -> Form:
    return lambda x, weights: form(x, weights).astype(jnp.bfloat16)


def measured(form: Form, x: jax.Array, weights: list[jax.Array]) -> float:
    """Seconds of one product."""

    @jax.jit
    def run(x: jax.Array, weights: list[jax.Array], turns: jax.Array) -> jax.Array:
        def turn(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            number, x = state
            for matrix in weights:
                y = form(x, matrix)
                x = x + y[:, :1] * np.float32(1e-9)  # the next one waits for it
            return number + 1, x

        return jax.lax.while_loop(lambda state: state[0] < turns, turn, (jnp.int32(0), x))[1]

    return statistics.median(seconds(lambda: run(x, weights, jnp.int32(TURNS)))) / TURNS / len(weights)


if __name__ == "__main__":
    tyro.cli(main)
