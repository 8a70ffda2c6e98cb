"""What the TPU compiler estimates for a line, chip by chip, without a TPU; and whether that has become worse.

    python -m benchmarks.tpu                    compiles everything and compares it with benchmarks/tpu.json
    python -m benchmarks.tpu --write            and writes it there: say in the commit why a figure rose
    python -m benchmarks.tpu --chips v5e --programs encoder

One device, bf16, parameters that are shapes alone. Estimated cycles rank programs and are no speed of a chip; TopK and
sorts have no estimate and are left out, kernels are counted by `benchmarks.tpu_kernel`. Memory is what the compiler
compares with the chip's before it refuses a program. The status is 1 if a figure is more than TOLERANCE above the
file's, or not in the file; figures of another jax or libtpu than the file's are told, not judged. Needs the extras
train and tpu.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks.tpu_kernel import schedule
from trocr_jax.config import TrOCRConfig
from trocr_jax.errors import ConfigError

FILE = Path(__file__).with_suffix(".json")
TOLERANCE = 0.01  # of a figure: schedules differ by as much for reasons that are nobody's
CHIPS = ("v5e", "v5p", "v6e")
TOPOLOGY = {"v5e": "v5e:1x1", "v5p": "v5p:1x1x1", "v6e": "v6e:1x1"}
TOKENS, ENCODER_BATCH, STEP_BATCH = 32, 32, 64
LARGE_BATCH = 512  # its memory is in HBM; of 64 lines it fits the chip's VMEM
GENERATION_BATCH, INT8_GENERATION_BATCH = 4096, 7168  # on 16 GB
SHAPE = "base-handwritten"


@dataclass(frozen=True)
class Row:
    """microseconds: of a line, estimated cycles over the chip's clock. megabytes: of the device while it runs."""

    chip: str
    program: str
    batch: int
    microseconds: float
    megabytes: float
    jax: str
    libtpu: str

    @property
    def key(self) -> tuple[str, str, int]:
        return self.chip, self.program, self.batch


def main(
    chips: tuple[str, ...] = CHIPS,
    programs: tuple[str, ...] = (),
    write: bool = False,
    file: Path = FILE,
) -> int:
    """Compiles, prints, compares.

    Args:
        chips: v5e, v5p, v6e.
        programs: encoder, greedy step, beam-4 step (of the decoder, the search with it) and the others of PROGRAMS; all
            if none.
        write: keeps the figures in `file` instead of comparing with it.
        file: JSON lines of the figures.
    """
    for option, given, names in (("--chips", chips, CHIPS), ("--programs", programs, tuple(PROGRAMS))):
        if unknown := [name for name in given if name not in names]:
            print(f"{option} {unknown[0]!r} is unknown; there are {'; '.join(names)}", file=sys.stderr)
            return 2

    try:
        before = {row.key: row for row in rows(file)}
    except FileNotFoundError:
        if not write or not file.parent.is_dir():
            print(f"{file}: no such file; check --file, or write a new one with --write", file=sys.stderr)
            return 2
        before = {}
    except (ValueError, TypeError) as error:
        print(f"{file}: is no file of figures ({error}); restore it", file=sys.stderr)
        return 2

    from train.ahead.environment import prepare

    prepare("tpu")
    found = {}
    for chip in chips:
        for program in programs or [name for name, program in PROGRAMS.items() if chip in program.chips]:
            try:
                row = compiled(chip, program)
            except ConfigError as error:  # no libtpu
                print(error, file=sys.stderr)
                return 2
            found[row.key] = row
            print(described(row, before.get(row.key)), flush=True)
    if write:
        kept = before | found
        file.write_text("".join(json.dumps(asdict(kept[key])) + "\n" for key in sorted(kept)), encoding="utf-8")
        return 0
    known = {key: row for key, row in found.items() if key in before}
    new = [row for key, row in found.items() if key not in before]
    for row in new:
        print(f"{row.program} on {row.chip}, {row.batch} lines: not in {file}, so not compared; --write keeps it there")
    for key, row in known.items():
        if not same_compiler(before[key], row):
            print(f"{row.program} on {row.chip}: of jax {row.jax} and libtpu {row.libtpu}, so not compared with {file}")
    worse = [row for key, row in known.items() if same_compiler(before[key], row) and rises(before[key], row)]
    for row in worse:
        print(f"{row.program} on {row.chip}: more than {TOLERANCE:.0%} above {file}; if that has a reason, --write")
    return 1 if worse or new else 0


def rows(file: Path = FILE) -> list[Row]:
    return [Row(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def same_compiler(old: Row, new: Row) -> bool:
    return (old.jax, old.libtpu) == (new.jax, new.libtpu)


def rises(old: Row, new: Row) -> bool:
    return any(getattr(new, name) > (1 + TOLERANCE) * getattr(old, name) for name in ("microseconds", "megabytes"))


def described(row: Row, before: Row | None) -> str:
    text = f"{row.chip} {row.program}, {row.batch} lines: {row.microseconds:.1f} µs a line, {row.megabytes:,.0f} MB"
    if before is None:
        return text
    return f"{text} (was {before.microseconds:.1f} µs, {before.megabytes:,.0f} MB; libtpu {before.libtpu})"


def compiled(chip: str, program: str) -> Row:
    """One program for one device of a chip."""
    from train.ahead.report import compile_program
    from train.ahead.targets import CHIPS as KNOWN
    from train.ahead.targets import find_target

    target, made = find_target(TOPOLOGY[chip]), PROGRAMS[program]
    done = compile_program(made.lower(target.devices[0], made.batch))
    if done.work is None or done.work.cycles is None:
        raise RuntimeError(f"{program} does not fit {chip}, or the compiler estimates no cycles")
    loops = done.work.loops  # only the search does not know how many turns it takes
    if len(loops) > 1 or (loops and loops[0].loops):
        raise RuntimeError(f"{program}: {len(loops)} loops of unknown length; their cycles would be left out")
    cycles = made.outside * done.work.cycles + made.turns * sum(loop.cycles or 0 for loop in loops)
    seconds = cycles / KNOWN[chip].clock / made.batch
    if made.kernel_beams:
        seconds += TrOCRConfig.preset(SHAPE).decoder.num_layers * schedule(chip, made.kernel_beams).seconds
    return Row(
        chip=chip,
        program=program,
        batch=made.batch,
        microseconds=round(seconds * 1e6, 2),
        megabytes=round(done.memory / 1e6, 1),
        jax=version("jax"),
        libtpu=version("libtpu"),
    )


def encoder(device: Any, batch: int) -> Any:
    """What generation does before it searches: uint8 pixels to memory, as many images at a time as such a device
    takes."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from trocr_jax import DecodeConfig, generation, generation_plan
    from trocr_jax.image import ImageProcessor

    model, config = abstract_model(device)
    height, width = config.encoder.image_size
    processor, placed = ImageProcessor(height=height, width=width), generation_plan.Placed("tpu", device.device_kind)
    shape = generation_plan.plan(DecodeConfig(), config, placed=placed)[0]
    pixels = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.uint8, sharding=_on(device))

    def read(model: Any, pixels: jax.Array) -> Any:
        return generation.read(model, pixels, np.uint32(0), jnp.dtype(jnp.bfloat16), processor, shape=shape)

    return jax.jit(read).lower(model, pixels)


def step(
    num_beams: int,
    cross_attention: Literal["products", "kernel"] = "products",
    cache_dtype: Literal["int8"] | None = None,
) -> Callable[[Any, int], Any]:
    """A search from the memory of `batch` images: its loop's turn is a step."""

    def lowered(device: Any, batch: int) -> Any:
        import jax
        import jax.numpy as jnp

        from trocr_jax import DecodeConfig, generation, generation_plan

        model, config = abstract_model(device)
        search = DecodeConfig(num_beams=num_beams, max_new_tokens=TOKENS, cache_dtype=cache_dtype)
        placed = generation_plan.Placed("tpu", device.device_kind)
        shape, numbers = generation_plan.plan(search, config, placed=placed, cross_attention=cross_attention)
        memory = jax.ShapeDtypeStruct(
            (batch, config.encoder.memory_length, config.encoder.hidden_size), jnp.bfloat16, sharding=_on(device)
        )
        return jax.jit(lambda m, memory: generation.decode(m, memory, numbers, shape, jnp.bfloat16)).lower(
            model, memory
        )

    return lowered


def whole(device: Any, batch: int, cache_dtype: Literal["int8"] | None = None) -> Any:
    """`generate`, greedy: uint8 pixels to token ids."""
    import jax
    import jax.numpy as jnp

    from trocr_jax import DecodeConfig, generation
    from trocr_jax.image import ImageProcessor

    model, config = abstract_model(device)
    height, width = config.encoder.image_size
    search = DecodeConfig(max_new_tokens=TOKENS, cache_dtype=cache_dtype)
    pixels = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.uint8, sharding=_on(device))
    processor = ImageProcessor(height=height, width=width)
    return generation.lower(model, pixels, search, dtype=jnp.bfloat16, image_processor=processor)


def abstract_model(device: Any) -> tuple[Any, Any]:
    """A model of shapes, bf16, on one device; its configuration."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from trocr_jax.model import TrOCR

    config = TrOCRConfig.preset(SHAPE)
    shapes = jax.eval_shape(lambda: TrOCR(config, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16))
    put = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_on(device))  # noqa: E731
    return jax.tree.map(put, shapes), config


def _on(device: Any) -> Any:
    from jax.sharding import SingleDeviceSharding

    return SingleDeviceSharding(device)


@dataclass(frozen=True)
class Program:
    """lower(device, batch). outside: how often what stands outside of the search's loop counts; turns: how often a turn
    of it does. kernel_beams: hypotheses of an image in the kernel of cross-attention, which each layer calls; 0: not
    used."""

    lower: Callable[[Any, int], Any]
    batch: int
    outside: int
    turns: int
    chips: tuple[str, ...] = CHIPS
    kernel_beams: int = 0


PROGRAMS = {
    "encoder": Program(encoder, ENCODER_BATCH, outside=1, turns=0),
    "greedy step": Program(step(1), STEP_BATCH, outside=0, turns=1),
    "beam-4 step": Program(step(4), STEP_BATCH, outside=0, turns=1),
    "greedy step, kernel": Program(step(1, "kernel"), STEP_BATCH, outside=0, turns=1, chips=("v5e",), kernel_beams=1),
    "beam-4 step, kernel": Program(step(4, "kernel"), STEP_BATCH, outside=0, turns=1, chips=("v5e",), kernel_beams=4),
    "large greedy step": Program(step(1), LARGE_BATCH, outside=0, turns=1, chips=("v5e",)),
    "large greedy step, kernel": Program(
        step(1, "kernel"), LARGE_BATCH, outside=0, turns=1, chips=("v5e",), kernel_beams=1
    ),
    "greedy step, int8 cache": Program(step(1, cache_dtype="int8"), STEP_BATCH, outside=0, turns=1, chips=("v5e",)),
    "beam-4 step, int8 cache": Program(step(4, cache_dtype="int8"), STEP_BATCH, outside=0, turns=1, chips=("v5e",)),
    "large beam-4 step": Program(step(4), LARGE_BATCH, outside=0, turns=1, chips=("v5e",)),
    "large greedy step, int8 cache": Program(
        step(1, cache_dtype="int8"), LARGE_BATCH, outside=0, turns=1, chips=("v5e",)
    ),
    "large beam-4 step, int8 cache": Program(
        step(4, cache_dtype="int8"), LARGE_BATCH, outside=0, turns=1, chips=("v5e",)
    ),
    "generation": Program(whole, GENERATION_BATCH, outside=1, turns=TOKENS, chips=("v5e",)),
    "generation, int8 cache": Program(
        partial(whole, cache_dtype="int8"), INT8_GENERATION_BATCH, outside=1, turns=TOKENS, chips=("v5e",)
    ),
}

if __name__ == "__main__":
    sys.exit(tyro.cli(main))
