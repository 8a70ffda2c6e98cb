"""A program compiled for a target: what it needs, what it does, and what to change if it does not fit."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import jax
from jax.sharding import Mesh

from train.ahead.hlo import Work, work
from train.ahead.targets import Target
from train.flops import peak
from train.recipe import Recipe, Stage

GIB = 2**30


@dataclass(frozen=True)
class Compiled:
    """memory: bytes on each device, of which `arguments` are there before it starts; work: none if it did not compile
    for want of memory."""

    memory: int
    arguments: int
    seconds: float
    work: Work | None


def compile_program(lowered: jax.stages.Lowered) -> Compiled:
    """Raises what the compiler raises, but for memory that does not suffice."""
    started = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        size = needed(str(error))
        if size is None:
            raise
        return Compiled(size, 0, time.perf_counter() - started, None)
    seconds = time.perf_counter() - started
    m, text = compiled.memory_analysis(), compiled.as_text()
    if m is None or text is None:
        raise RuntimeError("the compiler says nothing of memory, or shows no program")
    found = work(text)
    if found.cycles is not None:  # a TPU: what is compared with its memory; temporaries of loops are counted twice
        return Compiled(m.peak_memory_in_bytes, m.argument_size_in_bytes, seconds, found)
    # outputs that lie in donated arguments are counted with these
    total = m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes
    return Compiled(total + m.generated_code_size_in_bytes, m.argument_size_in_bytes, seconds, found)


def mfu_bound(cycles: int, flops: float, target: Target) -> float | None:
    """The share of peak FLOP/s if the step takes no longer than its estimated cycles."""
    each = peak(target.devices[0])
    if each is None or target.clock is None:
        return None
    return flops / (cycles / target.clock) / (each * len(target.devices))


def lines(name: str, compiled: Compiled, target: Target, *, beside: int = 0) -> Iterator[str]:
    """What is printed of a program. beside: bytes on each device that are there too while it runs."""
    memory = compiled.memory + beside
    more = f", {beside / GIB:.2f} of them the rest of the training state" if beside else ""
    yield f"{name}: compiled in {compiled.seconds:.0f} s" if compiled.work else f"{name}: does not compile"
    yield (
        f"  memory of a device  {memory / GIB:.2f} GiB of {target.memory / GIB:.2f} ({memory / target.memory:.0%})"
        f"{more}{'' if memory <= target.memory else ': OUT OF MEMORY'}"
    )
    if compiled.work is not None:
        yield from _work(compiled.work, target, indent="  ")


def advice(recipe: Recipe, stage: Stage, mesh: Mesh, excess: float) -> str:
    """What to change in a recipe whose step does not fit, the cheapest first. excess: GiB."""
    ways = []
    if not recipe.remat_encoder:
        ways.append("remat_encoder=True")
    if not recipe.remat_decoder:
        ways.append("remat_decoder=True")
    shares = mesh.shape["data"] * mesh.shape["fsdp"]
    if stage.batch_size // stage.micro_batches > shares:
        ways.append(f"micro_batches={2 * stage.micro_batches}")
    if mesh.shape["fsdp"] < shares:
        fsdp = 2 * mesh.shape["fsdp"]
        ways.append(f'mesh="data={shares // fsdp},fsdp={fsdp},model={mesh.shape["model"]}"')
    if recipe.optimizer.ema_decay is not None:
        ways.append("optimizer.ema_decay=None")
    ways.append("a smaller batch_size, or more devices")
    return f"{excess:.2f} GiB too much on each device. In the recipe, the cheapest first: {'; '.join(ways)}"


def _work(found: Work, target: Target, *, indent: str) -> Iterator[str]:
    if found.cycles is not None and target.clock is not None:
        yield f"{indent}estimated cycles    {found.cycles:,} ({found.cycles / target.clock * 1e3:.1f} ms)"
    for kind, count in sorted(found.count.items()):
        yield f"{indent}{kind:<19} {count}, {found.bytes[kind] / 2**20:,.1f} MiB on each device"
    if not found.count:
        yield f"{indent}collectives         none"
    for loop in found.loops:
        yield f"{indent}and in each turn of a loop:"
        yield from _work(loop, target, indent=indent + "  ")


def needed(message: str) -> int | None:
    """Bytes, from libtpu's message about memory that does not suffice."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    found = re.search(r"Used ([\d.]+)([KMGT]) of|total memory required[^(]*\(([\d.]+)([KMGT])\)", message)
    if found is None:
        return None
    number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
    return int(float(number) * 2 ** {"K": 10, "M": 20, "G": 30, "T": 40}[unit])
