"""Stage 2 of the paper, words in photographs: a model of stage 1 goes on with MJSynth and SynthText.

Command:   python -m train data build mjsynth --source … --output data; the same for synthtext: docs/data.md
           python -m train run stage2-scene-text --model runs/stage1-base/model --data data
           --output runs/stage2-scene-text/model
Hardware:  made for 256 chips, 8 lines a chip. Never run at this size
Time:      16 M words (the paper's, arXiv 2109.10282: MJSynth and SynthText)
Score:     the paper scores the models fine-tuned on real words afterwards: finetune-str
"""

from train.data.parts import Built, Data, Rendered
from train.from_model import from_model
from train.recipe import Recipe
from train.recipes.stage2 import stage2


def recipe(*, model: str = "runs/stage1-base/model") -> Recipe:
    """`model`: built in, a folder, or a repository of the hub."""
    data = Data(
        train=(Built(name="mjsynth"), Built(name="synthtext"), Rendered(style="scene", weight=0.2)),
        held_out=(Built(name="mjsynth", split="validation"), Rendered(style="scene")),
        augmentation="randaugment",
    )
    return stage2("stage2-scene-text", from_model(model), data, lines=16_000_000)
