"""From pixels to token ids: the one file that knows both the model and the searches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from trocr_jax.attention_cross import Absorbed, Cross, OnePass, on_hopper
from trocr_jax.attention_rows import Int8Rows, Kept, round_rows, widened
from trocr_jax.config import TrOCRConfig
from trocr_jax.decoder import Cache
from trocr_jax.decoding.beam import beam_search_loop
from trocr_jax.decoding.beam_state import EarlyStopping
from trocr_jax.decoding.config import CacheDtype, DecodeConfig
from trocr_jax.decoding.constraints import Constraint
from trocr_jax.decoding.diverse import diverse_beam_search_loop
from trocr_jax.decoding.loop import run
from trocr_jax.decoding.order import check_token_ids, processor_for
from trocr_jax.decoding.sample import categorical, greedy, sample_search
from trocr_jax.decoding.types import Decoded, Processor, Search, Special, StepFn
from trocr_jax.encoder import SCORES_BYTES, cached_micro_batch, in_micro_batches
from trocr_jax.errors import DecodeError
from trocr_jax.generation_split import Split, alone, split_of
from trocr_jax.image import ImageProcessor
from trocr_jax.kernels import cross_attention_hopper
from trocr_jax.kernels.cross_attention import LANES
from trocr_jax.model import TrOCR

CrossAttention = Literal["auto", "products", "kernel"]
Kernel = Literal["tpu", "hopper"]


def generate(
    model: TrOCR,
    pixels: jax.Array,
    config: DecodeConfig | None = None,
    *,
    dtype: DTypeLike | None = None,
    image_processor: ImageProcessor | None = None,
    cross_attention: CrossAttention = "auto",
) -> Decoded:
    """Reads images: encodes them once, primes cross-attention once, and searches in one compiled loop.

    pixels [B, H, W, 3]: f32 in [-1, 1], or uint8 together with the `image_processor` that scales them on the device.
    Where they lie shared out over an axis of a mesh, each share is read by itself; parameters may lie shared out over
    other axes (`sharding.generation_shardings`).
    dtype: compute type; f32 on a CPU and bf16 elsewhere if none.
    cross_attention: of a decoder step, "products" of XLA, or a "kernel" that reads the memory once (`kernels`), on a
    TPU or in bf16 on an H100 or H200: the same but for rounding. "auto" takes the kernel on one of those GPUs where it
    was measured to be faster, and products elsewhere: on a TPU the kernel has never run.
    Returns token_ids [B, R, L] int32 with R = num_return_sequences and L = max_new_tokens, scores [B, R] and more.
    Compiles once for each shape of `pixels`, number of beams and of tokens, and set of processors; other numbers in
    `config` compile nothing.
    Raises DecodeError if the model cannot do what `config` asks for, before anything is compiled.
    """
    split = split_of(model, pixels)
    config = DecodeConfig() if config is None else config
    dtype = _dtype(dtype)
    placed = _placed(pixels, split)
    shape, numbers = plan(config, model.config, placed=placed, cross_attention=cross_attention, dtype=dtype)
    return _generate(model, pixels, numbers, shape, dtype, image_processor, split)


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

    A beam search has found nothing (scores of -1e9) before its first hypotheses end.
    """
    config = DecodeConfig() if config is None else config
    dtype = _dtype(dtype)
    placed = _placed(pixels)
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
    """Encodes images and primes cross-attention, for a search of one's own. Arguments as for `generate`."""
    dtype = _dtype(dtype)
    memory, keys = read(model, pixels, jnp.asarray(seed, jnp.uint32), dtype, image_processor)
    cross = model.prime(widened(memory, dtype=dtype), dtype=dtype)
    return Primed(
        step=lambda tokens, cache, position: model.step(tokens, cache, position, cross, dtype=dtype),
        init_cache=lambda hypotheses, length: model.init_cache(len(keys), hypotheses, length, dtype=dtype),
        batch=len(keys),
        special=special_tokens(model.config),
        keys=keys,
    )


def check(
    config: DecodeConfig,
    model: TrOCRConfig,
    *,
    placed: Placed | None = None,
    cross_attention: CrossAttention = "auto",
    dtype: DTypeLike | None = None,
) -> None:
    """Raises DecodeError if the model cannot do what `config` asks for. Arguments as for `plan`."""
    plan(config, model, placed=placed, cross_attention=cross_attention, dtype=dtype)


def compute_dtype() -> jnp.dtype:
    """f32 where the default backend is a CPU, bf16 on accelerators."""
    return jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)


def _dtype(dtype: DTypeLike | None) -> jnp.dtype:
    return compute_dtype() if dtype is None else jnp.dtype(dtype)


class Shape(NamedTuple):
    """What a compiled search is made for. Hashable."""

    num_beams: int
    hypotheses: int  # K: beams, or samples
    max_new_tokens: int
    num_return_sequences: int
    early_stopping: EarlyStopping
    do_sample: bool
    num_beam_groups: int
    absorbed: bool  # cross-attention reads the memory itself instead of keys and values
    one_pass: Kernel | None  # and does so in a kernel
    scores_bytes: int  # so many images go through the encoder at a time that their scores take no more; 0: all
    cache_dtype: CacheDtype | None  # of what is kept of images and texts; the compute type if none

    @property
    def keeps_int8_memory(self) -> bool:
        """Of the memory itself; keys and values are made from one of floats."""
        return self.absorbed and self.cache_dtype == "int8"


class Placed(NamedTuple):
    """platform "cpu", "gpu" or "tpu" and kind of device as jax calls it. devices: how many share the images as the
    compiler likes. sharing: how many share the model, and read the same images. split: each device of a mesh goes its
    own way."""

    platform: str
    kind: str
    devices: int = 1
    sharing: int = 1
    split: bool = False


class Numbers(NamedTuple):
    """What may change without compiling again."""

    length_penalty: float | jax.Array
    seed: jax.Array | np.uint32
    processor: Processor
    diversity_penalty: float | jax.Array


def plan(
    config: DecodeConfig,
    model: TrOCRConfig,
    *,
    placed: Placed | None = None,
    cross_attention: CrossAttention = "auto",
    dtype: DTypeLike | None = None,
) -> tuple[Shape, Numbers]:
    """A config as what is compiled and what is not. placed: where it will run, one of jax's default devices if none.
    dtype: the compute type, `compute_dtype()` if none.
    Raises DecodeError if the model cannot do it."""
    limit = model.decoder.max_position_embeddings
    if config.max_new_tokens > limit:
        raise DecodeError(f"max_new_tokens is {config.max_new_tokens}: this model has positions for {limit} tokens")
    if config.num_beams > model.decoder.vocab_size:
        raise DecodeError(f"num_beams is {config.num_beams}: this model has {model.decoder.vocab_size} tokens")
    check_token_ids(config, model.decoder.vocab_size)
    if isinstance(config.constraint, Constraint):
        raise DecodeError(
            "constraint: compile it for the tokenizer first (trocr_jax.decoding.constraints.compile); a Recognizer does"
        )
    if config.choose != "score":
        raise DecodeError(f"choose is {config.choose!r}: token ids are not texts; a Recognizer chooses among texts")
    placed = placed or placed_on(None)
    hypotheses = config.num_return_sequences if config.num_beams == 1 else config.num_beams
    kernel = _kernel(cross_attention, placed, model, _dtype(dtype), hypotheses=hypotheses, cache=config.cache_dtype)
    shape = Shape(
        num_beams=config.num_beams,
        hypotheses=hypotheses,
        max_new_tokens=config.max_new_tokens,
        num_return_sequences=config.num_return_sequences,
        early_stopping=config.early_stopping,
        do_sample=config.do_sample,
        num_beam_groups=config.num_beam_groups,
        absorbed=absorbs(hypotheses * config.max_new_tokens, model, platform=placed.platform),
        one_pass=kernel,
        scores_bytes=_scores_bytes(placed),
        cache_dtype=config.cache_dtype,
    )
    processor = processor_for(config, special_tokens(model))
    numbers = Numbers(
        length_penalty=float(config.length_penalty),
        seed=np.uint32(config.seed),
        processor=processor,
        diversity_penalty=float(config.diversity_penalty),
    )
    return shape, numbers


def absorbs(tokens: int, model: TrOCRConfig, *, platform: str) -> bool:
    """Whether cross-attention is to read the memory itself (`attention_cross.Absorbed`) in a search that writes at most
    so many tokens an image, all hypotheses together.

    Keys and values cost 4 S M D operations a layer once; without them a token costs 4 S M N more, so that both are
    even at D / N = H tokens. A CPU's measured balance is there too, and half of what a search may write is expected
    (benchmarks/README.md). Elsewhere memory traffic decides: keys and values are some 2 D / M times the memory a layer.
    """
    return platform != "cpu" or tokens <= 1.5 * model.decoder.head_dim


def _kernel(
    asked: CrossAttention,
    placed: Placed,
    model: TrOCRConfig,
    dtype: jnp.dtype,
    *,
    hypotheses: int,
    cache: CacheDtype | None,
) -> Kernel | None:
    """Which kernel is to read the memory. Raises DecodeError if one is asked for that cannot."""
    check_cross_attention(asked, placed, model)
    rows, width = hypotheses * model.decoder.num_heads, model.memory_width
    tiles = cross_attention_hopper.tiles(rows, width) if dtype == jnp.bfloat16 else None
    if asked == "auto":
        alone = placed.devices == placed.sharing == 1 and not placed.split
        # Each block of queries reads the memory again, though not from far away: from the third on products are faster.
        faster = tiles is not None and rows <= 2 * tiles.queries and cache is None and _is_hopper(placed)
        return "hopper" if alone and faster else None
    if asked == "products":
        return None
    if cache is not None:
        raise DecodeError(
            f"cache_dtype is {cache!r} and cross_attention is 'kernel', which reads a memory of floats: leave one out"
        )
    if placed.platform == "tpu":
        return "tpu"
    if tiles is None:
        raise DecodeError(
            f"cross_attention is 'kernel', which on this GPU computes in bfloat16, for {model.decoder.num_heads} heads "
            f"and a memory {model.memory_width} wide in 8 queries or more at a time; this is in {dtype}, with "
            f"{hypotheses} hypotheses an image: {_ELSE}"
        )
    return "hopper"


def _is_hopper(placed: Placed) -> bool:
    return placed.platform == "gpu" and any(name in placed.kind for name in ("H100", "H200", "GH200"))


def check_cross_attention(asked: CrossAttention, placed: Placed, model: TrOCRConfig | None = None) -> None:
    """Raises DecodeError if the devices, or the model if one is given, cannot do what is asked for."""
    if asked not in get_args(CrossAttention):
        raise DecodeError(f"cross_attention is {asked!r}: use 'auto', 'products', or on a TPU, H100 or H200 'kernel'")
    if asked != "kernel":
        return
    if placed.platform != "tpu" and not _is_hopper(placed):
        raise DecodeError(
            f"cross_attention is 'kernel', which is for TPUs, H100 and H200, and this is a {placed.platform}: {_ELSE}"
        )
    if (devices := placed.devices * placed.sharing) > 1:
        raise DecodeError(
            f"cross_attention is 'kernel', which XLA cannot split among {devices} devices: share out the images alone, "
            f"each device with the whole model, or {_ELSE}"
        )
    if model is not None and placed.platform == "tpu" and model.memory_width % LANES:
        raise DecodeError(
            f"cross_attention is 'kernel', and this model's memory is {model.memory_width} wide, no multiple of "
            f"{LANES}: {_ELSE}"
        )


_ELSE = "use 'products', which gives the same but for rounding"


def line_keys(pixels: jax.Array, seed: jax.Array | np.uint32) -> jax.Array:
    """A random key for each image of pixels [B, H, W, 3], from its pixels and the seed: [B]. What is drawn for a line
    then belongs to the line, wherever and beside whatever it stands."""
    if pixels.dtype == jnp.uint8:
        bits = pixels.astype(jnp.uint32)
    else:
        bits = jax.lax.bitcast_convert_type(pixels.astype(jnp.float32), jnp.uint32)
    bits = bits.reshape(bits.shape[0], -1)
    # Odd multipliers that differ from place to place (Knuth's multiplicative hash); sums of integers have no order.
    places = jnp.arange(bits.shape[1], dtype=jnp.uint32) * np.uint32(2654435761) | np.uint32(1)
    bits = (bits ^ (bits >> 15)) * np.uint32(2246822519)
    hashes = (bits * places[None, :]).sum(axis=1, dtype=jnp.uint32)
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

    size = len(pixels)
    if shape is not None and shape.scores_bytes:
        size = cached_micro_batch(model.config.encoder, size, shape.scores_bytes)
    return (encode(pixels) if size == len(pixels) else in_micro_batches(encode, pixels, size)), keys


def cross_of(model: TrOCR, memory: Kept, shape: Shape, dtype: DTypeLike) -> Cross:
    """What cross-attention reads of memory [B, S, D]."""
    if not shape.absorbed:
        memory = widened(memory, dtype=dtype)
        return model.prime_rounded(memory, dtype=dtype) if shape.cache_dtype else model.prime(memory, dtype=dtype)
    if shape.keeps_int8_memory and not isinstance(memory, Int8Rows):
        memory = round_rows(memory)
    cross = model.absorb(memory, dtype=dtype)
    if shape.one_pass is None:
        return cross
    absorbed = [layer for layer in cross if isinstance(layer, Absorbed)]
    return on_hopper(absorbed) if shape.one_pass == "hopper" else tuple(OnePass(*layer) for layer in absorbed)


def _placed(pixels: jax.Array, split: Split | None = None) -> Placed:
    """Where the images are; in a function that is being traced the devices of its mesh. With `split` each device goes
    its own way."""
    if isinstance(pixels, jax.core.Tracer):
        mesh = jax.sharding.get_abstract_mesh()
        device, devices = mesh.abstract_device, max(mesh.size, 1)
    elif isinstance(pixels, jax.Array):
        device, devices = next(iter(pixels.sharding.device_set)), len(pixels.sharding.device_set)
    else:
        return placed_on(None)
    platform = getattr(device, "platform", None)
    if platform is None:  # an abstract mesh without devices
        return placed_on(None)._replace(devices=devices)
    return Placed(platform, device.device_kind, *((1, split.sharing, True) if split else (devices,)))


def placed_on(split: Split | None) -> Placed:
    """On the devices of a mesh, on jax's default one without."""
    device = jax.local_devices()[0] if split is None else split.mesh.devices.flat[0]
    sharing = 1 if split is None else split.sharing
    return Placed(device.platform, device.device_kind, sharing=sharing, split=split is not None)


def _scores_bytes(placed: Placed) -> int:
    if placed.devices > 1:  # parts of a batch would have to move from device to device
        return 0
    # of a device, which computes the scores of its own heads
    return placed.sharing * SCORES_BYTES.get(placed.kind, SCORES_BYTES.get(placed.platform, 0))


def _search(model: TrOCR, cross: Cross, keys: jax.Array, numbers: Numbers, shape: Shape, dtype: jnp.dtype) -> Search:
    def step(tokens: jax.Array, cache: Any, position: jax.Array) -> tuple[jax.Array, Any]:
        return model.step(tokens, cache, position, cross, dtype=dtype)  # closed over by the loop, never carried

    cache = model.init_cache(len(keys), shape.hypotheses, shape.max_new_tokens, dtype=shape.cache_dtype or dtype)
    return search(step, cache, keys, numbers, shape, special_tokens(model.config))


def special_tokens(ids: TrOCRConfig) -> Special:
    """The token ids of a model that a search needs."""
    return Special(start=ids.decoder_start_token_id, end=ids.eos_token_id, pad=ids.pad_token_id)


def search(step: StepFn, cache: Any, keys: jax.Array, numbers: Numbers, shape: Shape, special: Special) -> Search:
    """The search of a `plan` over any language model: one image for each of the random keys [B]."""
    batch = len(keys)
    if shape.num_beams == 1:
        return sample_search(
            step,
            cache,
            batch=batch,
            samples=shape.hypotheses,
            max_new_tokens=shape.max_new_tokens,
            special=special,
            choose=categorical(keys) if shape.do_sample else greedy,
            processor=numbers.processor,
        )
    if shape.num_beam_groups > 1:
        return diverse_beam_search_loop(
            step,
            cache,
            batch=batch,
            num_beams=shape.num_beams,
            num_beam_groups=shape.num_beam_groups,
            diversity_penalty=numbers.diversity_penalty,
            max_new_tokens=shape.max_new_tokens,
            special=special,
            num_return_sequences=shape.num_return_sequences,
            length_penalty=numbers.length_penalty,
            early_stopping=shape.early_stopping,
            processor=numbers.processor,
        )
    return beam_search_loop(
        step,
        cache,
        batch=batch,
        num_beams=shape.num_beams,
        max_new_tokens=shape.max_new_tokens,
        special=special,
        num_return_sequences=shape.num_return_sequences,
        length_penalty=numbers.length_penalty,
        early_stopping=shape.early_stopping,
        processor=numbers.processor,
        keys=keys if shape.do_sample else None,
    )


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
    memory, keys = read(model, pixels, numbers.seed, dtype, image_processor, shape=shape)
    cross = cross_of(model, memory, shape, dtype)
    return cross, keys, _search(model, cross, keys, numbers, shape, dtype).state


@partial(jax.jit, static_argnames=("shape", "dtype"))
def _advance(
    model: TrOCR, cross: Cross, keys: jax.Array, numbers: Numbers, state: Any, shape: Shape, dtype: jnp.dtype
) -> Any:
    return _search(model, cross, keys, numbers, shape, dtype).advance(state)


@partial(jax.jit, static_argnames=("shape", "dtype"))
def _look(
    model: TrOCR, cross: Cross, keys: jax.Array, numbers: Numbers, state: Any, shape: Shape, dtype: jnp.dtype
) -> tuple[jax.Array, Decoded]:
    search = _search(model, cross, keys, numbers, shape, dtype)
    return search.unfinished(state), search.finish(state)
