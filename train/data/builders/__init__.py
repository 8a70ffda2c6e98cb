"""One file a data set: what has to lie where, how many records there must be, and how each is read."""

from train.data.builders.base import Bad, Dataset, Record
from train.data.builders.folder import Folder
from train.data.builders.huggingface import HuggingFace
from train.data.builders.iam import Iam
from train.data.builders.mjsynth import MjSynth
from train.data.builders.pages import Pages
from train.data.builders.scene_text import SceneText
from train.data.builders.sroie import Sroie
from train.data.builders.synthetic import Synthetic
from train.data.builders.synthtext import SynthText

DATASETS: dict[str, type[Dataset]] = {
    kind.name: kind for kind in (Iam, Sroie, MjSynth, SynthText, SceneText, Folder, HuggingFace, Pages, Synthetic)
}
"""Name on the command line -> data set."""

__all__ = [
    "DATASETS", "Bad", "Dataset", "Folder", "HuggingFace", "Iam", "MjSynth", "Pages", "Record", "SceneText", "Sroie",
    "SynthText", "Synthetic",
]  # fmt: skip
