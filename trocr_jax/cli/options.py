"""The options of `transcribe` and `jobs run` that say with what and how text is read, in the groups of --help."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

import tyro

from trocr_jax.errors import DecodeError


def argument(metavar: str | None, help: str, default: str) -> Any:
    """How --help shows an argument; `default` says what happens without it."""
    return tyro.conf.arg(metavar=metavar, help=help, help_behavior_hint=default)


MODEL = "A built-in model, a local folder, or a repository of the Hugging Face hub (microsoft/trocr-base-printed)."
REVISION = "Branch, tag or commit of the repository, such as refs/pr/3."
_TOKENS = "Longest text in tokens, the end token counted."
_PENALTY = "Scores of beams are divided by length ** this: above 0 favours long texts."
_STOP = "When a line with K finished texts stops: true, at once; false, by a heuristic; never, when none can be better."
_N_BEST = (
    "Texts to find for each line, at most as many as beams, or as many samples. A column `alternatives` lists them; "
    "txt has the best alone."
)
_CACHE = "Keep what a search reads of image and text in int8, with a scale for each row: less memory, not quite exact."
_GENERATION = "Start from the model's generation_config.json, as transformers does; options given here go before it."
_FAIRSEQ = (
    "Start from the settings that TrOCR was evaluated with in fairseq: 10 beams, length penalty 1, at most 200 tokens, "
    "at least 1 before the end, a line stops with its tenth text; options given here go before them."
)
_CROSS_ATTENTION = (
    "How a step of the decoder reads the memory: by products, or on a TPU, H100 or H200 in one pass by a kernel; auto "
    "takes the kernel on those GPUs where it is faster. The same but for rounding."
)
_MESH = (
    "Devices of this machine that read together: data=4 shares out the lines over 4, model=2 the model over 2, for a "
    "large one on small devices; data=4,model=2 takes 8."
)
_SEED = "Whole number that the draws depend on, beside the pixels of the line."


@dataclass(frozen=True, kw_only=True)
class Search:
    """How texts are searched for."""

    num_beams: Annotated[
        int | None, argument("K", "Hypotheses followed at a time; 1 is greedy search.", "(default: 1)")
    ] = None
    max_new_tokens: Annotated[int | None, argument("N", _TOKENS, "(default: 128, or as many as the model can)")] = None
    length_penalty: Annotated[float | None, argument("X", _PENALTY, "(default: 1)")] = None
    early_stopping: Annotated[
        Literal["true", "false", "never"] | None, argument("{true,false,never}", _STOP, "(default: false)")
    ] = None
    num_beam_groups: Annotated[
        int | None, argument("G", "Groups of beams that are kept apart (diverse beam search).", "(default: 1)")
    ] = None
    diversity_penalty: Annotated[
        float | None, argument("X", "What a token costs that an earlier group has taken.", "(default: 0)")
    ] = None
    n_best: Annotated[int | None, argument("N", _N_BEST, "(default: 1, no column)")] = None
    cache_dtype: Annotated[Literal["int8"] | None, argument("{int8}", _CACHE, "(default: the compute type)")] = None
    generation_config: Annotated[bool, argument(None, _GENERATION, "(default: not read)")] = False
    fairseq: Annotated[bool, argument(None, _FAIRSEQ, "(default: no)")] = False


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Tokens drawn at random, and which of them may be; all of these need --sample."""

    sample: Annotated[bool, argument(None, "Draw tokens instead of taking the likeliest.", "(default: no)")] = False
    temperature: Annotated[float | None, argument("X", "Below 1 is closer to the likeliest.", "(default: 1)")] = None
    top_k: Annotated[int | None, argument("N", "Only the N likeliest tokens; 0 for all.", "(default: 50)")] = None
    top_p: Annotated[
        float | None, argument("P", "The likeliest tokens that have this probability together.", "(default: 1)")
    ] = None
    min_p: Annotated[
        float | None, argument("P", "Tokens with this share of the likeliest one's probability.", "(default: off)")
    ] = None
    typical_p: Annotated[float | None, argument("P", "Locally typical sampling.", "(default: 1)")] = None
    epsilon_cutoff: Annotated[float | None, argument("P", "Tokens with this probability.", "(default: 0)")] = None
    eta_cutoff: Annotated[float | None, argument("P", "The same, lower where entropy is high.", "(default: 0)")] = None
    seed: Annotated[int | None, argument("N", _SEED, "(default: 0)")] = None


@dataclass(frozen=True, kw_only=True)
class Penalties:
    """What lowers the score of a token."""

    repetition_penalty: Annotated[
        float | None, argument("X", "Above 1 makes tokens less likely that were written before.", "(default: 1)")
    ] = None
    no_repeat_ngram_size: Annotated[
        int | None, argument("N", "No N tokens in a row are written twice; 0 for off.", "(default: 0)")
    ] = None
    min_new_tokens: Annotated[int | None, argument("N", "Shortest text in tokens.", "(default: 0)")] = None


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """What may be written at all. They hold for every text; several of them hold together."""

    allow: Annotated[str | None, argument("CHARS", "Only these characters, such as 0123456789.", "(default: all)")] = (
        None
    )
    regex: Annotated[
        str | None, argument("R", "Only texts that this regular expression matches as a whole.", "(default: all)")
    ] = None
    lexicon: Annotated[
        str | None, argument("FILE", "Only words of this list, one a line, joined by spaces.", "(default: all)")
    ] = None
    prefix: Annotated[str | None, argument("TEXT", "Only texts that begin so.", "(default: all)")] = None


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """Another opinion on what is likely to be written."""

    lm: Annotated[
        str | None, argument("FILE", "An n-gram model over the model's tokens: ARPA, plain or gzip.", "(default: none)")
    ] = None
    lm_weight: Annotated[
        float | None, argument("X", "What its log-probabilities are multiplied by.", "(default: 0.5)")
    ] = None
    length_bonus: Annotated[
        float | None, argument("X", "Added for every token of text, the end token not counted.", "(default: 0)")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What is said about the texts."""

    mbr: Annotated[
        bool,
        argument(None, "Of the --n-best texts the one with the fewest expected wrong characters.", "(default: no)"),
    ] = False
    confidences: Annotated[
        bool, argument(None, "Columns `words` and `characters`, each with its confidence.", "(default: no)")
    ] = False


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A model, and how it reads."""

    model: Annotated[str, argument("MODEL", MODEL, "(default: tiny-printed)")] = "tiny-printed"
    revision: Annotated[str | None, argument("NAME", REVISION, "(default: main)")] = None
    batch_size: Annotated[
        int | None,
        argument("N", "Images read at a time; jobs run: by each device.", "(default: 16 on a CPU, 64 elsewhere)"),
    ] = None
    dtype: Annotated[
        Literal["float32", "bfloat16"] | None,
        argument("{float32,bfloat16}", "Type to compute in.", "(default: float32 on a CPU, bfloat16 elsewhere)"),
    ] = None
    cross_attention: Annotated[
        Literal["auto", "products", "kernel"],
        argument("{auto,products,kernel}", _CROSS_ATTENTION, "(default: auto)"),
    ] = "auto"
    mesh: Annotated[str | None, argument("AXES", _MESH, "(default: one device; jobs run: all, by lines)")] = None
    search: Search = field(default_factory=Search)
    sampling: Sampling = field(default_factory=Sampling)
    penalty: Penalties = field(default_factory=Penalties)
    constraint: Constraints = field(default_factory=Constraints)
    language_model: LanguageModel = field(default_factory=LanguageModel)
    score: Scores = field(default_factory=Scores)


REVIEW = "Mark lines that are less sure than this, or could not be read, in a column `review`."


def check_share(name: str, value: float | None) -> None:
    """Raises DecodeError for what is no probability."""
    if value is not None and not 0 <= value <= 1:
        raise DecodeError(f"{flag(name)} is {value}: give a probability from 0 to 1")


def given(options: Any) -> dict[str, Any]:
    """The options of a group that were given, with their values."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    return {name: value for name, value in values.items() if value is not None and value is not False}


def flag(name: str) -> str:
    """The name of an option as it is typed."""
    return "--" + name.replace("_", "-")
