"""What the recipes that fine-tune on a published data set share; no recipe of its own.

Source:    the paper (arXiv 2109.10282): Adam, learning rate 2e-5, inverse square root with 500 steps of warm-up from
           1e-8, weight decay 1e-4, batch 64; it stops after 20 epochs without a better score on the validation lines,
           this keeps the best of EPOCHS: export it with --step
"""

from train.data.parts import Data
from train.from_model import FromModel
from train.recipe import MATRICES_DECAY, Optimizer, Recipe, Stage

BATCH, EPOCHS = 64, 64


def finetune(name: str, start: FromModel, data: Data, *, lines: int, max_tokens: int) -> Recipe:
    """Epochs over so many lines."""
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
        eval_lines=10_000,
    )
