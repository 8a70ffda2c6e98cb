"""Compares every published architecture, at full size and with random weights, with transformers (torch).

    python scripts/parity.py [--presets base-handwritten small-printed ...] [--tokens 48] [--steps 40] [--images 4]

Prints a table: parameters, largest logit difference in f32 over teacher-forced tokens, and whether greedy search
writes the same tokens. Ends with status 1 if a difference is above 1e-4 or a token differs. The weights go through
a folder as transformers writes it, so loading is compared too. One model at a time: about 8 GB of memory for the
large ones.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro
from flax import nnx
from transformers import VisionEncoderDecoderConfig, VisionEncoderDecoderModel

import trocr_jax
from trocr_jax.presets import PRESETS

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Agreement:
    """What a comparison found."""

    parameters: int
    logit_difference: float
    logit_deviation: float  # of the logits themselves: what the difference is to be held against
    equal_tokens: int
    tokens: int
    distinct_tokens: int


def compare(config: trocr_jax.TrOCRConfig, *, images: int, tokens: int, steps: int, seed: int = 0) -> Agreement:
    """Builds transformers' model from `config` with random weights and holds ours against it."""
    rng = np.random.default_rng(seed)
    oracle = random_oracle(config, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        oracle.save_pretrained(Path(folder))
        model = trocr_jax.checkpoint.load(folder)
    height, width = config.encoder.image_size
    pixels = rng.uniform(-1, 1, (images, height, width, 3)).astype(np.float32)
    inputs = rng.integers(3, config.decoder.vocab_size, (images, tokens)).astype(np.int32)
    inputs[:, 0] = config.decoder_start_token_id
    channels_first = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    with torch.no_grad():
        expected = oracle(pixel_values=channels_first, decoder_input_ids=torch.from_numpy(inputs).long()).logits.numpy()
        searched = oracle.generate(
            channels_first,
            max_new_tokens=steps,
            num_beams=1,
            do_sample=False,
            decoder_start_token_id=config.decoder_start_token_id,
            pad_token_id=config.pad_token_id,
            eos_token_id=config.eos_token_id,
        ).numpy()[:, 1:]
    del oracle
    logits = np.asarray(jax.jit(lambda m, p, t: m(p, t))(model, jnp.asarray(pixels), jnp.asarray(inputs)))
    found = trocr_jax.generate(model, jnp.asarray(pixels), trocr_jax.DecodeConfig(max_new_tokens=steps))
    ids = np.full((images, steps), config.pad_token_id)
    ids[:, : searched.shape[1]] = searched
    return Agreement(
        parameters=sum(x.size for x in jax.tree.leaves(nnx.state(model))),
        logit_difference=float(np.abs(logits - expected).max()),
        logit_deviation=float(expected.std()),
        equal_tokens=int((np.asarray(found.token_ids)[:, 0] == ids).sum()),
        tokens=ids.size,
        distinct_tokens=len(np.unique(ids)),
    )


def random_oracle(config: trocr_jax.TrOCRConfig, *, seed: int) -> Any:
    """transformers' model of this shape, with random weights that keep its texts lively."""
    torch.manual_seed(seed)
    oracle = VisionEncoderDecoderModel(VisionEncoderDecoderConfig.from_dict(config.to_huggingface())).eval()
    with torch.no_grad():
        for name, parameter in oracle.named_parameters():
            if parameter.ndim < 2:  # biases and norms that are not all zeros and ones
                parameter.add_(torch.randn_like(parameter) * 0.05)
            elif "embed_positions" in name:
                parameter.normal_(std=0.7)  # so that the text does not repeat itself at once
            elif "embed_tokens" in name or "output_projection" in name:
                parameter.normal_(std=0.05)
            elif "embed" not in name:  # keeps the variance of what passes, and the token through post-norm layers
                gain = 0.3 if "out_proj" in name or "fc2" in name else 1.0
                parameter.normal_(std=gain * parameter[0].numel() ** -0.5)
    return oracle


def main(presets: tuple[str, ...] = tuple(PRESETS), images: int = 4, tokens: int = 48, steps: int = 40) -> int:
    """Prints the table; see the head of this file."""
    print("| configuration | parameters | largest logit difference (logits' deviation) | equal greedy tokens | s |")
    print("|---|---|---|---|---|", flush=True)
    failed = False
    for name in presets:
        start = time.perf_counter()
        a = compare(trocr_jax.TrOCRConfig.preset(name), images=images, tokens=tokens, steps=steps)
        failed |= not a.logit_difference <= TOLERANCE or a.equal_tokens != a.tokens
        print(
            f"| {name} | {a.parameters / 1e6:.2f} M | {a.logit_difference:.1e} ({a.logit_deviation:.2f}) "
            f"| {a.equal_tokens} of {a.tokens}, {a.distinct_tokens} different "
            f"| {time.perf_counter() - start:.0f} |",
            flush=True,
        )
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(tyro.cli(main))
