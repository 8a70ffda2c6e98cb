"""Holds greedy and beam search against transformers' `generate` over a grid of settings.

    python -m scripts.parity_decoding --family small|base|tiny-printed [--images 3] [--tokens 16] [--quick]

`small` and `base` are the published shapes with random weights, `tiny-printed` the built-in model on rendered lines.
Every text that a search returns (num_return_sequences = num_beams) is compared: its tokens, its score, the
log-probability of every token with compute_transition_scores, and its beam_indices. Both sides encode the images once.

Two texts whose scores are within 1e-5 are a tie: float sums of that size differ between any two implementations, and
either order is right. Ties are counted apart. Ends with status 1 if anything else differs.

transformers is run as it is but for one thing: each step it copies the keys and values of the memory from beam to beam,
though all beams of an image have the same. That changes nothing and takes two thirds of its time; here it is left out.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro
from transformers import EncoderDecoderCache, VisionEncoderDecoderModel
from transformers.modeling_outputs import BaseModelOutput

import trocr_jax
from scripts.parity import random_oracle
from train.data.render import Renderer
from trocr_jax import generation, generation_plan
from trocr_jax.checkpoint import resolve
from trocr_jax.decoding.beam_state import EarlyStopping
from trocr_jax.decoding.loop import run
from trocr_jax.encoder import SCORES_BYTES, cached_micro_batch, in_micro_batches
from trocr_jax.errors import DecodeError

Family = Literal["small", "base", "tiny-printed"]
PRESET = {"small": "small-handwritten", "base": "base-handwritten"}
Processor = Literal["none", "repetition", "no-repeat-3", "min-length"]
PROCESSORS: dict[Processor, dict[str, Any]] = {
    "none": {},
    "repetition": {"repetition_penalty": 1.3},
    "no-repeat-3": {"no_repeat_ngram_size": 3},
    "min-length": {"min_length": 8},
}
LENGTH_PENALTIES = (0.5, 1.0, 2.0)
EARLY_STOPPING: tuple[EarlyStopping, ...] = (False, True, "never")
TOLERANCE, TIE = 1e-4, 1e-5


@dataclass
class Tally:
    """What comparing one search, over its length penalties and ways to stop, has found."""

    settings: int = 0
    texts: int = 0
    equal: int = 0
    ties: int = 0
    lengths: set[int] = field(default_factory=set)
    score: float = 0.0  # largest difference between equal texts
    token: float = 0.0
    beam_indices: int = 0  # equal texts with other indices
    disagreements: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, other: Tally) -> None:
        """Counts what another batch has found."""
        for name in ("settings", "texts", "equal", "ties", "beam_indices", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.lengths |= other.lengths
        self.score, self.token = max(self.score, other.score), max(self.token, other.token)
        self.disagreements += other.disagreements


@dataclass(frozen=True)
class Found:
    """What one side found, in transformers' layout: arrays [B R, L], padded; scores [B R]."""

    token_ids: np.ndarray
    scores: np.ndarray
    token_log_probs: np.ndarray
    beam_indices: np.ndarray


class Sides:
    """One model in both frameworks, and a batch of images that each has encoded."""

    def __init__(self, oracle: Any, model: trocr_jax.TrOCR, pixels: np.ndarray) -> None:
        self.oracle, self.model, self.batch = oracle, model, len(pixels)
        with torch.inference_mode():
            channels_first = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
            self.memory = oracle.encoder(pixel_values=channels_first).last_hidden_state
        self.cross = _read(model, jnp.asarray(pixels))

    def theirs(self, *, num_beams: int, max_new_tokens: int, **options: Any) -> Found:
        ids = self.model.config
        with torch.inference_mode(), mock.patch.object(EncoderDecoderCache, "reorder_cache", _reorder_text_alone):
            out = self.oracle.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=self.memory),
                num_beams=num_beams,
                num_return_sequences=num_beams,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                output_scores=True,
                return_dict_in_generate=True,
                decoder_start_token_id=ids.decoder_start_token_id,
                pad_token_id=ids.pad_token_id,
                eos_token_id=ids.eos_token_id,
                **options,
            )
            if num_beams > 1:
                token_log_probs = self.oracle.compute_transition_scores(
                    out.sequences, out.scores, out.beam_indices, normalize_logits=False
                ).numpy()
                scores, beam_indices = out.sequences_scores.numpy(), out.beam_indices.numpy()
            else:
                token_log_probs = self.oracle.compute_transition_scores(
                    out.sequences, out.scores, normalize_logits=True
                ).numpy()
        token_ids = out.sequences.numpy()[:, 1:]
        if num_beams == 1:  # compute_transition_scores scores the pads behind the end token too
            ended = np.cumsum(token_ids == ids.eos_token_id, axis=1) - (token_ids == ids.eos_token_id) > 0
            token_log_probs = np.where(ended, 0, token_log_probs)
            scores = token_log_probs.sum(axis=1)
            beam_indices = np.where(ended, -1, np.arange(self.batch)[:, None])

        def padded(array: np.ndarray, value: float) -> np.ndarray:
            return np.pad(array, ((0, 0), (0, max_new_tokens - array.shape[1])), constant_values=value)

        return Found(padded(token_ids, ids.pad_token_id), scores, padded(token_log_probs, 0), padded(beam_indices, -1))

    def ours(self, *, num_beams: int, max_new_tokens: int, **options: Any) -> Found:
        config = trocr_jax.DecodeConfig(
            num_beams=num_beams, num_return_sequences=num_beams, max_new_tokens=max_new_tokens, **options
        )
        shape, numbers = generation_plan.plan(config, self.model.config)
        found = jax.device_get(_decode(self.model, self.cross[shape.absorbed], numbers, shape, self.batch))
        images = np.arange(self.batch)[:, None, None] * num_beams
        counted_on = np.where(found.beam_indices >= 0, found.beam_indices + images, -1)
        rows = self.batch * num_beams
        return Found(
            found.token_ids.reshape(rows, -1),
            found.scores.reshape(rows),
            found.token_log_probs.reshape(rows, -1),
            counted_on.reshape(rows, -1),
        )


def _reorder_text_alone(cache: EncoderDecoderCache, beam_idx: torch.Tensor) -> None:
    cache.self_attention_cache.reorder_cache(beam_idx)


@jax.jit
def _read(model: trocr_jax.TrOCR, pixels: jax.Array) -> dict[bool, Any]:
    """What cross-attention reads, by `Shape.absorbed`: keys and values, or the memory itself."""
    size = cached_micro_batch(model.config.encoder, len(pixels), SCORES_BYTES["cpu"])
    memory = in_micro_batches(model.encode, pixels, size)
    return {False: model.prime(memory), True: model.absorb(memory)}


@partial(jax.jit, static_argnames=("shape", "batch"))
def _decode(model: trocr_jax.TrOCR, cross: Any, numbers: Any, shape: Any, batch: int) -> Any:
    keys = jax.vmap(jax.random.key)(jnp.zeros(batch, jnp.uint32))
    return run(generation._search(model, cross, keys, numbers, shape, jnp.dtype(jnp.float32)))


def compare(tally: Tally, ours: Found, theirs: Found, *, name: str, end: int, returned: int) -> None:
    """Adds one setting to the tally. `returned` texts an image."""
    tally.settings += 1
    for row in range(len(theirs.scores)):
        tally.texts += 1
        gap = abs(float(ours.scores[row]) - float(theirs.scores[row]))
        where = f"{name}, image {row // returned}, text {row % returned}"
        if not (ours.token_ids[row] == theirs.token_ids[row]).all():
            tally.ties += gap <= TIE
            if not gap <= TIE:  # NaN is no tie
                tally.disagreements.append(
                    f"{where}: scores {ours.scores[row]:.6f} and {theirs.scores[row]:.6f}, {gap:.1e} apart\n"
                    f"    ours   {ours.token_ids[row].tolist()}\n    theirs {theirs.token_ids[row].tolist()}"
                )
            continue
        tally.equal += 1
        if ours.beam_indices[row, 0] == theirs.beam_indices[row, 0] == -1:  # no text: a place that is left
            continue
        ended = np.flatnonzero(ours.token_ids[row] == end)
        tally.lengths.add(int(ended[0]) + 1 if len(ended) else -1)
        token = float(np.abs(ours.token_log_probs[row] - theirs.token_log_probs[row]).max())
        tally.score, tally.token = max(tally.score, gap), max(tally.token, token)
        if not (gap <= TOLERANCE and token <= TOLERANCE):
            tally.disagreements.append(f"{where}: equal texts, scores {gap:.1e} and token log-probs {token:.1e} apart")
        if not (ours.beam_indices[row] == theirs.beam_indices[row]).all():
            tally.beam_indices += 1
            tally.disagreements.append(
                f"{where}: equal texts, beam_indices {ours.beam_indices[row].tolist()} "
                f"and {theirs.beam_indices[row].tolist()}"
            )


def batches(family: Family, *, images: int, tokens: int, batch_size: int, seed: int) -> Iterator[Sides]:
    """The family's model with `images` images in batches."""
    if family == "tiny-printed":
        folder = resolve(family)
        recognizer = trocr_jax.Recognizer.from_pretrained(family)
        oracle = VisionEncoderDecoderModel.from_pretrained(folder).eval()
        processor, model = recognizer.image_processor, recognizer.model
        renderer = Renderer.create(split="heldout", seed=seed)
        lines = [processor.pixels(renderer.line(i, max_chars=48).image) for i in range(images)]
        pixels = np.asarray(processor.normalize(np.stack(lines)))
    else:
        # A head that shares its table with the input would write an end token that is the start token at once.
        config = replace(trocr_jax.TrOCRConfig.preset(PRESET[family]), decoder_start_token_id=0)
        oracle = random_oracle(config, seed=seed)
        pixels = random_images(config, images, seed=seed)
        let_texts_end(oracle, config, pixels, tokens=tokens, seed=seed)
        with tempfile.TemporaryDirectory() as written:
            oracle.save_pretrained(Path(written))
            model = trocr_jax.checkpoint.load(written)
    for start in range(0, images, batch_size):
        yield Sides(oracle, model, pixels[start : start + batch_size])


def random_images(config: trocr_jax.TrOCRConfig, count: int, *, seed: int) -> np.ndarray:
    """Images of plain squares: noise would look the same to the model everywhere."""
    height, width = config.encoder.image_size
    squares = np.random.default_rng(seed).uniform(-1, 1, (count, height // 8, width // 8, 3)).astype(np.float32)
    return squares.repeat(8, axis=1).repeat(8, axis=2)


def let_texts_end(oracle: Any, config: trocr_jax.TrOCRConfig, pixels: np.ndarray, *, tokens: int, seed: int) -> None:
    """Gives the end token a row of the head with which texts of these images end at many lengths: its logit along the
    greedy texts is to be the largest one plus something random, by least squares. Random rows never end a text."""
    ids = {name: getattr(config, name) for name in ("decoder_start_token_id", "pad_token_id", "eos_token_id")}
    channels_first = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    head = oracle.decoder.get_output_embeddings().weight
    with torch.no_grad():
        text = oracle.generate(channels_first, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, **ids)
        out = oracle(pixel_values=channels_first, decoder_input_ids=text[:, :-1], output_hidden_states=True)
        states = out.decoder_hidden_states[-1]  # [B, T, D]
        others = out.logits
        others[..., config.eos_token_id] = -torch.inf
        random = torch.from_numpy(np.random.default_rng(seed).normal(-1.5, 2, others.shape[:2])).float()
        wanted = others.amax(dim=-1) + random
        rows, column = states.flatten(0, 1), wanted.flatten()[:, None]
        head[config.eos_token_id] = torch.linalg.lstsq(rows, column, driver="gelsd").solution[:, 0]


def main(
    family: Family,
    images: int | None = None,
    tokens: int | None = None,
    beams: tuple[int, ...] = (1, 2, 3, 4, 5, 10),
    processors: tuple[Processor, ...] = tuple(PROCESSORS),
    batch_size: int = 50,
    quick: bool = False,
    seed: int = 0,
) -> int:
    """Prints the table; see the head of this file. beams: 1 is greedy search. quick: one length penalty for each way
    to stop instead of all pairs."""
    images = images or (300 if family == "tiny-printed" else 3)
    tokens = tokens or (64 if family == "tiny-printed" else 16)
    grid = list(itertools.product(beams, processors))
    try:
        for num_beams, processor in grid:
            trocr_jax.DecodeConfig(num_beams=num_beams, max_new_tokens=tokens, **PROCESSORS[processor])
    except DecodeError as error:
        raise SystemExit(f"--tokens {tokens}, {processor}: {error}; see --processors") from None
    tallies = {key: Tally() for key in grid}
    for number, sides in enumerate(batches(family, images=images, tokens=tokens, batch_size=batch_size, seed=seed)):
        for num_beams, processor in grid:
            cell = f"batch {number}, {num_beams} beams, {processor}"
            tally = compared(sides, num_beams, processor, tokens=tokens, quick=quick, name=cell)
            tallies[num_beams, processor].add(tally)
            so_far = f"{tally.equal} of {tally.texts} texts equal, {tally.ties} ties, {tally.seconds:.0f} s"
            print(f"{cell}: {so_far}", flush=True)
    report(family, tallies, images=images, tokens=tokens)
    return int(any(tally.disagreements for tally in tallies.values()))


def compared(sides: Sides, num_beams: int, processor: Processor, *, tokens: int, quick: bool, name: str) -> Tally:
    """One cell of the grid: a batch, a search and a processor over length penalties and ways to stop."""
    pairs: list[tuple[float, EarlyStopping]] = list(itertools.product(LENGTH_PENALTIES, EARLY_STOPPING))
    if quick:
        pairs = list(zip(LENGTH_PENALTIES, EARLY_STOPPING, strict=True))
    tally, start = Tally(), time.perf_counter()
    for length_penalty, early_stopping in pairs if num_beams > 1 else [(1.0, False)]:
        options = dict(PROCESSORS[processor], num_beams=num_beams, max_new_tokens=tokens)
        if num_beams > 1:
            options |= {"length_penalty": length_penalty, "early_stopping": early_stopping}
        setting = f"{name}, length penalty {length_penalty}, early stopping {early_stopping}"
        end = sides.model.config.eos_token_id
        ours, theirs = sides.ours(**options), sides.theirs(**options)
        compare(tally, ours, theirs, name=setting, end=end, returned=num_beams)
    tally.seconds = time.perf_counter() - start
    return tally


def report(family: str, tallies: dict[tuple[int, Processor], Tally], *, images: int, tokens: int) -> None:
    """The table, then every disagreement."""
    print(f"\n{family}: {images} images, {tokens} tokens at most\n")
    print("| search | processor | settings | texts | equal | ties | differ | lengths | score | token log-prob |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for (num_beams, processor), t in tallies.items():
        search = "greedy" if num_beams == 1 else f"beam {num_beams}"
        print(
            f"| {search} | {processor} | {t.settings} | {t.texts} | {t.equal} | {t.ties} "
            f"| {t.texts - t.equal - t.ties} | {len(t.lengths)} | {t.score:.1e} | {t.token:.1e} |"
        )
    everything = list(tallies.values())
    print(
        f"\n{sum(t.equal for t in everything)} of {sum(t.texts for t in everything)} texts equal, "
        f"{sum(t.ties for t in everything)} ties, {sum(t.beam_indices for t in everything)} equal texts with other "
        f"beam_indices; largest difference of a score {max(t.score for t in everything):.1e}, "
        f"of a token's log-probability {max(t.token for t in everything):.1e}"
    )
    for tally in everything:
        for line in tally.disagreements:
            print(line)


if __name__ == "__main__":
    raise SystemExit(tyro.cli(main))
