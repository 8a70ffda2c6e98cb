"""Weights of every published architecture, at full size and random: transformers' folder → native → transformers'
folder, through `python -m convert`. Prints a table; exit status 1 if any tensor's bytes changed.

    python -m scripts.roundtrip [NAME...]

Needs torch and transformers, 8 GB of disk in the temporary folder and about 6 GB of memory.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from trocr_jax.checkpoint.names import canonical_key
from trocr_jax.checkpoint.parameters import StoredTensor
from trocr_jax.checkpoint.safetensors_file import read_safetensors
from trocr_jax.config import TrOCRConfig
from trocr_jax.presets import PRESETS

_ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", default=list(PRESETS), metavar="NAME", help="presets; all by default")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--check", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        make(options.names[0], options.make)
        return 0
    if options.check:
        return check(options.check)
    columns = "tensors  million  to native  peak GB       back  peak GB  bytes      transformers"
    print(f"{'model':<18} {columns}", flush=True)
    return max([roundtrip(name) for name in options.names])


def roundtrip(name: str) -> int:
    """One line of the table. Each step is a process of its own, so memory is returned."""
    with tempfile.TemporaryDirectory() as scratch:
        source, native, back = (Path(scratch) / step for step in ("source", "native", "back"))
        script = [sys.executable, "-m", "scripts.roundtrip", name]
        _run([*script, "--make", str(source)])
        to_native = _run([sys.executable, "-m", "convert", str(source), str(native)])
        from_native = _run([sys.executable, "-m", "convert", str(native), str(back)])
        one = _used(read_safetensors(source / "model.safetensors"))
        two = _used(read_safetensors(back / "model.safetensors"))
        changed = [key for key in one.keys() | two.keys() if not _identical(one.get(key), two.get(key))]
        size = sum(tensor.read().size for tensor in two.values()) / 1e6
        loads = subprocess.run([*script, "--check", str(back)], cwd=_ROOT, check=False).returncode == 0
    steps = "  ".join(f"{seconds:>7.1f} s  {memory:>7.1f}" for seconds, memory in (to_native, from_native))
    verdict = f"{'CHANGED' if changed else 'identical'}  {'loads' if loads else 'FAILS'}"
    print(f"{name:<18} {len(two):>7}  {size:>7.2f}  {steps}  {verdict}", flush=True)
    return int(bool(changed) or not loads)


def make(name: str, folder: Path) -> None:
    """A folder as transformers writes it, every parameter random (defaults of 0 and 1 would hide a mix-up)."""
    import torch
    from transformers import VisionEncoderDecoderConfig, VisionEncoderDecoderModel

    torch.manual_seed(0)
    config = VisionEncoderDecoderConfig(**TrOCRConfig.preset(name).to_huggingface())
    model = VisionEncoderDecoderModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.02)
    model.save_pretrained(folder, max_shard_size="100GB")


def check(folder: Path) -> int:
    """0 if transformers finds every weight it uses in `folder`, and no other."""
    from transformers import VisionEncoderDecoderModel

    loaded: Any = VisionEncoderDecoderModel.from_pretrained(folder, output_loading_info=True)
    found = loaded[1]
    missing = [key for key in found["missing_keys"] if not key.startswith("encoder.pooler.")]
    wrong = [*missing, *found["unexpected_keys"], *found["mismatched_keys"], *found["error_msgs"]]
    if wrong:
        print(wrong, file=sys.stderr)
    return int(bool(wrong))


def _used(tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    return {name: tensor for name, tensor in tensors.items() if canonical_key(name) is not None}


def _identical(one: StoredTensor | None, two: StoredTensor | None) -> bool:
    if one is None or two is None or (one.shape, one.dtype) != (two.shape, two.dtype):
        return False
    return one.read().tobytes() == two.read().tobytes()


def _run(command: list[str]) -> tuple[float, float]:
    """Seconds and peak memory in GB of a command; its output is shown if it fails."""
    start = time.monotonic()
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{output.read().decode()}")
    return time.monotonic() - start, usage.ru_maxrss / 1e6


if __name__ == "__main__":
    raise SystemExit(main())
