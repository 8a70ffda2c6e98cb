"""tiny-printed, trained further: the weights of the recipe tiny-printed, on new lines that fill the whole canvas.

Command:   python -m train run tiny-printed-further
"""

from dataclasses import replace

from train.recipe import Recipe, Stage
from train.recipes.tiny_printed import CONFIG
from train.recipes.tiny_printed import RECIPE as TINY_PRINTED

RECIPE = Recipe(
    name="tiny-printed-further",
    config=CONFIG,
    start_from="tiny-printed",
    stages=(Stage(steps=3200, batch_size=48, width=960, max_chars=72),),
    optimizer=replace(TINY_PRINTED.optimizer, learning_rate=1.5e-3, warmup_steps=100, decay_steps=1600),
    token_noise=0.1,
    dtype="float32",
    seed=1,
    log_every=20,
    save_every=200,
)
