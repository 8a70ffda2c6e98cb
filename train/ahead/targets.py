"""The devices that a program can be compiled for without having them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import jax

from trocr_jax.errors import ConfigError


@dataclass(frozen=True)
class Chip:
    """One kind of TPU. memory: bytes that a program may use, as the compiler of libtpu 0.0.42 says when one does not
    fit. clock: Hz, from peak FLOP/s over the operations a cycle of its matrix units."""

    memory: int
    clock: float
    axes: int  # of its interconnect
    largest: int  # slice, chips: https://cloud.google.com/tpu/docs


@dataclass(frozen=True)
class Target:
    """name as it was asked for; memory: usable bytes of each device; clock: Hz, or none if cycles are not estimated;
    slices: groups of devices with a fast interconnect."""

    name: str
    devices: Sequence[jax.Device]
    memory: int
    clock: float | None
    slices: int


CHIPS = {
    "v5e": Chip(memory=int(15.75 * 2**30), clock=1.5e9, axes=2, largest=256),
    "v5p": Chip(memory=int(95.74 * 2**30), clock=1.75e9, axes=3, largest=6144),
    "v6e": Chip(memory=int(31.25 * 2**30), clock=1.75e9, axes=2, largest=256),
}

# A GPU as XLA describes it to itself; the figures are those of NVIDIA's H200 (SXM, 141 GB) data sheet and of compute
# capability 9.0 in the CUDA C++ programming guide.
H200 = """gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  memory_bandwidth: 4800000000000 device_memory_size: 150754820096 cuda_compute_capability { major: 9 }
}
platform_name: "CUDA" runtime_version { major: 12 minor: 8 } dnn_version_info { major: 9 minor: 7 }
device_description_str: "NVIDIA H200"
"""
H200_MEMORY = 150754820096


def find_target(topology: str, *, slices: int = 1) -> Target:
    """The devices of "v5e:16x16", "v5p:4x4x4", "v6e:…" (`slices` times), or of "h200:8", GPUs of one machine.

    Raises ConfigError if there is no such topology, or what compiles for it is not installed.
    """
    chip, _, shape = topology.partition(":")
    if slices < 1:
        raise ConfigError(f"slices is {slices}; give at least 1")
    if chip == "h200":
        return _gpus(topology, shape or "1", slices)
    if chip not in CHIPS or not re.fullmatch(r"\d+(x\d+){1,2}", shape) or shape.count("x") + 1 != CHIPS[chip].axes:
        raise ConfigError(
            f"topology {topology!r}: give v5e:ROWSxCOLUMNS, v6e:ROWSxCOLUMNS, v5p:XxYxZ or h200:COUNT, as in v5e:16x16"
        )
    sizes = [int(size) for size in shape.split("x")]
    if not 0 < math.prod(sizes) <= CHIPS[chip].largest:
        raise ConfigError(f"topology {topology!r}: a slice of {chip} has at most {CHIPS[chip].largest} chips")
    if find_spec("libtpu") is None:
        raise ConfigError(
            f"topology {topology!r}: libtpu is not installed, whose compiler needs no TPU: pip install -e '.[tpu]'"
        )
    more: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if any(size % 2 for size in sizes[:2]):
        more["chips_per_host_bounds"] = (1, 1, 1)  # else hosts of 2 × 2 chips
    from jax.experimental import topologies

    try:
        devices = topologies.get_topology_desc(topology, platform="tpu", **more).devices
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        raise ConfigError(f"topology {topology!r} with {slices} slices: {str(error).splitlines()[0]}") from error
    return Target(topology, devices, CHIPS[chip].memory, CHIPS[chip].clock, slices)


def _gpus(topology: str, count: str, slices: int) -> Target:
    if slices != 1 or not count.isdecimal() or int(count) < 1:
        raise ConfigError(f"topology {topology!r} with {slices} slices: give h200 or h200:COUNT, GPUs of one machine")
    if not any(find_spec(module) for module in ("jax_cuda12_plugin", "jax_cuda13_plugin")):
        raise ConfigError(
            f"topology {topology!r}: jax has no compiler for GPUs here, which needs no GPU: "
            f"pip install jax-cuda12-plugin=={jax.__version__}"
        )
    from jax.experimental import topologies

    shape = f"1x1x{count}"  # partitions, hosts, devices of a host
    devices = topologies.get_topology_desc("", platform="cuda", target_config=H200, topology=shape).devices
    # jax takes this share of a GPU's memory when it starts
    share = float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.75"))
    return Target(topology, devices, int(share * H200_MEMORY), None, 1)
