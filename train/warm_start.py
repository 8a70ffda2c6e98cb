"""First weights from other models: a whole TrOCR, or an image Transformer for the encoder and a text Transformer for
the decoder (Li et al. 2023, section 3.2: BEiT or DeiT, and the last layers of RoBERTa or MiniLM).

Every tensor of a folder is used, or named by a table as left out; every parameter that gets nothing is named by a table
as one that may begin anew. What happened is a `Found`, printed when a run starts.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from transformers import PreTrainedTokenizerBase

from train.codec import tokenizer_of
from train.recipe import Recipe, WarmStart
from train.step import TrainState, init_ema
from train.vocabulary import carry_rows, vocabulary_for
from train.warm_decoder import decoder_tensors
from train.warm_encoder import encoder_tensors, resized_positions
from train.warm_tensors import Found, Shapes
from trocr_jax.checkpoint import load, resolve
from trocr_jax.checkpoint.assets import TOKENIZER
from trocr_jax.checkpoint.parameters import parameters
from trocr_jax.config import TrOCRConfig
from trocr_jax.errors import CheckpointError, ConfigError
from trocr_jax.quantization import kind_of
from trocr_jax.sharding import path_name
from trocr_jax.tokenizer import load_tokenizer

TABLES = ("decoder/embed_tokens", "decoder/output_projection")  # a row a token


def start_from(state: TrainState, recipe: Recipe) -> TrainState:
    """`state` with the first weights that `recipe.start_from` names, in f32; the rest of it stays. Nothing is read from
    the arrays of `state`, and the new ones lie where those lie.

    Raises CheckpointError listing what does not fit, TokenizerError if a vocabulary is needed and missing, ConfigError
    if adapters would leave what is new as it is drawn.
    """
    leaves = jax.tree_util.tree_leaves_with_path(state.params["model"])
    found = first_weights(recipe, {path_name(path): tuple(leaf.shape) for path, leaf in leaves})
    if jax.process_index() == 0:
        print("\n".join(found.lines()), file=sys.stderr)

    def placed(path: tuple[Any, ...], old: jax.Array) -> jax.Array:
        new = found.arrays.get(path_name(path))
        return old if new is None else jax.device_put(np.asarray(new, np.float32), old.sharding)

    params = state.params | {"model": jax.tree_util.tree_map_with_path(placed, state.params["model"])}
    return state._replace(params=params, ema=init_ema(recipe, params))


def first_weights(recipe: Recipe, shapes: Shapes) -> Found:
    """The arrays that `recipe.start_from` gives to parameters of these paths, and what it leaves out."""
    if not isinstance(recipe.start_from, WarmStart):
        return _whole_model(recipe, shapes, str(recipe.start_from))
    found = Found({}, {}, {})
    if recipe.start_from.encoder is not None:
        part = {path: shape for path, shape in shapes.items() if path.startswith("encoder/")}
        found = found.and_(encoder_tensors(resolve(recipe.start_from.encoder), recipe.config, part))
    if recipe.start_from.decoder is not None:
        folder = resolve(recipe.start_from.decoder)
        part = {path: shape for path, shape in shapes.items() if path.startswith("decoder/")}
        text = decoder_tensors(folder, recipe.config, part)
        found = found.and_(_in_vocabulary(recipe, text, load_tokenizer(folder)))
    return found


def _whole_model(recipe: Recipe, shapes: Shapes, name: str) -> Found:
    """All of a TrOCR; positions for another image size are interpolated, tokens of another vocabulary carried over."""
    model = load(name, dtype=jnp.float32)
    if kind := kind_of(model):
        raise ConfigError(f"{name}: has {kind} weights, which cannot be trained; start from the model it was made from")
    config: TrOCRConfig = recipe.config
    arrays = {path.replace(".", "/"): np.asarray(x) for path, x in parameters(model).items()}
    positions = "encoder/position_embeddings"
    if positions in arrays and positions in shapes:
        arrays[positions] = resized_positions(
            arrays[positions], grid=model.config.encoder.grid, special=model.config.encoder.num_special_tokens,
            config=config.encoder,
        )  # fmt: skip
    found = Found(arrays, {}, {})
    other_vocabulary = model.config.decoder.vocab_size != config.decoder.vocab_size
    if other_vocabulary or recipe.tokenizer is not None or _other_tokens(recipe, resolve(name)):
        found = _in_vocabulary(recipe, found, load_tokenizer(resolve(name)))
    problems = [
        f"{path} is {list(found.arrays[path].shape) if path in found.arrays else 'missing'}, the recipe wants "
        f"{list(shapes[path]) if path in shapes else 'no such parameter'}"
        for path in sorted(found.arrays.keys() | shapes.keys())
        if path not in shapes or path not in found.arrays or found.arrays[path].shape != shapes[path]
    ]
    ours, theirs = (_arithmetic(c) for c in (config, model.config))
    if not other_vocabulary and recipe.tokenizer in (None, name):
        ours, theirs = (
            a | {"decoder_start_token_id": c.decoder_start_token_id}
            for a, c in ((ours, config), (theirs, model.config))
        )
    problems += [f"{key} is {theirs[key]}, the recipe wants {ours[key]}" for key in ours if ours[key] != theirs[key]]
    if problems:
        raise CheckpointError(
            f"{name}: has another architecture than the recipe {recipe.name!r}, which starts from it:\n  "
            + "\n  ".join(problems)
        )
    return found


def _other_tokens(recipe: Recipe, folder: Path) -> bool:
    """Whether a model's folder has a tokenizer, and its tokens are others than the recipe's, or have other numbers."""
    has_one = any((folder / name).is_file() for name in TOKENIZER)
    return has_one and load_tokenizer(folder).get_vocab() != tokenizer_of(recipe).get_vocab()


def _in_vocabulary(recipe: Recipe, found: Found, old: PreTrainedTokenizerBase) -> Found:
    """`found` with the rows of its tables in the order of the recipe's tokenizer."""
    new = tokenizer_of(recipe)
    size = recipe.config.decoder.vocab_size
    if (needed := max(new.get_vocab().values()) + 1) > size:
        raise CheckpointError(
            f"{recipe.tokenizer or 'the character tokenizer'}: has {needed} tokens, and config.decoder.vocab_size of "
            f"the recipe {recipe.name!r} is {size}; make that at least {needed}"
        )
    arrays, notes, numbers = dict(found.arrays), dict(found.carried), vocabulary_for(old, new)
    for path in TABLES:
        if path in arrays:
            carried = carry_rows(arrays[path], numbers, new.get_vocab(), size=size, seed=recipe.seed)
            arrays[path] = carried.rows
            _check_trained(recipe, path, [token for token in new.get_vocab() if token not in numbers])
            notes[path] = f"{carried.kept} rows kept, {carried.new} new"
    return found._replace(arrays=arrays, carried=notes)


def _check_trained(recipe: Recipe, path: str, new: list[str]) -> None:
    """Raises ConfigError if rows of new tokens would stay as they are drawn."""
    if new and recipe.lora is not None and not re.fullmatch(recipe.lora.targets, path):
        raise ConfigError(
            f"recipe {recipe.name!r}: lora freezes {path}, in which the rows of {len(new)} tokens are new: "
            f"{', '.join(map(repr, sorted(new)[:10]))}{', …' if len(new) > 10 else ''}; add it to lora.targets, leave "
            "lora out, or keep the model's tokenizer"
        )


def _arithmetic(config: TrOCRConfig) -> dict[str, Any]:
    """What changes the numbers of a model and does not show in the shapes of its parameters."""
    encoder, decoder = config.encoder, config.decoder
    return {
        "encoder.kind": encoder.kind,
        "encoder.num_heads": encoder.num_heads,
        "encoder.patch_size": encoder.patch_size,
        "encoder.activation": encoder.activation,
        "encoder.layer_norm_eps": encoder.layer_norm_eps,
        "decoder.num_heads": decoder.num_heads,
        "decoder.activation": decoder.activation,
        "decoder.scale_embedding": decoder.scale_embedding,
    }
