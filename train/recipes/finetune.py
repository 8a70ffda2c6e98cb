"""What the recipes that fine-tune on a published data set share; no recipe of its own.

Source:    the paper (arXiv 2109.10282): Adam, learning rate 2e-5, inverse square root with 500 steps of warm-up from
           1e-8, weight decay 1e-4, batch 64, beams of 10; it ends after PATIENCE epochs without a better score on the
           validation lines, and its best state becomes the model
"""

from train.data.parts import Data
from train.from_model import FromModel
from train.recipe import MATRICES_DECAY, Optimizer, Recipe, Stage

BATCH, EPOCHS, PATIENCE = 64, 200, 20


def finetune(name: str, start: FromModel, data: Data, *, lines: int, max_tokens: int) -> Recipe:
    """At most EPOCHS over so many lines."""
    epoch = lines // BATCH
    stage = Stage(
        steps=EPOCHS * epoch, batch_size=BATCH, width=start.config.encoder.image_size[1], max_chars=max_tokens
    )
    return Recipe(
        name=name,
        **start._asdict(),
        data=data,
        stages=(stage,),
        optimizer=Optimizer(learning_rate=2e-5, weight_decay=1e-4, groups=MATRICES_DECAY),
        log_every=20,
        save_every=epoch,
        keep_best=1,
        eval_every=epoch,
        eval_lines=100_000,
        eval_beams=10,
        patience=PATIENCE,
    )
