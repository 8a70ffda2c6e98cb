"""`python -m convert SRC DST`, `python -m convert quantize SRC DST` and `python -m convert verify A B`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from convert.fairseq import load_fairseq
from trocr_jax import checkpoint
from trocr_jax.attention_quantized import DTYPES
from trocr_jax.checkpoint.parameters import parameters
from trocr_jax.config import TrOCRConfig
from trocr_jax.errors import ConfigError, TrOCRError
from trocr_jax.model import TrOCR
from trocr_jax.presets import PRESETS
from trocr_jax.quantization import NARROW, dequantize, kind_of, quantize

_CONVERT = """Turns a model into another format. What SRC is decides the direction unless --to says otherwise:
a folder of transformers, a hub name, a built-in name or a fairseq .pt file becomes a native folder; a native folder
becomes a folder of transformers. A quantised model gets float parameters again (float32, or --dtype) for transformers
or with --dtype. `python -m convert quantize SRC DST` makes a quantised one, `python -m convert verify A B` compares
two folders."""
_QUANTIZE = """Writes a native folder whose projections and MLPs have weights in int8, symmetric, with a scale for each
output channel, or in float8 (e4m3fn) with one for each matrix. Token table and head become bfloat16 if they are wider;
narrow matrices, norms, biases, positions and the patch embedding stay as stored. The folder is used like any other; it
cannot be trained."""
_VERIFY = """Prints the largest difference at every stage between folder A computed here and folder B computed by
transformers with PyTorch, in f32 on random pixels and tokens.
Exit status 1 if the logits differ by more than --atol, 2 if they cannot be compared."""


def main(arguments: list[str]) -> int:
    """Exit status: 0 done, 1 the model cannot be converted or differs, 2 wrong usage, or `verify` cannot compare."""
    try:
        if arguments[:1] == ["verify"]:
            return _verify(arguments[1:])
        if arguments[:1] == ["quantize"]:
            return _quantize(arguments[1:])
        return _convert(arguments)
    except TrOCRError as error:
        print(f"convert: {error}", file=sys.stderr)
        return 2 if arguments[:1] == ["verify"] else 1


def _convert(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m convert", description=_CONVERT)
    parser.add_argument("source", metavar="SRC", help="folder, hub name owner/name, built-in name, or fairseq .pt file")
    parser.add_argument("destination", metavar="DST", type=Path, help="folder to write")
    parser.add_argument("--to", choices=("native", "huggingface"), help="format to write")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="change the parameters' type")
    parser.add_argument("--revision", help="branch, tag or commit of a hub name")
    parser.add_argument("--config", help="for a .pt file: a preset's name or a config.json")
    options = parser.parse_args(arguments)
    is_file = Path(options.source).is_file()
    if is_file and Path(options.source).suffix in (".safetensors", ".bin", ".json"):
        parser.error("SRC is a file of a model of transformers: give its folder")
    if options.config and not is_file:
        parser.error("--config is for .pt files; a folder has its own config.json")
    if options.revision and is_file:
        parser.error("--revision is for hub names")
    source = Path(options.source) if is_file else checkpoint.resolve(options.source, revision=options.revision)
    if options.destination.exists() and options.destination.samefile(source):
        parser.error("SRC and DST are the same")
    is_native = not is_file and checkpoint.is_native(source)
    kind = "a fairseq checkpoint" if is_file else "a native folder" if is_native else "a folder of transformers"
    to = options.to or ("huggingface" if is_native else "native")
    print(f"{options.source} is {kind}; writing a {to} folder {options.destination}", file=sys.stderr)
    if is_file:
        model = load_fairseq(source, config=_config(options.config), dtype=options.dtype)
    else:
        model = checkpoint.load(source, dtype=options.dtype)
        rounded = kind_of(model)
        if rounded and (to == "huggingface" or options.dtype):
            dtype = options.dtype or "float32"
            print(f"{options.source} is quantised: its {rounded} weights are written in {dtype}", file=sys.stderr)
            model = dequantize(model, dtype=dtype)
    _save(model, options.destination, to, assets=None if is_file else source)
    if is_file:
        print("a .pt file has no tokenizer: add the files of the published model's repository", file=sys.stderr)
    return 0


def _quantize(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m convert quantize", description=_QUANTIZE)
    parser.add_argument("source", metavar="SRC", help="folder, hub name owner/name, or built-in name")
    parser.add_argument("destination", metavar="DST", type=Path, help="native folder to write")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="int8", help="of the weights (default: int8)")
    parser.add_argument(
        "--min-width",
        type=int,
        help=f"matrices with a side below it are kept; {NARROW}, or the model's width if that is less",
    )
    parser.add_argument("--revision", help="branch, tag or commit of a hub name")
    options = parser.parse_args(arguments)
    if options.min_width is not None and options.min_width < 1:
        parser.error("--min-width must be at least 1")
    source = checkpoint.resolve(options.source, revision=options.revision)
    if options.destination.exists() and options.destination.samefile(source):
        parser.error("SRC and DST are the same")
    model = checkpoint.load(source)
    try:
        quantized = quantize(model, kind=options.dtype, min_width=options.min_width)
    except ConfigError as error:
        raise ConfigError(f"{options.source}: {error}") from None
    checkpoint.save_native(quantized, options.destination, assets=source)
    before, after = (sum(array.nbytes for array in parameters(m).values()) for m in (model, quantized))
    wide = sum(4 * array.size for array in parameters(model).values())
    share = f"{after / wide:.1%} of the {wide:,} in float32"
    print(
        f"{options.destination}: {after:,} bytes of parameters, before {before:,}; {share}",
        file=sys.stderr,
    )
    return 0


def _save(model: TrOCR, folder: Path, to: str, *, assets: Path | None) -> None:
    if to == "native":
        checkpoint.save_native(model, folder, assets=assets)
        return
    if checkpoint.is_native(folder):
        raise ConfigError(f"{folder}: is a native folder; choose another name, or remove it")
    checkpoint.save_huggingface(model, folder, assets=assets)


def _config(name: str | None) -> TrOCRConfig | None:
    if name is None:
        return None
    if name.removeprefix("microsoft/").removeprefix("trocr-") in PRESETS:
        return TrOCRConfig.preset(name)
    if not Path(name).exists():
        raise ConfigError(f"--config {name}: no such file, and no preset; the presets are {', '.join(PRESETS)}")
    return TrOCRConfig.from_json(Path(name))


def _verify(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m convert verify", description=_VERIFY)
    parser.add_argument("ours", metavar="A", help="what trocr_jax computes: any model name or folder")
    parser.add_argument("theirs", metavar="B", help="what transformers computes: one of its folders")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--atol", type=float, default=1e-4, help="largest difference of logits that passes")
    options = parser.parse_args(arguments)
    if options.images < 1 or options.tokens < 1:
        parser.error("--images and --tokens must be at least 1")
    if options.seed < 0:
        parser.error(f"--seed is {options.seed}: give a whole number of at least 0")
    from convert.verify import table, verify

    differences = verify(options.ours, options.theirs, images=options.images, tokens=options.tokens, seed=options.seed)
    print(table(differences))
    return 0 if differences[-1].largest <= options.atol else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
