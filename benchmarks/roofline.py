"""How fast chips could run the programs of this project at best: their operations and bytes, counted, beside what the
chips can do; and, with --measure, how much of that is reached here.

    python -m benchmarks.roofline --shape base --dtype bfloat16 --batch 128
    python -m benchmarks.roofline --shape base --dtype float32 --batch 8 --measure

A program takes at least the longer of two times: that of its operations and that of its bytes (`roofline_count.state`).
Beside it stands the time when every product goes through memory (`roofline_count.products`); a compiler without kernels
that span products is between the two. Softmax, norms and the search itself are taken as free. A line is the encoder,
the preparation of cross-attention and as many steps of the decoder as it has tokens.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro
from flax import nnx

from benchmarks.chips import CHIPS, Chip
from benchmarks.engine import check, config_of, machine
from benchmarks.roofline_count import Work, count
from trocr_jax import TrOCR, generation_plan
from trocr_jax.quantization import quantize

Precision = Literal["float32", "bfloat16", "int8"]
PROGRAMS = ("encoder", "preparation", "step")


@dataclass(frozen=True)
class Asked:
    """A search on a shape: what the programs are made for. int8 computes in bf16, on a CPU in f32."""

    shape: str
    dtype: Precision
    batch: int
    num_beams: int
    tokens: int

    def compute(self, platform: str) -> Any:
        if self.dtype == "int8":
            return jnp.dtype(jnp.float32 if platform == "cpu" else jnp.bfloat16)
        return jnp.dtype(self.dtype)

    def model(self, platform: str) -> TrOCR:
        """With parameters; under `nnx.eval_shape` their shapes."""
        model = TrOCR(config_of(self.shape), param_dtype=self.compute(platform))
        return quantize(model) if self.dtype == "int8" else model


@dataclass(frozen=True)
class Bound:
    """Seconds that a program takes at least: for its operations, for the bytes that it cannot do without, for those of
    products that go through memory."""

    operations: float
    state: float
    products: float

    @property
    def least(self) -> float:
        return max(self.operations, self.state)

    @property
    def unfused(self) -> float:
        return max(self.operations, self.products)


def programs(asked: Asked, platform: str) -> dict[str, Any]:
    """Functions of the model and the arrays named in `arguments`, as `generation` runs them."""
    config, dtype = config_of(asked.shape), asked.compute(platform)
    absorbed = generation_plan.absorbs(asked.num_beams * asked.tokens, config, platform=platform)

    def encoder(model: TrOCR, pixels: jax.Array) -> Any:
        return model.encode(pixels, dtype=dtype)

    def preparation(model: TrOCR, memory: jax.Array) -> Any:
        return model.absorb(memory, dtype=dtype) if absorbed else model.prime(memory, dtype=dtype)

    def step(model: TrOCR, tokens: jax.Array, cache: Any, position: jax.Array, cross: Any) -> Any:
        return model.step(tokens, cache, position, cross, dtype=dtype)

    return {"encoder": encoder, "preparation": preparation, "step": step}


@functools.lru_cache
def counted(asked: Asked, platform: str) -> dict[str, Work]:
    """What each program does, once."""
    config, dtype = config_of(asked.shape), asked.compute(platform)
    model = nnx.eval_shape(lambda: asked.model(platform))
    made = programs(asked, platform)
    pixels = jax.ShapeDtypeStruct((asked.batch, *config.encoder.image_size, 3), jnp.float32)
    memory = jax.eval_shape(made["encoder"], model, pixels)
    cross = jax.eval_shape(made["preparation"], model, memory)
    cache = jax.eval_shape(lambda m: m.init_cache(asked.batch, asked.num_beams, asked.tokens, dtype=dtype), model)
    tokens = jax.ShapeDtypeStruct((asked.batch, asked.num_beams), jnp.int32)
    given = {
        "encoder": (pixels,),
        "preparation": (memory,),
        "step": (tokens, cache, jax.ShapeDtypeStruct((), jnp.int32), cross),
    }
    return {name: count(made[name], model, *given[name], platform=platform) for name in PROGRAMS}


def bound(work: Work, chip: Chip) -> Bound:
    return Bound(chip.seconds(work.operations), work.state / chip.bandwidth, work.products / chip.bandwidth)


def line(bounds: dict[str, Bound], tokens: int) -> tuple[float, float]:
    """Seconds of a batch from pixels to text, at least and unfused."""
    times = {"encoder": 1, "preparation": 1, "step": tokens}
    least = sum(number * bounds[name].least for name, number in times.items())
    return least, sum(number * bounds[name].unfused for name, number in times.items())


def main(
    shape: tuple[Literal["tiny", "small", "base", "large"], ...] = ("base",),
    dtype: tuple[Precision, ...] = ("bfloat16",),
    num_beams: tuple[int, ...] = (1, 4),
    chips: tuple[str, ...] = tuple(CHIPS),
    batch: int = 128,
    tokens: int = 20,
    cpu: tuple[float, float, float, float] | None = None,
    measure: bool = False,
) -> None:
    """Prints Markdown tables.

    Args:
        shape: of published models; tiny: of the built-in one.
        dtype: of weights and arithmetic; int8: weights as `python -m convert quantize` makes them.
        num_beams: hypotheses a line.
        chips: by name.
        batch: lines at a time.
        tokens: of a line.
        cpu: another one, by what it was measured to do: GFLOP/s in f32, in bf16 and in int8, GB/s of its memory.
        measure: also run the programs here, on the chip that jax has or on this CPU, whose rates are measured first;
            the tables are of it alone, whatever chips and cpu say.
    """
    if unknown := set(chips) - CHIPS.keys():
        raise SystemExit(f"no such chip: {', '.join(sorted(unknown))}; there are {', '.join(CHIPS)}")
    chosen = {name: CHIPS[name] for name in chips}
    if cpu is not None:
        if min(cpu) <= 0:
            raise SystemExit(f"--cpu {' '.join(map(str, cpu))}: its rates must be above 0")
        chosen["CPU"] = described(*cpu)
    for name in shape:
        for beams in num_beams:
            check(config_of(name), (batch,), tokens, beams)
    here = None
    if measure:
        from benchmarks.roofline_measure import this_machine

        here = this_machine()
        chosen = {"here": here}
        print(f"{machine()}; {time.strftime('%Y-%m-%d')}; here: {rates(here)}\n")
    all_asked = [Asked(s, d, batch, k, tokens) for s in shape for d in dtype for k in num_beams]
    print(f"{batch} lines at a time, {tokens} tokens each\n")
    print("\n".join(counts(all_asked, sorted({chip.platform for chip in chosen.values()}))), end="\n\n")
    print("\n".join(bounds_table(all_asked, chosen)))
    if here is not None:
        from benchmarks.roofline_measure import measured_table

        print("\n" + "\n".join(measured_table(all_asked, here)))


def described(f32: float, bf16: float, int8: float, bandwidth: float) -> Chip:
    """A CPU by its GFLOP/s and GB/s."""
    operations = {"float32": f32 * 1e9, "bfloat16": bf16 * 1e9, "int8": int8 * 1e9}
    return Chip("cpu", (), operations, bandwidth * 1e9)


def rates(chip: Chip) -> str:
    kinds = ", ".join(f"{kind} {number / 1e9:,.0f} GFLOP/s" for kind, number in chip.operations.items())
    return f"{kinds}, {chip.bandwidth / 1e9:,.1f} GB/s"


def counts(all_asked: list[Asked], platforms: list[str]) -> list[str]:
    """What a line costs: the batch's work, shared out."""
    rows = [
        "| shape | weights | beams | platform | program | GFLOP a line | MB a batch: state | products |",
        "|---" * 8 + "|",
    ]
    for asked in all_asked:
        works = {platform: counted(asked, platform) for platform in platforms}
        for name in PROGRAMS:
            same: dict[tuple[str, str, str], list[str]] = {}
            for platform, found in works.items():
                work = found[name]
                kinds = " + ".join(
                    f"{number / asked.batch / 1e9:.2f} {kind}" for kind, number in sorted(work.operations.items())
                )
                figures = (kinds or "0", f"{work.state / 1e6:,.0f}", f"{work.products / 1e6:,.0f}")
                same.setdefault(figures, []).append(platform)
            for figures, who in same.items():
                cells = [asked.shape, asked.dtype, str(asked.num_beams), ", ".join(who), name, *figures]
                rows.append("| " + " | ".join(cells) + " |")
    return rows


def bounds_table(all_asked: list[Asked], chips: dict[str, Chip]) -> list[str]:
    """Times of the programs and what binds them; then lines/s at most, and unfused."""
    rows = [
        "| shape | weights | beams | chip | encoder, ms | preparation, ms | a step, ms |",
        "|---" * 7 + "|",
    ]
    speeds = ["", f"| lines/s: shape | weights | beams | {' | '.join(chips)} |", "|---" * (3 + len(chips)) + "|"]
    for asked in all_asked:
        lines = []
        works = {platform: counted(asked, platform) for platform in {chip.platform for chip in chips.values()}}
        for name, chip in chips.items():
            bounds = {program: bound(work, chip) for program, work in works[chip.platform].items()}
            cells = [asked.shape, asked.dtype, str(asked.num_beams), name]
            cells += [shown(bounds[program]) for program in PROGRAMS]
            rows.append("| " + " | ".join(cells) + " |")
            per_second = [asked.batch / seconds for seconds in line(bounds, asked.tokens)]
            lines.append(" / ".join(f"{number:,.{0 if number >= 100 else 2}f}" for number in per_second))
        speeds.append("| " + " | ".join([asked.shape, asked.dtype, str(asked.num_beams), *lines]) + " |")
    return rows + speeds


def shown(found: Bound) -> str:
    binds = "operations" if found.operations >= found.state else "memory"
    return f"{found.least * 1e3:.3g} ({binds})"


if __name__ == "__main__":
    tyro.cli(main)
