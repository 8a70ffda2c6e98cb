"""Stage 1 of the paper, small.

Command:   python -m train run stage1-small [--decoder FOLDER] --output runs/stage1-small/model
           FOLDER: a BERT or XLM-R of width 256 with 8 heads and at least 6 layers over the model's vocabulary, such as
           the MiniLM of the paper. Without it the decoder begins with random weights
Hardware:  made for 256 chips, 8 lines a chip. Never run: nothing here has been trained at this size
Time:      684 M lines, as stage1-base
Score:     none is published for this stage alone
"""

from dataclasses import replace

from train.recipe import Recipe, WarmStart
from train.recipes.stage1_base import RECIPE as BASE
from trocr_jax.config import TrOCRConfig


def recipe(*, decoder: str | None = None) -> Recipe:
    """`decoder`: a Hugging Face folder or hub name that gives the decoder its first weights."""
    return replace(
        BASE,
        name="stage1-small",
        config=TrOCRConfig.preset("small-stage1"),
        start_from=WarmStart(encoder="facebook/deit-small-distilled-patch16-224", decoder=decoder),
        tokenizer="microsoft/trocr-small-stage1",
    )
