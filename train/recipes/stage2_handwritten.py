"""Stage 2 of the paper, handwritten lines: a model of stage 1 goes on with lines in faces that look written.

Command:   python -m train run stage2-handwritten --model runs/stage1-base/model --output runs/stage2-handwritten/model
           (of any size, or a published stage 1)
Hardware:  made for 256 chips, 8 lines a chip. Never run at this size
Time:      17.9 M lines (the paper's, arXiv 2109.10282, from handwriting faces and IIIT-HWS; ours are drawn)
Score:     the paper scores the models fine-tuned on IAM afterwards: finetune-iam
"""

from train.data.parts import Data, Rendered
from train.from_model import from_model
from train.recipe import Recipe
from train.recipes.stage2 import stage2


def recipe(*, model: str = "runs/stage1-base/model") -> Recipe:
    """`model`: built in, a folder, or a repository of the hub."""
    style = Rendered(style="handwriting")
    return stage2("stage2-handwritten", from_model(model), Data(train=(style,), held_out=(style,)), lines=17_900_000)
