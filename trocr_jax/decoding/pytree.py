"""Dataclasses as pytrees."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, TypeVar

import jax

Kind = TypeVar("Kind", bound=type)


def pytree(kind: Kind) -> Kind:
    """Class decorator: makes a dataclass a pytree. Fields are children, those with metadata {"static": True} part of
    the structure.

    `jax.tree_util.register_dataclass` does the same, but the structures of two classes of its making are equal if they
    have as many children (jaxlib 0.10.2; their hashes differ): now and then jit then runs what it compiled for another
    class. Classes registered this way differ. Nor is `__init__` called again for an instance that jit takes apart and
    puts together: a check in `__post_init__` sees the values that were given, never tracers. What it makes of them must
    be a field too (`init=False`), or a `cached_property`.
    """
    names = fields(kind)
    children = [field.name for field in names if not field.metadata.get("static", False)]
    static = [field.name for field in names if field.metadata.get("static", False)]

    def flatten(value: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return tuple(getattr(value, name) for name in children), tuple(getattr(value, name) for name in static)

    def flatten_with_keys(value: Any) -> tuple[tuple[tuple[Any, Any], ...], tuple[Any, ...]]:
        found, structure = flatten(value)
        keys = map(jax.tree_util.GetAttrKey, children)
        return tuple(zip(keys, found, strict=True)), structure

    def unflatten(structure: tuple[Any, ...], found: Iterable[Any]) -> Any:
        value: Any = object.__new__(kind)
        for name, child in zip([*children, *static], [*found, *structure], strict=True):
            object.__setattr__(value, name, child)
        return value

    jax.tree_util.register_pytree_with_keys(kind, flatten_with_keys, unflatten, flatten)
    return kind
