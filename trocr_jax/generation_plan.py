"""What is compiled for a search, and what may change without: from a configuration, a model and the place it will run.

Here stands which form of cross-attention reads the memory where (`absorbs`, `_kernel`); each rule was measured, and
benchmarks/README.md has the figures.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from trocr_jax.config import TrOCRConfig
from trocr_jax.decoding.beam_state import EarlyStopping
from trocr_jax.decoding.config import CacheDtype, DecodeConfig
from trocr_jax.decoding.constraints import Constraint
from trocr_jax.decoding.order import check_token_ids, processor_for
from trocr_jax.decoding.types import Processor, Special
from trocr_jax.encoder import SCORES_BYTES
from trocr_jax.errors import DecodeError
from trocr_jax.generation_split import Split
from trocr_jax.kernels import cross_attention_hopper
from trocr_jax.kernels.cross_attention import LANES

CrossAttention = Literal["auto", "products", "kernel"]
Kernel = Literal["tpu", "hopper"]


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
    if not isinstance(config, DecodeConfig):
        raise DecodeError(f"config is {config!r}: give a DecodeConfig")
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
    kernel = _kernel(
        cross_attention, placed, model, compute_dtype(dtype), hypotheses=hypotheses, cache=config.cache_dtype
    )
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
        faster = tiles is not None and rows <= 2 * tiles.queries and cache is None and is_hopper(placed)
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


def is_hopper(placed: Placed) -> bool:
    """Whether the kernel for Hopper GPUs was made for it. A GH200 has an H200 in its name."""
    return placed.platform == "gpu" and any(name in placed.kind for name in ("H100", "H200"))


def check_cross_attention(asked: CrossAttention, placed: Placed, model: TrOCRConfig | None = None) -> None:
    """Raises DecodeError if the devices, or the model if one is given, cannot do what is asked for."""
    if asked not in get_args(CrossAttention):
        raise DecodeError(f"cross_attention is {asked!r}: use 'auto', 'products', or on a TPU, H100 or H200 'kernel'")
    if asked != "kernel":
        return
    if placed.platform != "tpu" and not is_hopper(placed):
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


def placed_as(pixels: jax.Array | np.ndarray | jax.ShapeDtypeStruct, split: Split | None = None) -> Placed:
    """Where the images are, or would be; in a function that is being traced the devices of its mesh. With `split` each
    device goes its own way."""
    if isinstance(pixels, jax.core.Tracer):
        mesh = jax.sharding.get_abstract_mesh()
        device, devices = mesh.abstract_device, max(mesh.size, 1)
    elif (sharding := getattr(pixels, "sharding", None)) is not None:
        device, devices = next(iter(sharding.device_set)), len(sharding.device_set)
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


def compute_dtype(asked: DTypeLike | None = None) -> jnp.dtype:
    """The type asked for; if none, f32 where the default backend is a CPU and bf16 on accelerators."""
    if asked is not None:
        with suppress(TypeError):  # jax would take float64 for float32
            if (dtype := jnp.dtype(asked)).name in ("float32", "bfloat16", "float16"):
                return dtype
        raise DecodeError(f"dtype is {asked!r}: give a type of floats: float32, bfloat16 or float16")
    return jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)


def special_tokens(ids: TrOCRConfig) -> Special:
    """The token ids of a model that a search needs."""
    return Special(start=ids.decoder_start_token_id, end=ids.eos_token_id, pad=ids.pad_token_id)
