"""How the devices of a mesh share the images that are read: each share by itself, with all of the model.

A search asks after every token whether lines are left. Were that asked of all devices together, each of them would wait
for the longest line of all; so each share is a program of its own, in which the other axes of the mesh, if it has any,
share out the model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Out = TypeVar("Out")


class Split(NamedTuple):
    """Images are shared out over the axis of a mesh, all of whose axes are Auto. Hashable."""

    mesh: Mesh
    axis: str

    @property
    def sharing(self) -> int:
        """How many devices read the same images."""
        return int(self.mesh.size // self.mesh.shape[self.axis])


def alone(split: Split | None, function: Callable[..., Out], *own: bool) -> Callable[..., Out]:
    """The function for each share of the images by itself; of all together, as `automatic` has it, if they are not
    shared out.

    own: of each argument, whether its first axis is that of the images; otherwise it is the same for all. The first
    axis of what comes out is that of the images.
    """
    if split is None:
        return partial(automatic, function)
    of_images, same = PartitionSpec(split.axis), PartitionSpec()
    return jax.shard_map(
        function,
        mesh=split.mesh,
        in_specs=tuple(of_images if each else same for each in own),
        out_specs=of_images,
        axis_names=set(split.mesh.axis_names) - set(_others(split)),
        check_vma=False,
    )


def automatic(function: Callable[..., Out], *arguments: Any) -> Out:
    """What a function that is being traced gives for arrays, as if all axes of their mesh were Auto: a search is
    written for one device, and the compiler shares it out. What comes out is whole on every device where some are
    Explicit, as those of `jax.make_mesh` are."""
    meshes = (jax.typeof(leaf).sharding.mesh for leaf in jax.tree.leaves(arguments))
    mesh = next((mesh for mesh in meshes if AxisType.Explicit in mesh.axis_types), None)
    if mesh is None:
        return function(*arguments)
    whole: Callable[..., Out] = jax.sharding.auto_axes(function, out_sharding=NamedSharding(mesh, PartitionSpec()))
    return whole(*arguments)


def split_of(model: Any, pixels: jax.Array | np.ndarray | jax.ShapeDtypeStruct) -> Split | None:
    """How images that lie on several devices, or would, are shared out, if each share has all of the parameters, on one
    device or several; None otherwise, and in a function that is being traced, whose own shardings count."""
    sharding = None if isinstance(pixels, jax.core.Tracer) else getattr(pixels, "sharding", None)
    if not isinstance(sharding, NamedSharding) or sharding.num_devices == 1 or not sharding.spec:
        return None
    axes, mesh = sharding.spec[0], sharding.mesh
    names = (axes,) if isinstance(axes, str) else axes or ()
    names = tuple(name for name in names if mesh.shape[name] > 1) or names[:1]
    if len(names) != 1 or not isinstance(mesh, Mesh):
        return None
    if not all(_whole(leaf.sharding, mesh, names[0]) for leaf in jax.tree.leaves(model)):
        return None
    return Split(Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names)), names[0])


def _others(split: Split) -> list[str]:
    return [name for name in split.mesh.axis_names if name != split.axis and split.mesh.shape[name] > 1]


def _whole(sharding: jax.sharding.Sharding | None, mesh: Mesh, axis: str) -> bool:
    """Whether each share of the images has all of an array."""
    if sharding is None or sharding.is_fully_replicated:
        return True
    if not isinstance(sharding, NamedSharding) or sharding.mesh != mesh:
        return False
    return all(axis != axes and axis not in (axes or ()) for axes in sharding.spec)
