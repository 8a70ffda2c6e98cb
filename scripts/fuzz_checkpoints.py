"""Damaged checkpoints: a small model's safetensors file, `config.json` and `pytorch_model.bin`, mutated over and over.
Each must load, or fail with an error of this library; anything else is a bug and is printed with its seed.

    python -m scripts.fuzz_checkpoints --count 20000 [--seed 0]
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import random
import signal
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flax import nnx

from trocr_jax.checkpoint import load_huggingface, save_huggingface
from trocr_jax.config import DecoderConfig, EncoderConfig, TrOCRConfig
from trocr_jax.errors import TrOCRError
from trocr_jax.model import TrOCR

SECONDS = 60  # more than that for one small folder is a hang
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 16, 255, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "gelu", "relu", "trocr", "vit", "beit", "F32", "BF16", "\ud800", "x" * 1000, [], [1], [16, 32], [[]], {}),
    *({"model_type": "vit"}, [None, None], "768", [0, 4], [4, 0]),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start, failures = time.monotonic(), 0
    outcomes: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        originals = make_folder(folder)
        for seed in range(options.seed, options.seed + options.count):
            kind, outcome, failed = attempt(folder, originals, seed)
            outcomes[f"{kind}: {outcome}"] += 1
            if failed:
                failures += 1
                print(f"seed {seed}: {kind}: {outcome}", flush=True)
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:>7}  {outcome}")
    print(f"{options.count} folders, {failures} not handled, {time.monotonic() - start:.0f} s")
    return int(failures > 0)


def make_folder(folder: Path) -> dict[str, bytes]:
    """A small model's `config.json`, `model.safetensors` and `pytorch_model.bin` by name."""
    config = TrOCRConfig(
        encoder=EncoderConfig(image_size=(8, 16), patch_size=(8, 8), hidden_size=4, num_layers=1, num_heads=2,
                              intermediate_size=4),
        decoder=DecoderConfig(vocab_size=8, hidden_size=4, num_layers=1, num_heads=2, intermediate_size=4,
                              max_position_embeddings=4, cross_attention_hidden_size=4),
    )  # fmt: skip
    save_huggingface(TrOCR(config, rngs=nnx.Rngs(0)), folder)
    (folder / "generation_config.json").unlink()
    weights = (folder / "model.safetensors").read_bytes()
    return {
        "config.json": (folder / "config.json").read_bytes(),
        "model.safetensors": weights,
        "pytorch_model.bin": _torch_file(weights),
    }


def attempt(folder: Path, originals: dict[str, bytes], seed: int) -> tuple[str, str, bool]:
    """Mutates one file and loads the folder: (what was mutated, what happened, whether that is a bug)."""
    rng = random.Random(seed)
    kind = rng.choices(("config.json", "model.safetensors", "pytorch_model.bin"), (4, 5, 1))[0]
    content = _MUTATIONS[kind](originals[kind], rng)
    files = {"config.json": originals["config.json"], "model.safetensors": originals["model.safetensors"]}
    if kind == "pytorch_model.bin":
        del files["model.safetensors"]
    files[kind] = content
    for name in originals:
        (folder / name).unlink(missing_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    signal.signal(signal.SIGALRM, _hang)
    signal.alarm(SECONDS)
    try:
        load_huggingface(folder)
        return kind, "loads", False
    except TrOCRError as error:
        str(error).encode("utf-8", "backslashreplace")
        return kind, type(error).__name__, False
    except Exception as error:  # noqa: BLE001  what is looked for
        return kind, f"{type(error).__name__}: {error}"[:300], True
    finally:
        signal.alarm(0)


def _hang(*_: object) -> None:
    raise TimeoutError(f"took more than {SECONDS} s")


def _mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """A few bits, bytes, stretches or ends changed."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5, 20))):
        at = rng.randrange(len(out) + 1) if out else 0
        length = rng.choice((1, 1, 2, 8, 64))
        match rng.randrange(6):
            case 0 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(out):
                out[at] = rng.randrange(256)
            case 2:
                out[at:at] = rng.randbytes(length)
            case 3:
                del out[at : at + length]
            case 4:
                out[at:at] = out[at : at + length]
            case 5 if rng.random() < 0.2:
                del out[at:]
    return bytes(out)


def _mutate_tree(tree: Any, rng: random.Random) -> Any:
    """One value anywhere in nested dictionaries and lists replaced, removed, renamed or copied elsewhere."""
    places: list[tuple[Any, Any]] = []
    stack = [tree]
    while stack:
        node = stack.pop()
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                stack.append(node[key])
    node, key = rng.choice(places)
    match rng.randrange(5):
        case 0 | 1:
            node[key] = rng.choice(VALUES)
        case 2:
            del node[key]
        case 3 if isinstance(node, dict):
            node[rng.choice((f"{key}x", "__metadata__", key[::-1], "encoder", "dtype"))] = node.pop(key)
        case _:
            other, other_key = rng.choice(places)
            if not isinstance(other[other_key], (dict, list)):
                node[key] = other[other_key]
    return tree


def _mutate_json(text: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return _mutate_bytes(text, rng)
    tree = json.loads(text)
    for _ in range(rng.choice((1, 1, 2, 4))):
        tree = _mutate_tree(tree, rng)
    return json.dumps(tree).encode()


def _mutate_safetensors(data: bytes, rng: random.Random) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header, tensors = data[8 : 8 + length], data[8 + length :]
    match rng.randrange(10):
        case 0:
            return _mutate_bytes(data[:8], rng) + header + tensors
        case 1:
            return data[: rng.randrange(len(data))]
        case 2:
            return data[: 8 + length] + _mutate_bytes(tensors, rng)
    header = _mutate_json(header, rng)
    return len(header).to_bytes(8, "little") + header + tensors


def _mutate_torch(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.5:
        return _mutate_bytes(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:  # keep the archive whole: the pickle itself is reached then
        files = {name: archive.read(name) for name in archive.namelist()}
    files["archive/data.pkl"] = _mutate_bytes(files["archive/data.pkl"], rng)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


_MUTATIONS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "config.json": _mutate_json,
    "model.safetensors": _mutate_safetensors,
    "pytorch_model.bin": _mutate_torch,
}


def _torch_file(weights: bytes) -> bytes:
    """The tensors of a safetensors file as torch.save writes them."""
    import torch
    from safetensors.torch import load

    stream = io.BytesIO()
    torch.save(load(weights), stream)
    return stream.getvalue()


if __name__ == "__main__":
    raise SystemExit(main())
