"""What foretells the length of a text, and how many decoder steps it saves.

    python -m benchmarks.lengths [--lines 6144] [--folder FOLDER]

Rendered lines are read by the built-in model. For each way to guess, printed are its rank correlation (Spearman's)
with the tokens, and the steps of a line if the lines of a window are sorted by it and searched in batches, each of
which takes as many steps as its longest line. Regressions learn from the first lines; all are judged on the others.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import tyro

import trocr_jax
from scripts.killed_job import Options, draw
from trocr_jax import jobs
from trocr_jax.generation_plan import plan
from trocr_jax.generation_slots import Flat
from trocr_jax.generation_stages import encode
from trocr_jax.jobs.decode_worker import Decoder
from trocr_jax.recognizer_batches import Batch
from trocr_jax.recognizer_lengths import LEAST_LINES, MOST_LINES, LengthGuess

DECODE = trocr_jax.DecodeConfig(max_new_tokens=96)


def main(lines: int = 6144, batch: int = 16, window: int = 128, folder: Path | None = None) -> None:
    """Prints a table. folder: where lines that are drawn already are taken from."""
    if lines <= MOST_LINES:
        raise SystemExit(f"--lines {lines}: the first {MOST_LINES} are learnt from, give more")
    with tempfile.TemporaryDirectory() as temporary:
        manifest = draw(folder or Path(temporary), Options(lines=lines, distinct=lines, max_chars=64))
        recognizer = trocr_jax.Recognizer.from_pretrained("tiny-printed")
        source = jobs.open_source([str(manifest)])
        decoder = Decoder(source, recognizer.image_processor)
        decoded = [decoder(input.id, input.place) for input in source.inputs()]
    pixels = np.stack([one.pixels for one in decoded])
    starts = range(0, lines, batch)
    found = recognizer.read_batches((Batch.of_pixels(list(pixels[i : i + batch])) for i in starts), DECODE, batch)
    tokens = np.array([len(one.token_ids) for one in found if isinstance(one, trocr_jax.Recognition)])
    means = memory_means(recognizer, pixels, batch)
    guesses = {"nothing": np.zeros(lines), "width of the ink": np.array([ink(one) for one in pixels])}
    guesses["edges in the row with most of them"] = np.array([one.expected for one in decoded])
    for count in (LEAST_LINES, MOST_LINES):
        guess = LengthGuess()
        guess.learn(means[:count], tokens[:count])
        guesses[f"the memory's mean, learnt from {count} lines"] = guess.guess(means)
    guesses["the length itself"] = tokens
    print("| sorted by | rank correlation | steps a line |\n|---|---|---|")
    for name, values in guesses.items():
        own, true = values[MOST_LINES:], tokens[MOST_LINES:]
        correlation = np.corrcoef(ranks(own), ranks(true))[0, 1] if own.std() else 0.0
        print(f"| {name} | {correlation:.2f} | {steps(own, true, batch=batch, window=window):.1f} |")


def memory_means(recognizer: trocr_jax.Recognizer, pixels: np.ndarray, batch: int) -> np.ndarray:
    """[n, D] of pixels [n, H, W, 3]."""
    flat, (shape, numbers) = Flat(recognizer.model), plan(DECODE, recognizer.model.config)
    processor, dtype, found = recognizer.image_processor, recognizer.dtype, []
    for start in range(0, len(pixels), batch):
        some = jnp.asarray(pixels[start : start + batch])
        found.append(np.asarray(encode(flat, some, numbers, shape=shape, dtype=dtype, image_processor=processor).means))
    return np.concatenate(found)


def ink(pixels: np.ndarray) -> float:
    """The width between the first and the last column with dark pixels."""
    columns = pixels[..., 1].min(axis=0)
    dark = np.flatnonzero(columns < (int(columns.max()) + int(columns.min())) / 2)
    return float(dark[-1] - dark[0] + 1) if len(dark) else 0.0


def steps(guess: np.ndarray, tokens: np.ndarray, *, batch: int, window: int) -> float:
    """Of a line: those of its batch."""
    total = 0
    for start in range(0, len(tokens), window):
        ordered = tokens[start : start + window][np.argsort(guess[start : start + window], kind="stable")]
        total += sum(int(part.max()) * len(part) for part in np.split(ordered, range(batch, len(ordered), batch)))
    return total / len(tokens)


def ranks(values: np.ndarray) -> np.ndarray:
    """Equal values have their mean rank."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
