"""Stage 2 of the paper, printed receipts: a model of stage 1 goes on with lines of receipts.

Command:   python -m train run stage2-printed --model runs/stage1-base/model --output runs/stage2-printed/model
           (of any size, or a published stage 1)
Hardware:  made for 256 chips, 8 lines a chip. Never run at this size
Time:      3.3 M lines (the paper's, arXiv 2109.10282, drawn in receipt faces and cut from photographed receipts; ours
           are drawn)
Score:     the paper scores the models fine-tuned on SROIE afterwards: finetune-sroie
"""

from train.data.parts import Data, Rendered
from train.from_model import from_model
from train.recipe import Recipe
from train.recipes.stage2 import stage2


def recipe(*, model: str = "runs/stage1-base/model") -> Recipe:
    """`model`: built in, a folder, or a repository of the hub."""
    style = Rendered(style="receipt")
    return stage2("stage2-printed", from_model(model), Data(train=(style,), held_out=(style,)), lines=3_300_000)
