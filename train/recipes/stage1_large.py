"""Stage 1 of the paper, large.

Command:   python -m train run stage1-large --mesh data=16,fsdp=16 --output runs/stage1-large/model
Hardware:  made for a pod of 256 chips, 8 lines a chip. Never run: nothing here has been trained at this size
Time:      684 M lines, as stage1-base
Score:     none is published for this stage alone
"""

from dataclasses import replace

from train.recipe import WarmStart
from train.recipes.stage1_base import RECIPE as BASE
from trocr_jax.config import TrOCRConfig

RECIPE = replace(
    BASE,
    name="stage1-large",
    config=TrOCRConfig.preset("large-handwritten"),
    start_from=WarmStart(encoder="microsoft/beit-large-patch16-384", decoder="FacebookAI/roberta-large"),
    remat_decoder=True,
)
