"""How the devices of a mesh share the images that are read: each share by itself, with all of the model.

A search asks after every token whether lines are left. Were that asked of all devices together, each of them would wait
for the longest line of all; so each share is a program of its own, in which the other axes of the mesh, if it has any,
share out the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Out = TypeVar("Out")


class Split(NamedTuple):
    """Images are shared out over the axis of a mesh. Its other axes are Auto, or of size 1. Hashable."""

    mesh: Mesh
    axis: str

    @property
    def sharing(self) -> int:
        """How many devices read the same images."""
        return int(self.mesh.size // self.mesh.shape[self.axis])


def alone(split: Split | None, function: Callable[..., Out], *own: bool) -> Callable[..., Out]:
    """The function for each share of the images by itself, or as it is if they are not shared out.

    own: of each argument, whether its first axis is that of the images; otherwise it is the same for all. The first
    axis of what comes out is that of the images.
    """
    if split is None:
        return function
    of_images, same = PartitionSpec(split.axis), PartitionSpec()
    apart: Callable[..., Out] = jax.shard_map(
        function,
        mesh=split.mesh,
        in_specs=tuple(of_images if each else same for each in own),
        out_specs=of_images,
        axis_names=set(split.mesh.axis_names) - set(_others(split)),
        check_vma=False,
    )
    return apart


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
    split = Split(mesh, names[0])
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if any(types[name] != AxisType.Auto for name in _others(split)):
        return None
    return split if all(_whole(leaf.sharding, split) for leaf in jax.tree.leaves(model)) else None


def _others(split: Split) -> list[str]:
    return [name for name in split.mesh.axis_names if name != split.axis and split.mesh.shape[name] > 1]


def _whole(sharding: jax.sharding.Sharding | None, split: Split) -> bool:
    """Whether each share of the images has all of an array."""
    if sharding is None or sharding.is_fully_replicated:
        return True
    if not isinstance(sharding, NamedSharding) or sharding.mesh != split.mesh:
        return False
    return all(split.axis != axes and split.axis not in (axes or ()) for axes in sharding.spec)
