"""One file a data set: what has to lie where, how many records there must be, and how each is read."""

from train.data.builders.huggingface import HuggingFace
from train.data.builders.mjsynth import MjSynth
from train.data.builders.synthetic import Synthetic
from train.data.builders.synthtext import SynthText
from trocr_jax.datasets.base import Bad, Dataset, Record
from trocr_jax.datasets.folder import Folder
from trocr_jax.datasets.iam import Iam
from trocr_jax.datasets.pages import Pages
from trocr_jax.datasets.scene_text import SceneText
from trocr_jax.datasets.sroie import Sroie

DATASETS: dict[str, type[Dataset]] = {
    kind.name: kind for kind in (Iam, Sroie, MjSynth, SynthText, SceneText, Folder, HuggingFace, Pages, Synthetic)
}
"""Name on the command line -> data set."""

__all__ = [
    "DATASETS", "Bad", "Dataset", "Folder", "HuggingFace", "Iam", "MjSynth", "Pages", "Record", "SceneText", "Sroie",
    "SynthText", "Synthetic",
]  # fmt: skip
