"""Any model, trained further on a folder of line pictures and what they say.

Command:   python -m train run finetune-folder --data LINES --model tiny-printed --output my-model
           LINES: pictures with train.tsv (or .csv, .jsonl), perhaps validation.tsv: docs/training.md
Hardware:  2 cores of an AMD EPYC
Time:      4 minutes (2026-11-26), 300 lines seen 43 times
Score:     CER 44.90 % before, 23.59 % after, on 300 lines of sentences that were not trained on, in the same 21 faces
           (python -m scripts.make_handwriting, its validation list); 2,000 steps gave 24.53 %. A development score: the
           settings are the best of five tries on these same lines
"""

from pathlib import Path

from train.data.parts import Data, Pictures
from train.from_model import from_model
from train.lines import longest_text
from train.recipe import Optimizer, Recipe, Stage

STEPS, BATCH = 800, 16


def recipe(
    *,
    data: Path,
    model: str = "tiny-printed",
    tokenizer: str | None = None,
    image_size: tuple[int, int] | None = None,
) -> Recipe:
    """`model`: built in, a folder, or a repository of the hub; its image processor and, unless another is given, its
    tokenizer are used. `data`: the folder."""
    start = from_model(model, tokenizer=tokenizer, image_size=image_size)
    small = start.config.encoder.hidden_size < 384
    row = start.config.encoder.grid[0] == 1
    return Recipe(
        name="finetune-folder",
        **start._asdict(),
        data=Data(train=(Pictures(),), held_out=(Pictures(),), augmentation="randaugment"),
        stages=(
            Stage(
                steps=STEPS,
                batch_size=BATCH,
                width=start.config.encoder.image_size[1],
                max_chars=longest_text(data, start.tokenizer),
                ctc_weight=0.5 if row else 0.0,  # columns of one row stand in the order of the text
            ),
        ),
        optimizer=Optimizer(
            learning_rate=1e-3 if small else 2e-5,  # the published one is for models as wide as the published
            schedule="linear",
            warmup_steps=STEPS // 20,
            weight_decay=1e-4,
            clip_norm=1.0,
        ),
        token_noise=0.2 if small else 0.0,  # few texts are soon known by heart
        dtype="float32",
        log_every=20,
        save_every=100,
        eval_every=STEPS // 2,
        eval_lines=300,
    )
