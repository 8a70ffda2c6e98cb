"""Words in photographs: the training parts of the benchmark sets.

Command:   python -m train data build str --source … --output data (docs/data.md)
           (folders train and validation: of the training parts of IIIT5K, SVT, IC13 and IC15)
           python -m train run finetune-str --model runs/stage2-scene-text/model --output trocr-str
Hardware:  one GPU with 80 GB for base; micro_batches for less. Not run here: the sets have to be fetched by hand
Time:      not run; at most 200 epochs, until 20 of them brought nothing
Score:     word accuracy the paper reports (arXiv 2109.10282, not ours), base / large: IIIT5K-3000 93.4 / 94.1, SVT
           95.2 / 96.1, IC13-857 98.4 / 98.4, IC15-1811 86.9 / 88.1, SVTP 92.1 / 93.0, CUTE80 90.6 / 95.1
"""

from train.data.parts import Built, Data
from train.from_model import from_model
from train.recipe import Recipe
from train.recipes.finetune import finetune

LINES = 10_000  # about: of IIIT5K, SVT, IC13 and IC15


def recipe(*, model: str = "runs/stage2-scene-text/model", image_size: tuple[int, int] | None = None) -> Recipe:
    """`model`: built in, a folder, or a repository of the hub."""
    data = Data(
        train=(Built(name="str"),), held_out=(Built(name="str", split="validation"),), augmentation="randaugment"
    )
    return finetune("finetune-str", from_model(model, image_size=image_size), data, lines=LINES, max_tokens=40)
