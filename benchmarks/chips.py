"""What chips can do at most, by their makers: operations a second on their matrix units without sparsity, and bytes a
second of their memory.

TPUs: https://cloud.google.com/tpu/docs/v5e, …/v5p, …/v6e. A product of f32 at the precision that the model asks for
takes six passes of bf16 (jax.lax.Precision.HIGHEST). GPUs (SXM): data sheets of NVIDIA's H100 and H200; f32 is that of
the CUDA cores, since TF32 would round the factors. bf16 figures are those of `train.flops`, by which MFU is counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from train.flops import PEAKS

if TYPE_CHECKING:
    from train.ahead.targets import Target


@dataclass(frozen=True)
class Chip:
    """platform: as jax calls what programs are lowered for; kinds: beginnings of jax's `device_kind`; operations a
    second by the type of the factors; bandwidth: bytes a second."""

    platform: str
    kinds: tuple[str, ...]
    operations: dict[str, float]
    bandwidth: float

    def seconds(self, operations: dict[str, int]) -> float:
        """That so many operations of each type take at least. Raises KeyError for a type that is not known."""
        return sum(number / self.operations[kind] for kind, number in operations.items())


def _tpu(*kinds: str, int8: float, bandwidth: float) -> Chip:
    bf16 = PEAKS[kinds[0]]
    return Chip("tpu", kinds, {"bfloat16": bf16, "int8": int8, "float32": bf16 / 6}, bandwidth)


def _hopper(kind: str, bandwidth: float) -> Chip:
    operations = {"bfloat16": PEAKS[kind], "int8": 1979e12, "float32": 67e12}
    return Chip("cuda", (kind,), operations, bandwidth)


CHIPS = {
    "v5e": _tpu("TPU v5e", "TPU v5 lite", int8=393e12, bandwidth=819e9),
    "v5p": _tpu("TPU v5p", int8=918e12, bandwidth=2765e9),
    "v6e": _tpu("TPU v6e", "TPU v6 lite", int8=1836e12, bandwidth=1640e9),
    "H100": _hopper("NVIDIA H100", 3.35e12),
    "H200": _hopper("NVIDIA H200", 4.8e12),
}


def chip_of(device_kind: str) -> Chip | None:
    """The chip that jax calls so, or none."""
    return next((chip for chip in CHIPS.values() if device_kind.startswith(chip.kinds)), None)


def target_of(topology: str) -> Target:
    """What is compiled for, or the end of the program where its compiler is missing or there is no such topology."""
    from train.ahead.targets import find_target
    from trocr_jax.errors import ConfigError

    try:
        return find_target(topology)
    except ConfigError as error:
        raise SystemExit(str(error)) from None
