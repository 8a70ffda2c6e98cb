"""Operations and bytes of a program, counted from its jaxpr: what jax hands to XLA, before any compiler.

Counted are its matrix products. Two amounts of memory traffic bracket what a compiler can do with them:

- `state`: the factors of products that are arguments of the program (weights, memory, caches), each time that one reads
  them, rows that are looked up, and the results. What products hand to each other stays on the chip.
- `products`: besides, every product reads both factors and writes its result. Everything between two products is fused
  to them, and the value goes between them in the narrowest type that it has on its way.

XLA's own analysis is not used: it has the bytes of each instruction after fusion, for the machine that it compiled for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.extend.core
import numpy as np

# the same numbers in another order, shape or type
MOVES = ("reshape", "transpose", "squeeze", "copy", "convert_element_type", "bitcast_convert_type", "rev")
PLACED = ("dynamic_update_slice", "scatter")  # written in place: XLA does where the old array is not used again


@dataclass
class Work:
    """operations: by the type of the factors, two for each multiplication and addition; bytes: see above."""

    operations: Counter[str] = field(default_factory=Counter)
    state: int = 0
    products: int = 0

    def moved(self, size: int) -> None:
        """Bytes that belong to no product."""
        self.state += size
        self.products += size


def count(function: Callable[..., Any], *arguments: Any, platform: str) -> Work:
    """Of a function of arrays or ShapeDtypeStructs as it is traced for "cpu", "cuda" or "tpu".

    Raises ValueError for a loop, whose turns nobody knows: count what it does in one.
    """
    return _Count(jax.make_jaxpr(function)(*arguments), platform).work


class _Step(NamedTuple):
    """An instruction of the program with all calls replaced by what they call. Values are numbered."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    params: dict[str, Any]


class _Source(NamedTuple):
    """Where a value comes from, if it is an argument: which one, and whether it is that itself."""

    argument: int
    whole: bool


class _Count:
    def __init__(self, program: Any, platform: str) -> None:
        self._platform, self._shapes = platform, list[Any]()
        self._constants: dict[int, int] = {}
        names: dict[Any, int] = {}
        arguments = [self._new(var, names) for var in (*program.jaxpr.constvars, *program.jaxpr.invars)]
        steps = list(self._flat(program.jaxpr, names))
        results = [self._number(var, names) for var in program.jaxpr.outvars]
        self.work = self._walk(steps, arguments, results)

    def _new(self, var: Any, names: dict[Any, int]) -> int:
        names[var] = len(self._shapes)
        self._shapes.append(var.aval)
        return names[var]

    def _number(self, var: Any, names: dict[Any, int]) -> int:
        return self._literal(var) if hasattr(var, "val") else names[var]

    def _literal(self, literal: Any) -> int:
        self._shapes.append(literal.aval)
        return len(self._shapes) - 1

    def _flat(self, jaxpr: Any, names: dict[Any, int]) -> Iterator[_Step]:
        for equation in jaxpr.eqns:
            name, params = equation.primitive.name, equation.params
            inputs = [self._number(var, names) for var in equation.invars]
            if name in ("while", "scan"):
                raise ValueError(f"the program has a loop ({name}): count what it does in one turn")
            if name == "platform_index":
                self._constants[self._new(equation.outvars[0], names)] = self._branch(params["platforms"])
                continue
            inner = self._called(name, params, inputs)
            if inner is None:
                outputs = tuple(self._new(var, names) for var in equation.outvars)
                yield _Step(name, tuple(inputs), outputs, params)
                continue
            inside: dict[Any, int] = {}
            for var in inner.jaxpr.constvars:
                self._new(var, inside)
            inside.update(zip(inner.jaxpr.invars, inputs[len(inputs) - len(inner.jaxpr.invars) :], strict=True))
            yield from self._flat(inner.jaxpr, inside)
            for outer, result in zip(equation.outvars, inner.jaxpr.outvars, strict=True):
                names[outer] = self._number(result, inside)

    def _branch(self, platforms: Any) -> int:
        """Of `jax.lax.platform_dependent`: None stands for all others."""
        return next(i for i, group in enumerate(platforms) if group is None or self._platform in group)

    def _called(self, name: str, params: dict[str, Any], inputs: list[int]) -> Any:
        """The program that an instruction calls, or none."""
        if name == "cond":
            if inputs[0] not in self._constants:
                raise ValueError("the program has a branch that depends on its arguments")
            return params["branches"][self._constants[inputs[0]]]
        found = next((params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params), None)
        if found is None or hasattr(found, "consts"):
            return found
        return jax.extend.core.ClosedJaxpr(found, ())

    def _walk(self, steps: list[_Step], arguments: list[int], results: list[int]) -> Work:
        work = Work()
        narrow = self._narrowest(steps)
        sources = {number: _Source(number, whole=True) for number in arguments}
        fed: set[int] = set()  # values that products have a part in
        width: dict[int, int] = {}  # bytes of an element where the value comes from
        for step in steps:
            first, out = step.inputs[0] if step.inputs else -1, step.outputs[0]
            if step.name == "dot_general" or not fed.isdisjoint(step.inputs):
                fed.update(step.outputs)
            if step.name in MOVES:
                width[out] = min(self._width(out), width.get(first, self._width(first)))
                if first in sources:
                    sources[out] = _Source(sources[first].argument, whole=False)
            elif step.name in PLACED and first in sources:
                work.moved(self._bytes(step.inputs[1]))
                sources[out] = sources[first]
            elif step.name in ("gather", "dynamic_slice") and first in sources:
                work.moved(self._bytes(out))
            elif step.name == "dot_general":
                work.operations[self._type(step)] += self._operations(step)
                for factor in step.inputs:
                    size = self._size(factor) * width.get(factor, self._width(factor))
                    work.products += size
                    work.state += size if factor in sources else 0
                work.products += self._size(out) * narrow.get(out, self._width(out))
        for number in set(results):
            source = sources.get(number)
            if source is None and number in fed:
                work.state += self._bytes(number)  # among the results of products already
            elif source is None:
                work.moved(self._bytes(number))
            elif not source.whole:  # an argument, brought into another form
                work.moved(self._bytes(number) + self._bytes(source.argument))
        return work

    def _narrowest(self, steps: list[_Step]) -> dict[int, int]:
        """Bytes of an element of each value in the narrowest type that it has before the next product."""
        narrow: dict[int, int] = {}
        for step in reversed(steps):
            if step.name == "dot_general":
                continue
            for out in step.outputs:
                if self._shapes[out].dtype == bool:  # compared, not handed on
                    continue
                for value in step.inputs:
                    if self._size(value) == self._size(out) and self._size(value) > 1:
                        ahead = min(narrow.get(out, self._width(out)), self._width(value))
                        narrow[value] = min(narrow.get(value, self._width(value)), ahead)
        return narrow

    def _type(self, step: _Step) -> str:
        return max((self._shapes[factor].dtype for factor in step.inputs), key=lambda dtype: dtype.itemsize).name

    def _operations(self, step: _Step) -> int:
        (contracted, _), _ = step.params["dimension_numbers"]
        left = self._shapes[step.inputs[0]].shape
        return 2 * self._size(step.outputs[0]) * math.prod(left[axis] for axis in contracted)

    def _size(self, number: int) -> int:
        return math.prod(self._shapes[number].shape)

    def _width(self, number: int) -> int:
        return int(np.dtype(self._shapes[number].dtype).itemsize)

    def _bytes(self, number: int) -> int:
        return self._size(number) * self._width(number)
