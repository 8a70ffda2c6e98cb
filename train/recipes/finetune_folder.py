"""Any model, trained further on a folder of line pictures and what they say.

Command:   python -m train run finetune-folder --data LINES --model tiny-printed --output my-model
           LINES: pictures with train.tsv (or .csv, .jsonl), perhaps validation.tsv: docs/training.md
Hardware:  2 cores of an AMD EPYC
Time:      11 minutes beside other work (2026-11-26); the folder's 300 lines are seen 43 times
Score:     CER 44.28 % before, 21.17 % after, on 300 lines that nothing was chosen on: other sentences in the same 21
           faces (python -m scripts.make_handwriting, validation lines of --seed 1). On those of --seed 0, by which the
           settings were chosen, 44.90 and 20.48 %; on its test lines, sentences in three other faces, 37.72 and 28.56 %
"""

import math
from dataclasses import replace
from pathlib import Path

from train.data.parts import Data, Pictures, Rendered
from train.from_model import from_model
from train.lines import longest_text
from train.recipe import MATRICES_DECAY, Optimizer, Recipe, Stage
from trocr_jax.checkpoint.hub import BUILT_IN
from trocr_jax.errors import DataError

STEPS, BATCH = 1600, 16


def recipe(
    *,
    data: Path,
    model: str = "tiny-printed",
    tokenizer: str | None = None,
    image_size: tuple[int, int] | None = None,
    rendered: float | None = None,
) -> Recipe:
    """`data`, `model`, `tokenizer`, `image_size`: see train.__main__. `rendered`: lines drawn for each line of the
    folder, so that a small model keeps what it knows; by default 1 for a built-in model without `tokenizer`, else 0."""
    if rendered is not None and not 0 <= rendered < math.inf:
        raise DataError(f"--rendered {rendered}: give 0, or how many for each line of the folder")
    start = from_model(model, tokenizer=tokenizer, image_size=image_size)
    encoder = start.config.encoder
    max_chars = longest_text(data, start.tokenizer, decoder=start.config.decoder)
    share = float(model in BUILT_IN and tokenizer is None) if rendered is None else rendered
    parts = (Pictures(), Rendered(weight=share)) if share else (Pictures(),)
    ctc = 0.5 if encoder.grid[0] == 1 else 0.0  # columns of one row stand in the order of the text
    stage = Stage(steps=STEPS, batch_size=BATCH, width=encoder.image_size[1], max_chars=max_chars, ctc_weight=ctc)
    settings = Optimizer(learning_rate=2e-5, schedule="linear", weight_decay=1e-4, clip_norm=1.0, groups=MATRICES_DECAY)
    if small := encoder.hidden_size < 384:
        settings = replace(settings, method="muon", learning_rate=1.5e-3, weight_decay=0.1, ema_decay=0.98)
    return Recipe(
        name="finetune-folder",
        **start._asdict(),
        data=Data(train=parts, held_out=(Pictures(),), augmentation="randaugment"),
        stages=(stage,),
        optimizer=replace(settings, warmup_steps=STEPS // 20),
        token_noise=0.3 if small else 0.0,  # few texts are soon known by heart
        dtype="float32",
        log_every=20,
        save_every=100,
        eval_every=STEPS // 4,
        eval_lines=300,
    )
