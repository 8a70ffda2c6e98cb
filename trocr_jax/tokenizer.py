"""Tokenizers: a model folder to a transformers tokenizer, token ids to text, and the character tokenizer.

transformers is imported inside the functions that need it, so that importing this module stays cheap.
"""

import json
import math
import os
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trocr_jax.errors import TokenizerError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What a folder must hold, best first, and the class that reads it where tokenizer_config.json does not say.
_LAYOUTS = (
    (("tokenizer.json",), "PreTrainedTokenizerFast"),
    (("vocab.json", "merges.txt"), "RobertaTokenizer"),
    (("sentencepiece.bpe.model",), "XLMRobertaTokenizer"),
)
# Both families of published checkpoints, and the character tokenizer, spell them so.
_SPECIAL_TOKENS = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def special_ids(tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """Ids of the tokens that `decode` leaves out: those with a role, and those that were added as special ones."""
    added = (i for i, token in tokenizer.added_tokens_decoder.items() if token.special)
    return frozenset(tokenizer.all_special_ids).union(added)


def load_tokenizer(folder: str | os.PathLike[str]) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a model folder without network and without running code from the folder.

    Reads tokenizer.json, or else vocab.json and merges.txt (RoBERTa byte-level BPE: the base and large checkpoints),
    or else sentencepiece.bpe.model (XLM-R, id = piece id + 1: the small checkpoints); tokenizer_config.json may be
    missing. The result has pad, bos and eos ids. Raises TokenizerError naming the folder and the files looked for.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise TokenizerError(f"{folder}: not a folder; a tokenizer is loaded from the folder of its model")
    layout = next((name for files, name in _LAYOUTS if all((folder / file).is_file() for file in files)), None)
    if layout is None:
        wanted = ", or ".join(" with ".join(files) for files, _ in _LAYOUTS)
        raise TokenizerError(f"{folder}: no tokenizer; looked for {wanted}. Copy the model's tokenizer files there")
    import transformers

    settings = _read_settings(folder / "tokenizer_config.json")
    try:
        cls: Any = getattr(transformers, str(settings.get("tokenizer_class", layout)), None)
        if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedTokenizerBase)):
            cls = getattr(transformers, layout)  # a class of another library: its files are read all the same
        tokenizer = cls.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # Rust, protobuf and Python parsers each raise their own on damaged files.
        raise TokenizerError(f"{folder}: the tokenizer files cannot be read ({error}); copy them again") from error
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        raise TokenizerError(f"{folder}: the vocabulary of the tokenizer is empty; copy its files again")
    for name, token in _SPECIAL_TOKENS.items():
        if getattr(tokenizer, name) is None and token in tokenizer.get_vocab():
            setattr(tokenizer, name, token)
    missing = [name for name in ("pad_token", "bos_token", "eos_token") if getattr(tokenizer, f"{name}_id") is None]
    if missing:
        raise TokenizerError(f"{folder}: the tokenizer has no {', '.join(missing)}; name them in tokenizer_config.json")
    return tokenizer


def save_tokenizer(tokenizer: "PreTrainedTokenizerBase", folder: str | os.PathLike[str]) -> None:
    """Write the tokenizer's files so that `load_tokenizer` and transformers' AutoTokenizer read them from `folder`."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(folder))
    path = Path(folder) / "tokenizer_config.json"
    settings = _read_settings(path)
    if settings.get("tokenizer_class") == "TokenizersBackend":  # the name since transformers 5; both know the older one
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def decode(tokenizer: "PreTrainedTokenizerBase", token_ids: Any, lengths: Any = None) -> list[str]:
    """Text of each row of int ids [..., T], special tokens left out: equal to `batch_decode(skip_special_tokens=True)`.

    lengths [...]: tokens of each row that count, all if not given. A model may pad with what its tokenizer spells.
    Leading axes are flattened in order. Spaces before punctuation are kept, unless the tokenizer's own
    tokenizer_config.json asks for `clean_up_tokenization_spaces`, as in transformers.
    """
    ids = np.asarray(token_ids)
    rows: Any = ids.reshape(math.prod(ids.shape[:-1]), ids.shape[-1])
    if lengths is not None:
        rows = [row[:length] for row, length in zip(rows, np.asarray(lengths).reshape(-1).tolist(), strict=True)]
    # Given lists, transformers looks at the type of every number. It takes [] for one empty row.
    return tokenizer.batch_decode(rows, skip_special_tokens=True) if len(rows) else []


def character_tokenizer(alphabet: str) -> "PreTrainedTokenizerBase":
    """Tokenizer with one token per character: <s> 0, <pad> 1, </s> 2, <unk> 3, then `alphabet` in order.

    Encoding normalises to NFC and appends </s> (no <s>); any NFC string over the alphabet comes back exactly from
    `decode`, spaces and the spelling of special tokens included. Raises TokenizerError for an alphabet that is empty,
    repeats a character, or holds one that NFC replaces.
    """
    if not alphabet:
        raise TokenizerError("the alphabet is empty; give the characters that the model reads")
    if repeated := sorted({character for character in alphabet if alphabet.count(character) > 1}):
        raise TokenizerError(f"the alphabet repeats {repeated}; give each character once")
    if changed := [character for character in alphabet if not unicodedata.is_normalized("NFC", character)]:
        raise TokenizerError(f"the alphabet holds {changed}, which NFC replaces; give their normalised form")
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = [*_SPECIAL_TOKENS.values(), *alphabet]
    eos = _SPECIAL_TOKENS["eos_token"]
    backend = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, _SPECIAL_TOKENS["unk_token"]))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {eos}", pair=f"$A {eos} $B {eos}", special_tokens=[(eos, tokens.index(eos))]
    )
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens[:4]])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,  # "</s>" written in a text is four characters
        model_input_names=["input_ids", "attention_mask"],
        **_SPECIAL_TOKENS,
    )


def _read_settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: cannot be read as JSON ({error}); copy the published file again") from error
    if not isinstance(settings, dict):
        raise TokenizerError(f"{path}: must hold a JSON object, not {type(settings).__name__}")
    return settings
