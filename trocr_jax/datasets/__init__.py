"""Data sets as people have them: what has to lie where, what is missing, and their records, one after the other."""

from __future__ import annotations

from trocr_jax.datasets.base import Bad, Dataset, Record
from trocr_jax.datasets.folder import Folder
from trocr_jax.datasets.iam import Iam
from trocr_jax.datasets.pages import Pages
from trocr_jax.datasets.scene_text import SceneText
from trocr_jax.datasets.sroie import Sroie

__all__ = ["Bad", "Dataset", "Folder", "Iam", "Pages", "Record", "SceneText", "Sroie"]
