"""From the options of a command to a DecodeConfig; those that contradict each other are refused by both names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from trocr_jax import checkpoint
from trocr_jax.cli.options import Reading, flag, given
from trocr_jax.decoding import constraints
from trocr_jax.decoding.config import DecodeConfig
from trocr_jax.decoding.fusion import NGram, ShallowFusion
from trocr_jax.errors import DecodeError
from trocr_jax.generation_plan import check_cross_attention, placed_on
from trocr_jax.recognizer import Recognizer
from trocr_jax.recognizer_search import DEFAULT_MAX_NEW_TOKENS
from trocr_jax.sharding import make_mesh

_STOPPING = {"true": True, "false": False, "never": "never"}
_STARTS = {"generation_config", "fairseq"}  # where the other options come from
_OF_BEAMS = ("length_penalty", "early_stopping", "num_beam_groups")


def check_options(command: Reading) -> None:
    """Raises DecodeError for options that say nothing or contradict each other, before anything is loaded."""
    search, sampling = given(command.search), given(command.sampling)
    language_model = given(command.language_model)
    if command.search.fairseq and command.search.generation_config:
        raise DecodeError("--fairseq and --generation-config exclude each other: each says where to start from")
    if not command.search.generation_config:  # it may give what is missing here
        _check_effect(command, DecodeConfig.fairseq() if command.search.fairseq else DecodeConfig(max_new_tokens=1))
    if "num_beam_groups" in search and sampling.get("sample"):
        raise DecodeError("--num-beam-groups and --sample exclude each other: groups of beams are not drawn")
    if language_model and command.language_model.lm is None:
        raise DecodeError(f"{flag(next(iter(language_model)))} needs --lm FILE")
    if command.search.fairseq:
        DecodeConfig.fairseq(**_options(command))
    elif not command.search.generation_config:
        DecodeConfig(**_options(command))


def _check_effect(command: Reading, start: DecodeConfig) -> None:
    """Raises DecodeError for options that change nothing. start: what holds where an option is not given."""
    search, sampling = given(command.search), given(command.sampling)
    beams, texts = search.get("num_beams", start.num_beams), search.get("n_best", start.num_return_sequences)
    drawn = command.sampling.sample or start.do_sample
    if sampling and not drawn:
        raise DecodeError(f"{flag(next(iter(sampling)))} needs --sample: nothing is drawn without it")
    for name in _OF_BEAMS:
        if name in search and beams == 1:
            raise DecodeError(f"{flag(name)} needs --num-beams above 1: there is one hypothesis without it")
    if texts > max(beams, 1) and (beams > 1 or not drawn):
        raise DecodeError(f"--n-best {texts} needs --num-beams {texts} or more, or --sample with one beam")
    if command.score.mbr and texts == 1:
        raise DecodeError("--mbr needs --n-best above 1: there is one text to choose from without it")
    if "diversity_penalty" in search and search.get("num_beam_groups", start.num_beam_groups) == 1:
        raise DecodeError("--diversity-penalty needs --num-beam-groups: one group has no other to differ from")


def _alone(folder: Path) -> DecodeConfig | None:
    """What generation_config.json says by itself; None if it is not complete without options."""
    try:
        return DecodeConfig.from_generation_config(folder)
    except DecodeError:
        return None


def devices(command: Reading) -> Mesh | None:
    """Those of --mesh. Raises ConfigError if they are not there, DecodeError if none of this kind can do what
    --cross-attention asks for."""
    check_cross_attention(command.cross_attention, placed_on(None))
    return None if command.mesh is None else make_mesh(command.mesh, jax.local_devices())


def load(command: Reading, *, by: Callable[..., Recognizer] = Recognizer.from_pretrained) -> Recognizer:
    """The model that the options ask for, on the devices that they name. by: what loads it, as `from_pretrained`."""
    return by(
        command.model,
        revision=command.revision,
        dtype=command.dtype,
        mesh=devices(command),
        cross_attention=command.cross_attention,
    )


def decode_config(command: Reading, recognizer: Recognizer) -> DecodeConfig:
    """The search that the options ask for, for this model."""
    options = _options(command)
    if spec := _constraint(command):
        options["constraint"] = spec
    if (path := command.language_model.lm) is not None:
        asked = given(command.language_model)
        lm = NGram.from_arpa(path, recognizer.tokens)
        options["processors"] = (ShallowFusion(lm, asked.get("lm_weight", 0.5), asked.get("length_bonus", 0.0)),)
    if command.search.generation_config:
        folder = checkpoint.resolve(command.model, revision=command.revision)
        if start := _alone(folder):
            _check_effect(command, start)
        return DecodeConfig.from_generation_config(folder, **options)
    if command.search.fairseq:
        return DecodeConfig.fairseq(**options)
    if command.search.max_new_tokens is None:
        positions = recognizer.model.config.decoder.max_position_embeddings
        options["max_new_tokens"] = min(DEFAULT_MAX_NEW_TOKENS, positions)
    return DecodeConfig(**options)


def _options(command: Reading) -> dict[str, Any]:
    """Options of DecodeConfig that were given."""
    options = given(command.search) | given(command.sampling) | given(command.penalty)
    for name in _STARTS:
        options.pop(name, None)
    if options.pop("sample", False):
        options["do_sample"] = True
    if "early_stopping" in options:
        options["early_stopping"] = _STOPPING[options["early_stopping"]]
    if "n_best" in options:
        options["num_return_sequences"] = options.pop("n_best")
    if command.score.mbr:
        options["choose"] = "mbr"
    if command.search.max_new_tokens is None and not given(command.search).keys() & _STARTS:
        options["max_new_tokens"] = DEFAULT_MAX_NEW_TOKENS
    return options


def _constraint(command: Reading) -> constraints.Constraint | None:
    kinds = {
        "allow": constraints.Characters,
        "regex": constraints.Regex,
        "lexicon": constraints.Lexicon,
        "prefix": constraints.Prefix,
    }
    specs = [kinds[name](value) for name, value in given(command.constraint).items()]
    return constraints.All(*specs) if len(specs) > 1 else specs[0] if specs else None
