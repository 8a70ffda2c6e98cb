"""tiny-printed, trained further: the weights of the recipe tiny-printed, on new lines that fill the whole canvas.

Command:   python -m train run tiny-printed-further (`start_from` was the model that tiny-printed had made; it has since
           been replaced by this recipe's, and is in the history of trocr_jax/models/tiny-printed up to 2026-11-20)
Hardware:  2 cores of an AMD EPYC, shared with other work
Time:      132 minutes, 153,600 lines (2026-11-21)
Score:     CER 2.38 % on 1,000 rendered lines in held-out typefaces, 0.67 % on sentences alone, 0.15 % on 20 real lines
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
