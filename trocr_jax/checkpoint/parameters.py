"""Parameters of a model as flat names, and a model from stored tensors: checked in full, read one at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from trocr_jax.config import TrOCRConfig
from trocr_jax.errors import CheckpointError
from trocr_jax.model import TrOCR
from trocr_jax.quantization import empty_kernels

FLOAT_TYPES = ("bfloat16", "float16", "float32", "float64")  # numpy knows the first by ml_dtypes, which jax imports


class StoredTensor(NamedTuple):
    """A tensor in a file: what its header says, and how to read it (one array of that shape and type)."""

    shape: tuple[int, ...]
    dtype: str  # numpy's name, for example "bfloat16"
    read: Callable[[], np.ndarray]  # not a view of more than the tensor: what is read is kept


class Target(NamedTuple):
    """Where a stored tensor goes: its name in the file, the shape it must have there, and the way to our layout."""

    name: str
    stored_shape: tuple[int, ...]
    load: Callable[[np.ndarray], np.ndarray]


def _check_type(dtype: DTypeLike | None) -> None:
    try:
        known = dtype is None or jnp.dtype(dtype).name in ("float32", "bfloat16", "float16")
    except TypeError:
        known = False
    if not known:
        raise CheckpointError(
            f"dtype is {dtype!r}: give float32, bfloat16 or float16; weights of one byte are made by "
            "trocr_jax.quantization.quantize"
        )


def parameters(model: TrOCR) -> dict[str, jax.Array]:
    """Every parameter by its dotted path, for example "encoder.layers.3.fc1.kernel"."""
    state = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {".".join(map(str, path)): variable[...] for path, variable in state}


class Rounded(NamedTuple):
    """Paths of the layers whose kernels are in a byte, and in which type."""

    kernels: frozenset[str]
    dtype: str


NOTHING = Rounded(frozenset(), "int8")


def build(
    config: TrOCRConfig,
    tensors: Mapping[str, StoredTensor],
    target: Callable[[str, tuple[int, ...]], Target],
    *,
    dtype: DTypeLike | None,
    problems: list[str],
    where: str,
    rounded: Rounded = NOTHING,
) -> TrOCR:
    """A model with the given weights and no other initialisation.

    `target(path, shape)` says where parameter `path` is stored. Parameters keep their stored type (float64 becomes
    float32), or get `dtype`. With any `rounded` kernels all parameters keep
    their stored type. Raises CheckpointError listing `problems` and everything else that is wrong: missing and unused
    tensors, shapes, types, values that are not finite.
    """
    _check_type(dtype)
    layers = config.encoder.num_layers + config.decoder.num_layers
    if layers * 13 > len(tensors):  # a ViT layer without biases of queries has so many; building too many takes minutes
        problems.append(f"the configuration has {layers} layers, and the file only {len(tensors)} tensors")
        raise CheckpointError(report(where, problems))
    try:
        graph, state = _abstract_model(config, rounded)
    except (TypeError, ValueError, OverflowError) as error:
        problems.append(f"the sizes of the configuration cannot be built ({error})")
        raise CheckpointError(report(where, problems)) from None
    unused = dict(tensors)
    filled = []
    for path, variable in state:
        wanted = target(".".join(map(str, path)), variable.get_value().shape)
        stored = unused.pop(wanted.name, None)
        kernel = variable.get_value().dtype == jnp.dtype(rounded.dtype)
        types = (rounded.dtype,) if kernel else FLOAT_TYPES
        array = None if stored is None else _read(wanted, stored, problems, types=types)
        if stored is None:
            problems.append(f"missing: {wanted.name} {_shape(wanted.stored_shape)}")
        if array is not None and not problems:
            if (dtype is not None and not rounded.kernels) or array.dtype == np.float64:
                with np.errstate(over="ignore"):
                    array = array.astype(jnp.dtype(np.float32 if dtype is None or rounded.kernels else dtype))
                if bad := count_not_finite(array):
                    problems.append(f"{wanted.name} holds {bad} values too large for {array.dtype}")
                    continue
            filled.append((path, variable.replace(jnp.asarray(np.asarray(array, order="C")))))
    problems += [f"not used by the model: {name} {_shape(tensor.shape)}" for name, tensor in unused.items()]
    if problems:
        raise CheckpointError(report(where, problems))
    return nnx.merge(graph, nnx.from_flat_state(filled))


def report(where: str, problems: list[str]) -> str:
    """One message that lists all problems of a file or folder."""
    if len(problems) == 1:
        return f"{where}: {problems[0]}"
    return f"{where}: {len(problems)} problems\n" + "\n".join(f"  {problem}" for problem in problems)


class _OneKey:
    """For shapes alone: counting the draws of real Rngs is most of the time that eval_shape takes."""

    def params(self) -> jax.Array:
        return jax.random.key(0)


@functools.lru_cache(maxsize=4)
def _abstract_model(config: TrOCRConfig, rounded: Rounded = NOTHING) -> tuple[nnx.GraphDef, tuple]:
    """The module's structure, and its parameters as paths with shapes: no weight is initialised."""

    def made() -> TrOCR:
        return empty_kernels(TrOCR(config, rngs=cast(nnx.Rngs, _OneKey())), rounded.kernels, rounded.dtype)

    graph, state = nnx.split(nnx.eval_shape(made))
    return graph, tuple(nnx.to_flat_state(state))


def _read(wanted: Target, stored: StoredTensor, problems: list[str], *, types: tuple[str, ...]) -> np.ndarray | None:
    """The array in our layout; none after adding to `problems` if it cannot be used."""
    if stored.shape != wanted.stored_shape:
        problems.append(
            f"{wanted.name} is {_shape(stored.shape)}; the configuration wants {_shape(wanted.stored_shape)}"
        )
        return None
    if stored.dtype not in types:
        problems.append(f"{wanted.name} is of type {stored.dtype}; supported: {', '.join(types)}")
        return None
    try:
        array = stored.read()
    except CheckpointError as error:
        problems.append(str(error))
        return None
    bad = count_not_finite(array)
    if bad:
        problems.append(
            f"{wanted.name} holds {bad} values that are not finite (NaN or infinite): "
            "save or copy it again from a sound state"
        )
        return None
    return wanted.load(array)


def count_not_finite(array: np.ndarray) -> int:
    """How many values are NaN or infinite."""
    if array.dtype.name == "bfloat16":  # ml_dtypes has no fast loop: look at the exponent's bits
        return int(np.count_nonzero((array.view(np.uint16) & 0x7F80) == 0x7F80))
    if array.dtype.name == "float8_e4m3fn":  # which has no infinity, and one NaN of either sign
        return int(np.count_nonzero((array.view(np.uint8) & 0x7F) == 0x7F))
    if array.dtype == np.int8:
        return 0
    return array.size - int(np.count_nonzero(np.isfinite(array)))


def _shape(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
