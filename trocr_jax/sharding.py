"""Where parameters and batches lie on a mesh of devices: one table of rules, read by training and by inference.

Axes of a mesh: `data` (copies of the model, each with its share of the batch), `fsdp` (the batch is shared out and the
parameters too, gathered layer by layer when they are used) and `model` (heads, MLP and vocabulary are shared out). All
axes are Auto: XLA derives what the table does not say, `attention.constrain_batch` keeps it from gathering activations.
"""

from __future__ import annotations

import functools
import logging
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.mesh_utils import create_hybrid_device_mesh
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from trocr_jax.attention import BATCH_AXES
from trocr_jax.errors import ConfigError

AXES = (*BATCH_AXES, "model")

# (regular expression for the end of a parameter's path, axes of the mesh for each of its own axes); the first that
# matches counts. Letters as everywhere: D width, N heads, H head width, F width of the MLP, V vocabulary.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"(query|key|value)/kernel", PartitionSpec("fsdp", "model", None)),  # [D, N, H]
    (r"(query|key|value)/(bias|kernel_scale)", PartitionSpec("model", None)),  # [N, H]
    (r"out/kernel", PartitionSpec("model", None, "fsdp")),  # [N, H, D]
    (r"fc1/kernel", PartitionSpec("fsdp", "model")),  # [D, F]
    (r"fc1/(bias|kernel_scale)", PartitionSpec("model")),  # [F]
    (r"fc2/kernel", PartitionSpec("model", "fsdp")),  # [F, D]
    (r"embed_tokens|output_projection", PartitionSpec("model", "fsdp")),  # [V, D]
    (r"embed_positions", PartitionSpec(None, "fsdp")),  # [rows, D]
    (r"patch_embedding/kernel", PartitionSpec(None, None, None, "fsdp")),  # [ph, pw, C, D]
    (r"(bridge|ctc)/kernel", PartitionSpec("fsdp", None)),  # [D, D'], [D, V]
    (r".*", PartitionSpec()),  # biases, norms, tokens, scalars
)


def make_mesh(shape: str = "", devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of `devices`, by default all, from "data=4,fsdp=2,model=1". An axis that is left out is 1, but `data`,
    which then takes what the others leave. TPUs of several slices are shared out by `data`: what goes between slices,
    over the slower network, is then one sum of gradients a step.

    Raises ConfigError if an axis is unknown, the product is not the number of devices, or the slices do not divide
    `data`.
    """
    devices = jax.devices() if devices is None else devices
    sizes = {}
    for part in filter(None, shape.replace(" ", "").split(",")):
        name, _, size = part.partition("=")
        if name not in AXES or not size.isdecimal() or int(size) < 1 or name in sizes:
            raise ConfigError(
                f"mesh {shape!r}: {part!r} is not one of {', '.join(AXES)} with a size, as in data=4,fsdp=2"
            )
        sizes[name] = int(size)
    rest = math.prod(size for name, size in sizes.items() if name != "data")
    sizes.setdefault("data", max(len(devices) // rest, 1))
    if math.prod(sizes.values()) != len(devices):
        raise ConfigError(
            f"mesh {shape!r}: {math.prod(sizes.values())} devices are asked for and there are {len(devices)};"
            " the product of data, fsdp and model must be that number"
        )
    shapes = tuple(sizes.get(name, 1) for name in AXES)
    types = (AxisType.Auto,) * len(AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices}) if devices[0].platform == "tpu" else 1
    if slices == 1:
        return jax.make_mesh(shapes, AXES, axis_types=types, devices=devices)
    if shapes[0] % slices:
        raise ConfigError(f"mesh {shape!r}: data={shapes[0]} is not divisible by the {slices} slices of the devices")
    within = (shapes[0] // slices, *shapes[1:])
    return Mesh(create_hybrid_device_mesh(within, (slices, 1, 1), devices), AXES, axis_types=types)


def shardings(tree: Any, mesh: Mesh, *, axes: Sequence[str] = AXES) -> Any:
    """For each array (or ShapeDtypeStruct) of a tree its NamedSharding by `RULES`, on the given axes of the mesh.

    The state of an optimiser ends in the paths of the parameters, so it lies where they lie; what has another rank
    (counts, factored moments) is on every device. An axis of the mesh that does not divide an axis of an array is left
    out for that array, which is logged once.
    """

    def of(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = path_name(path).removesuffix("/value")  # of a parameter in a model
        return NamedSharding(mesh, _spec(name, tuple(leaf.shape), mesh, axes))

    return jax.tree_util.tree_map_with_path(of, tree)


def generation_shardings(model: Any, mesh: Mesh) -> Any:
    """The same of a model that reads: parameters are shared out over `model` alone, if the mesh has it. What `fsdp`
    shares out would have to be gathered for every token."""
    return shardings(model, mesh, axes=("model",))


def generation_mesh(mesh: Mesh) -> Mesh:
    """The devices of any mesh as they read together: `data` takes the place of all its axes but `model`. Axes are Auto
    whatever they were: the compiler shares out a search that is written for one device."""
    devices, names = mesh.devices, mesh.axis_names
    if "model" in names:
        devices = np.moveaxis(devices, names.index("model"), -1)
    devices = devices.reshape(-1, 1, mesh.shape.get("model", 1))
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Axis 0 over `data` and `fsdp`, the others whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch_size(size: int, mesh: Mesh) -> None:
    """Raises ConfigError if a batch cannot be shared out evenly; the message says which sizes can."""
    parts = math.prod(mesh.shape[name] for name in BATCH_AXES)
    if size % parts:
        near = sorted({size // parts * parts, -(-size // parts) * parts} - {0})
        raise ConfigError(
            f"a batch of {size} lines does not divide over data={mesh.shape['data']} × fsdp={mesh.shape['fsdp']}"
            f" = {parts} shares: use a batch of {' or '.join(map(str, near))}, or another mesh"
        )


def path_name(path: tuple[Any, ...]) -> str:
    """A path of `jax.tree_util` as names with slashes: "model/encoder/layers/0/fc1/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _spec(name: str, shape: tuple[int, ...], mesh: Mesh, of_mesh: Sequence[str]) -> PartitionSpec:
    found = ((re.search(rf"(?:^|/)({pattern})$", name), spec) for pattern, spec in RULES)
    kind, spec = next((match[1], spec) for match, spec in found if match)
    if len(spec) != len(shape):
        return PartitionSpec()
    axes = []
    for size, axis in zip(shape, spec, strict=True):
        if axis not in of_mesh or axis not in mesh.shape:
            axis = None
        if axis is not None and size % mesh.shape[axis]:
            _say_once(f"{axis}={mesh.shape[axis]} does not divide {kind} {list(shape)}: that axis stays whole")
            axis = None
        axes.append(axis)
    return PartitionSpec(*axes)


@functools.cache
def _say_once(message: str) -> None:
    logging.getLogger(__name__).warning(message)
