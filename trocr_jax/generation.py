"""From pixels to token ids: this and its side files know both the model and the searches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from trocr_jax.attention_cross import Absorbed, Cross, OnePass, on_hopper
from trocr_jax.attention_rows import Int8Rows, Kept, round_rows, widened
from trocr_jax.decoder import Cache
from trocr_jax.decoding.beam import beam_search_loop
from trocr_jax.decoding.checks import check_seed
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.decoding.diverse import diverse_beam_search_loop
from trocr_jax.decoding.loop import run
from trocr_jax.decoding.sample import categorical, greedy, sample_search
from trocr_jax.decoding.types import Decoded, Search, Special, StepFn
from trocr_jax.encoder import cached_micro_batch, in_micro_batches
from trocr_jax.errors import ImageError
from trocr_jax.generation_plan import CrossAttention, Numbers, Shape, compute_dtype, placed_as, plan, special_tokens
from trocr_jax.generation_split import Split, alone, automatic, split_of
from trocr_jax.image import ImageProcessor
from trocr_jax.model import TrOCR

Pixels = TypeVar("Pixels")


def generate(
    model: TrOCR,
    pixels: jax.Array | np.ndarray,
    config: DecodeConfig | None = None,
    *,
    dtype: DTypeLike | None = None,
    image_processor: ImageProcessor | None = None,
    cross_attention: CrossAttention = "auto",
) -> Decoded:
    """Reads images: encodes them once, primes cross-attention once, and searches in one compiled loop.

    pixels [B, H, W, 3]: f32 in [-1, 1], or uint8 together with the `image_processor` that scales them on the device.
    Where they lie shared out over an axis of a mesh, each share is read by itself; parameters may lie shared out over
    other axes (`sharding.generation_shardings`). A `jax.shard_map` around this needs check_vma=False. An array of numpy
    may be filled again as soon as this returns.
    config: a greedy search for at most 64 tokens if none.
    dtype: compute type; f32 on a CPU and bf16 elsewhere if none.
    cross_attention: of a decoder step, "products" of XLA, or a "kernel" that reads the memory once (`kernels`), on a
    TPU or in bf16 on an H100 or H200: the same but for rounding. "auto" takes the kernel on one of those GPUs where it
    was measured to be faster, and products elsewhere: on a TPU the kernel has never run.
    Returns token_ids [B, R, L] int32 with R = num_return_sequences and L = max_new_tokens, scores [B, R] and more.
    Compiles once for each shape of `pixels`, number of beams and of tokens, and set of processors; other numbers in
    `config` compile nothing.
    Raises DecodeError if the model cannot do what `config` asks for, ImageError for pixels that it cannot read, before
    anything is compiled.
    """
    return _generate(*_arguments(model, pixels, config, dtype, image_processor, cross_attention))


def lower(
    model: TrOCR,
    pixels: jax.Array | jax.ShapeDtypeStruct,
    config: DecodeConfig | None = None,
    *,
    dtype: DTypeLike | None = None,
    image_processor: ImageProcessor | None = None,
    cross_attention: CrossAttention = "auto",
) -> jax.stages.Lowered:
    """The program that `generate` would run, to be compiled ahead. ShapeDtypeStructs may stand in the place of arrays,
    those of the model too; their shardings say where the arrays would lie, on devices that are only described.
    dtype: if none, what `generate` takes on this machine, which may differ from what it takes on those devices.
    Raises what `generate` raises.
    """
    return _generate.lower(*_arguments(model, pixels, config, dtype, image_processor, cross_attention))


def stream(
    model: TrOCR,
    pixels: jax.Array,
    config: DecodeConfig | None = None,
    *,
    dtype: DTypeLike | None = None,
    image_processor: ImageProcessor | None = None,
    cross_attention: CrossAttention = "auto",
) -> Iterator[Decoded]:
    """The same search, step by step: what has been found after each token. The last one is what `generate` returns.

    A beam search has found nothing (scores of -1e9) before its first hypotheses end. Raises what `generate` raises,
    when the first result is asked for.
    """
    _check(pixels)
    config = DecodeConfig() if config is None else config
    dtype = compute_dtype(dtype)
    placed = placed_as(pixels)
    shape, numbers = plan(config, model.config, placed=placed, cross_attention=cross_attention, dtype=dtype)
    cross, keys, state = _begin(model, pixels, numbers, shape, dtype, image_processor)
    while True:
        going_on, found = _look(model, cross, keys, numbers, state, shape, dtype)
        if not going_on:
            yield found
            return
        if int(state.position) > 0:
            yield found
        state = _advance(model, cross, keys, numbers, state, shape, dtype)


def decode(
    model: TrOCR, memory: Kept, numbers: Numbers, shape: Shape, dtype: DTypeLike, keys: jax.Array | None = None
) -> Decoded:
    """The search alone, from memory [B, S, D] and a `plan`: for use under jit, by those who keep the memory.

    keys [B]: random keys of the images, needed to sample.
    """
    keys = jax.random.split(jax.random.key(numbers.seed), memory.shape[0]) if keys is None else keys
    return run(memory_search(model, memory, keys, numbers, shape, dtype))


def memory_search(
    model: TrOCR, memory: Kept, keys: jax.Array, numbers: Numbers, shape: Shape, dtype: DTypeLike
) -> Search:
    """The same search, not yet run."""
    return _search(model, cross_of(model, memory, shape, dtype), keys, numbers, shape, jnp.dtype(dtype))


class Primed(NamedTuple):
    """Images as a search sees them: a language model of what each of them says. Functions and arrays; made and used
    inside one jitted function.

    step: what a search calls. init_cache(hypotheses, length): an empty cache. batch: images. special: token ids.
    keys [B]: a random key that belongs to each line.
    """

    step: StepFn
    init_cache: Callable[[int, int], Cache]
    batch: int
    special: Special
    keys: jax.Array


def prime(
    model: TrOCR,
    pixels: jax.Array,
    *,
    seed: int | jax.Array = 0,
    dtype: DTypeLike | None = None,
    image_processor: ImageProcessor | None = None,
) -> Primed:
    """Encodes images and primes cross-attention, for a search of one's own. Arguments as for `generate`.

    Raises ImageError for pixels that are not [B, H, W, 3], DecodeError for a seed that is no whole number from 0 to
    2**32 - 1."""
    _check(pixels)
    if not isinstance(seed, jax.Array):
        check_seed(seed)
    dtype = compute_dtype(dtype)
    memory, keys = read(model, pixels, jnp.asarray(seed, jnp.uint32), dtype, image_processor)
    cross = model.prime(widened(memory, dtype=dtype), dtype=dtype)
    return Primed(
        step=lambda tokens, cache, position: model.step(tokens, cache, position, cross, dtype=dtype),
        init_cache=lambda hypotheses, length: model.init_cache(len(keys), hypotheses, length, dtype=dtype),
        batch=len(keys),
        special=special_tokens(model.config),
        keys=keys,
    )


def own(pixels: Pixels) -> Pixels:
    """Pixels that the caller cannot change any more: of an array of numpy a copy, since a program begins after the call
    has returned, and on a CPU reads the array itself. jax.numpy.array would copy in such a program too."""
    return pixels.copy() if isinstance(pixels, np.ndarray) else pixels


def line_keys(pixels: jax.Array, seed: jax.Array | np.uint32) -> jax.Array:
    """A random key for each image of pixels [B, H, W, 3], from its pixels and the seed: [B]. What is drawn for a line
    then belongs to the line, wherever and beside whatever it stands."""
    if pixels.dtype == jnp.uint8:
        bits = pixels.astype(jnp.uint32)
    else:
        bits = jax.lax.bitcast_convert_type(pixels.astype(jnp.float32), jnp.uint32)
    bits = bits.reshape(bits.shape[0], -1)
    # Each value together with its place, mixed by the finalizer of MurmurHash3; sums of integers have no order.
    bits += jnp.arange(bits.shape[1], dtype=jnp.uint32)[None, :] * np.uint32(2654435761)
    bits = (bits ^ (bits >> 16)) * np.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * np.uint32(0xC2B2AE35)
    hashes = (bits ^ (bits >> 16)).sum(axis=1, dtype=jnp.uint32)
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), hashes)


def read(  # also what refilled slots begin with
    model: TrOCR,
    pixels: jax.Array,
    seed: jax.Array | np.uint32,
    dtype: jnp.dtype,
    image_processor: ImageProcessor | None,
    *,
    shape: Shape | None = None,
) -> tuple[Kept, jax.Array]:
    """Memory [B, S, D] and keys [B] of the images. shape: of the search that follows, which says in what parts images
    are read and whether their memory is rounded as it comes; all at once and floats if none."""
    keys = line_keys(pixels, seed)  # of the pixels as they came: scaled ones may be rounded otherwise in another batch

    def encode(pixels: jax.Array) -> Kept:
        if image_processor is not None:
            pixels = image_processor.normalize(pixels)
        memory = model.encode(pixels, dtype=dtype)
        return round_rows(memory) if shape is not None and shape.keeps_int8_memory else memory

    size = cached_micro_batch(model.config.encoder, len(pixels), 0 if shape is None else shape.scores_bytes)
    return in_micro_batches(encode, pixels, size), keys


def cross_of(model: TrOCR, memory: Kept, shape: Shape, dtype: DTypeLike) -> Cross:
    """What cross-attention reads of memory [B, S, D]."""
    if not shape.absorbed:
        memory = widened(memory, dtype=dtype)
        prime = model.decoder.prime_rounded if shape.cache_dtype else model.prime
        return prime(memory, dtype=dtype)
    if shape.keeps_int8_memory and not isinstance(memory, Int8Rows):
        memory = round_rows(memory)
    cross = model.absorb(memory, dtype=dtype)
    if shape.one_pass is None:
        return cross
    absorbed = [layer for layer in cross if isinstance(layer, Absorbed)]
    return on_hopper(absorbed) if shape.one_pass == "hopper" else tuple(OnePass(*layer) for layer in absorbed)


def _search(model: TrOCR, cross: Cross, keys: jax.Array, numbers: Numbers, shape: Shape, dtype: jnp.dtype) -> Search:
    """The search of a `plan` over a model that reads `cross`: one image for each of the random keys [B]."""

    def step(tokens: jax.Array, cache: Any, position: jax.Array) -> tuple[jax.Array, Any]:
        return model.step(tokens, cache, position, cross, dtype=dtype)  # closed over by the loop, never carried

    cache = model.init_cache(len(keys), shape.hypotheses, shape.max_new_tokens, dtype=shape.cache_dtype or dtype)
    return search(step, cache, keys, numbers, shape, special_tokens(model.config))


def search(step: StepFn, cache: Any, keys: jax.Array, numbers: Numbers, shape: Shape, special: Special) -> Search:
    """The search of a `plan` over any language model: one image for each of the random keys [B]."""
    every: dict[str, Any] = {"batch": len(keys), "max_new_tokens": shape.max_new_tokens, "special": special}
    every["processor"] = numbers.processor
    if shape.num_beams == 1:
        choose = categorical(keys) if shape.do_sample else greedy
        return sample_search(step, cache, samples=shape.hypotheses, choose=choose, **every)
    beams = every | {
        "num_beams": shape.num_beams,
        "num_return_sequences": shape.num_return_sequences,
        "length_penalty": numbers.length_penalty,
        "early_stopping": shape.early_stopping,
    }
    if shape.num_beam_groups > 1:
        groups, penalty = shape.num_beam_groups, numbers.diversity_penalty
        return diverse_beam_search_loop(step, cache, num_beam_groups=groups, diversity_penalty=penalty, **beams)
    return beam_search_loop(step, cache, keys=keys if shape.do_sample else None, **beams)


def _check(pixels: jax.Array | np.ndarray | jax.ShapeDtypeStruct) -> None:
    if not isinstance(pixels, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
        raise ImageError(f"pixels are {type(pixels).__name__}: give an array [B, H, W, 3] of numpy or jax")
    if pixels.ndim != 4 or not pixels.shape[0]:
        raise ImageError(f"pixels are {list(pixels.shape)}: give at least one image, [B, H, W, 3]")


def _arguments(
    model: TrOCR,
    pixels: jax.Array | np.ndarray | jax.ShapeDtypeStruct,
    config: DecodeConfig | None,
    dtype: DTypeLike | None,
    image_processor: ImageProcessor | None,
    cross_attention: CrossAttention,
) -> tuple[Any, ...]:
    """Of `_generate`."""
    _check(pixels)
    split = split_of(model, pixels)
    config = DecodeConfig() if config is None else config
    dtype = compute_dtype(dtype)
    placed = placed_as(pixels, split)
    shape, numbers = plan(config, model.config, placed=placed, cross_attention=cross_attention, dtype=dtype)
    return model, own(pixels), numbers, shape, dtype, image_processor, split


@partial(jax.jit, static_argnames=("shape", "dtype", "image_processor", "split"))
def _generate(
    model: TrOCR,
    pixels: jax.Array,
    numbers: Numbers,
    shape: Shape,
    dtype: jnp.dtype,
    image_processor: ImageProcessor | None,
    split: Split | None = None,
) -> Decoded:
    def one(model: TrOCR, pixels: jax.Array, numbers: Numbers) -> Decoded:
        memory, keys = read(model, pixels, numbers.seed, dtype, image_processor, shape=shape)
        return run(memory_search(model, memory, keys, numbers, shape, dtype))

    # Images are an axis of the pixels alone, not of the model nor of the numbers.
    return alone(split, one, False, True, False)(model, pixels, numbers)


@partial(jax.jit, static_argnames=("shape", "dtype", "image_processor"))
def _begin(
    model: TrOCR,
    pixels: jax.Array,
    numbers: Numbers,
    shape: Shape,
    dtype: jnp.dtype,
    image_processor: ImageProcessor | None,
) -> tuple[Cross, jax.Array, Any]:
    """Of `stream`: what cross-attention reads, the keys [B] and the state before the first step."""

    def begin(model: TrOCR, pixels: jax.Array, numbers: Numbers) -> tuple[Cross, jax.Array, Any]:
        memory, keys = read(model, pixels, numbers.seed, dtype, image_processor, shape=shape)
        cross = cross_of(model, memory, shape, dtype)
        return cross, keys, _search(model, cross, keys, numbers, shape, dtype).state

    return automatic(begin, model, pixels, numbers)


@partial(jax.jit, static_argnames=("shape", "dtype"))
def _advance(
    model: TrOCR, cross: Cross, keys: jax.Array, numbers: Numbers, state: Any, shape: Shape, dtype: jnp.dtype
) -> Any:
    """Of `stream`: the state one step further."""

    def advance(model: TrOCR, cross: Cross, keys: jax.Array, numbers: Numbers, state: Any) -> Any:
        return _search(model, cross, keys, numbers, shape, dtype).advance(state)

    return automatic(advance, model, cross, keys, numbers, state)


@partial(jax.jit, static_argnames=("shape", "dtype"))
def _look(
    model: TrOCR, cross: Cross, keys: jax.Array, numbers: Numbers, state: Any, shape: Shape, dtype: jnp.dtype
) -> tuple[jax.Array, Decoded]:
    """Of `stream`: whether the search goes on, and what it has found."""

    def look(model: TrOCR, cross: Cross, keys: jax.Array, numbers: Numbers, state: Any) -> tuple[jax.Array, Decoded]:
        search = _search(model, cross, keys, numbers, shape, dtype)
        return search.unfinished(state), search.finish(state)

    return automatic(look, model, cross, keys, numbers, state)
