"""SROIE, task 2: printed lines of photographed receipts.

Command:   python -m train data build sroie --source SROIE --output data (docs/data.md says what lies in SROIE)
           python -m train run finetune-sroie --model microsoft/trocr-base-stage1 --output trocr-sroie
Hardware:  one GPU with 80 GB for base; micro_batches for less. Not run here: the data ask for a registration
Time:      not run; at most 200 epochs of about 33,000 lines, until 20 of them brought nothing: judged
           by the test receipts, since there are no others; keep some of your own apart for a score to publish
Score:     word F1 the paper reports (arXiv 2109.10282, not ours): small 95.86, base 96.34, large 96.60
"""

from train.data.parts import Built, Data
from train.from_model import from_model
from train.recipe import Recipe
from train.recipes.finetune import finetune

LINES = 33_000  # about: builders leave out what cannot be used


def recipe(*, model: str = "microsoft/trocr-base-stage1", image_size: tuple[int, int] | None = None) -> Recipe:
    """`model`: built in, a folder, or a repository of the hub; after stage 2 if you have made one."""
    data = Data(train=(Built(name="sroie"),), held_out=(Built(name="sroie", split="test"),), augmentation="paper")
    return finetune("finetune-sroie", from_model(model, image_size=image_size), data, lines=LINES, max_tokens=100)
