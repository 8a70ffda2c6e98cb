"""What a generation_config.json of transformers asks for, in the options of DecodeConfig."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from trocr_jax.errors import DecodeError

FILE = "generation_config.json"
OURS = {"seed", "processors", "constraint", "choose", "cache_dtype"}  # options that transformers does not have
# Read by transformers only when it samples.
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
MAX_NEW_TOKENS = 20  # transformers' when neither max_length nor max_new_tokens is set

# Options of transformers 5.23 that leave the text as it is: memory, speed (assistants too: what they propose is checked
# by the model), what is returned; and the special tokens, which are those of the model.
WITHOUT_EFFECT = {
    "use_cache",
    "cache_implementation",
    "cache_config",
    "max_cache_len",
    "low_memory",
    "prefill_chunk_size",
    "compile_config",
    "disable_compile",
    "continuous_batching_config",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "output_logits",
    "return_dict_in_generate",
    "return_legacy_cache",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "decoder_start_token_id",
    "use_mtp",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "assistant_confidence_threshold",
    "prompt_lookup_num_tokens",
    "max_matching_ngram_size",
    "assistant_early_exit",
    "assistant_lookbehind",
    "target_lookbehind",
    "speculation_type",
    "transformers_version",
    "_from_model_config",
    "_commit_hash",
    "_original_object_hash",
}
# Options that change the text and have no counterpart here, each with the value that switches it off; null does too.
UNSUPPORTED: dict[str, Any] = {
    "max_time": None,
    "stop_strings": None,
    "top_h": None,
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "token_healing": False,
    "guidance_scale": 1,
    "watermarking_config": None,
    "is_assistant": False,
    "assistant_ensemble_weight": None,
    "penalty_alpha": 0,
    "dola_layers": None,
    "constraints": None,
    "force_words_ids": None,
    "generation_kwargs": {},
}


def read_generation_config(
    source: Mapping[str, Any] | str | os.PathLike[str], *, names: set[str], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """The options of DecodeConfig, which `names` lists, that `source` and `overrides` stand for together."""
    options = {name: value for name, value in _read(source, names).items() if value is not None}
    for name, value in options.items():
        if name in UNSUPPORTED and value != UNSUPPORTED[name]:
            raise DecodeError(f"{name} is {value!r}: it would change the text and is not supported; leave it out")
        known = name in WITHOUT_EFFECT or name in UNSUPPORTED or name in names - OURS or name == "max_length"
        if not known:
            raise DecodeError(f"{name}: no option of transformers' generation_config.json that is known here")
    if isinstance(ends := options.get("eos_token_id"), list) and len(ends) > 1:
        raise DecodeError(f"eos_token_id is {ends}: a text ends with one token, that of the model")

    if "max_new_tokens" not in options and "max_new_tokens" not in overrides:
        options["max_new_tokens"] = _new_tokens(options)
    if "min_new_tokens" in options or "min_new_tokens" in overrides:
        options.pop("min_length", None)
    if "min_length" in overrides:
        options.pop("min_new_tokens", None)
    options = {name: value for name, value in options.items() if name in names}
    together = {**options, **overrides}
    if not together.get("do_sample", False):
        together = {name: value for name, value in together.items() if name not in SAMPLING or name in overrides}
    if together.get("num_beam_groups", 1) == 1 and "diversity_penalty" not in overrides:
        together.pop("diversity_penalty", None)
    return together


def _new_tokens(options: Mapping[str, Any]) -> int:
    """max_length without the start token."""
    length = options.get("max_length", MAX_NEW_TOKENS + 1)
    if isinstance(length, bool) or not isinstance(length, Integral) or length < 2:
        raise DecodeError(f"max_length is {length!r}: give a whole number of at least 2, the start token counts")
    return int(length) - 1


def _read(source: Mapping[str, Any] | str | os.PathLike[str], names: set[str]) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        return source
    if not isinstance(source, str | os.PathLike):
        kind = type(source).__name__
        raise DecodeError(f"a {kind} is no generation_config.json: give its path or its contents, a dict (to_dict())")
    path = Path(source)
    if not path.is_dir():
        return _object(path)
    before = {} if (path / FILE).exists() else options_before(path, names)
    return before or _object(path / FILE)


def options_before(folder: Path, names: set[str]) -> dict[str, Any]:
    """The options that stood in a model's config.json before there was a file for them; first those at its top level,
    then those of its decoder."""
    if not (folder / "config.json").is_file():
        return {}
    config = _object(folder / "config.json")
    parts = [part for part in (config, config.get("decoder")) if isinstance(part, Mapping)]
    known = (names - OURS) | UNSUPPORTED.keys() | {"max_length"}
    found = {name: next((part[name] for part in parts if part.get(name) is not None), None) for name in sorted(known)}
    return {name: value for name, value in found.items() if value is not None}


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DecodeError(f"{path}: no such file; check the path, or give the options themselves") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DecodeError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(found, dict):
        raise DecodeError(f"{path}: holds no JSON object")
    return found
