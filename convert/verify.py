"""The same model computed here and by transformers, compared stage by stage. The only file that imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trocr_jax import checkpoint
from trocr_jax.config import TrOCRConfig
from trocr_jax.decoder import DecoderLayer
from trocr_jax.encoder import Encoder, EncoderLayer, PatchEmbedding
from trocr_jax.errors import TrOCRError
from trocr_jax.model import TrOCR

Stages = dict[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """Of one stage: the largest difference, and the largest value to judge it by."""

    stage: str
    largest: float
    scale: float


def verify(ours: str, theirs: str, *, images: int = 2, tokens: int = 48, seed: int = 0) -> list[Difference]:
    """Differences between our model of folder `ours` and transformers' of folder `theirs`, in f32 on the CPU, on
    random pixels and random tokens, in the order of computation; logits last.

    Raises TrOCRError if torch is not installed, a folder cannot be loaded, or the two have different sizes.
    """
    model = checkpoint.load(ours, dtype=jnp.float32)
    config, random = model.config, np.random.default_rng(seed)
    if tokens > (most := config.decoder.max_position_embeddings):
        raise TrOCRError(f"tokens is {tokens}: {ours} has positions for {most}")
    pixels = random.uniform(-1, 1, (images, *config.encoder.image_size, config.encoder.num_channels))
    token_ids = random.integers(0, config.decoder.vocab_size, (images, tokens))
    token_ids[token_ids == config.pad_token_id] = config.eos_token_id
    token_ids[:, 0] = config.decoder_start_token_id
    pixels, token_ids = pixels.astype(np.float32), token_ids.astype(np.int32)
    reference = _run_transformers(theirs, pixels, token_ids, config)
    found = _run_ours(model, pixels, token_ids)
    if found.keys() != reference.keys():
        raise TrOCRError(f"{ours} and {theirs} have different layers: {sorted(found.keys() ^ reference.keys())}")
    differences = []
    for stage, a in found.items():
        b = reference[stage]
        if a.shape != b.shape:
            raise TrOCRError(f"{stage} is {a.shape} in {ours} and {b.shape} in {theirs}: these are different models")
        differences.append(Difference(stage, float(np.abs(a - b).max()), float(np.abs(b).max())))
    return differences


def table(differences: list[Difference]) -> str:
    """Text to print, one line a stage."""
    lines = [f"{'stage':<20} {'largest difference':>18} {'largest value':>14}"]
    lines += [f"{d.stage:<20} {d.largest:>18.2e} {d.scale:>14.2e}" for d in differences]
    return "\n".join(lines)


def _run_ours(model: TrOCR, pixels: np.ndarray, token_ids: np.ndarray) -> Stages:
    stages: Stages = {}
    with (
        _recorded(PatchEmbedding, lambda _: "patch embedding", stages),
        _recorded(EncoderLayer, _layer_name(model.encoder.layers, "encoder"), stages),
        _recorded(Encoder, lambda _: "encoder output", stages),
        _recorded(DecoderLayer, _layer_name(model.decoder.layers, "decoder"), stages),
    ):
        memory = model.encode(jnp.asarray(pixels))
        stages["memory"] = np.asarray(memory)
        stages["logits"] = np.asarray(model.decoder(jnp.asarray(token_ids), memory))
    return stages


def _layer_name(layers: Any, part: str) -> Callable[[object], str]:
    number = {id(layer): n for n, layer in enumerate(layers)}
    return lambda layer: f"{part} layer {number[id(layer)]}"


@contextmanager
def _recorded(module: type, name: Callable[[object], str], stages: Stages) -> Iterator[None]:
    """Every result of `module`'s calls is kept under `name(instance)`."""
    call = module.__call__

    def recording(self: Any, *args: Any, **kwargs: Any) -> jax.Array:
        result = call(self, *args, **kwargs)
        stages[name(self)] = np.asarray(result)
        return result

    module.__call__ = recording  # type: ignore[method-assign]
    try:
        yield
    finally:
        module.__call__ = call  # type: ignore[method-assign]


def _run_transformers(folder: str, pixels: np.ndarray, token_ids: np.ndarray, config: TrOCRConfig) -> Stages:
    try:
        import torch
    except ImportError:
        raise TrOCRError("verify compares with PyTorch, which is not installed: pip install torch") from None
    model = load_transformers(folder)
    stages: Stages = {}

    def keep(stage: str) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            stages[stage] = (output[0] if isinstance(output, tuple) else output).numpy()

        return hook

    encoder, decoder = model.encoder, model.decoder.model.decoder
    # Version 5 has `encoder.layers`, version 4 `encoder.encoder.layer`.
    layers = encoder.layers if hasattr(encoder, "layers") else encoder.encoder.layer
    encoder.embeddings.patch_embeddings.register_forward_hook(keep("patch embedding"))
    for part, modules in (("encoder", layers), ("decoder", decoder.layers)):
        for n, layer in enumerate(modules):
            layer.register_forward_hook(keep(f"{part} layer {n}"))
    try:
        with torch.no_grad():
            output = encoder(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())).last_hidden_state
            memory = model.enc_to_dec_proj(output) if config.bridge else output
            ids = torch.from_numpy(token_ids.astype(np.int64))
            logits = model.decoder(input_ids=ids, encoder_hidden_states=memory).logits
    except RuntimeError as error:  # among them BEiT with absolute positions and a non-square image (5.23.0)
        raise TrOCRError(f"{folder}: transformers cannot compute this model ({error})") from None
    return stages | {"encoder output": output.numpy(), "memory": memory.numpy(), "logits": logits.numpy()}


def load_transformers(folder: str) -> Any:
    """transformers' model of a folder in f32, ready to compute."""
    import torch
    from transformers import VisionEncoderDecoderModel
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    set_verbosity_error()
    disable_progress_bar()
    if not Path(folder).is_dir():
        raise TrOCRError(f"{folder}: no such folder; convert it first: python -m convert MODEL FOLDER --to huggingface")
    if not (Path(folder) / "config.json").is_file() or checkpoint.is_native(Path(folder)):
        raise TrOCRError(f"{folder}: is no folder of transformers; the second folder of verify must be one")
    try:
        model: Any = VisionEncoderDecoderModel.from_pretrained(folder, dtype=torch.float32)
    except Exception as error:
        raise TrOCRError(f"{folder}: transformers cannot load it ({type(error).__name__}: {error})") from error
    positions = model.decoder.model.decoder.embed_positions
    if hasattr(positions, "weights"):  # transformers 5 leaves the sinusoidal table without storage (5.23.0)
        rows = model.config.decoder.max_position_embeddings + positions.padding_idx + 1
        positions.weights = positions.get_embedding(rows, positions.embedding_dim, positions.padding_idx)
    return model.eval()
