"""IAM: handwritten English lines, Aachen partition.

Command:   python -m train data build iam --source IAM --output data (docs/data.md says what lies in IAM)
           python -m train run finetune-iam --model microsoft/trocr-base-stage1 --output trocr-iam
Hardware:  one GPU with 80 GB for base; micro_batches for less. Not run here: the data ask for a licence
Time:      not run; at most 200 epochs of 6,161 lines, until 20 of them brought nothing
Score:     CER the paper reports on the test lines (arXiv 2109.10282, not ours): small 4.22 %, base 3.42 %, large 2.89 %
"""

from train.data.parts import Built, Data
from train.from_model import from_model
from train.recipe import Recipe
from train.recipes.finetune import finetune

LINES = 6161


def recipe(*, model: str = "microsoft/trocr-base-stage1", image_size: tuple[int, int] | None = None) -> Recipe:
    """`model`: built in, a folder, or a repository of the hub; after stage 2 if you have made one."""
    data = Data(train=(Built(name="iam"),), held_out=(Built(name="iam", split="validation"),), augmentation="paper")
    return finetune("finetune-iam", from_model(model, image_size=image_size), data, lines=LINES, max_tokens=100)
