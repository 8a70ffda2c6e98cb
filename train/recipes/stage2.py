"""What the recipes of stage 2 share; no recipe of its own.

Source:    batch size and learning rate are the paper's (arXiv 2109.10282), which is silent about the schedule
"""

from train.data.parts import Data
from train.from_model import FromModel
from train.recipe import MATRICES_DECAY, Optimizer, Recipe, Stage

BATCH = 2048


def stage2(name: str, start: FromModel, data: Data, *, lines: int) -> Recipe:
    """One pass over so many lines."""
    steps = lines // BATCH
    return Recipe(
        name=name,
        **start._asdict(),
        data=data,
        stages=(Stage(steps=steps, batch_size=BATCH, width=start.config.encoder.image_size[1], max_chars=100),),
        optimizer=Optimizer(
            learning_rate=5e-5,
            warmup_steps=min(500, steps // 4),
            weight_decay=1e-4,
            clip_norm=1.0,
            groups=MATRICES_DECAY,
        ),
        remat_encoder=True,
        log_every=50,
        save_every=500,
        keep_best=1,
        eval_every=500,
        eval_lines=1024,
        eval_beams=4,
    )
