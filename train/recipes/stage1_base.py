"""Stage 1 of the paper, base: a reader of printed lines from an image and a text Transformer.

Command:   python -m train run stage1-base --mesh data=16,fsdp=16 --output runs/stage1-base/model
           the starts are downloaded from the hub; `python -m train compile stage1-base --topology v5e:16x16` looks
           beforehand whether it fits
Hardware:  made for a pod of 256 chips, 8 lines a chip. Never run: nothing here has been trained at this size
Time:      684 M lines (the paper's, arXiv 2109.10282, who printed them from documents; ours are drawn)
Score:     none is published for this stage alone
"""

from train.data.parts import Data, Rendered
from train.recipe import MATRICES_DECAY, Optimizer, Recipe, Stage, WarmStart
from trocr_jax.config import TrOCRConfig

BATCH = 2048  # the paper's, as is the learning rate; it is silent about warm-up and schedule of this stage
LINES = 684_000_000

DATA = Data(
    train=(Rendered(style="printed", weight=2.0), Rendered(style="colour", weight=1.0)),
    held_out=(Rendered(style="printed"), Rendered(style="colour")),
)
OPTIMIZER = Optimizer(
    learning_rate=5e-5,
    warmup_steps=4000,
    weight_decay=1e-4,
    clip_norm=1.0,
    groups=MATRICES_DECAY,
)

RECIPE = Recipe(
    name="stage1-base",
    config=TrOCRConfig.preset("base-handwritten"),  # the family whose decoder is RoBERTa's: learned positions, erf gelu
    start_from=WarmStart(encoder="microsoft/beit-base-patch16-384", decoder="FacebookAI/roberta-large"),
    tokenizer="FacebookAI/roberta-large",
    data=DATA,
    stages=(Stage(steps=LINES // BATCH, batch_size=BATCH, width=384, max_chars=100),),
    optimizer=OPTIMIZER,
    remat_encoder=True,
    log_every=100,
    save_every=2000,
    keep_best=1,
    eval_every=10_000,
    eval_lines=1024,
    eval_beams=4,
)
